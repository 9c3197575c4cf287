use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use key_server_projections::{OtherNode, ProjectionError};

/// Nodes that published what cannot be read here, and why.
#[derive(Default)]
pub(crate) struct Unread {
    why: Mutex<BTreeMap<Arc<str>, String>>,
}

impl Unread {
    /// A node cannot be read. Said in the log when it was not known.
    pub(crate) fn put(&self, node: &Arc<str>, error: &ProjectionError) {
        let why = error.to_string();
        let before = self.lock().insert(Arc::clone(node), why.clone());
        if before.as_ref() != Some(&why) {
            tracing::warn!("{}", note(node, &why));
        }
    }

    /// A node can be read.
    pub(crate) fn take(&self, node: &str) {
        self.lock().remove(node);
    }

    /// Whether a node cannot be read.
    pub(crate) fn has(&self, node: &str) -> bool {
        self.lock().contains_key(node)
    }

    /// Forgets all but these.
    pub(crate) fn keep(&self, others: &[OtherNode]) {
        self.lock().retain(|node, _| others.iter().any(|other| other.node == *node));
    }

    /// For people, a note for each.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.lock().iter().map(|(node, why)| note(node, why)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, String>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(node: &str, why: &str) -> String {
    format!("what node {node} published is not learned: {why}")
}
