//! Records for other programs.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::Value;

use super::line::Line;
use super::segments::Lines;
use super::show::FOLLOW_EVERY;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::settings::StateDirArg;
use crate::since;

pub(super) const EXAMPLES: &str = "\
Works beside a running server, across its segments. What is exported is not
verified; see `key-server audit verify`. docs/audit.md explains the forms.

  jsonl     the lines of the ledger as they are
  csv       one row a record, with a header; no cell is taken for a formula
  syslog    RFC 5424, facility 13 (log audit): lines, or datagrams with --to
  journald  its native protocol, to its socket or to the one that --to names

Examples:
  key-server audit export --format csv --since 24h > audit.csv
  key-server audit export --format syslog --to /dev/log --follow
  key-server audit export --format journald --after 48211";

const JOURNALD_SOCKET: &str = "/run/systemd/journal/socket";
/// \"log audit\", times 8: RFC 5424, table 1.
const SYSLOG_FACILITY: u8 = 13 * 8;

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Jsonl,
    Csv,
    Syslog,
    Journald,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// How records are written
    #[arg(long, value_enum)]
    format: Format,
    /// Only records from then on: a span as in 24h, or a time as in 2025-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since::read)]
    since: Option<Timestamp>,
    /// Only records after this sequence number: where the last export ended
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    /// Go on with records as they are written
    #[arg(short, long)]
    follow: bool,
    /// The Unix datagram socket that takes syslog or journald records
    #[arg(long, value_name = "SOCKET")]
    to: Option<PathBuf>,
    #[command(flatten)]
    pub(super) state_dir: StateDirArg,
}

/// `key-server audit export`
pub(super) fn run(args: &ExportArgs, dir: &Path, output: &mut Output) -> Result<Exit, Failure> {
    let target = Target::open(args)?;
    let mut lines = Lines::since(dir, args.since)?;
    if args.format == Format::Csv {
        output.line(CSV_COLUMNS.join(","))?;
    }
    loop {
        while let Some(text) = lines.advance()? {
            match Line::read(text) {
                Some(line) if !is_wanted(&line, args) => {}
                Some(line) => target.write(&line, text, output)?,
                None => output.warn(
                    "a line that is not a record was left out: see `key-server audit verify`",
                ),
            }
        }
        if !args.follow {
            return Ok(Exit::Ok);
        }
        output.flush()?;
        thread::sleep(FOLLOW_EVERY);
    }
}

fn is_wanted(line: &Line, args: &ExportArgs) -> bool {
    args.after.is_none_or(|after| line.number("seq") > i128::from(after))
        && args.since.is_none_or(|since| line.time().is_none_or(|time| time >= since))
}

/// Where records go.
struct Target {
    format: Format,
    socket: Option<(UnixDatagram, PathBuf)>,
}

impl Target {
    fn open(args: &ExportArgs) -> Result<Self, Failure> {
        let format = args.format;
        let path = match (format, &args.to) {
            (Format::Syslog | Format::Journald, Some(path)) => Some(path.clone()),
            (Format::Journald, None) => Some(JOURNALD_SOCKET.into()),
            (Format::Jsonl | Format::Csv, Some(_)) => {
                return Err(Failure::usage("--to is for the formats syslog and journald")
                    .hint("write the other formats to a file: > audit.csv"));
            }
            (_, None) => None,
        };
        let socket = path.map(connect).transpose()?;
        Ok(Self { format, socket })
    }

    fn write(&self, line: &Line, text: &[u8], output: &mut Output) -> Result<(), Failure> {
        match (self.format, &self.socket) {
            (Format::Jsonl, _) => output.bytes(text),
            (Format::Csv, _) => output.line(csv_row(line, text)),
            (_, None) => output.line(syslog(line, &String::from_utf8_lossy(text))),
            (Format::Syslog, Some(socket)) => {
                let whole = syslog(line, &String::from_utf8_lossy(text));
                let short = syslog(line, &too_long(line));
                send(socket, whole.as_bytes(), short.as_bytes())
            }
            (Format::Journald, Some(socket)) => {
                let whole = journald(line, &String::from_utf8_lossy(text));
                let short = journald(line, &too_long(line));
                send(socket, &whole, &short)
            }
        }
    }
}

fn connect(path: PathBuf) -> Result<(UnixDatagram, PathBuf), Failure> {
    let connected = UnixDatagram::unbound().and_then(|socket| {
        socket.connect(&path)?;
        Ok(socket)
    });
    match connected {
        Ok(socket) => Ok((socket, path)),
        Err(error) => Err(Failure::usage(format!("{} takes no records: {error}", path.display()))
            .hint("name the socket of the log service with --to")),
    }
}

/// A record that is too long for a datagram goes without its text, and says so.
fn send(
    (socket, path): &(UnixDatagram, PathBuf),
    whole: &[u8],
    short: &[u8],
) -> Result<(), Failure> {
    let sent = match socket.send(whole) {
        Err(error) if is_too_long(&error) => socket.send(short),
        sent => sent,
    };
    let stopped = |error| Failure::no(format!("{} takes no more: {error}", path.display()));
    sent.map(|_| ()).map_err(stopped)
}

fn is_too_long(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::MSGSIZE | rustix::io::Errno::NOBUFS))
}

fn too_long(line: &Line) -> String {
    format!("{{\"seq\":{},\"too_long\":true}}", line.number("seq"))
}

/// What happened, as a syslog severity.
fn severity(line: &Line) -> u8 {
    match line.event() {
        "ledger.resumed" => 4,
        "call.refused" | "calls.refused" | "key.retired" | "segment.removed" => 5,
        _ => 6,
    }
}

