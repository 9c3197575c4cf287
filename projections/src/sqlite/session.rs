use std::sync::Arc;

use key_server_core::{AllocationRow, SessionRef, SessionRow};
use rusqlite::{CachedStatement, Connection, params};

use crate::sqlite::fault::Fault;
use crate::sqlite::mark::Counts;
use crate::sqlite::model;
use crate::sqlite::numbers::{Numbers, time_to_sql, usage_to_sql};
use crate::sqlite::row_crc::RowCrc;

const FIND: &str = "SELECT session FROM session WHERE owner = ?1 AND id = ?2";

const ADD: &str = "
    INSERT INTO session (owner, id, user, opened_ms, end_ms, ended, term, base, crc)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

const REPLACE: &str = "
    UPDATE session SET user = ?2, opened_ms = ?3, end_ms = ?4, ended = ?5, term = ?6, base = ?7, crc = ?8
    WHERE session = ?1";

/// Rows that are as they were are not touched: a renewal costs no write.
const ALLOCATE: &str = "
    INSERT INTO allocation VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT DO UPDATE SET
        key = excluded.key, model = excluded.model, held = excluded.held,
        requests = excluded.requests, failures = excluded.failures,
        input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens,
        cached_tokens = excluded.cached_tokens
    WHERE (key, model, held, requests, failures, input_tokens, output_tokens, cached_tokens)
        IS NOT (excluded.key, excluded.model, excluded.held, excluded.requests,
            excluded.failures, excluded.input_tokens, excluded.output_tokens,
            excluded.cached_tokens)";

const DELETE_ALLOCATIONS: &str = "DELETE FROM allocation WHERE session = ?1 AND place >= ?2";

const DELETE: &str = "DELETE FROM session WHERE session = ?1";

/// One allocation as its row has it: key, model, held, and what was spent.
pub(crate) type AllocationColumns = [i64; 8];

/// One session as its row has it.
pub(crate) struct SessionColumns<'text> {
    pub(crate) owner: i64,
    pub(crate) id: &'text str,
    pub(crate) user: i64,
    pub(crate) opened_ms: i64,
    pub(crate) end_ms: i64,
    pub(crate) ended: i64,
    pub(crate) term: i64,
    pub(crate) base: i64,
}

impl<'row> SessionColumns<'row> {
    fn of(row: &'row SessionRow) -> Self {
        Self {
            owner: i64::from(row.session.owner),
            id: &row.session.id,
            user: i64::from(row.user),
            opened_ms: time_to_sql(row.opened),
            end_ms: time_to_sql(row.end),
            ended: i64::from(row.ended),
            term: i64::from(row.term),
            base: i64::from(row.base),
        }
    }

    /// The checksum over the session and what it holds or held.
    pub(crate) fn crc(&self, crc: &mut RowCrc, allocations: &[AllocationColumns]) -> i64 {
        crc.begin().number(self.owner).text(self.id).number(self.user);
        crc.numbers(&[self.opened_ms, self.end_ms, self.ended, self.term, self.base]);
        for allocation in allocations {
            crc.numbers(allocation);
        }
        crc.sum()
    }
}

/// Writes sessions as they are now.
///
/// They are looked up in the order of their names and written in the order of
/// their numbers, so that each page is visited once.
pub(crate) fn write(
    connection: &Connection,
    numbers: &mut Numbers,
    counts: &mut Counts,
    sessions: &[SessionRow],
) -> Result<(), Fault> {
    let mut writer = Writer::new(connection)?;
    for (session, row) in found_sorted(connection, sessions)? {
        writer.allocations.clear();
        for allocation in &row.allocations {
            let model = model::number(connection, numbers, counts, &allocation.model)?;
            writer.allocations.push(columns(numbers, allocation, model)?);
        }
        counts.sessions += i64::from(session == NEW);
        writer.write(session, row)?;
    }
    Ok(())
}

/// Stands for the number of a session that is not there yet, after all others.
const NEW: i64 = i64::MAX;

/// The sessions with their numbers, in the order of these. Of two rows about
/// one session the last holds.
fn found_sorted<'row>(
    connection: &Connection,
    sessions: &'row [SessionRow],
) -> Result<Vec<(i64, &'row SessionRow)>, Fault> {
    let mut by_name: Vec<&SessionRow> = sessions.iter().rev().collect();
    by_name.sort_by(|a, b| a.session.cmp(&b.session));
    by_name.dedup_by(|a, b| a.session == b.session);
    let mut find = connection.prepare_cached(FIND)?;
    let mut by_number = Vec::with_capacity(by_name.len());
    for row in by_name {
        by_number.push((found(&mut find, &row.session)?.unwrap_or(NEW), row));
    }
    by_number.sort_by_key(|(session, _)| *session);
    Ok(by_number)
}

