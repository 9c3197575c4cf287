//! The local projection: one SQLite file.
//!
//! `docs/sqlite.md` describes tables and columns for people. The file holds no
//! secret, and losing it costs time, nothing else.

mod fault;
mod file;
mod key;
mod load;
mod mark;
mod model;
mod numbers;
mod receipts;
mod row_crc;
mod schema;
mod session;
mod session_rows;
mod usage;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use key_server_core::{Changes, Rules, State};
use rusqlite::{Connection, TransactionBehavior};

use crate::error::ProjectionError;
use crate::projection::{Mark, Projection};
use crate::sqlite::mark::Counts;
use crate::sqlite::numbers::Numbers;

pub(crate) use fault::Fault;
pub(crate) use file::open_reader;
pub(crate) use mark::read as read_mark;
pub(crate) use schema::check as check_schema;
pub(crate) use usage::HOUR_MS;

/// The file's name in the state directory.
pub const FILE_NAME: &str = "state.sqlite";

/// What one node's ledger adds up to, in a file.
///
/// One process at a time writes it; the state directory's lock sees to that.
/// Numbers above 2^63 - 1 are kept as 2^63 - 1.
#[derive(Debug)]
pub struct SqliteProjection {
    path: PathBuf,
    connection: Connection,
    numbers: Numbers,
}

impl SqliteProjection {
    /// Opens the file; makes an empty one, mode 0600, when there is none.
    ///
    /// # Errors
    /// `Unavailable`: the file cannot be opened or made; try again later.
    /// `Corrupt`: it is damaged; [`SqliteProjection::delete`] and open again.
    /// `Foreign`: it is no state file, a newer version's, or another user's;
    /// an operator decides. Damage that only [`SqliteProjection::load`] can
    /// see is not looked for here.
    pub fn open(path: &Path) -> Result<Self, ProjectionError> {
        Self::try_open(path).map_err(|fault| fault.at(path))
    }

    fn try_open(path: &Path) -> Result<Self, Fault> {
        // Absolute, so that no name is taken for a `file:` address.
        let path = std::path::absolute(path)?;
        let mut connection = file::open_writer(&path)?;
        schema::prepare(&mut connection)?;
        Ok(Self { path, connection, numbers: Numbers::default() })
    }

    /// Deletes the file and what SQLite keeps beside it. Nothing there is no
    /// error. Nobody may have it open.
    ///
    /// # Errors
    /// `Unavailable`: a file cannot be deleted.
    pub fn delete(path: &Path) -> Result<(), ProjectionError> {
        // The log first: it must not meet another file of that name.
        for file in file::files(path).iter().rev() {
            match fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Fault::from(error).at(file));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The mark, and the state that it stands for; none when nothing was ever
    /// written. Every row is checked: the answer is what was written, or an
    /// error.
    ///
    /// # Errors
    /// `Unavailable`: try again later. `Corrupt`: throw the file away and
    /// replay the whole ledger.
    pub fn load(&mut self, rules: Rules) -> Result<Option<(Mark, State)>, ProjectionError> {
        let loaded = load::load(&self.path, &self.connection, rules);
        loaded.map_err(|fault| fault.at(&self.path))
    }

    /// Deletes the usage rows of hours before `before_hour` (hours of the
    /// node's timeline, as in [`key_server_core::ReceiptRow`]); returns how
    /// many rows went. One transaction an hour, so that nothing waits long.
    /// What keys and sessions spent in all stays.
    ///
    /// # Errors
    /// `Unavailable`: hours before the one that failed are gone; try again
    /// later. `Corrupt`: as for [`Projection::write`].
    pub fn prune_usage(&mut self, before_hour: u32) -> Result<usize, ProjectionError> {
        let mut pruned = 0;
        loop {
            let deleted = usage::delete_oldest_hour(&self.connection, before_hour);
            match deleted.map_err(|fault| fault.at(&self.path))? {
                0 => return Ok(pruned),
                deleted => pruned += deleted,
            }
        }
    }

    fn try_write(&mut self, mark: &Mark, changes: &Changes) -> Result<(), Fault> {
        let Self { connection, numbers, .. } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let stored = mark::read(&transaction)?;
        if mark::covers(stored.as_ref(), mark.seq) {
            return Ok(());
        }
        let counts = stored.map_or_else(Counts::default, |(_, counts)| counts);
        let counts = write_changes(&transaction, numbers, counts, changes)?;
        mark::write(&transaction, mark, counts)?;
        transaction.commit()?;
        Ok(())
    }

    fn try_clear(&mut self) -> Result<(), Fault> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::delete_rows(&transaction)?;
        transaction.commit()?;
        Ok(())
    }
}

