//! Writes signed notes of how far the ledger is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use key_server_core::Time;
use key_server_ledger::Position;
use key_server_ledger::checkpoint::Signer;

use crate::engine::Engine;

/// How often a ledger that grows gets a checkpoint, at least.
const EVERY: Duration = Duration::from_secs(3_600);

/// Makes the checkpoints of a node.
pub(crate) struct CheckpointWriter {
    engine: Arc<Engine>,
    signer: Signer,
    last: Mutex<Option<(Position, Time)>>,
}

impl CheckpointWriter {
    pub(crate) fn new(engine: Arc<Engine>, signer: Signer) -> Self {
        Self { engine, signer, last: Mutex::default() }
    }

    /// Writes one when lines came since the last one, and it is an hour old or
    /// a new segment was begun. Blocks.
    pub(crate) fn tick(&self) {
        let (position, now) = (self.engine.ledger().synced(), self.engine.clock.now());
        let is_due = self.last().is_none_or(|(last, at)| {
            last.seq < position.seq && (last.segment != position.segment || now.since(at) >= EVERY)
        });
        if is_due {
            self.write(position, now);
        }
    }

    /// Writes one for the end, if lines came since the last one. Blocks.
    pub(crate) fn finish(&self) {
        let position = self.engine.ledger().synced();
        if self.last().is_none_or(|(last, _)| last.seq < position.seq) {
            self.write(position, self.engine.clock.now());
        }
    }

    fn write(&self, position: Position, now: Time) {
        match self.signer.write(&position) {
            Ok(line) => {
                *self.last() = Some((position, now));
                // So that it leaves the machine with the log.
                tracing::info!("checkpoint of the ledger: {line}");
            }
            Err(error) => tracing::warn!("no checkpoint could be written: {error}"),
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<(Position, Time)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
