use std::fmt;
use std::sync::Arc;

use key_server_core::{KeyFacts, KeyId};

use crate::SecretKey;

/// A key as a store holds it: its facts and its credential, both shared.
#[derive(Clone)]
pub struct StoredKey {
    /// What is known of it.
    pub facts: Arc<KeyFacts>,
    /// The credential.
    pub secret: Arc<SecretKey>,
}

impl StoredKey {
    /// The key's id.
    pub fn id(&self) -> KeyId {
        self.facts.key
    }
}

/// Shows the facts, never the credential.
impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredKey").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// What is to become true in a store.
///
/// Both lists may name a key more than once: the last `put` counts, and a key
/// that is in both lists is kept.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Keys to keep with exactly these facts, known before or not.
    pub put: Vec<StoredKey>,
    /// Keys to forget, known before or not.
    pub remove: Vec<KeyId>,
}

impl Change {
    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }
}
