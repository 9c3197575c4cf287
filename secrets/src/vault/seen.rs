//! What the last load or commit saw: enough to write nothing twice and to
//! notice who else writes. No secret.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use key_server_core::KeyId;

use super::entry::Digest;

/// An entry's name in its folder; a key id, unless a person chose it.
pub(super) type Name = Arc<str>;

/// Where an entry stands. KV version 1 has neither: there the digest decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The newest version; 0 when there is none.
    pub(super) version: u64,
    /// When the newest version was or is to be deleted; empty: never.
    pub(super) deletion: Box<str>,
}

impl Mark {
    /// Whether the newest version is to be deleted, or was.
    pub(super) fn ends(&self) -> bool {
        !self.deletion.is_empty()
    }
}

/// An entry as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) mark: Mark,
    /// The key it stands for; none when it is deleted.
    pub(super) key: Option<(KeyId, Digest)>,
}

/// All entries as they were seen.
#[derive(Default)]
pub(super) struct Seen {
    /// Whether a load saw the whole folder.
    pub(super) is_loaded: bool,
    entries: HashMap<Name, Known>,
    names: HashMap<KeyId, Name>,
}

impl Seen {
    pub(super) fn of(entries: impl IntoIterator<Item = (Name, Known)>) -> Self {
        let mut seen = Self { is_loaded: true, ..Self::default() };
        for (name, known) in entries {
            seen.set(name, known);
        }
        seen
    }

    pub(super) fn set(&mut self, name: Name, known: Known) {
        self.forget(&name);
        if let Some((id, _)) = known.key {
            self.names.insert(id, Arc::clone(&name));
        }
        self.entries.insert(name, known);
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some((id, _)) = self.entries.remove(name).and_then(|known| known.key)
            && self.names.get(&id).is_some_and(|other| **other == *name)
        {
            self.names.remove(&id);
        }
    }

    /// The entry that stands for a key.
    pub(super) fn of_key(&self, id: KeyId) -> Option<(&Name, &Known)> {
        let name = self.names.get(&id)?;
        Some((name, self.entries.get(name)?))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Known> {
        self.entries.get(name)
    }

    /// The name for a key that has no entry: its id, unless a person made
    /// that entry stand for another key.
    pub(super) fn free_name(&self, id: KeyId) -> Name {
        let own = id.to_string();
        let is_taken = |name: &str| self.entries.get(name).is_some_and(|known| known.key.is_some());
        let others = (2..).map(|number| format!("{own}-{number}"));
        let mut names = std::iter::once(own.clone()).chain(others);
        names.find(|name| !is_taken(name)).unwrap_or(own).into()
    }

    /// Whether these are the names of all entries that were seen.
    pub(super) fn has_exactly(&self, names: &[Name]) -> bool {
        let listed: HashSet<&str> = names.iter().map(|name| &**name).collect();
        listed.len() == self.entries.len()
            && self.entries.keys().all(|name| listed.contains(&**name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SecretKey, key_id};

    fn id(secret: &str) -> KeyId {
        key_id("openai", &SecretKey::copy_of(secret))
    }

    fn known(id: KeyId) -> Known {
        Known { mark: Mark { version: 1, deletion: "".into() }, key: Some((id, [0; 32])) }
    }

    #[test]
    fn key_keeps_the_entry_that_a_person_named() {
        let id = id("sk-fake-1");
        let seen = Seen::of([(Name::from("by-hand"), known(id))]);
        assert_eq!(&**seen.of_key(id).unwrap().0, "by-hand");
    }

    #[test]
    fn name_that_stands_for_another_key_is_not_taken() {
        let (one, other) = (id("sk-fake-1"), id("sk-fake-2"));
        let name = Name::from(one.to_string());
        let mut seen = Seen::of([(Arc::clone(&name), known(other))]);
        assert_eq!(*seen.free_name(one), format!("{one}-2"));
        let deleted = Known { mark: Mark::default(), key: None };
        seen.set(Arc::clone(&name), deleted);
        assert_eq!(seen.free_name(one), name);
        assert!(seen.of_key(other).is_none());
    }

    #[test]
    fn list_is_compared_name_by_name() {
        let mut seen = Seen::of([(Name::from("a"), known(id("sk-fake-1")))]);
        assert!(seen.has_exactly(&["a".into()]));
        for names in [&["b".into()][..], &["a".into(), "b".into()], &[]] {
            assert!(!seen.has_exactly(names));
        }
        seen.forget("a");
        assert!(seen.has_exactly(&[]));
    }
}
