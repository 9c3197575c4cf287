use std::path::Path;
use std::thread;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::line::{Filter, Line, What};
use super::segments::Lines;
use crate::failure::{Exit, Failure};
use crate::output::text::{self, escape, escape_json, wrap};
use crate::output::{Output, Tone};
use crate::settings::StateDirArg;
use crate::{keys, since};

pub(super) const TAIL_EXAMPLES: &str = "\
Works beside a running server, across its segments. What is shown is not
verified; see `key-server audit verify`.

Examples:
  key-server audit tail
  key-server audit tail -f
  key-server audit tail -n 1000 --json | jq -r .event | sort | uniq -c";

pub(super) const SHOW_EXAMPLES: &str = "\
All conditions given must fit. --json prints the records as they stand in the
ledger, one a line; docs/audit.md explains them. What is shown is not verified;
see `key-server audit verify`.

Examples:
  key-server audit show --session session_123
  key-server audit show --key k_2yf5mhnaxg3vkzqbwc4sdtj7 --since 24h
  key-server audit show --user 456 --event usage --json | jq .output_tokens";

/// How often a followed ledger is looked at.
pub(super) const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// Before the second line of a record on a narrow terminal.
const INDENT: usize = 9;

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// How many of the last records
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 10)]
    lines: usize,
    /// Go on with records as they are written
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub(super) state_dir: StateDirArg,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Only records of this session
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Only records of this key
    #[arg(long, value_name = "KEY_ID")]
    key: Option<String>,
    /// Only selections and usage of this user
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    user: Option<i32>,
    /// Only records from then on: a span as in 24h, or a time as in 2025-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since::read)]
    since: Option<Timestamp>,
    /// Only these events, as in keys.selected, or all that begin as in usage; may be repeated
    #[arg(long, value_name = "NAME")]
    event: Vec<String>,
    #[command(flatten)]
    pub(super) state_dir: StateDirArg,
}

/// `key-server audit tail`
pub(super) fn tail(args: &TailArgs, dir: &Path, output: &mut Output) -> Result<Exit, Failure> {
    let mut lines = Lines::last(dir, args.lines)?;
    let all = Filter::default();
    loop {
        print(&mut lines, &all, output)?;
        if !args.follow {
            return Ok(Exit::Ok);
        }
        output.flush()?;
        thread::sleep(FOLLOW_EVERY);
    }
}

/// `key-server audit show`
pub(super) fn show(args: &ShowArgs, dir: &Path, output: &mut Output) -> Result<Exit, Failure> {
    let key = args.key.as_deref().map(keys::read_id).transpose()?;
    let filter = Filter {
        session: args.session.clone(),
        key: key.map(|key| key.to_string()),
        user: args.user,
        since: args.since,
        events: args.event.clone(),
    };
    let mut lines = Lines::since(dir, args.since)?;
    if print(&mut lines, &filter, output)? == 0 {
        output.note("no record matches");
    }
    Ok(Exit::Ok)
}

/// Prints what there is; answers how many.
fn print(lines: &mut Lines, filter: &Filter, output: &mut Output) -> Result<u64, Failure> {
    let mut count = 0;
    while let Some(text) = lines.advance()? {
        if !filter.may_fit(text) {
            continue;
        }
        match Line::read(text) {
            Some(line) if !line.fits(filter) => continue,
            Some(_) if output.is_json() => raw(text, output)?,
            Some(line) => for_people(&line, output)?,
            None => output
                .warn("a line that is not a record was left out: see `key-server audit verify`"),
        }
        count += 1;
    }
    Ok(count)
}

/// The bytes of the ledger; on a terminal, nothing that it would act on.
fn raw(text: &[u8], output: &mut Output) -> Result<(), Failure> {
    match str::from_utf8(text) {
        Ok(text) if output.is_terminal() => output.line(escape_json(text)),
        _ => output.bytes(text),
    }
}

/// One line; where the terminal is too narrow for that, several.
fn for_people(line: &Line, output: &mut Output) -> Result<(), Failure> {
    let (paint, what, who) = (output.paint(), line.what(), line.who());
    let (head, event) = (line.head(), format!("{:<15}", line.event()));
    let (head, event) = (escape(&head), escape(&event));
    let start = format!("{}  {}", paint.text(Tone::Faint, &head), paint.text(tone(line), &event));
    let by = if who.is_empty() { String::new() } else { format!("by {who}") };
    let rest = format!("{}  {by}", what.in_one_line());
    let rest = escape(rest.trim_end());
    let left = |width: usize| width.saturating_sub(text::width(&head) + text::width(&event) + 4);
    match output.width().filter(|width| text::width(&rest) > left(*width)) {
        None => output.line(format!("{start}  {rest}")),
        Some(width) => in_lines(&start, left(width), &what, &by, width, output),
    }
}

/// The subject beside the start if it fits into what is `left` there, and
/// everything else below.
fn in_lines(
    start: &str,
    left: usize,
    what: &What,
    by: &str,
    width: usize,
    output: &mut Output,
) -> Result<(), Failure> {
    let subject = escape(&what.subject);
    let is_beside = text::width(&subject) <= left;
    let (beside, below) = if is_beside { (&*subject, "") } else { ("", what.subject.as_str()) };
    output.line(format!("{start}  {beside}").trim_end())?;
    let items = what.items.iter().map(String::as_str);
    let items = [below].into_iter().chain(items).chain([by]).filter(|item| !item.is_empty());
    let lines = packed(items, width - INDENT);
    lines.iter().try_for_each(|line| output.line(format!("{}{line}", " ".repeat(INDENT))))
}

/// As many items a line as fit as a whole; a longer one is wrapped.
fn packed<'a>(items: impl Iterator<Item = &'a str>, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items.map(escape) {
        match lines.last_mut() {
            Some(line) if text::width(line) + 2 + text::width(&item) <= columns => {
                line.extend(["; ", &item]);
            }
            _ => lines.extend(wrap(&item, columns)),
        }
    }
    lines
}

/// Access and refusals stand out.
fn tone(line: &Line) -> Tone {
    match line.event() {
        "keys.selected" => Tone::Hint,
        "key.retired" | "ledger.resumed" | "call.refused" | "calls.refused" => Tone::Warn,
        "node.started" | "node.stopped" => Tone::Good,
        _ => Tone::Plain,
    }
}
