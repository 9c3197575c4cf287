use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::projection::Mark;
use crate::sqlite::fault::Fault;
use crate::sqlite::numbers::{from_sql, time_from_sql, time_to_sql, to_sql};
use crate::sqlite::row_crc::RowCrc;

/// How many rows there are, so that a lost page is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) keys: i64,
    pub(crate) models: i64,
    pub(crate) sessions: i64,
    pub(crate) receipts: i64,
}

impl Counts {
    fn columns(&self) -> [i64; 4] {
        [self.keys, self.models, self.sessions, self.receipts]
    }
}

/// The mark and what was counted up to it; none before the first batch, when
/// there is nothing else either.
pub(crate) fn read(connection: &Connection) -> Result<Option<(Mark, Counts)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, at_ms, resume, keys_count, models_count, sessions_count, receipts_count, crc
         FROM mark",
    )?;
    match statement.query_row([], |row| Ok(from_row(row))).optional()? {
        Some(stored) => stored.map(Some),
        None if has_rows(connection)? => Err(Fault::content("there are rows but no mark")),
        None => Ok(None),
    }
}

fn has_rows(connection: &Connection) -> Result<bool, Fault> {
    Ok(connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM key) OR EXISTS (SELECT 1 FROM model)
            OR EXISTS (SELECT 1 FROM session) OR EXISTS (SELECT 1 FROM receipt)",
        [],
        |row| row.get(0),
    )?)
}

/// Whether a batch up to `seq` is in the file already.
pub(crate) fn covers(stored: Option<&(Mark, Counts)>, seq: u64) -> bool {
    stored.is_some_and(|(mark, _)| to_sql(mark.seq) >= to_sql(seq))
}

pub(crate) fn write(connection: &Connection, mark: &Mark, counts: Counts) -> Result<(), Fault> {
    let (seq, at) = (to_sql(mark.seq), time_to_sql(mark.at));
    let [keys, models, sessions, receipts] = counts.columns();
    let crc = row_crc(seq, at, &mark.resume, counts);
    let mut statement = connection
        .prepare_cached("INSERT OR REPLACE INTO mark VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    statement.execute(params![seq, at, mark.resume, keys, models, sessions, receipts, crc])?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> Result<(Mark, Counts), Fault> {
    let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
    let resume: String = row.get(2)?;
    let counts = Counts {
        keys: row.get(3)?,
        models: row.get(4)?,
        sessions: row.get(5)?,
        receipts: row.get(6)?,
    };
    let crc: i64 = row.get(7)?;
    if crc != row_crc(seq, at, &resume, counts) {
        return Err(Fault::content("the mark does not match its checksum"));
    }
    Ok((Mark { seq: from_sql(seq)?, at: time_from_sql(at)?, resume }, counts))
}

fn row_crc(seq: i64, at: i64, resume: &str, counts: Counts) -> i64 {
    let mut crc = RowCrc::default();
    crc.begin().number(seq).number(at).text(resume).numbers(&counts.columns()).sum()
}
