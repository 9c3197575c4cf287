use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Instant;

use key_server_core::Time;
use tokio::sync::{oneshot, watch};

use crate::clock::now;
use crate::error::AppendError;
use crate::line::ENTRY_BYTES_MAX;
use crate::pending::Pending;
use crate::record::{Entry, Position};

/// Whether appends are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// They are.
    Writable,
    /// They are refused at once until the ledger has resumed.
    Refusing {
        /// The time of the last call that was to be written.
        since: Time,
        /// What failed last, in the system's words.
        error: Arc<str>,
    },
}

pub(crate) type Done = oneshot::Sender<Result<Position, AppendError>>;

/// The entries of one call, waiting to be written.
pub(crate) struct Call {
    pub(crate) at: Time,
    pub(crate) entries: Vec<Entry>,
    pub(crate) done: Done,
}

/// A request to become writable again.
pub(crate) struct Resume {
    pub(crate) at: Time,
    pub(crate) done: mpsc::SyncSender<Result<Position, AppendError>>,
}

/// What the writer does next.
pub(crate) enum Work {
    Calls(VecDeque<Call>),
    Resume(Resume),
    Sync,
    Close,
}

/// How much may wait to be written.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// What callers and the writer share.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    condition: watch::Sender<Condition>,
}

struct Queue {
    calls: VecDeque<Call>,
    entries: usize,
    bytes: usize,
    limits: Limits,
    /// The last sequence number that was given away.
    last_seq: u64,
    last_at: Time,
    durable: Position,
    durable_at: Time,
    /// What is on the disk.
    synced: Position,
    condition: Condition,
    /// Appends refused or failed since the failure.
    refused_count: u64,
    resume: Option<Resume>,
    closing: bool,
}

impl Shared {
    pub(crate) fn new(durable: Position, durable_at: Time, limits: Limits) -> Self {
        let queue = Queue {
            calls: VecDeque::new(),
            entries: 0,
            bytes: 0,
            limits,
            last_seq: durable.seq,
            last_at: durable_at,
            durable,
            durable_at,
            synced: durable,
            condition: Condition::Writable,
            refused_count: 0,
            resume: None,
            closing: false,
        };
        let condition = watch::Sender::new(Condition::Writable);
        Self { queue: Mutex::new(queue), wake: Condvar::new(), condition }
    }

