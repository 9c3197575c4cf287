//! A change, entry by entry: nothing is written twice, and nothing over what
//! somebody else wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use key_server_core::KeyId;

use super::each::each;
use super::fault::Capability;
use super::kv::{Found, Written};
use super::seen::{Known, Mark, Name};
use super::{KvVersion, Shared, entry};
use crate::{Change, SecretStoreError, StoredKey};

/// What one key of a change needs.
enum Task {
    Put {
        name: Name,
        known: Option<Known>,
        key: StoredKey,
    },
    Remove {
        name: Name,
        known: Known,
    },
    /// A key of which no load knew.
    RemoveUnknown {
        name: Name,
    },
}

/// Whether every key of a change can be read back once it is written.
pub(super) fn storable(change: &Change) -> Result<(), SecretStoreError> {
    for key in &change.put {
        entry::check(key).map_err(|fault| {
            SecretStoreError::Corrupt(format!(
                "key {} cannot be stored: its {} {}; nothing was changed",
                key.id(),
                fault.field,
                fault.what
            ))
        })?;
    }
    Ok(())
}

impl Shared {
    /// Does what `change` needs; a load came before.
    pub(super) async fn commit(self: &Arc<Self>, change: &Change) -> Result<(), SecretStoreError> {
        let tasks = self.tasks(change);
        let work = |task: Task| {
            let shared = Arc::clone(self);
            async move { shared.run(task).await }
        };
        each(self.pace("written"), tasks, work, |()| false).await.map(drop)
    }

    /// What is to be done, without what is so already.
    fn tasks(&self, change: &Change) -> Vec<Task> {
        let seen = self.seen();
        let puts: BTreeMap<KeyId, &StoredKey> =
            change.put.iter().map(|key| (key.id(), key)).collect();
        let removed: BTreeSet<KeyId> =
            change.remove.iter().copied().filter(|id| !puts.contains_key(id)).collect();
        let removals = removed.into_iter().filter_map(|id| match seen.of_key(id) {
            Some((name, known)) => {
                Some(Task::Remove { name: Arc::clone(name), known: known.clone() })
            }
            None => {
                let name = Name::from(id.to_string());
                // Of an entry that is deleted, or stands for another key,
                // nothing is to be removed.
                seen.get(&name).is_none().then_some(Task::RemoveUnknown { name })
            }
        });
        let puts = puts.into_values().filter_map(|key| {
            let (name, known) = match seen.of_key(key.id()) {
                Some((name, known)) => (Arc::clone(name), Some(known.clone())),
                None => {
                    let name = seen.free_name(key.id());
                    let known = seen.get(&name).cloned();
                    (name, known)
                }
            };
            let held = known.as_ref().and_then(|known| known.key);
            let is_so = held.is_some_and(|(_, digest)| digest == entry::digest(key));
            (!is_so).then(|| Task::Put { name, known, key: key.clone() })
        });
        puts.chain(removals).collect()
    }

    async fn run(&self, task: Task) -> Result<(), SecretStoreError> {
        match (task, self.kv.version().await?) {
            (Task::Put { name, known, key }, KvVersion::V2) => {
                self.put_versioned(name, known, &key).await
            }
            (Task::Put { name, known, key }, KvVersion::V1) => {
                self.put_plain(name, known, &key).await
            }
            (Task::Remove { name, known }, KvVersion::V2) => {
                self.remove_versioned(name, known.mark.version).await
            }
            (Task::Remove { name, known }, KvVersion::V1) => self.remove_plain(name, &known).await,
            (Task::RemoveUnknown { name }, _) => match self.kv.read(&name).await? {
                Found::Deleted(_) => Ok(()),
                Found::Key(..) | Found::Broken(..) => Err(self.conflict(&name)),
            },
        }
    }

    async fn put_versioned(
        &self,
        name: Name,
        known: Option<Known>,
        key: &StoredKey,
    ) -> Result<(), SecretStoreError> {
        let cas = known.map_or(0, |known| known.mark.version);
        let mark = match self.kv.write_versioned(&name, key, cas).await? {
            Written::Done(mark) => mark,
            // It may be our own write, whose answer we never got.
            Written::Elsewhere => match self.kv.read(&name).await? {
                Found::Key(mark, other) if entry::digest(&other) == entry::digest(key) => mark,
                _ => return Err(self.conflict(&name)),
            },
        };
        self.remember(name, mark, key);
        Ok(())
    }

    async fn put_plain(
        &self,
        name: Name,
        known: Option<Known>,
        key: &StoredKey,
    ) -> Result<(), SecretStoreError> {
        let expected = known.and_then(|known| known.key).map(|(_, digest)| digest);
        let needs = match self.kv.read(&name).await? {
            Found::Key(_, now) if entry::digest(&now) == entry::digest(key) => {
                self.remember(name, Mark::default(), key);
                return Ok(());
            }
            Found::Key(_, now) if Some(entry::digest(&now)) == expected => Capability::Update,
            Found::Deleted(_) if expected.is_none() => Capability::Create,
            _ => return Err(self.conflict(&name)),
        };
        self.kv.write_plain(&name, key, needs).await?;
        self.remember(name, Mark::default(), key);
        Ok(())
    }

    async fn remove_versioned(&self, name: Name, version: u64) -> Result<(), SecretStoreError> {
        self.kv.delete_version(&name, version).await?;
        match self.kv.mark(&name).await? {
            None => self.seen().forget(&name),
            Some(mark) if mark.version == version => {
                self.seen().set(name, Known { mark, key: None });
            }
            Some(_) => return Err(self.conflict(&name)),
        }
        Ok(())
    }

    async fn remove_plain(&self, name: Name, known: &Known) -> Result<(), SecretStoreError> {
        let expected = known.key.map(|(_, digest)| digest);
        match self.kv.read(&name).await? {
            Found::Deleted(_) => {}
            Found::Key(_, now) if Some(entry::digest(&now)) == expected => {
                self.kv.delete_plain(&name).await?;
            }
            _ => return Err(self.conflict(&name)),
        }
        self.seen().forget(&name);
        Ok(())
    }

    fn remember(&self, name: Name, mark: Mark, key: &StoredKey) {
        let known = Known { mark, key: Some((key.id(), entry::digest(key))) };
        self.seen().set(name, known);
    }

    fn conflict(&self, name: &str) -> SecretStoreError {
        SecretStoreError::Conflict(format!(
            "somebody else changed {} in Vault at {} since it was loaded: load and plan again",
            self.kv.place(name),
            self.kv.http.address(),
        ))
    }
}
