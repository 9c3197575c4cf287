use key_server_core::{Changes, Time};

use crate::error::ProjectionError;

/// How far a projection has come: everything up to and with event `seq` is in
/// it, and nothing after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The sequence number of the last event that is counted.
    pub seq: u64,
    /// The instant that the state had been brought to, on the node's timeline.
    pub at: Time,
    /// From where the ledger goes on; opaque text that only the ledger reads.
    pub resume: String,
}

/// A place that keeps what one node's ledger adds up to.
///
/// Marks are in order: of two marks, the one with the larger `seq` is the later
/// one, and its `at` is not earlier. Adapters run the conformance suite in
/// `testkit/src/projection.rs`.
pub trait Projection: Send {
    /// What people call it: `sqlite`, `redis`.
    fn name(&self) -> &'static str;

    /// How far it has come; none when nothing was ever written, or since
    /// [`Projection::clear`].
    ///
    /// # Errors
    /// `Unavailable`: ask again later. `Corrupt`, `Foreign`: as for `write`.
    fn mark(&self) -> Result<Option<Mark>, ProjectionError>;

    /// Makes `changes` part of what it keeps, and `mark` its mark.
    ///
    /// It takes effect exactly once, and as a whole: the changes are there if
    /// and only if their mark (or a later one) is, whatever is killed or fails.
    /// A mark whose `seq` is not after the stored one is a repeat: nothing
    /// changes and the answer is `Ok`. So after an error, or when the answer
    /// was lost, the same call is made again.
    ///
    /// The changes must be all that happened after the stored mark up to
    /// `mark`. What is written may be lost later (a power cut, a crash of the
    /// store), but only as a whole batch and from the end: then
    /// [`Projection::mark`] is an earlier one, and the ledger has the rest. An
    /// adapter whose rows are absolute values may show rows of a later instant
    /// than its mark says: writing them again is harmless.
    ///
    /// # Errors
    /// `Unavailable`: nothing changed; try again later, with the same batch.
    /// `Corrupt`: throw the projection away and fill it again from the ledger.
    /// `Foreign`: the store belongs to something else; an operator decides.
    fn write(&mut self, mark: &Mark, changes: &Changes) -> Result<(), ProjectionError>;

    /// Forgets everything, the mark too, so that it can be filled from the
    /// beginning. Clearing what is empty is no error.
    ///
    /// # Errors
    /// As for `write`; then nothing was forgotten.
    fn clear(&mut self) -> Result<(), ProjectionError>;
}
