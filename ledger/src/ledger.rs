use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use key_server_core::Time;
use tokio::sync::watch;

use crate::error::{AppendError, OpenError};
use crate::file_calls::{FileCalls, SystemCalls};
use crate::line::Encoder;
use crate::open::{self, DirLock, OnDisk, Opened};
use crate::pending::Pending;
use crate::queue::{Condition, Limits, Shared};
use crate::read;
use crate::record::{Durability, Entry, Position, Record};
use crate::tail::{Batch, Tail};
use crate::writer::Writer;

/// How a ledger works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What a reply waits for.
    pub durability: Durability,
    /// A segment of at least so many bytes is followed by the next one; it is
    /// longer by less than the call that filled it.
    pub segment_bytes_max: u64,
    /// How many entries may wait to be written; more are refused.
    pub queue_entries_max: usize,
    /// How many bytes, roughly, may wait to be written; more are refused.
    pub queue_bytes_max: usize,
    /// Whether to open, without a position, a ledger whose first segments were
    /// removed; what is read then is not all of history.
    pub pruned_allowed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Disk,
            segment_bytes_max: 64 << 20,
            queue_entries_max: 65_536,
            queue_bytes_max: 64 << 20,
            pruned_allowed: false,
        }
    }
}

/// An open ledger. May be shared by threads; who appends first is first in it.
///
/// Dropping it is [`Ledger::close`].
pub struct Ledger {
    dir: PathBuf,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<Result<(), AppendError>>>>,
    resuming: Mutex<()>,
    _lock: DirLock,
}

impl Ledger {
    /// Opens the ledger in `dir` (made if it is not there) to append as `node`.
    ///
    /// Everything after `from` (or all, without it) is verified and handed to
    /// `on_call`, one whole call at a time, with the position after it. A tail
    /// that was not written whole is cut off, and reported. What was read is on
    /// the disk when this returns, even lines that a killed process had only
    /// given to the kernel.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] when something else does not verify;
    /// [`OpenError::PositionUnknown`] when `from` is not in the files (nothing
    /// is changed: try without it, with a fresh state);
    /// [`OpenError::Pruned`] when all was asked for and the start is gone;
    /// [`OpenError::InUse`] and [`OpenError::Io`] as they say.
    pub fn open(
        dir: &Path,
        node: &str,
        options: &Options,
        from: Option<&Position>,
        on_call: impl FnMut(&Position, &[Record]),
    ) -> Result<(Self, Opened), OpenError> {
        Self::open_with(Box::new(SystemCalls), dir, node, options, from, on_call)
    }

    pub(crate) fn open_with(
        files: Box<dyn FileCalls>,
        dir: &Path,
        node: &str,
        options: &Options,
        from: Option<&Position>,
        on_call: impl FnMut(&Position, &[Record]),
    ) -> Result<(Self, Opened), OpenError> {
        let lock = open::lock(dir)?;
        let (on_disk, opened) = open::open(dir, options.pruned_allowed, from, on_call)?;
        let tail = tail(files, dir, node, options, on_disk, &opened);
        let limits = Limits { entries: options.queue_entries_max, bytes: options.queue_bytes_max };
        let shared = Arc::new(Shared::new(opened.position, opened.last_at, limits));
        let writer = Writer::new(Arc::clone(&shared), tail);
        let thread = thread::Builder::new().name("ledger".into()).spawn(|| writer.run());
        let writer = Mutex::new(Some(thread.map_err(OpenError::io("start a thread for", dir))?));
        let (dir, resuming) = (dir.to_owned(), Mutex::new(()));
        Ok((Self { dir, shared, writer, resuming, _lock: lock }, opened))
    }

    /// Queues the entries of one call, which happened at `at`; no I/O.
    ///
    /// They get the next sequence numbers, in the order of the calls of this
    /// function: hold your own lock over deciding and appending. They become
    /// durable together or not at all. No entries: resolves when everything
    /// appended before is durable.
    ///
    /// # Errors
    /// The [`Pending`] says why the call is not in the ledger:
    /// [`AppendError::Unwritable`] (now known at once, or found while writing;
    /// then every call after it fails as well), [`AppendError::Overloaded`],
    /// [`AppendError::TooLarge`], [`AppendError::TimeWentBack`],
    /// [`AppendError::Closed`].
    pub fn append(&self, at: Time, entries: Vec<Entry>) -> Pending {
        self.shared.append(at, entries)
    }

    /// Up to where everything is durable.
    pub fn durable(&self) -> Position {
        self.shared.durable()
    }

    /// Up to where everything is on the disk: behind [`Ledger::durable`] only
    /// with [`Durability::Process`].
    pub fn synced(&self) -> Position {
        self.shared.synced()
    }

    /// Whether appends are taken.
    pub fn condition(&self) -> Condition {
        self.shared.condition()
    }

    /// Tells of every change of the condition.
    pub fn subscribe(&self) -> watch::Receiver<Condition> {
        self.shared.subscribe()
    }

    /// Tries to become writable again, by a durable `ledger.resumed` record of
    /// time `at`; answers the position after it. Blocks. Does nothing when the
    /// ledger is writable.
    ///
    /// Call it after memory was brought back to [`Ledger::durable`]
    /// ([`Ledger::replay`] helps): appends are taken from then on.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`] when the disk still does not take it: try
    /// again later; [`AppendError::TimeWentBack`], [`AppendError::Closed`].
    pub fn try_resume(&self, at: Time) -> Result<Position, AppendError> {
        let _one_at_a_time = self.resuming.lock().unwrap_or_else(PoisonError::into_inner);
        match self.shared.ask_to_resume(at)? {
            None => Ok(self.durable()),
            Some(answer) => answer.recv().unwrap_or(Err(AppendError::Closed)),
        }
    }

    /// Reads again what is between `from` (or the start) and
    /// [`Ledger::durable`], as [`Ledger::open`] does. Works in any condition.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn replay(
        &self,
        from: Option<&Position>,
        on_call: impl FnMut(&Position, &[Record]),
    ) -> Result<Position, OpenError> {
        let durable = self.durable();
        read::replay(&self.dir, from, &durable, on_call)?;
        Ok(durable)
    }

    /// Writes what is queued, brings everything onto the disk and ends the
    /// writer; appends are refused from then on. Blocks. Twice is fine.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`] when the last lines may not be on the disk.
    pub fn close(&self) -> Result<Position, AppendError> {
        self.shared.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            writer.join().unwrap_or(Err(AppendError::Closed))?;
        }
        Ok(self.durable())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls it himself.
        let _ = self.close();
    }
}

fn tail(
    files: Box<dyn FileCalls>,
    dir: &Path,
    node: &str,
    options: &Options,
    on_disk: OnDisk,
    opened: &Opened,
) -> Tail {
    let OnDisk { file, segment, end } = on_disk;
    Tail {
        files,
        dir: dir.to_owned(),
        encoder: Encoder::new(node.into()),
        durability: options.durability,
        segment_bytes_max: options.segment_bytes_max,
        file,
        segment,
        durable: opened.position,
        durable_at: opened.last_at,
        synced: opened.position,
        batch: Batch::after(&opened.position, opened.last_at, end),
    }
}
