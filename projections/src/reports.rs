//! What was spent, for people: straight from the file, whether the server
//! runs or not.

use std::path::Path;

use rusqlite::{Connection, Row};

use crate::error::ProjectionError;
use crate::projection::Mark;
use crate::sqlite::{Fault, HOUR_MS, check_schema, open_reader, read_mark};

/// What the rows of a report are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// One row a key.
    Key,
    /// One row a `provider/model`.
    Model,
    /// One row a user number.
    User,
    /// One row a session: its owner and id.
    Session,
}

/// What was spent since an instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageReport {
    /// The largest first (input and output tokens), then by name.
    pub rows: Vec<UsageReportRow>,
    /// All of it, rows beyond the limit too; named `total`.
    pub total: UsageReportRow,
    /// How many rows there are without the limit.
    pub rows_count: u64,
    /// How far the file has come: what happened since is not in the report.
    /// None when nothing was ever written.
    pub mark: Option<Mark>,
}

/// What was spent with one key, for one model, user or session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageReportRow {
    /// The key's id, `provider/model`, the user's number, or the session's id.
    pub name: String,
    /// The key's label for people, if it has one.
    pub label: Option<String>,
    /// The uid that opened the session; for sessions only, whose ids are
    /// unique per owner.
    pub owner: Option<u32>,
    /// Reports.
    pub requests: u64,
    /// Reports with an outcome other than success.
    pub failures: u64,
    /// Tokens of the prompts, cached ones included.
    pub input: u64,
    /// Tokens of the answers.
    pub output: u64,
    /// The part of `input` that came from the providers' caches.
    pub cached: u64,
    /// Reports that came after the end of their session or allocation.
    pub late: u64,
}

/// The summed columns, in the order of [`UsageReportRow`].
const SUMMED: [&str; 6] =
    ["requests", "failures", "input_tokens", "output_tokens", "cached_tokens", "late"];

/// What was spent since `since_ms` (ms of the node's timeline, which is near
/// Unix time); the hour that it lies in is counted as a whole. At most `limit`
/// rows. Reads only; the server may be running.
///
/// # Errors
/// `Missing`: there is no such file. `Unavailable`: it cannot be read now.
/// `Corrupt`: it is damaged. `Foreign`: it is no state file, or a newer
/// version's.
pub fn usage(
    path: &Path,
    by: By,
    since_ms: u64,
    limit: usize,
) -> Result<UsageReport, ProjectionError> {
    if matches!(path.try_exists(), Ok(false)) {
        return Err(ProjectionError::Missing { path: path.to_owned() });
    }
    try_usage(path, by, since_ms, limit).map_err(|fault| fault.at(path))
}

fn try_usage(path: &Path, by: By, since_ms: u64, limit: usize) -> Result<UsageReport, Fault> {
    let mut connection = open_reader(&std::path::absolute(path)?)?;
    // One transaction: rows and total are of the same instant.
    let connection = connection.transaction()?;
    check_schema(&connection)?;
    let since = i64::try_from(since_ms / HOUR_MS * HOUR_MS).unwrap_or(i64::MAX);
    let (total, rows_count) = total(&connection, by, since)?;
    let rows = rows(&connection, by, since, limit)?;
    let mark = read_mark(&connection)?.map(|(mark, _)| mark);
    Ok(UsageReport { rows, total, rows_count, mark })
}

fn rows(
    connection: &Connection,
    by: By,
    since: i64,
    limit: usize,
) -> Result<Vec<UsageReportRow>, Fault> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare(&rows_sql(by))?;
    let mut rows = statement.query([since, limit])?;
    let mut report = Vec::new();
    while let Some(row) = rows.next()? {
        report.push(report_row(row)?);
    }
    Ok(report)
}

/// All that was spent, and how many rows that makes.
fn total(connection: &Connection, by: By, since: i64) -> Result<(UsageReportRow, u64), Fault> {
    let (group, sums) = (by.columns().group, sums());
    let sql = format!(
        "SELECT 'total', NULL, NULL, {sums},
            (SELECT count(*) FROM (SELECT DISTINCT {group} FROM usage WHERE hour_ms >= ?1))
        FROM usage WHERE hour_ms >= ?1"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([since])?;
    let row = rows.next()?.ok_or_else(|| Fault::Content("a sum has no row".into()))?;
    let rows_count: i64 = row.get(3 + 2 * SUMMED.len())?;
    Ok((report_row(row)?, rows_count.unsigned_abs()))
}

/// Groups by what stands in `usage` itself, and looks up only the names of the
/// groups that are left within the limit.
fn rows_sql(by: By) -> String {
    let Columns { group, name, label, owner, join } = by.columns();
    let (sums, numbers) = (sums(), 0..2 * SUMMED.len());
    let numbers: Vec<String> = numbers.map(|number| format!("sum_{number}")).collect();
    let numbers = numbers.join(", ");
    format!(
        "WITH top (owner, about, tokens, {numbers}) AS (
            SELECT {group}, total(input_tokens) + total(output_tokens), {sums}
            FROM usage WHERE hour_ms >= ?1 GROUP BY 1, 2 ORDER BY 3 DESC, 2, 1 LIMIT ?2)
        SELECT {name} AS name, {label}, {owner}, {numbers}
        FROM top {join} ORDER BY tokens DESC, name, owner"
    )
}

/// Each sum in two parts, so that none overflows: sums of the upper bits and
/// of the lower 32.
fn sums() -> String {
    let sums = SUMMED.map(|column| format!("sum({column} >> 32), sum({column} & 4294967295)"));
    sums.join(", ")
}

/// What stands where in the query for one kind of report.
struct Columns {
    /// Two columns: the owner or 0, and what a row is about.
    group: &'static str,
    name: &'static str,
    label: &'static str,
    owner: &'static str,
    join: &'static str,
}

impl By {
    fn columns(self) -> Columns {
        let (group, name, join) = match self {
            Self::Key => {
                ("0, key", "coalesce(key.key_id, '(unknown)')", "LEFT JOIN key ON key.key = about")
            }
            Self::Model => ("0, model", "model.name", "JOIN model ON model.model = about"),
            Self::User => ("0, user", "CAST(about AS TEXT)", ""),
            Self::Session => ("owner, session", "about", ""),
        };
        let label = if self == Self::Key { "key.label" } else { "NULL" };
        let owner = if self == Self::Session { "owner" } else { "NULL" };
        Columns { group, name, label, owner, join }
    }
}

fn report_row(row: &Row<'_>) -> Result<UsageReportRow, Fault> {
    let sum = |place: usize| -> Result<u64, Fault> {
        let upper: Option<i64> = row.get(3 + 2 * place)?;
        let lower: Option<i64> = row.get(4 + 2 * place)?;
        let sum = (i128::from(upper.unwrap_or(0)) << 32) + i128::from(lower.unwrap_or(0));
        Ok(u64::try_from(sum.max(0)).unwrap_or(u64::MAX))
    };
    Ok(UsageReportRow {
        name: row.get(0)?,
        label: row.get(1)?,
        owner: row.get(2)?,
        requests: sum(0)?,
        failures: sum(1)?,
        input: sum(2)?,
        output: sum(3)?,
        cached: sum(4)?,
        late: sum(5)?,
    })
}
