use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use key_server_core::{KeyFacts, KeyId, KeyRow, ModelName, OwnWeight, Restore, Time, Usage};
use rusqlite::{Connection, Row, params};
use serde_json::{Map, Value};

use crate::sqlite::fault::Fault;
use crate::sqlite::mark::Counts;
use crate::sqlite::numbers::{
    Numbers, flag, from_sql, narrow, time_from_sql, time_to_sql, to_sql, usage_columns,
    usage_from_sql, usage_to_sql,
};
use crate::sqlite::row_crc::RowCrc;

const WRITE: &str = "
    INSERT INTO key VALUES
        (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
    ON CONFLICT (key) DO UPDATE SET
        provider = excluded.provider, label = excluded.label, own_weight = excluded.own_weight,
        max_holders = excluded.max_holders, retired = excluded.retired,
        models = excluded.models, sources = excluded.sources, requests = excluded.requests,
        failures = excluded.failures, input_tokens = excluded.input_tokens,
        output_tokens = excluded.output_tokens, cached_tokens = excluded.cached_tokens,
        last_used_ms = excluded.last_used_ms, window_minutes = excluded.window_minutes,
        cooling = excluded.cooling, crc = excluded.crc";

const READ: &str = "
    SELECT key, key_id, provider, label, own_weight, max_holders, retired, models, sources,
        requests, failures, input_tokens, output_tokens, cached_tokens,
        last_used_ms, window_minutes, cooling, crc
    FROM key ORDER BY key";

/// The columns of one row.
struct Columns {
    key: i64,
    key_id: String,
    provider: String,
    label: Option<String>,
    own_weight: f64,
    max_holders: Option<i64>,
    retired: i64,
    models: String,
    sources: String,
    usage: [i64; 5],
    last_used: Option<i64>,
    window: String,
    cooling: String,
}

/// Writes keys as they are now.
pub(crate) fn write(
    connection: &Connection,
    numbers: &mut Numbers,
    counts: &mut Counts,
    keys: &[KeyRow],
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(WRITE)?;
    for row in keys {
        let next = counts.keys + 1;
        let key = *numbers.keys.entry(row.facts.key).or_insert(next);
        counts.keys = counts.keys.max(key);
        let columns = Columns::of(key, row);
        let crc = columns.crc();
        let [requests, failures, input, output, cached] = columns.usage;
        statement.execute(params![
            columns.key,
            columns.key_id,
            columns.provider,
            columns.label,
            columns.own_weight,
            columns.max_holders,
            columns.retired,
            columns.models,
            columns.sources,
            requests,
            failures,
            input,
            output,
            cached,
            columns.last_used,
            columns.window,
            columns.cooling,
            crc,
        ])?;
    }
    Ok(())
}

/// Gives all keys to `restore`; the id of the key with number `n` is at `n - 1`.
pub(crate) fn read(
    connection: &Connection,
    count: i64,
    restore: &mut Restore,
) -> Result<Vec<KeyId>, Fault> {
    let mut statement = connection.prepare(READ)?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    let mut sum = 0;
    while let Some(row) = rows.next()? {
        let columns = Columns::read(row)?;
        if columns.key != keys.len() as i64 + 1 {
            return Err(Fault::content(format!("key {} is out of place", columns.key)));
        }
        let row = columns.row()?;
        check_sum(&mut sum, &row.lifetime)?;
        restore.key(&row)?;
        keys.push(row.facts.key);
    }
    if keys.len() as i64 != count {
        return Err(Fault::content("keys are missing"));
    }
    Ok(keys)
}

/// Refuses more requests in all than a number can count.
fn check_sum(sum: &mut u64, usage: &Usage) -> Result<(), Fault> {
    let more = sum.checked_add(usage.requests.max(usage.failures));
    *sum = more.ok_or_else(|| Fault::content("the keys' requests are more than can be"))?;
    Ok(())
}

impl Columns {
    fn of(key: i64, row: &KeyRow) -> Self {
        let facts = &row.facts;
        Self {
            key,
            key_id: facts.key.to_string(),
            provider: facts.provider().to_owned(),
            label: facts.label.as_deref().map(str::to_owned),
            own_weight: f64::from(facts.own_weight.thousandths()) / 1_000.0,
            max_holders: facts.max_holders.map(|cap| i64::from(cap.get())),
            retired: i64::from(row.retired),
            models: list(facts.models.iter().map(ModelName::as_str)),
            sources: list(facts.sources.iter().map(|source| &**source)),
            usage: usage_to_sql(&row.lifetime),
            last_used: row.last_used.map(time_to_sql),
            window: window(&row.window),
            cooling: cooling(&row.cooling),
        }
    }

    fn read(row: &Row<'_>) -> Result<Self, Fault> {
        let columns = Self {
            key: row.get(0)?,
            key_id: row.get(1)?,
            provider: row.get(2)?,
            label: row.get(3)?,
            own_weight: row.get(4)?,
            max_holders: row.get(5)?,
            retired: row.get(6)?,
            models: row.get(7)?,
            sources: row.get(8)?,
            usage: usage_columns(row, 9)?,
            last_used: row.get(14)?,
            window: row.get(15)?,
            cooling: row.get(16)?,
        };
        if columns.crc() != row.get::<_, i64>(17)? {
            let key = columns.key;
            return Err(Fault::content(format!("key {key} does not match its checksum")));
        }
        Ok(columns)
    }

    fn crc(&self) -> i64 {
        let mut crc = RowCrc::default();
        crc.begin().number(self.key).text(&self.key_id).text(&self.provider);
        crc.optional_text(self.label.as_deref()).number(self.own_weight.to_bits() as i64);
        crc.optional_number(self.max_holders).number(self.retired);
        crc.text(&self.models).text(&self.sources).numbers(&self.usage);
        crc.optional_number(self.last_used).text(&self.window).text(&self.cooling).sum()
    }

    fn row(&self) -> Result<KeyRow, Fault> {
        Ok(KeyRow {
            facts: Arc::new(self.facts()?),
            retired: flag(self.retired)?,
            lifetime: usage_from_sql(self.usage)?,
            last_used: self.last_used.map(time_from_sql).transpose()?,
            window: read_window(&self.window)?,
            cooling: read_cooling(&self.cooling)?,
        })
    }

    fn facts(&self) -> Result<KeyFacts, Fault> {
        let thousandths = (self.own_weight * 1_000.0).round() as u32;
        let cap = self.max_holders.map(narrow::<u32>).transpose()?;
        let models = read_list(&self.models)?;
        let models = models.iter().map(|model| parse(model)).collect::<Result<_, _>>()?;
        let sources = read_list(&self.sources)?.into_iter().map(Arc::from).collect();
        Ok(KeyFacts {
            key: parse(&self.key_id)?,
            models,
            own_weight: OwnWeight::from_thousandths(thousandths).ok_or_else(malformed)?,
            max_holders: cap.map(|cap| NonZeroU32::new(cap).ok_or_else(malformed)).transpose()?,
            label: self.label.as_deref().map(Arc::from),
            sources,
        })
    }
}

fn list<'text>(texts: impl Iterator<Item = &'text str>) -> String {
    Value::Array(texts.map(Value::from).collect()).to_string()
}

