//! Everything that the program prints goes through here: data to standard
//! output, everything else to standard error.

pub(crate) mod facts;
mod paint;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod time;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use serde_json::Value;

use crate::args::ColorWhen;
use crate::failure::Failure;
use crate::place::Environment;
use facts::Facts;
pub(crate) use paint::{Paint, Tone};
use table::Table;

/// The least width that is laid out for.
const WIDTH_MIN: usize = 40;
/// Lines of a screen that are not rows: title, note, prompt.
const LIST_OTHER_LINES: usize = 3;
const LIST_ROWS_MIN: usize = 10;

/// How the program shows what it has to say.
pub(crate) struct Output {
    data: BufWriter<io::Stdout>,
    /// Colours on standard output.
    paint: Paint,
    /// Colours on standard error.
    paint_notes: Paint,
    /// Of the terminal; none when the output goes elsewhere.
    width: Option<usize>,
    height: Option<usize>,
    /// Of the terminal that standard error goes to.
    width_notes: Option<usize>,
    json: bool,
}

impl Output {
    /// For the terminal, pipe or file that is there.
    pub(crate) fn new(color: ColorWhen, json: bool, environment: &Environment) -> Self {
        let size = terminal_size(io::stdout());
        let paint = |is_terminal| paint(color, is_terminal, environment);
        Self {
            data: BufWriter::new(io::stdout()),
            paint: paint(io::stdout().is_terminal()),
            paint_notes: paint(io::stderr().is_terminal()),
            width: width(size, environment),
            width_notes: width(terminal_size(io::stderr()), &Environment::default()),
            height: size.map(|(_, height)| height),
            json,
        }
    }

    /// Whether JSON is asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The columns there are; none: as many as needed.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Whether somebody looks at it directly.
    pub(crate) fn is_terminal(&self) -> bool {
        self.height.is_some()
    }

    /// The lines of the terminal; none when the output goes elsewhere.
    pub(crate) fn height(&self) -> Option<usize> {
        self.height
    }

    /// How many rows of a list are shown: one screen on a terminal, all
    /// elsewhere; none: no limit.
    pub(crate) fn rows_max(&self, all: bool) -> Option<usize> {
        let screen = self.height.filter(|_| !all && !self.json)?;
        Some(screen.saturating_sub(LIST_OTHER_LINES).max(LIST_ROWS_MIN))
    }

    /// Colours for texts that are printed with [`Output::line`].
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Prints a line of data, as it is: escape what others wrote.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> Result<(), Failure> {
        Ok(writeln!(self.data, "{}", line.as_ref())?)
    }

    /// Prints bytes of data and a newline.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.data.write_all(bytes)?;
        Ok(self.data.write_all(b"\n")?)
    }

    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        self.lines(table.render(self.paint, self.width))
    }

    pub(crate) fn facts(&mut self, facts: &Facts) -> Result<(), Failure> {
        self.lines(facts.render(self.paint, self.width))
    }

    fn lines(&mut self, lines: Vec<String>) -> Result<(), Failure> {
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// Prints a JSON document.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        self.line(text::escape_json(&text))
    }

    /// Makes sure that what was printed is out.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.data.flush()?)
    }

    /// Says something beside the data.
    pub(crate) fn note(&mut self, note: &str) {
        self.say(Tone::Faint, "note:", note);
    }

    /// Says that only the first `shown` rows were printed, if there are more.
    pub(crate) fn note_more(&mut self, more: bool, shown: usize) {
        if more {
            self.note(&format!(
                "these are the first {}; --all shows the rest",
                text::thousands(shown)
            ));
        }
    }

    /// Says that somebody should look.
    pub(crate) fn warn(&mut self, warning: &str) {
        self.say(Tone::Warn, "warning:", warning);
    }

    /// Says why the program did not do what it was asked.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        self.say(Tone::Bad, "error:", &failure.message);
        failure.details.iter().for_each(|detail| self.say(Tone::Plain, " ", detail));
        failure.hints.iter().for_each(|hint| self.say(Tone::Hint, "hint:", hint));
    }

    fn say(&mut self, tone: Tone, label: &str, text: &str) {
        // On a terminal both streams meet: in the order of their writing. Whether
        // the data went out is told by `Output::flush`.
        let _ = self.data.flush();
        let columns = self.width_notes.map_or(usize::MAX, |width| width - label.len() - 1);
        let painted = self.paint_notes.text(tone, label);
        let indent = " ".repeat(label.len());
        let text = text::escape(text);
        // Most texts fit; only the others lose how their words are spaced.
        let lines = if text::width(&text) <= columns {
            vec![text.into()]
        } else {
            text::wrap(&text, columns)
        };
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { &*painted } else { &indent };
            // Nobody is left to be told when standard error is gone.
            let _ = writeln!(io::stderr(), "{label} {line}");
        }
    }
}

fn paint(when: ColorWhen, is_terminal: bool, environment: &Environment) -> Paint {
    let is_dumb = environment.get("TERM").is_some_and(|term| term == "dumb");
    Paint(match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto => is_terminal && !is_dumb && environment.get("NO_COLOR").is_none(),
    })
}

/// The columns there are; `COLUMNS` counts also without a terminal.
fn width(size: Option<(usize, usize)>, environment: &Environment) -> Option<usize> {
    let wanted = environment.get("COLUMNS").and_then(|columns| columns.to_str()?.parse().ok());
    let width = wanted.filter(|columns| *columns > 0).or(size.map(|(width, _)| width));
    width.map(|width| width.max(WIDTH_MIN))
}

fn terminal_size(stream: impl AsFd + IsTerminal) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(&stream).ok().filter(|_| stream.is_terminal())?;
    Some((size.ws_col.into(), size.ws_row.into())).filter(|(width, _)| *width > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_colours_gets_them() {
        let unset = Environment::default();
        assert_eq!(paint(ColorWhen::Always, false, &unset), Paint(true));
        assert_eq!(paint(ColorWhen::Never, true, &unset), Paint(false));
        assert_eq!(paint(ColorWhen::Auto, false, &unset), Paint(false));
        assert_eq!(paint(ColorWhen::Auto, true, &unset), Paint(true));
        let unwanted = Environment::of_pairs(&[("NO_COLOR", "1")]);
        assert_eq!(paint(ColorWhen::Auto, true, &unwanted), Paint(false));
        assert_eq!(paint(ColorWhen::Always, true, &unwanted), Paint(true));
    }

    #[test]
    fn the_width_is_the_wanted_one_else_the_terminals() {
        let wanted = Environment::of_pairs(&[("COLUMNS", "120")]);
        let unset = Environment::default();
        assert_eq!(width(Some((80, 24)), &wanted), Some(120));
        assert_eq!(width(Some((80, 24)), &unset), Some(80));
        assert_eq!(width(Some((3, 24)), &unset), Some(WIDTH_MIN));
        assert_eq!(width(None, &unset), None);
    }
}