/// Deletes sessions that were forgotten, and what they held. One that is not
/// there came and went within one batch.
pub(crate) fn forget(
    connection: &Connection,
    counts: &mut Counts,
    forgotten: &[SessionRef],
) -> Result<(), Fault> {
    let mut sorted: Vec<&SessionRef> = forgotten.iter().collect();
    sorted.sort_unstable();
    let mut find = connection.prepare_cached(FIND)?;
    let mut delete = connection.prepare_cached(DELETE)?;
    let mut delete_allocations = connection.prepare_cached(DELETE_ALLOCATIONS)?;
    for name in sorted {
        if let Some(session) = found(&mut find, name)? {
            delete_allocations.execute((session, 0))?;
            counts.sessions -= delete.execute([session])? as i64;
        }
    }
    Ok(())
}

struct Writer<'connection> {
    add: CachedStatement<'connection>,
    replace: CachedStatement<'connection>,
    allocate: CachedStatement<'connection>,
    delete_allocations: CachedStatement<'connection>,
    /// Those of the session that is written.
    allocations: Vec<AllocationColumns>,
    crc: RowCrc,
}

impl<'connection> Writer<'connection> {
    fn new(connection: &'connection Connection) -> Result<Self, Fault> {
        Ok(Self {
            add: connection.prepare_cached(ADD)?,
            replace: connection.prepare_cached(REPLACE)?,
            allocate: connection.prepare_cached(ALLOCATE)?,
            delete_allocations: connection.prepare_cached(DELETE_ALLOCATIONS)?,
            allocations: Vec::new(),
            crc: RowCrc::default(),
        })
    }

    fn write(&mut self, session: i64, row: &SessionRow) -> Result<(), Fault> {
        let columns = SessionColumns::of(row);
        let crc = columns.crc(&mut self.crc, &self.allocations);
        if session == NEW {
            let session = self.add(&columns, crc)?;
            return self.allocate(session);
        }
        self.replace(session, &columns, crc)?;
        self.allocate(session)
    }

    fn add(&mut self, columns: &SessionColumns<'_>, crc: i64) -> Result<i64, Fault> {
        let SessionColumns { owner, id, user, opened_ms, end_ms, ended, term, base } = columns;
        let columns = params![owner, id, user, opened_ms, end_ms, ended, term, base, crc];
        let session = self.add.insert(columns)?;
        Ok(session)
    }

    fn replace(
        &mut self,
        session: i64,
        columns: &SessionColumns<'_>,
        crc: i64,
    ) -> Result<(), Fault> {
        let SessionColumns { user, opened_ms, end_ms, ended, term, base, .. } = columns;
        let columns = params![session, user, opened_ms, end_ms, ended, term, base, crc];
        self.replace.execute(columns)?;
        self.delete_allocations.execute((session, self.allocations.len() as i64))?;
        Ok(())
    }

    fn allocate(&mut self, session: i64) -> Result<(), Fault> {
        for (place, columns) in self.allocations.iter().enumerate() {
            let [key, model, held, requests, failures, input, output, cached] = columns;
            self.allocate.execute(params![
                session,
                place as i64,
                key,
                model,
                held,
                requests,
                failures,
                input,
                output,
                cached
            ])?;
        }
        Ok(())
    }
}

fn found(find: &mut CachedStatement<'_>, name: &SessionRef) -> Result<Option<i64>, Fault> {
    let mut rows = find.query((name.owner, &name.id))?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

fn columns(
    numbers: &Numbers,
    allocation: &AllocationRow,
    model: i64,
) -> Result<AllocationColumns, Fault> {
    let key = numbers.keys.get(&allocation.key).copied().ok_or_else(|| {
        let key = allocation.key;
        Fault::content(format!("it lacks the key {key}, which a session holds"))
    })?;
    let [requests, failures, input, output, cached] = usage_to_sql(&allocation.usage);
    let held = i64::from(allocation.held);
    Ok([key, model, held, requests, failures, input, output, cached])
}

/// A session's name as the core keeps it.
pub(crate) fn name(owner: u32, id: &str) -> SessionRef {
    SessionRef { owner, id: Arc::from(id) }
}
