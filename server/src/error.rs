//! Why a call fails, classed by what its caller can do.

use std::borrow::Cow;
use std::time::Duration;

/// What the caller of a failed call can do; closed on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The peer's credentials cannot be read: ask the operator.
    Unidentified,
    /// The uid may not do this: ask the operator.
    NotPermitted,
    /// The request is malformed: fix it.
    InvalidInput,
    /// An unknown session or key, or somebody else's: fix the reference.
    NotFound,
    /// A cap is reached: wait.
    Exhausted,
    /// The state does not allow it: change that first.
    Unfit,
    /// The same id with another content: decide.
    Conflict,
    /// The server cannot do it now: retry with backoff.
    Unavailable,
    /// A stored record fails its check: the operator.
    Corrupt,
    /// A broken invariant: report it.
    Bug,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ServiceError {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// A stable name for programs, as in `SESSION_NOT_FOUND`.
    pub reason: &'static str,
    /// What happened and what to do: lower case, no secret.
    pub message: Cow<'static, str>,
    /// When to try again, if that is known.
    pub retry_after: Option<Duration>,
    /// Ids and numbers, by name.
    pub metadata: Vec<(&'static str, String)>,
}

impl ServiceError {
    /// An error without further details.
    pub fn new(
        kind: ErrorKind,
        reason: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { kind, reason, message: message.into(), retry_after: None, metadata: Vec::new() }
    }

    /// With an id or number for programs.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.metadata.push((name, value.to_string()));
        self
    }

    /// With the time after which a repeat makes sense.
    #[must_use]
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    /// A malformed request: `field` must become what `message` says.
    pub fn invalid(field: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidInput, "INVALID_REQUEST", message).with("field", field)
    }

    /// The caller has no such session, whether or not somebody else has.
    pub fn session_not_found() -> Self {
        Self::new(
            ErrorKind::NotFound,
            "SESSION_NOT_FOUND",
            "there is no such session; select keys for it first",
        )
    }

    /// The server's own fault: the text is fixed, the id leads to the log.
    pub fn bug(what: &dyn std::fmt::Display) -> Self {
        let id = error_id();
        tracing::error!(error.id = %id, "broken invariant: {what}");
        let message = format!("internal error {id}; the server's log has more under this id");
        Self::new(ErrorKind::Bug, "INTERNAL", message).with("error_id", id)
    }
}

fn error_id() -> String {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => data_encoding::HEXLOWER.encode(&bytes),
        Err(_) => "unknown".to_owned(),
    }
}
