use std::path::Path;
use std::thread;

use key_server_core::{Restore, Rules, SessionRow, State};
use rusqlite::Connection;

use crate::projection::Mark;
use crate::sqlite::fault::Fault;
use crate::sqlite::file::open_reader;
use crate::sqlite::mark::{self, Counts};
use crate::sqlite::receipts::ReceiptsByHour;
use crate::sqlite::session_rows::Names;
use crate::sqlite::{key, model, receipts, session_rows};

/// Sessions that room is made for at once.
const SESSIONS_RESERVED_MAX: usize = 4_000_000;

/// The state up to the mark; none when nothing was ever written.
///
/// Receipts, most of the bytes, are read beside the sessions by a thread of
/// their own. Nobody writes meanwhile: the caller holds the projection.
pub(crate) fn load(
    path: &Path,
    connection: &Connection,
    rules: Rules,
) -> Result<Option<(Mark, State)>, Fault> {
    let Some((mark, counts)) = mark::read(connection)? else { return Ok(None) };
    // The count is only what the file says: believed up to a point.
    let sessions = usize::try_from(counts.sessions).unwrap_or(0).min(SESSIONS_RESERVED_MAX);
    let mut restore = Restore::new(rules, mark.at);
    restore.reserve(sessions);
    thread::scope(|scope| {
        let receipts = scope.spawn(|| receipts::read(&open_reader(path)?, counts.receipts));
        let restored = restore_sessions(connection, counts, &mut restore);
        let receipts = receipts.join().map_err(|_| Fault::content("reading receipts failed"))?;
        restored?;
        restore_receipts(&mut restore, receipts?);
        Ok(Some((mark, restore.finish())))
    })
}

/// Live sessions as they come; then ended ones in the order in which they
/// ended, for in this order they are forgotten.
fn restore_sessions(
    connection: &Connection,
    counts: Counts,
    restore: &mut Restore,
) -> Result<(), Fault> {
    let models = model::read(connection, counts.models)?;
    let keys = key::read(connection, counts.keys, restore)?;
    let names = Names { keys, models };
    let mut ended: Vec<SessionRow> = Vec::new();
    session_rows::read(connection, &names, counts.sessions, |row| {
        if row.ended {
            ended.push(row.clone());
            return Ok(());
        }
        Ok(restore.session(row)?)
    })?;
    ended.sort_by_key(|row| row.end);
    for row in &ended {
        restore.session(row)?;
    }
    Ok(())
}

fn restore_receipts(restore: &mut Restore, receipts: ReceiptsByHour) {
    for (hour, receipts) in receipts {
        restore.receipts(hour, receipts);
    }
}