    /// No step under the lock leaves the queue half changed, so a panic of
    /// another thread does no harm.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn append(&self, at: Time, entries: Vec<Entry>) -> Pending {
        let (mut bytes, mut bytes_max) = (0, 0);
        for entry in &entries {
            let estimate = entry.bytes_estimate();
            bytes += estimate;
            bytes_max = bytes_max.max(estimate);
        }
        let mut queue = self.lock();
        if let Err(error) = queue.admit(at, &entries, bytes, bytes_max) {
            return Pending::known(Err(error));
        }
        if entries.is_empty() && queue.last_seq == queue.durable.seq {
            return Pending::known(Ok(queue.durable));
        }
        let (done, pending) = oneshot::channel();
        queue.push(Call { at, entries, done }, bytes);
        drop(queue);
        self.wake.notify_one();
        Pending::queued(pending)
    }

    /// Waits for something to do; [`Work::Sync`] when `sync_at` comes first.
    pub(crate) fn next_work(&self, sync_at: Option<Instant>) -> Work {
        let mut queue = self.lock();
        loop {
            if let Some(work) = queue.take_work() {
                return work;
            }
            queue = match sync_at.map(|sync_at| sync_at.saturating_duration_since(now())) {
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return Work::Sync,
                Some(left) => {
                    let waited = self.wake.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(crate) fn committed(&self, durable: Position, durable_at: Time) {
        let mut queue = self.lock();
        (queue.durable, queue.durable_at) = (durable, durable_at);
    }

    /// Everything up to there is on the disk.
    pub(crate) fn set_synced(&self, synced: Position) {
        self.lock().synced = synced;
    }

    pub(crate) fn synced(&self) -> Position {
        self.lock().synced
    }

    /// Refuses appends from now on. Answers what was queued, to be failed like
    /// the `failed_count` calls that the writer had taken.
    pub(crate) fn refuse(&self, error: &Arc<str>, failed_count: u64) -> VecDeque<Call> {
        let mut queue = self.lock();
        let calls = queue.take_calls();
        queue.refused_count += failed_count + calls.len() as u64;
        let since = match queue.condition {
            Condition::Writable => queue.last_at,
            Condition::Refusing { since, .. } => since,
        };
        queue.condition = Condition::Refusing { since, error: Arc::clone(error) };
        (queue.last_seq, queue.last_at) = (queue.durable.seq, queue.durable_at);
        self.condition.send_replace(queue.condition.clone());
        calls
    }

    /// Takes appends again; `refused_count` of the refused ones are on record.
    pub(crate) fn resumed(&self, durable: Position, at: Time, refused_count: u64) {
        let mut queue = self.lock();
        (queue.durable, queue.durable_at) = (durable, at);
        (queue.last_seq, queue.last_at) = (durable.seq, at);
        queue.refused_count -= refused_count;
        queue.condition = Condition::Writable;
        self.condition.send_replace(Condition::Writable);
    }

    /// Asks the writer to resume; none when the ledger is writable.
    pub(crate) fn ask_to_resume(&self, at: Time) -> Result<Option<Answer>, AppendError> {
        let mut queue = self.lock();
        if queue.closing {
            return Err(AppendError::Closed);
        }
        if queue.condition == Condition::Writable {
            return Ok(None);
        }
        if at < queue.durable_at {
            return Err(AppendError::TimeWentBack { at, last: queue.durable_at });
        }
        let (done, answer) = mpsc::sync_channel(1);
        queue.resume = Some(Resume { at, done });
        drop(queue);
        self.wake.notify_one();
        Ok(Some(answer))
    }

    /// Lets the writer finish what is queued and end.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Nobody writes any more: whoever waits learns that the ledger is closed.
    pub(crate) fn abandon(&self) {
        let mut queue = self.lock();
        queue.closing = true;
        queue.resume = None;
        let calls = queue.take_calls();
        drop(queue);
        drop(calls);
    }

    pub(crate) fn durable(&self) -> Position {
        self.lock().durable
    }

    pub(crate) fn condition(&self) -> Condition {
        self.lock().condition.clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    pub(crate) fn refused_count(&self) -> u64 {
        self.lock().refused_count
    }
}

/// What the writer says to a [`Resume`].
pub(crate) type Answer = mpsc::Receiver<Result<Position, AppendError>>;

impl Queue {
    fn admit(
        &mut self,
        at: Time,
        entries: &[Entry],
        bytes: usize,
        bytes_max: usize,
    ) -> Result<(), AppendError> {
        if self.closing {
            return Err(AppendError::Closed);
        }
        if let Condition::Refusing { error, .. } = &self.condition {
            self.refused_count += 1;
            return Err(AppendError::Unwritable { error: Arc::clone(error) });
        }
        if !entries.is_empty() && at < self.last_at {
            return Err(AppendError::TimeWentBack { at, last: self.last_at });
        }
        if bytes_max > ENTRY_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes: bytes_max });
        }
        self.has_room(entries.len(), bytes)
    }

    /// One call always fits, however large: an import is one call.
    fn has_room(&self, entries: usize, bytes: usize) -> Result<(), AppendError> {
        let fits = self.entries + entries.max(1) <= self.limits.entries
            && self.bytes + bytes <= self.limits.bytes;
        if fits || self.calls.is_empty() {
            return Ok(());
        }
        Err(AppendError::Overloaded { entries: self.entries })
    }

    fn push(&mut self, call: Call, bytes: usize) {
        let count = call.entries.len();
        self.entries += count.max(1);
        self.bytes += bytes;
        self.last_seq += count as u64;
        if count > 0 {
            self.last_at = call.at;
        }
        self.calls.push_back(call);
    }

    fn take_calls(&mut self) -> VecDeque<Call> {
        (self.entries, self.bytes) = (0, 0);
        std::mem::take(&mut self.calls)
    }

    fn take_work(&mut self) -> Option<Work> {
        if let Some(resume) = self.resume.take() {
            return Some(Work::Resume(resume));
        }
        if !self.calls.is_empty() {
            return Some(Work::Calls(self.take_calls()));
        }
        self.closing.then_some(Work::Close)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_after_the_record_of_a_resumption_count_for_the_next_one() {
        let limits = Limits { entries: 1, bytes: 1 };
        let shared = Shared::new(Position::START, Time::default(), limits);
        shared.refuse(&"no room".into(), 2);
        for _ in 0..3 {
            shared.append(Time::default(), vec![]).known_error().unwrap_err();
        }
        shared.resumed(Position::START, Time::default(), 4);
        assert_eq!(shared.refused_count(), 1);
    }
}
