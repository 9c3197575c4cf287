use key_server_core::{AllocationRow, KeyId, ModelName, SessionRow, Usage};
use rusqlite::{Connection, Row, Rows};

use crate::sqlite::fault::Fault;
use crate::sqlite::numbers::{flag, narrow, time_from_sql, usage_columns, usage_from_sql};
use crate::sqlite::row_crc::RowCrc;
use crate::sqlite::session::{AllocationColumns, SessionColumns, name};

const SESSIONS: &str = "SELECT session, owner, id, user, opened_ms, end_ms, ended, term, base, crc FROM session ORDER BY session";

const ALLOCATIONS: &str = "
    SELECT session, place, key, model, held,
        requests, failures, input_tokens, output_tokens, cached_tokens
    FROM allocation ORDER BY session, place";

/// What keys and models are named by their numbers, from 1 on.
pub(crate) struct Names {
    pub(crate) keys: Vec<KeyId>,
    pub(crate) models: Vec<ModelName>,
}

/// Gives every session to `each`: two scans in the order of the sessions'
/// numbers, side by side. The room of the row is used again.
pub(crate) fn read(
    connection: &Connection,
    names: &Names,
    count: i64,
    mut each: impl FnMut(&SessionRow) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut statement = connection.prepare(ALLOCATIONS)?;
    let mut allocations = Allocations::new(statement.query([])?)?;
    let mut statement = connection.prepare(SESSIONS)?;
    let mut sessions = statement.query([])?;
    let mut reader = Reader::default();
    let mut sessions_count = 0;
    let mut row = None;
    while let Some(columns) = sessions.next()? {
        let number: i64 = columns.get(0)?;
        allocations.take(number, &mut reader.allocations)?;
        let row = reader.read(columns, names, &mut row)?;
        each(row)?;
        sessions_count += 1;
    }
    if sessions_count != count {
        return Err(Fault::content("sessions are missing"));
    }
    allocations.finish()
}

#[derive(Default)]
struct Reader {
    /// Those of the session that is read.
    allocations: Vec<AllocationColumns>,
    crc: RowCrc,
}

impl Reader {
    fn read<'row>(
        &mut self,
        row: &Row<'_>,
        names: &Names,
        session: &'row mut Option<SessionRow>,
    ) -> Result<&'row SessionRow, Fault> {
        let columns = SessionColumns {
            owner: row.get(1)?,
            id: row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?,
            user: row.get(3)?,
            opened_ms: row.get(4)?,
            end_ms: row.get(5)?,
            ended: row.get(6)?,
            term: row.get(7)?,
            base: row.get(8)?,
        };
        if columns.crc(&mut self.crc, &self.allocations) != row.get::<_, i64>(9)? {
            let session: i64 = row.get(0)?;
            return Err(Fault::content(format!("session {session} does not match its checksum")));
        }
        let mut allocations = session.take().map_or_else(Vec::new, |row| row.allocations);
        allocations.clear();
        for allocation in &self.allocations {
            allocations.push(names.allocation(allocation)?);
        }
        Ok(session.insert(columns.row(allocations)?))
    }
}

impl SessionColumns<'_> {
    fn row(&self, allocations: Vec<AllocationRow>) -> Result<SessionRow, Fault> {
        Ok(SessionRow {
            session: name(narrow(self.owner)?, self.id),
            user: narrow(self.user)?,
            opened: time_from_sql(self.opened_ms)?,
            end: time_from_sql(self.end_ms)?,
            ended: flag(self.ended)?,
            term: narrow(self.term)?,
            base: narrow(self.base)?,
            allocations,
        })
    }
}

impl Names {
    fn allocation(&self, columns: &AllocationColumns) -> Result<AllocationRow, Fault> {
        let [key, model, held, requests, failures, input, output, cached] = *columns;
        let usage: Usage = usage_from_sql([requests, failures, input, output, cached])?;
        Ok(AllocationRow {
            key: *named(&self.keys, key)?,
            model: named(&self.models, model)?.clone(),
            held: flag(held)?,
            usage,
        })
    }
}

fn named<Name>(names: &[Name], number: i64) -> Result<&Name, Fault> {
    let place = usize::try_from(number - 1).ok();
    let name = place.and_then(|place| names.get(place));
    name.ok_or_else(|| Fault::content("a session names a key or model that is not there"))
}

/// The scan of the allocations, one row ahead.
struct Allocations<'statement> {
    rows: Rows<'statement>,
    /// Session, place, and the row itself.
    next: Option<(i64, i64, AllocationColumns)>,
}

impl<'statement> Allocations<'statement> {
    fn new(rows: Rows<'statement>) -> Result<Self, Fault> {
        let mut scan = Self { rows, next: None };
        scan.advance()?;
        Ok(scan)
    }

    fn advance(&mut self) -> Result<(), Fault> {
        let Some(row) = self.rows.next()? else {
            self.next = None;
            return Ok(());
        };
        let [requests, failures, input, output, cached] = usage_columns(row, 5)?;
        let (key, model, held) = (row.get(2)?, row.get(3)?, row.get(4)?);
        let columns = [key, model, held, requests, failures, input, output, cached];
        self.next = Some((row.get(0)?, row.get(1)?, columns));
        Ok(())
    }

    /// Moves the rows of `session`, which must be the next, to `into`.
    fn take(&mut self, session: i64, into: &mut Vec<AllocationColumns>) -> Result<(), Fault> {
        into.clear();
        while let Some((number, place, columns)) = self.next {
            if number != session {
                break;
            }
            if place != into.len() as i64 {
                return Err(Fault::content("an allocation is out of place"));
            }
            into.push(columns);
            self.advance()?;
        }
        Ok(())
    }

    /// Nothing may be left: it would belong to no session.
    fn finish(self) -> Result<(), Fault> {
        match self.next {
            None => Ok(()),
            Some(_) => Err(Fault::content("an allocation belongs to no session")),
        }
    }
}
