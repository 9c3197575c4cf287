//! HashiCorp Vault's key-value engine, an entry per key. `docs/vault.md` is
//! the page for people.

mod each;
mod entry;
mod fault;
mod health;
mod http;
mod kv;
mod seen;
mod settings;
mod sign_in;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use key_server_core::{KeyFacts, KeyId};

use crate::age_file::Interner;
use crate::{Change, SecretStore, SecretStoreError, StoredKey};

use each::{Pace, each};
use fault::Capability;
pub use health::VaultHealth;
use kv::{Found, Kv, Written};
use seen::{Known, Mark, Name, Seen};
pub use settings::{KvVersion, SecretId, SignIn, VaultSettings, VaultTls};

/// At most 500 requests a second look for changes, a few at a time.
const WATCH_EVERY: Duration = Duration::from_millis(2);
const WATCH_CONCURRENCY: usize = 4;
/// How many broken entries one message names.
const BROKEN_NAMED_MAX: usize = 5;

/// A [`SecretStore`] in HashiCorp Vault: one entry of a KV engine per key.
///
/// Of what it read it remembers versions and digests, never a credential. A
/// write of an entry that somebody else changed since the last load is
/// refused as [`SecretStoreError::Conflict`]; an entry whose content would
/// stay the same is not written.
pub struct VaultStore {
    shared: Arc<Shared>,
}

struct Shared {
    kv: Kv,
    settings: VaultSettings,
    seen: Mutex<Seen>,
    /// Loads and commits come one after the other.
    turn: tokio::sync::Mutex<()>,
}

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

