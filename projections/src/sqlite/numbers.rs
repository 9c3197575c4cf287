use std::collections::HashMap;

use key_server_core::{KeyId, ModelName, Time, Usage};
use rusqlite::{Connection, Row};

use crate::sqlite::fault::Fault;

/// A number as SQLite keeps it: what is above 2^63 - 1 is kept as 2^63 - 1.
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that [`to_sql`] gave.
pub(crate) fn from_sql(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::content("a number that cannot be negative is"))
}

/// An instant in ms, saturated as [`to_sql`] does.
pub(crate) fn time_to_sql(time: Time) -> i64 {
    to_sql(time.as_ms())
}

pub(crate) fn time_from_sql(ms: i64) -> Result<Time, Fault> {
    from_sql(ms).map(Time::from_ms)
}

/// A number of a column, in a type that is narrower than SQLite's.
pub(crate) fn narrow<Narrow: TryFrom<i64>>(number: i64) -> Result<Narrow, Fault> {
    Narrow::try_from(number).map_err(|_| Fault::content("a number is out of its range"))
}

/// 0 or 1, nothing else.
pub(crate) fn flag(number: i64) -> Result<bool, Fault> {
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fault::content("a flag is neither 0 nor 1")),
    }
}

/// Requests, failures, input, output and cached tokens, as columns have them.
pub(crate) fn usage_to_sql(usage: &Usage) -> [i64; 5] {
    let Usage { requests, failures, tokens } = usage;
    [*requests, *failures, tokens.input, tokens.output, tokens.cached_input].map(to_sql)
}

/// Five columns from `first` on.
pub(crate) fn usage_columns(row: &Row<'_>, first: usize) -> Result<[i64; 5], Fault> {
    let mut numbers = [0; 5];
    for (place, number) in numbers.iter_mut().enumerate() {
        *number = row.get(first + place)?;
    }
    Ok(numbers)
}

pub(crate) fn usage_from_sql(numbers: [i64; 5]) -> Result<Usage, Fault> {
    let mut usage = Usage::default();
    let tokens = &mut usage.tokens;
    let places = [
        &mut usage.requests,
        &mut usage.failures,
        &mut tokens.input,
        &mut tokens.output,
        &mut tokens.cached_input,
    ];
    for (place, number) in places.into_iter().zip(numbers) {
        *place = from_sql(number)?;
    }
    Ok(usage)
}

/// The numbers by which rows name keys and models in this file.
///
/// They are kept in memory (some 40 bytes a key) once they were needed, and
/// forgotten whenever a transaction fails.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) keys: HashMap<KeyId, i64>,
    pub(crate) models: HashMap<ModelName, i64>,
    is_loaded: bool,
}

impl Numbers {
    /// Reads them, unless they are known.
    pub(crate) fn learn(&mut self, connection: &Connection) -> Result<(), Fault> {
        if self.is_loaded {
            return Ok(());
        }
        self.keys = read_names(connection, "SELECT key_id, key FROM key")?;
        self.models = read_names(connection, "SELECT name, model FROM model")?;
        self.is_loaded = true;
        Ok(())
    }

    /// Drops them: what was added since may not be in the file.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn read_names<Name>(connection: &Connection, sql: &str) -> Result<HashMap<Name, i64>, Fault>
where
    Name: std::str::FromStr + std::hash::Hash + Eq,
{
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut names = HashMap::new();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str().ok().and_then(|name| name.parse().ok());
        let name = name.ok_or_else(|| Fault::content("a key or model has no proper name"))?;
        names.insert(name, row.get(1)?);
    }
    Ok(names)
}