impl Projection for SqliteProjection {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn mark(&self) -> Result<Option<Mark>, ProjectionError> {
        let stored = mark::read(&self.connection).map_err(|fault| fault.at(&self.path))?;
        Ok(stored.map(|(mark, _)| mark))
    }

    fn write(&mut self, mark: &Mark, changes: &Changes) -> Result<(), ProjectionError> {
        let written = self.try_write(mark, changes);
        if written.is_err() {
            self.numbers.forget();
        }
        written.map_err(|fault| fault.at(&self.path))
    }

    fn clear(&mut self) -> Result<(), ProjectionError> {
        self.numbers.forget();
        self.try_clear().map_err(|fault| fault.at(&self.path))
    }
}

/// Keys before what names them; what was forgotten before what came again.
fn write_changes(
    connection: &Connection,
    numbers: &mut Numbers,
    mut counts: Counts,
    changes: &Changes,
) -> Result<Counts, Fault> {
    numbers.learn(connection)?;
    key::write(connection, numbers, &mut counts, &changes.keys)?;
    session::forget(connection, &mut counts, &changes.forgotten)?;
    session::write(connection, numbers, &mut counts, &changes.sessions)?;
    usage::add(connection, numbers, &mut counts, &changes.usage)?;
    receipts::add(connection, &mut counts, &changes.receipts)?;
    receipts::delete_before(connection, &mut counts, changes.oldest_receipt_hour)?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use key_server_core::{KeyFacts, KeyId, KeyRow, OwnWeight, Time, Usage};

    use super::*;

    /// A full disk, for this connection only.
    fn allow_pages(projection: &SqliteProjection, pages_max: u32) {
        projection.connection.pragma_update(None, "max_page_count", pages_max).unwrap();
    }

    fn mark(seq: u64) -> Mark {
        Mark { seq, at: Time::from_ms(1), resume: String::new() }
    }

    /// Keys of some 150 bytes each.
    fn keys(numbers: impl Iterator<Item = u8>) -> Changes {
        let row = |n: u8| {
            let facts = KeyFacts {
                key: KeyId::from_digest(&[n; 32]),
                models: vec![format!("openai/model-{n}").parse().unwrap()],
                own_weight: OwnWeight::DEFAULT,
                max_holders: None,
                label: None,
                sources: Vec::new(),
            };
            let (window, cooling) = (Vec::new(), Vec::new());
            let (lifetime, facts) = (Usage::default(), Arc::new(facts));
            KeyRow { facts, retired: false, lifetime, last_used: None, window, cooling }
        };
        Changes { keys: numbers.map(row).collect(), ..Changes::default() }
    }

    #[test]
    fn a_batch_that_met_a_full_disk_is_taken_as_a_whole_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut projection = SqliteProjection::open(&directory.path().join(FILE_NAME)).unwrap();
        projection.write(&mark(1), &keys(0..1)).unwrap();
        allow_pages(&projection, 16);
        let refused = projection.write(&mark(2), &keys(0..250)).unwrap_err();
        assert!(matches!(refused, ProjectionError::Unavailable { .. }), "{refused}");
        assert_eq!(projection.mark().unwrap(), Some(mark(1)));
        allow_pages(&projection, 10_000);
        // In another order: no number of the batch that failed is used again.
        projection.write(&mark(3), &keys((0..250).rev())).unwrap();
        let (_, state) = projection.load(Rules::default()).unwrap().unwrap();
        assert_eq!(state.totals().keys, 250);
        let facts = |changes: Changes| changes.keys.into_iter().map(|row| row.facts);
        for facts in facts(keys(0..250)) {
            assert_eq!(state.key_stats(facts.key).map(|key| key.facts), Some(facts));
        }
    }
}