/// One line as RFC 5424 has it; the host is the node, the message the record.
fn syslog(line: &Line, record: &str) -> String {
    let priority = SYSLOG_FACILITY + severity(line);
    let time = line.time().map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"));
    let (node, event) = (name(line.text("node"), 255), name(line.event(), 32));
    format!("<{priority}>1 {time} {node} key-server - {event} - {record}")
}

/// A header field: printable ASCII without white space, `-` when nothing is
/// left.
fn name(text: &str, bytes_max: usize) -> String {
    let printable = text.chars().filter(char::is_ascii_graphic).take(bytes_max);
    let name: String = printable.collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

/// One datagram of journald's native protocol.
fn journald(line: &Line, record: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = format!("{} {}", line.event(), line.what().in_one_line());
    let texts = [
        ("MESSAGE", message),
        ("PRIORITY", severity(line).to_string()),
        ("SYSLOG_IDENTIFIER", "key-server-audit".to_owned()),
        ("SYSLOG_FACILITY", (SYSLOG_FACILITY / 8).to_string()),
        ("KEY_SERVER_RECORD", record.to_owned()),
    ];
    for (field, text) in texts {
        journald_field(field, &text, &mut bytes);
    }
    for (field, name) in [
        ("KEY_SERVER_SEQ", "seq"),
        ("KEY_SERVER_NODE", "node"),
        ("KEY_SERVER_EVENT", "event"),
        ("KEY_SERVER_SESSION", "session"),
        ("KEY_SERVER_KEY", "key"),
        ("KEY_SERVER_USER", "user"),
    ] {
        let text = plain(line.field(name));
        if !text.is_empty() {
            journald_field(field, &text, &mut bytes);
        }
    }
    let uid = plain(&line.field("caller")["uid"]);
    if !uid.is_empty() {
        journald_field("KEY_SERVER_UID", &uid, &mut bytes);
    }
    bytes
}

/// # Source
/// systemd, "Native Journal Protocol": a value with a newline is preceded by
/// its length.
fn journald_field(field: &str, text: &str, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(field.as_bytes());
    if text.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
}

/// The columns of a row; the last one is the whole record.
const CSV_COLUMNS: [&str; 19] = [
    "seq",
    "time",
    "node",
    "event",
    "uid",
    "pid",
    "exe",
    "session",
    "owner",
    "user",
    "model",
    "key",
    "verb",
    "reason",
    "outcome",
    "input_tokens",
    "output_tokens",
    "count",
    "record",
];

fn csv_row(line: &Line, text: &[u8]) -> String {
    let cells = CSV_COLUMNS.iter().map(|column| match *column {
        "uid" if line.field("caller").is_null() => csv_cell(line.field("uid")),
        "uid" | "pid" | "exe" => csv_cell(&line.field("caller")[*column]),
        "model" | "key" if line.field(column).is_null() => csv_text(&of_keys(line, column)),
        "record" => csv_text(&String::from_utf8_lossy(text)),
        column => csv_cell(line.field(column)),
    });
    cells.collect::<Vec<_>>().join(",")
}

/// Of a record with several keys: all, with a space between them.
fn of_keys(line: &Line, column: &str) -> String {
    let keys = line.field("keys").as_array().map_or(&[][..], Vec::as_slice);
    keys.iter().filter_map(|key| key[column].as_str()).collect::<Vec<_>>().join(" ")
}

fn csv_cell(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        value => csv_text(&plain(value)),
    }
}

/// The last four are the first four at full width, which some read alike.
const FORMULA_BEGINNINGS: [char; 11] =
    ['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];

/// A text as RFC 4180 has it. A spreadsheet takes one that begins like a formula
/// for a formula: it gets an apostrophe before it.
fn csv_text(text: &str) -> String {
    let is_formula = text.starts_with(FORMULA_BEGINNINGS);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    match text.contains([',', '"', '\n', '\r', '\'']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: &str) -> Line {
        Line::read(json.as_bytes()).unwrap()
    }

    #[test]
    fn no_text_is_taken_for_a_formula() {
        for (text, cell) in [
            ("plain", "plain"),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("-2+3", "\"'-2+3\""),
            ("+x", "\"'+x\""),
            ("\tx", "\"'\tx\""),
            ("\u{ff1d}1+1", "\"'\u{ff1d}1+1\""),
            ("\u{ff0b}x", "\"'\u{ff0b}x\""),
            ("\u{ff0d}2", "\"'\u{ff0d}2\""),
            ("\u{ff20}SUM(A1)", "\"'\u{ff20}SUM(A1)\""),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("two\nlines", "\"two\nlines\""),
        ] {
            assert_eq!(csv_text(text), cell, "{text:?}");
        }
        assert_eq!(csv_cell(&Value::from(-7)), "-7", "a number is none");
    }

    #[test]
    fn a_value_with_a_newline_is_preceded_by_its_length() {
        let mut bytes = Vec::new();
        journald_field("A", "one", &mut bytes);
        journald_field("B", "x\ny", &mut bytes);
        assert_eq!(bytes, b"A=one\nB\n\x03\0\0\0\0\0\0\0x\ny\n");
    }

    #[test]
    fn a_header_takes_no_text_that_could_end_it() {
        let record = "{\"seq\":1,\"time\":\"2026-01-01T00:00:01.000Z\",\"node\":\"n 1\\n\",\"event\":\"call.refused\"}";
        let text = syslog(&line(record), record);
        let header = "<109>1 2026-01-01T00:00:01.000Z n1 key-server - call.refused - {";
        assert!(text.starts_with(header), "{text}");
    }
}
