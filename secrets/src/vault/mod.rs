//! HashiCorp Vault's key-value engine, an entry per key. `docs/vault.md` is
//! the page for people.

mod ask;
mod commit;
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
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use key_server_core::KeyFacts;

use crate::age_file::Interner;
use crate::{Change, SecretStore, SecretStoreError, StoredKey};

use each::{Pace, each};
pub use health::VaultHealth;
use kv::{Found, Kv};
use seen::{Known, Name, Seen};
pub use settings::{KvVersion, SecretId, SignIn, VaultSettings, VaultTls};

/// How many broken entries one message names.
const BROKEN_NAMED_MAX: usize = 5;
/// How long it may take to read all entries.
const LOAD_TIME_MAX: Duration = Duration::from_secs(600);

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
        self.shared.load_in_time().await
    }

    async fn commit(&self, change: &Change) -> Result<(), SecretStoreError> {
        if change.is_empty() {
            return Ok(());
        }
        commit::storable(change)?;
        let _turn = self.shared.turn.lock().await;
        if !self.shared.seen().is_loaded {
            self.shared.load_in_time().await?;
        }
        self.shared.commit(change).await
    }

    async fn has_changed(&self) -> Result<bool, SecretStoreError> {
        self.shared.has_changed().await
    }
}

impl Shared {
    /// A quota makes a load slow, but not endless.
    async fn load_in_time(self: &Arc<Self>) -> Result<Vec<StoredKey>, SecretStoreError> {
        let loaded = tokio::time::timeout(LOAD_TIME_MAX, self.load()).await;
        loaded.unwrap_or_else(|_| {
            let limit = LOAD_TIME_MAX.as_secs();
            Err(self.kv.http.unavailable(&format!(
                "its keys were not read within {limit} s; see its load and its quotas"
            )))
        })
    }

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

    fn pace(&self, doing: &'static str) -> Pace {
        Pace { doing, concurrency: self.settings.concurrency, every: None }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
