use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::{now, wall_ms};
use crate::error::AppendError;
use crate::queue::{Call, Condition, Done, Resume, Shared, Work};
use crate::record::{Durability, Entry, Fact, Position};
use crate::tail::Tail;

/// How long what is only in the kernel may stay off the disk.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// The one thread that writes: commits everything queued together.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    tail: Tail,
    /// Calls whose lines are in the batch, with the position after them.
    waiting: Vec<(Done, Position)>,
    /// When the oldest line that is only in the kernel was written.
    dirty_since: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, tail: Tail) -> Self {
        Self { shared, tail, waiting: Vec::new(), dirty_since: None }
    }

    /// Works until the ledger is closed.
    ///
    /// # Errors
    /// The last lines could not be brought onto the disk.
    pub(crate) fn run(mut self) -> Result<(), AppendError> {
        let _abandon = AbandonOnDrop(Arc::clone(&self.shared));
        loop {
            let sync_at = self.dirty_since.map(|since| since + SYNC_INTERVAL);
            match self.shared.next_work(sync_at) {
                Work::Calls(calls) => self.write(calls),
                Work::Resume(resume) => self.resume(&resume),
                Work::Sync => self.sync(),
                Work::Close => return self.finish(),
            }
        }
    }

    fn write(&mut self, mut calls: VecDeque<Call>) {
        if let Err(error) = self.commit_all(&mut calls) {
            self.fail(&error, calls);
        }
        self.note_dirt();
        if self.dirty_since.is_some_and(|since| now() >= since + SYNC_INTERVAL) {
            self.sync();
        }
    }

    /// Writes the calls; those of one segment are committed together. A call
    /// that was not encoded whole stays in `calls`.
    fn commit_all(&mut self, calls: &mut VecDeque<Call>) -> io::Result<()> {
        let wall_ms = wall_ms();
        while let Some(call) = calls.front() {
            if self.tail.is_full() && !call.entries.is_empty() {
                self.commit()?;
                self.tail.rotate()?;
            }
            self.tail.encode(wall_ms, call.at, &call.entries)?;
            let position = self.tail.position();
            self.waiting.extend(calls.pop_front().map(|call| (call.done, position)));
        }
        self.commit()
    }

    fn commit(&mut self) -> io::Result<()> {
        self.tail.commit(self.tail.durability)?;
        self.shared.committed(self.tail.durable, self.tail.durable_at);
        self.shared.set_synced(self.tail.synced);
        for (done, position) in self.waiting.drain(..) {
            // Whoever gave up waiting needs no answer.
            let _ = done.send(Ok(position));
        }
        Ok(())
    }

    /// Takes back what is not committed, and fails it and all that is queued.
    fn fail(&mut self, error: &io::Error, calls: VecDeque<Call>) {
        let text: Arc<str> = self.tail.describe(error).into();
        // If this fails too, the repair before resuming does it.
        let _ = self.tail.roll_back();
        let failed_count = (self.waiting.len() + calls.len()) as u64;
        let queued = self.shared.refuse(&text, failed_count);
        let waiting = self.waiting.drain(..).map(|(done, _)| done);
        let others = calls.into_iter().chain(queued).map(|call| call.done);
        for done in waiting.chain(others) {
            let _ = done.send(Err(AppendError::Unwritable { error: Arc::clone(&text) }));
        }
    }

    fn resume(&mut self, resume: &Resume) {
        let result = self.try_resume(resume).map_err(|error| {
            self.fail(&error, VecDeque::new());
            AppendError::Unwritable { error: self.tail.describe(&error).into() }
        });
        let _ = resume.done.send(result);
    }

    fn try_resume(&mut self, resume: &Resume) -> io::Result<Position> {
        self.tail.repair()?;
        let refused_count = self.shared.refused_count();
        if let Condition::Refusing { since, error } = self.shared.condition() {
            let fact = Fact::LedgerResumed { refused_count, since, error };
            if self.tail.is_full() {
                self.tail.rotate()?;
            }
            self.tail.encode(wall_ms(), resume.at, &[Entry::of_node(fact)])?;
            self.tail.commit(Durability::Disk)?;
        }
        self.dirty_since = None;
        self.shared.set_synced(self.tail.synced);
        self.shared.resumed(self.tail.durable, self.tail.durable_at, refused_count);
        Ok(self.tail.durable)
    }

    fn sync(&mut self) {
        self.dirty_since = None;
        match self.tail.sync() {
            Ok(()) => self.shared.set_synced(self.tail.synced),
            Err(error) => self.fail(&error, VecDeque::new()),
        }
    }

    fn note_dirt(&mut self) {
        if !self.tail.is_dirty() {
            self.dirty_since = None;
        } else if self.tail.durability == Durability::Process {
            self.dirty_since.get_or_insert_with(now);
        }
    }

    fn finish(mut self) -> Result<(), AppendError> {
        let done = match self.shared.condition() {
            Condition::Writable => self.tail.sync(),
            Condition::Refusing { .. } => self.tail.repair(),
        };
        self.shared.set_synced(self.tail.synced);
        done.map_err(|error| AppendError::Unwritable { error: self.tail.describe(&error).into() })
    }
}

/// Even if the writer panics, nobody waits for it for ever.
struct AbandonOnDrop(Arc<Shared>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
