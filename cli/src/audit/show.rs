use std::path::Path;
use std::thread;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::line::{Filter, Line};
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
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
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

/// One line; where the terminal is too narrow for that, one line a thing.
fn for_people(line: &Line, output: &mut Output) -> Result<(), Failure> {
    let (paint, what, who) = (output.paint(), line.what(), line.who());
    let by = if who.is_empty() { String::new() } else { format!("by {who}") };
    let (head, event) = (line.head(), format!("{:<15}", line.event()));
    let (head, event) = (escape(&head), escape(&event));
    let start = format!("{}  {}", paint.text(Tone::Faint, &head), paint.text(tone(line), &event));
    let rest = format!("{}  {by}", what.in_one_line());
    let rest = escape(rest.trim_end());
    let start_width = text::width(&head) + text::width(&event) + 2;
    let fits = |text: &str, width| start_width + 2 + text::width(text) <= width;
    let Some(width) = output.width().filter(|width| !fits(&rest, *width)) else {
        return output.line(format!("{start}  {rest}"));
    };
    let subject = escape(&what.subject);
    let beside = if fits(&subject, width) { &*subject } else { "" };
    output.line(format!("{start}  {beside}").trim_end())?;
    let subject = if beside.is_empty() { &what.subject } else { "" };
    let items = what.items.iter().map(String::as_str);
    let items = [subject].into_iter().chain(items).chain([by.as_str()]);
    for item in items.filter(|item| !item.is_empty()) {
        for item in wrap(&escape(item), width - INDENT) {
            output.line(format!("{}{item}", " ".repeat(INDENT)))?;
        }
    }
    Ok(())
}

/// Access and refusals stand out.
fn tone(line: &Line) -> Tone {
    match line.event() {
        "keys.selected" => Tone::Hint,
        "key.retired" | "ledger.resumed" => Tone::Warn,
        "node.started" | "node.stopped" => Tone::Good,
        _ => Tone::Plain,
    }
}
