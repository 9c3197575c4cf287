use std::io;
use std::path::Path;

use async_trait::async_trait;

use crate::{Change, StoredKey};

/// Where credentials are kept while no server runs.
///
/// A store holds each key once, with the facts that [`SecretStore::commit`]
/// last gave it. It decides nothing: what to keep is [`crate::plan`]'s matter.
/// Every adapter passes the same conformance suite (`testkit`).
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// The adapter's name in messages and settings, such as `age`.
    fn name(&self) -> &'static str;

    /// Everything the store holds, sorted by key id, each key once.
    ///
    /// A store that was never written is empty; that is not an error. Sees
    /// every commit that returned before the call.
    ///
    /// # Errors
    /// Any [`SecretStoreError`]. Never a part of the keys, never keys that
    /// differ from what was committed.
    ///
    /// # Cancellation
    /// Harmless.
    async fn load(&self) -> Result<Vec<StoredKey>, SecretStoreError>;

    /// Makes `change` true: puts what it puts, forgets what it removes.
    ///
    /// A put key that is there already gets the new facts as a whole; a
    /// removed key that is not there is fine; so a repeat is harmless, and an
    /// empty change does nothing. Keys that `change` does not name stay as
    /// they are. Commits through one store do not lose each other's changes.
    ///
    /// Atomicity: when this returns, the change is durable. If it fails, an
    /// adapter that keeps one document (age) has changed nothing; one that
    /// keeps an entry per key (Vault) may have done a part of it, each key
    /// whole, and the same change again completes it.
    ///
    /// # Errors
    /// Any [`SecretStoreError`].
    ///
    /// # Cancellation
    /// The change may still happen, as a whole or (entry per key) in part.
    async fn commit(&self, change: &Change) -> Result<(), SecretStoreError>;

    /// Whether the store is another server, which may be away for a while: then
    /// a node waits for it. What is always there fails for a reason that a
    /// person has to look at.
    fn may_be_away(&self) -> bool {
        false
    }

    /// Whether somebody else changed what this store last gave or took, so
    /// that [`SecretStore::load`] would answer something new. A store that only
    /// one node writes never says so. May take its time, to spare the backend.
    ///
    /// # Errors
    /// Any [`SecretStoreError`] but `Conflict`.
    ///
    /// # Cancellation
    /// Harmless.
    async fn has_changed(&self) -> Result<bool, SecretStoreError> {
        Ok(false)
    }
}

/// Why a store did not do what was asked. The texts say what to do and hold
/// no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretStoreError {
    /// The backend is away or failed; the same call may work later.
    #[error("{0}")]
    Unavailable(String),
    /// What is stored fails its check; a person has to look.
    #[error("{0}")]
    Corrupt(String),
    /// Missing permission, or not the right identity; a person has to look.
    #[error("{0}")]
    Denied(String),
    /// Another node changed some of the named keys since they were loaded.
    /// Load and plan again; keys that nobody else changed may be done.
    #[error("{0}")]
    Conflict(String),
}

impl SecretStoreError {
    /// The class of an I/O error: `doing` says what was tried, as in `read`.
    pub(crate) fn from_io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let text = format!("cannot {doing} {}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Self::Denied(format!("{text}; check who owns it and its mode"))
            }
            _ => Self::Unavailable(text),
        }
    }
}
