//! How the things behind the server are, in words, since when.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;

/// How one backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// As it should be.
    Ok,
    /// Working, but behind or with something to look at.
    Degraded,
    /// Not working.
    Unavailable,
}

impl BackendState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What is known of one backend.
#[derive(Clone, Debug)]
pub struct BackendStatus {
    /// How it is.
    pub state: BackendState,
    /// Since when, in milliseconds of the wall clock.
    pub since_ms: i64,
    /// What went wrong last; empty when nothing did.
    pub last_error: String,
}

/// The status of one backend, kept by whoever works with it.
pub struct Backend {
    name: String,
    clock: Arc<dyn Clock>,
    status: Mutex<BackendStatus>,
}

impl Backend {
    /// A backend that is as it should be.
    pub fn new(name: String, clock: Arc<dyn Clock>) -> Self {
        let since_ms = clock.wall_ms();
        let status = BackendStatus { state: BackendState::Ok, since_ms, last_error: String::new() };
        Self { name, clock, status: Mutex::new(status) }
    }

    /// Its name on the wire.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of it.
    pub fn status(&self) -> BackendStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It works.
    pub fn works(&self) {
        self.change(BackendState::Ok, None);
    }

    /// It does not, or not as it should.
    pub fn fails(&self, state: BackendState, error: impl ToString) {
        // Of a reason of many lines the first says what happened.
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default();
        self.change(
            state,
            Some(first.trim_end_matches(" The policy that a token needs:").to_owned()),
        );
    }

    fn change(&self, state: BackendState, error: Option<String>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.state != state {
            status.state = state;
            status.since_ms = self.clock.wall_ms();
            let error = error.as_deref().unwrap_or("");
            match state {
                BackendState::Ok => tracing::info!("{} works again", self.name),
                _ => tracing::warn!("{} is {}: {error}", self.name, state.as_str()),
            }
        }
        if let Some(error) = error {
            status.last_error = error;
        }
    }
}