fn window(buckets: &[(u32, u64)]) -> String {
    let bucket = |(minute, tokens): &(u32, u64)| Value::from(vec![u64::from(*minute), *tokens]);
    Value::Array(buckets.iter().map(bucket).collect()).to_string()
}

fn cooling(models: &[(ModelName, Time)]) -> String {
    let until = |(model, until): &(ModelName, Time)| {
        (model.as_str().to_owned(), Value::from(time_to_sql(*until)))
    };
    Value::Object(models.iter().map(until).collect::<Map<_, _>>()).to_string()
}

fn read_list(text: &str) -> Result<Vec<String>, Fault> {
    let Ok(Value::Array(texts)) = serde_json::from_str(text) else { return Err(malformed()) };
    let text = |value| match value {
        Value::String(text) => Ok(text),
        _ => Err(malformed()),
    };
    texts.into_iter().map(text).collect()
}

fn read_window(text: &str) -> Result<Vec<(u32, u64)>, Fault> {
    let Ok(Value::Array(buckets)) = serde_json::from_str(text) else { return Err(malformed()) };
    buckets.iter().map(|bucket| read_bucket(bucket).ok_or_else(malformed)).collect()
}

fn read_bucket(bucket: &Value) -> Option<(u32, u64)> {
    let [minute, tokens] = bucket.as_array()?.as_slice() else { return None };
    Some((u32::try_from(minute.as_u64()?).ok()?, tokens.as_u64()?))
}

fn read_cooling(text: &str) -> Result<Vec<(ModelName, Time)>, Fault> {
    let Ok(Value::Object(models)) = serde_json::from_str(text) else { return Err(malformed()) };
    let until = |(model, until): (&String, &Value)| {
        let until = until.as_u64().ok_or_else(malformed)?;
        Ok((parse(model)?, Time::from_ms(from_sql(to_sql(until))?)))
    };
    models.iter().map(until).collect()
}

fn parse<Name: FromStr>(text: &str) -> Result<Name, Fault> {
    text.parse().map_err(|_| malformed())
}

fn malformed() -> Fault {
    Fault::content("a key's row is not of the form that was written")
}