impl VaultStore {
    /// Checks the settings and reads the files that they name; contacts
    /// nobody.
    ///
    /// # Errors
    /// [`SecretStoreError::Denied`] when a setting is wrong or a file cannot
    /// be used, naming it.
    pub fn new(settings: VaultSettings) -> Result<Self, SecretStoreError> {
        let settings = settings.checked()?;
        let shared = Shared {
            kv: Kv::new(&settings)?,
            settings,
            seen: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The least policy that a token needs for these settings, ready for
    /// `vault policy write`.
    pub fn policy(settings: &VaultSettings, version: KvVersion) -> String {
        fault::policy(version, settings.mount.trim_matches('/'), settings.path.trim_matches('/'))
    }

    /// How Vault is, as far as it says.
    ///
    /// # Errors
    /// [`SecretStoreError::Unavailable`] when it does not answer;
    /// [`SecretStoreError::Denied`] when the sign-in is refused.
    ///
    /// # Cancellation
    /// Harmless.
    pub async fn check(&self) -> Result<VaultHealth, SecretStoreError> {
        health::check(&self.shared.kv, &self.shared.settings).await
    }

    /// Keeps the token alive: sleeps until a renewal is due, for ever. One
    /// task of the server; requests renew a token that is due, too.
    ///
    /// # Cancellation
    /// Harmless.
    pub async fn run_renewal(&self) {
        self.shared.kv.tokens.run_renewal(&self.shared.kv.http).await;
    }
}

#[async_trait]
impl SecretStore for VaultStore {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn may_be_away(&self) -> bool {
        true
    }

    async fn load(&self) -> Result<Vec<StoredKey>, SecretStoreError> {
        let _turn = self.shared.turn.lock().await;
        self.shared.load().await
    }

    async fn commit(&self, change: &Change) -> Result<(), SecretStoreError> {
        if change.is_empty() {
            return Ok(());
        }
        storable(change)?;
        let _turn = self.shared.turn.lock().await;
        if !self.shared.seen().is_loaded {
            self.shared.load().await?;
        }
        self.shared.commit(change).await
    }

    async fn has_changed(&self) -> Result<bool, SecretStoreError> {
        self.shared.has_changed().await
    }
}

impl Shared {
    async fn load(self: &Arc<Self>) -> Result<Vec<StoredKey>, SecretStoreError> {
        let names = self.kv.list().await?;
        let read = |name: Name| {
            let shared = Arc::clone(self);
            async move { shared.kv.read(&name).await.map(|found| (name, found)) }
        };
        let entries = each(self.pace("read"), names, read, |_| false).await?;
        let (seen, keys) = self.sorted_out(entries)?;
        *self.seen() = seen;
        Ok(keys)
    }

    /// What was read, as keys sorted by id and as what is remembered.
    fn sorted_out(
        &self,
        entries: Vec<(Name, Found)>,
    ) -> Result<(Seen, Vec<StoredKey>), SecretStoreError> {
        let mut interner = Interner::default();
        let mut seen = Vec::with_capacity(entries.len());
        let mut keys: Vec<(Name, StoredKey)> = Vec::with_capacity(entries.len());
        let mut broken = Vec::new();
        for (name, found) in entries {
            match found {
                Found::Key(mark, key) => {
                    let key = interned(&key, &mut interner);
                    let digest = entry::digest(&key);
                    seen.push((Arc::clone(&name), Known { mark, key: Some((key.id(), digest)) }));
                    keys.push((name, key));
                }
                Found::Deleted(mark) => seen.push((name, Known { mark, key: None })),
                Found::Broken(fault) => {
                    broken.push(format!(
                        "{}: {} {}",
                        self.kv.place(&name),
                        fault.field,
                        fault.what
                    ));
                }
            }
        }
        keys.sort_unstable_by_key(|(_, key)| key.id());
        broken.extend(keys.windows(2).filter(|pair| pair[0].1.id() == pair[1].1.id()).map(
            |pair| {
                let (one, other) = (self.kv.place(&pair[0].0), self.kv.place(&pair[1].0));
                format!(
                    "{one} and {other}: the same api_key of one provider; delete one of the two"
                )
            },
        ));
        match broken.is_empty() {
            true => Ok((Seen::of(seen), keys.into_iter().map(|(_, key)| key).collect())),
            false => Err(self.broken(broken)),
        }
    }

    fn broken(&self, mut broken: Vec<String>) -> SecretStoreError {
        broken.sort_unstable();
        let count = broken.len();
        let more = match count.saturating_sub(BROKEN_NAMED_MAX) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        broken.truncate(BROKEN_NAMED_MAX);
        SecretStoreError::Corrupt(format!(
            "{count} {} in Vault at {} cannot be used ({}{more}): correct or delete {}, then reload",
            if count == 1 { "entry" } else { "entries" },
            self.kv.http.address(),
            broken.join("; "),
            if count == 1 { "it" } else { "them" },
        ))
    }

    async fn commit(self: &Arc<Self>, change: &Change) -> Result<(), SecretStoreError> {
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

    async fn has_changed(self: &Arc<Self>) -> Result<bool, SecretStoreError> {
        if !self.seen().is_loaded {
            return Ok(true);
        }
        let names = self.kv.list().await?;
        if !self.seen().has_exactly(&names) {
            return Ok(true);
        }
        let version = self.kv.version().await?;
        let look = |name: Name| {
            let shared = Arc::clone(self);
            async move { shared.entry_changed(version, &name).await }
        };
        let pace = Pace {
            doing: "compared",
            concurrency: WATCH_CONCURRENCY.min(self.settings.concurrency),
            every: Some(WATCH_EVERY),
        };
        let changed = each(pace, names, look, |changed| *changed).await?;
        Ok(changed.contains(&true))
    }

    async fn entry_changed(
        &self,
        version: KvVersion,
        name: &str,
    ) -> Result<bool, SecretStoreError> {
        let now = match version {
            KvVersion::V2 => {
                let mark = self.kv.mark(name).await?;
                return Ok(self.seen().get(name).map(|known| &known.mark) != mark.as_ref());
            }
            KvVersion::V1 => match self.kv.read(name).await? {
                Found::Key(_, key) => Some((key.id(), entry::digest(&key))),
                Found::Deleted(_) => None,
                Found::Broken(..) => return Ok(true),
            },
        };
        Ok(self.seen().get(name).and_then(|known| known.key) != now)
    }

    fn pace(&self, doing: &'static str) -> Pace {
        Pace { doing, concurrency: self.settings.concurrency, every: None }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether every key of a change can be read back once it is written.
fn storable(change: &Change) -> Result<(), SecretStoreError> {
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

/// The same key, its names shared with other keys.
fn interned(key: &StoredKey, interner: &mut Interner) -> StoredKey {
    let facts = KeyFacts {
        models: key
            .facts
            .models
            .iter()
            .map(|model| interner.model(model.as_str()).unwrap_or_else(|_| model.clone()))
            .collect(),
        sources: key.facts.sources.iter().map(|source| interner.source(source)).collect(),
        ..KeyFacts::clone(&key.facts)
    };
    StoredKey { facts: Arc::new(facts), secret: Arc::clone(&key.secret) }
}
