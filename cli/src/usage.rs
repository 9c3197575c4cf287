use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use key_server_projections::Mark;
use key_server_projections::reports::{self, By, UsageReport, UsageReportRow};
use serde_json::{Value, json};

use crate::args::GlobalArgs;
use crate::failure::{Exit, Failure};
use crate::output::table::{Cell, Column, Table};
use crate::output::text::counted;
use crate::output::{Output, Tone, time};
use crate::settings::{self, SettingsArgs, StateDirArg};
use crate::{place, since};

pub(crate) const EXAMPLES: &str = "\
Reads state.sqlite in the node's state directory; the server may be running or
not. Usage is kept by the hour: the hour in which --since lies counts as a whole.

Examples:
  key-server usage --by model
  key-server usage --by user --since 7d --limit 5
  key-server usage --by key --since 2025-01-31 --json
  sudo key-server usage --by key --state-dir /var/lib/key-server";

#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// What a row is about
    #[arg(long, value_name = "WHAT")]
    by: ByArg,
    /// From when on: a span as in 24h or 7d, or a time as in 2025-01-31 or 2025-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "24h", value_parser = since::read)]
    since: Timestamp,
    /// The largest so many rows
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    state_dir: StateDirArg,
}

/// What a row is about.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ByArg {
    Key,
    Model,
    User,
    Session,
}

impl From<ByArg> for By {
    fn from(by: ByArg) -> Self {
        match by {
            ByArg::Key => Self::Key,
            ByArg::Model => Self::Model,
            ByArg::User => Self::User,
            ByArg::Session => Self::Session,
        }
    }
}

/// `key-server usage`
pub(crate) fn run(
    args: UsageArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let settings = SettingsArgs { state_dir: args.state_dir, ..SettingsArgs::default() };
    let state_dir = settings::resolve(global, &settings)?.state_dir()?;
    let since_ms = u64::try_from(args.since.as_millisecond()).unwrap_or(0);
    let report = report(&place::database(&state_dir), args.by.into(), since_ms, args.limit)?;
    if output.is_json() {
        output.json(&as_json(&report))?;
        return Ok(Exit::Ok);
    }
    if report.rows.is_empty() {
        output.note(&format!("nothing was spent since {}", time::second(args.since)));
    } else {
        output.table(&table(&report, args.by))?;
    }
    notes(&report, output);
    Ok(Exit::Ok)
}

fn report(database: &Path, by: By, since_ms: u64, limit: usize) -> Result<UsageReport, Failure> {
    reports::usage(database, by, since_ms, limit).map_err(|error| Failure::usage(error.to_string()))
}

const COLUMNS: [Column; 10] = [
    Column::left("NAME").clip_middle(16),
    Column::left("LABEL").clip_end(8).rank(3),
    Column::right("OWNER").rank(3),
    Column::right("REQUESTS"),
    Column::right("FAILED").rank(2),
    Column::right("LATE").rank(5),
    Column::right("INPUT"),
    Column::right("CACHED").rank(4),
    Column::right("OUTPUT"),
    Column::right("SHARE").rank(1),
];

fn table(report: &UsageReport, by: ByArg) -> Table {
    let title = match by {
        ByArg::Key => "KEY",
        ByArg::Model => "MODEL",
        ByArg::User => "USER",
        ByArg::Session => "SESSION",
    };
    let name = match by {
        ByArg::Key => Column::left(title),
        _ => Column::left(title).clip_middle(16),
    };
    let columns: Vec<_> = [name].into_iter().chain(COLUMNS[1..].iter().copied()).collect();
    let mut table = Table::new(&columns);
    for row in &report.rows {
        table.row(cells(row, &report.total, Cell::from(&row.name)));
    }
    if report.rows_count > 1 {
        table.row(cells(&report.total, &report.total, Cell::new(Tone::Strong, "total")));
    }
    table
}

fn cells(row: &UsageReportRow, total: &UsageReportRow, name: Cell) -> [Cell; 10] {
    [
        name,
        row.label.as_deref().unwrap_or("").into(),
        row.owner.map_or(String::new(), |owner| owner.to_string()).into(),
        Cell::number(row.requests),
        Cell::count(Tone::Warn, row.failures),
        Cell::number(row.late),
        Cell::number(row.input),
        Cell::number(row.cached),
        Cell::number(row.output),
        Cell::new(Tone::Faint, share(row, total)),
    ]
}

/// The row's part of all tokens, in percent.
fn share(row: &UsageReportRow, total: &UsageReportRow) -> String {
    let tokens = |row: &UsageReportRow| u128::from(row.input) + u128::from(row.output);
    match (tokens(row) * 1_000 + tokens(total) / 2).checked_div(tokens(total)) {
        None => String::new(),
        Some(0) if tokens(row) > 0 => "<0.1%".to_owned(),
        Some(thousandths) => format!("{}.{}%", thousandths / 10, thousandths % 10),
    }
}

/// Rows that are missing, and how old the report is.
fn notes(report: &UsageReport, output: &mut Output) {
    let shown = report.rows.len() as u64;
    if let Some(beyond) = report.rows_count.checked_sub(shown).filter(|beyond| *beyond > 0) {
        let rows = counted(beyond, "more row is", "more rows are");
        output.note(&format!("{rows} in the total; show them with --limit"));
    }
    match &report.mark {
        None => output.note("nothing was ever recorded here"),
        Some(mark) => {
            let (known, now) = (instant(mark), time::now());
            if now.duration_since(known).unsigned_abs() > FRESH {
                output.note(&format!(
                    "the last event that is counted here was {}",
                    time::relative(known, now)
                ));
            }
        }
    }
}

/// The node's timeline is near the wall clock: near enough to show.
fn instant(mark: &Mark) -> Timestamp {
    let millisecond = i64::try_from(mark.at.as_ms()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millisecond).unwrap_or(Timestamp::MAX)
}

/// A report that is not older than this is as of now.
const FRESH: Duration = Duration::from_secs(60);

fn as_json(report: &UsageReport) -> Value {
    let mark = report
        .mark
        .as_ref()
        .map(|mark| json!({ "seq": mark.seq, "at": time::rfc3339(instant(mark)) }));
    json!({
        "rows": report.rows.iter().map(row_json).collect::<Value>(),
        "rows_count": report.rows_count,
        "total": row_json(&report.total),
        "mark": mark,
    })
}

fn row_json(row: &UsageReportRow) -> Value {
    json!({
        "name": row.name,
        "label": row.label,
        "owner_uid": row.owner,
        "requests": row.requests,
        "failures": row.failures,
        "late": row.late,
        "input_tokens": row.input,
        "output_tokens": row.output,
        "cached_input_tokens": row.cached,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(input: u64) -> UsageReportRow {
        UsageReportRow { input, ..Default::default() }
    }

    #[test]
    fn shares_are_of_all_tokens() {
        assert_eq!(share(&row(1), &row(3)), "33.3%");
        assert_eq!(share(&row(u64::MAX), &row(u64::MAX)), "100.0%");
        assert_eq!(share(&row(1), &row(1_000_000)), "<0.1%");
        assert_eq!(share(&row(0), &row(0)), "");
    }
}
