use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::AppendError;
use crate::record::Position;

/// The end of an append: resolves once the call's entries are durable, with the
/// position after them, or with the reason why they are not in the ledger.
///
/// # Cancellation
/// Dropping it changes nothing: the entries are written all the same.
#[derive(Debug)]
#[must_use = "nothing may be handed out before the append is durable"]
pub struct Pending(State);

#[derive(Debug)]
enum State {
    Known(Result<Position, AppendError>),
    Queued(oneshot::Receiver<Result<Position, AppendError>>),
}

impl Pending {
    pub(crate) fn known(result: Result<Position, AppendError>) -> Self {
        Self(State::Known(result))
    }

    pub(crate) fn queued(done: oneshot::Receiver<Result<Position, AppendError>>) -> Self {
        Self(State::Queued(done))
    }

    /// Why the call was refused at once, if it was: then it was never queued,
    /// and nothing of it will be written.
    pub fn refusal(&self) -> Option<&AppendError> {
        match &self.0 {
            State::Known(Err(error)) => Some(error),
            State::Known(Ok(_)) | State::Queued(_) => None,
        }
    }

    /// Waits on this thread; for threads outside of an async runtime (inside of
    /// one it panics).
    ///
    /// # Errors
    /// As the future.
    pub fn wait(self) -> Result<Position, AppendError> {
        match self.0 {
            State::Known(result) => result,
            State::Queued(done) => done.blocking_recv().unwrap_or(Err(AppendError::Closed)),
        }
    }

    /// The error that is known without waiting.
    #[cfg(test)]
    pub(crate) fn known_error(self) -> Result<Self, AppendError> {
        match self.0 {
            State::Known(Err(error)) => Err(error),
            state => Ok(Self(state)),
        }
    }
}

impl Future for Pending {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Known(result) => Poll::Ready(result.clone()),
            State::Queued(done) => Pin::new(done)
                .poll(context)
                .map(|result| result.unwrap_or(Err(AppendError::Closed))),
        }
    }
}
