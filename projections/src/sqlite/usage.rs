use std::collections::BTreeMap;

use key_server_core::{Outcome, UsageRow};
use rusqlite::{Connection, params};

use crate::sqlite::fault::Fault;
use crate::sqlite::mark::Counts;
use crate::sqlite::model;
use crate::sqlite::numbers::{Numbers, to_sql};

pub(crate) const HOUR_MS: u64 = 3_600_000;

/// The number of a key that the file does not have.
const UNKNOWN_KEY: i64 = 0;

/// Sums stop at the largest number instead of becoming a fraction.
const ADD: &str = "
    INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
    ON CONFLICT DO UPDATE SET
        requests = requests + excluded.requests,
        failures = failures + excluded.failures,
        input_tokens = input_tokens
            + min(excluded.input_tokens, 9223372036854775807 - input_tokens),
        output_tokens = output_tokens
            + min(excluded.output_tokens, 9223372036854775807 - output_tokens),
        cached_tokens = cached_tokens
            + min(excluded.cached_tokens, 9223372036854775807 - cached_tokens),
        late = late + excluded.late";

/// What a row is about, in the order of the table.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct About<'row> {
    hour_ms: i64,
    owner: u32,
    session: &'row str,
    user: i32,
    key: i64,
    model: i64,
}

/// What a row adds up.
#[derive(Default)]
struct Sum {
    requests: i64,
    failures: i64,
    input: u64,
    output: u64,
    cached: u64,
    late: i64,
}

/// Adds reports to the rows of their hours.
pub(crate) fn add(
    connection: &Connection,
    numbers: &mut Numbers,
    counts: &mut Counts,
    usage: &[UsageRow],
) -> Result<(), Fault> {
    let mut sums: BTreeMap<About<'_>, Sum> = BTreeMap::new();
    for row in usage {
        let about = About {
            hour_ms: to_sql(row.at.as_ms() / HOUR_MS * HOUR_MS),
            owner: row.session.owner,
            session: &row.session.id,
            user: row.user,
            key: numbers.keys.get(&row.key).copied().unwrap_or(UNKNOWN_KEY),
            model: model::number(connection, numbers, counts, &row.model)?,
        };
        sums.entry(about).or_default().add(row);
    }
    let mut statement = connection.prepare_cached(ADD)?;
    for (about, sum) in &sums {
        let About { hour_ms, owner, session, user, key, model } = about;
        let Sum { requests, failures, input, output, cached, late } = sum;
        let [input, output, cached] = [*input, *output, *cached].map(to_sql);
        statement.execute(params![
            hour_ms, owner, session, user, key, model, requests, failures, input, output, cached,
            late
        ])?;
    }
    Ok(())
}

/// Deletes the rows of one hour before `before_hour`, the oldest; returns how
/// many there were, 0 when none is left.
pub(crate) fn delete_oldest_hour(
    connection: &Connection,
    before_hour: u32,
) -> Result<usize, Fault> {
    let before_ms = to_sql(u64::from(before_hour) * HOUR_MS);
    let mut statement = connection.prepare_cached(
        "DELETE FROM usage WHERE hour_ms < ?1 AND hour_ms = (SELECT min(hour_ms) FROM usage)",
    )?;
    Ok(statement.execute([before_ms])?)
}

impl Sum {
    fn add(&mut self, row: &UsageRow) {
        self.requests += 1;
        self.failures += i64::from(row.outcome != Outcome::Success);
        self.input = self.input.saturating_add(row.tokens.input);
        self.output = self.output.saturating_add(row.tokens.output);
        self.cached = self.cached.saturating_add(row.tokens.cached_input);
        self.late += i64::from(row.late);
    }
}
