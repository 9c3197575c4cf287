//! The credentials in memory, and how they come there: store, CSV, reload.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use key_server_core::{Decide, KeyId, SyncKeys, Synced};
use key_server_ledger::Caller;
use key_server_secrets::{
    CsvLimits, Force, Import, OfflineCopy, Plan, Problem, SecretKey, SecretStore, SecretStoreError,
    StoredKey, import_csv, is_too_many, plan,
};

use tokio::sync::watch;

use crate::access::Access;
use crate::backend::{Backend, BackendState};
use crate::engine::{Engine, RETRY_AFTER};
use crate::error::{ErrorKind, ServiceError};
use crate::policy::{self, PolicyError, Source};

/// How often an import is planned anew because another node wrote meanwhile.
const CONFLICTS_MAX: u32 = 5;
const CONFLICT: &str = "STORE_CONFLICT";
const DENIED: &str = "STORE_DENIED";
/// Not on the wire: a look has no caller.
const TOO_FEW: &str = "STORE_TOO_FEW";
/// How long to wait for a store that is away: at first, and at most.
const TRY_AGAIN_FIRST: Duration = Duration::from_millis(500);
const TRY_AGAIN_MAX: Duration = Duration::from_secs(15);
/// How often to look whether the copy that is served got too old.
const LOOK_AT_COPY_EVERY: Duration = Duration::from_secs(1);
/// How often to look whether somebody else changed the store.
const POLL_DEFAULT: Duration = Duration::from_secs(60);

/// Everything about credentials that the server holds.
pub struct Keys {
    engine: Arc<Engine>,
    store: Arc<dyn SecretStore>,
    served: RwLock<HashMap<KeyId, Arc<SecretKey>>>,
    csv: Csv,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    /// Why the CSV that should be in force is not, if so.
    notes: Mutex<Vec<String>>,
    standing: Mutex<Standing>,
    readiness: watch::Sender<Readiness>,
    /// How often to look whether somebody else changed the store.
    poll: Duration,
    offline: Option<OfflineKeys>,
    /// What is reloaded together with the keys.
    access: Option<Arc<Access>>,
    /// How the store is.
    pub backend: Backend,
}

/// A copy of what the store last gave.
pub struct OfflineKeys {
    /// The copy.
    pub copy: OfflineCopy,
    /// How old it may be.
    pub stale_max: Duration,
}

/// How what is served stands to what the store last gave.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It is that, and so is the copy.
    InForce,
    /// It may be something else: the next look takes over what the store holds.
    Behind,
    /// It is something else: the store holds too little, in these words.
    Withheld(String),
}

/// Whether there are credentials to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Those of the store.
    Ready,
    /// Those that the store held at this time (ms of the wall clock); it is
    /// away.
    Stale(i64),
    /// None yet: the store is away, for this reason.
    Waiting(String),
}

/// The CSV of this node.
#[derive(Clone, Debug)]
pub struct Csv {
    /// Where it is.
    pub path: PathBuf,
    /// Whether somebody named it: then it is missed when it is not there.
    pub is_expected: bool,
    /// What it may not exceed.
    pub limits: CsvLimits,
    /// `csv@<node id>`.
    pub source: String,
}

/// What a reload is asked for.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Another CSV than the configured one.
    pub path: Option<PathBuf>,
    /// Accept the loss of more than half of the keys.
    pub force: bool,
    /// Only say what would change.
    pub dry_run: bool,
}

/// What a reload did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Reloaded {
    /// Keys that came.
    pub added: usize,
    /// Keys whose facts changed.
    pub changed: usize,
    /// Keys that are served no longer.
    pub withdrawn: usize,
    /// Keys that stayed as they were.
    pub unchanged: usize,
    /// What is wrong with the CSV, or looks wrong.
    pub problems: Vec<Problem>,
    /// Why nothing changed, if so.
    pub refusal: Option<String>,
}

impl Reloaded {
    /// Of `count` keys that are served now.
    fn of(synced: &Synced, count: usize) -> Self {
        Self {
            added: synced.added,
            changed: synced.changed,
            withdrawn: synced.retired,
            unchanged: count - synced.added - synced.changed,
            ..Self::default()
        }
    }
}

/// Why the server cannot start with its keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The store does not give its keys.
    #[error(transparent)]
    Store(#[from] SecretStoreError),
    /// There are no keys at all.
    #[error(
        "there are no keys: {} does not exist and the {store} store is empty; write a CSV with the columns provider,model,api_key or set KEY_CONFIG_FILE",
        path.display()
    )]
    None {
        /// Where the CSV was looked for.
        path: PathBuf,
        /// The store's name.
        store: &'static str,
    },
    /// The CSV is bad, and the store is empty.
    #[error("the keys cannot be imported, and the store is empty:\n{}", .0.join("\n"))]
    Bad(Vec<String>),
    /// The change could not be recorded.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl KeysError {
    /// Whether trying again later may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => {
                matches!(error, SecretStoreError::Unavailable(_) | SecretStoreError::Conflict(_))
            }
            Self::Service(_) => true,
            Self::None { .. } | Self::Bad(_) => false,
        }
    }
}

impl Keys {
    /// Nothing is loaded yet: see [`Keys::start`].
    pub fn new(engine: Arc<Engine>, store: Arc<dyn SecretStore>, csv: Csv) -> Self {
        let backend =
            Backend::new(format!("secrets ({})", store.name()), Arc::clone(&engine.clock));
        Self {
            engine,
            store,
            served: RwLock::default(),
            csv,
            reloading: tokio::sync::Mutex::default(),
            notes: Mutex::default(),
            standing: Mutex::new(Standing::Behind),
            readiness: watch::Sender::new(Readiness::Waiting("the server is starting".into())),
            poll: POLL_DEFAULT,
            offline: None,
            access: None,
            backend,
        }
    }

    /// Looks so often whether somebody else changed the store.
    #[must_use]
    pub fn looking_every(self, poll: Duration) -> Self {
        Self { poll, ..self }
    }

    /// Keeps a copy of what the store gave, and starts with it while the store
    /// is away.
    #[must_use]
    pub fn with_copy(self, offline: Option<OfflineKeys>) -> Self {
        Self { offline, ..self }
    }

    /// Reads the policy again whenever the keys are.
    #[must_use]
    pub fn with_access(self, access: Arc<Access>) -> Self {
        Self { access: Some(access), ..self }
    }

    /// Whether there are credentials to give, now and whenever that changes.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Whether there are credentials to give.
    pub fn is_ready(&self) -> bool {
        match *self.readiness.borrow() {
            Readiness::Ready => true,
            Readiness::Stale(as_of_ms) => !self.is_too_old(as_of_ms),
            Readiness::Waiting(_) => false,
        }
    }

    /// Resolves when the copy that is served gets too old; never when there is
    /// none, or it is too old already.
    pub(crate) async fn copy_gets_too_old(&self) {
        let as_of_ms = match *self.readiness.borrow() {
            Readiness::Stale(as_of_ms) if !self.is_too_old(as_of_ms) => Some(as_of_ms),
            _ => None,
        };
        let Some(as_of_ms) = as_of_ms else { return std::future::pending().await };
        while !self.is_too_old(as_of_ms) {
            // By the wall clock, which may jump.
            tokio::time::sleep(LOOK_AT_COPY_EVERY).await;
        }
    }

    fn is_fresh(&self) -> bool {
        *self.readiness.borrow() == Readiness::Ready
    }

    /// Refuses while there are no credentials to give.
    pub(crate) fn check_ready(&self) -> Result<(), ServiceError> {
        match &*self.readiness.borrow() {
            Readiness::Ready => Ok(()),
            Readiness::Stale(as_of_ms) if !self.is_too_old(*as_of_ms) => Ok(()),
            Readiness::Stale(as_of_ms) => {
                let message = format!(
                    "the keys are those of {}, which is too long ago (offline_stale_max), and the \
                     store is away",
                    wall_text(*as_of_ms)
                );
                let error = ServiceError::new(ErrorKind::Unavailable, "KEYS_STALE", message);
                Err(error.retry_after(RETRY_AFTER))
            }
            Readiness::Waiting(reason) => {
                let message = format!("the keys are not loaded yet: {reason}");
                let error = ServiceError::new(ErrorKind::Unavailable, "KEYS_NOT_LOADED", message);
                Err(error.retry_after(RETRY_AFTER))
            }
        }
    }

    /// The credential of a key that is served.
    pub fn secret(&self, key: KeyId) -> Option<Arc<SecretKey>> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// What somebody should look at, in words.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Readiness::Stale(as_of_ms) = *self.readiness.borrow() {
            notes.push(format!("the keys are a copy of {}", wall_text(as_of_ms)));
        }
        if let Standing::Withheld(reason) = &*self.standing() {
            notes.push(reason.clone());
        }
        notes
    }

    /// Loads the store, imports the CSV if there is one, and serves the keys. A
    /// store that is away is waited for by [`Keys::follow`].
    ///
    /// # Errors
    /// [`KeysError`]; with a CSV that is bad and a store that has keys the
    /// store's are served, and [`Keys::notes`] says so.
    pub async fn start(&self) -> Result<(), KeysError> {
        let _one_at_a_time = self.reloading.lock().await;
        match self.try_start().await {
            Ok(()) => {
                self.is_loaded();
                Ok(())
            }
            Err(error) if self.store.may_be_away() && error.may_pass() => {
                self.start_without(&error).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Starts with the copy, or with nothing.
    async fn start_without(&self, error: &KeysError) {
        let readiness = match self.serve_copy().await {
            Some(as_of_ms) => {
                let as_of = wall_text(as_of_ms);
                let is_too_old = self.is_too_old(as_of_ms);
                tracing::warn!(is_too_old, "there is a copy of the keys of {as_of}: {error}");
                Readiness::Stale(as_of_ms)
            }
            None => {
                tracing::warn!("the keys are not loaded yet, waiting: {error}");
                Readiness::Waiting(error.to_string())
            }
        };
        self.readiness.send_replace(readiness);
    }

    /// Has what the store last gave, and says when that was. Of a copy that is
    /// too old nothing is given: see [`Keys::check_ready`].
    async fn serve_copy(&self) -> Option<i64> {
        let copy = &self.offline.as_ref()?.copy;
        let (keys, as_of_ms) = match copy.load().await {
            Ok(None) => return None,
            Ok(Some(loaded)) => loaded,
            Err(error) => {
                tracing::warn!("the copy of the keys cannot be used: {error}");
                return None;
            }
        };
        match self.serve(None, keys).await {
            Ok(_) => Some(as_of_ms),
            Err(error) => {
                tracing::warn!("the copy of the keys is not in force: {error}");
                None
            }
        }
    }

    fn is_too_old(&self, as_of_ms: i64) -> bool {
        let age_ms = self.engine.clock.wall_ms().saturating_sub(as_of_ms).max(0).unsigned_abs();
        let max = self.offline.as_ref().map_or(Duration::ZERO, |offline| offline.stale_max);
        u128::from(age_ms) > max.as_millis()
    }

    /// Keeps what the store gave for a start without it; whether that worked.
    async fn keep_copy(&self, keys: &[StoredKey]) -> bool {
        let Some(offline) = &self.offline else { return true };
        is_kept(offline.copy.save(keys, self.engine.clock.wall_ms()).await)
    }

    /// Says that the copy is what the store held at `as_of_ms`.
    fn touch_copy(&self, as_of_ms: i64) {
        if let Some(offline) = &self.offline {
            is_kept(offline.copy.touch(as_of_ms));
        }
    }

    /// Why these keys are not served without force, if so: many of those that
    /// are given now are gone, and none came for them.
    fn too_few(&self, keys: &[StoredKey], force: bool) -> Option<String> {
        let served_count = self.served.read().unwrap_or_else(PoisonError::into_inner).len();
        let lost_count = served_count.saturating_sub(keys.len());
        let is_refused = !force && self.is_ready() && is_too_many(lost_count, served_count);
        is_refused.then(|| {
            format!(
                "the {} store would leave {} of {served_count} keys, so more than half would go: \
                 restore the keys there, or if this is meant: key-server reload --force",
                self.store.name(),
                keys.len(),
            )
        })
    }

    /// Serves what the store holds.
    async fn serve_stored(
        &self,
        caller: Option<&Arc<Caller>>,
        keys: Vec<StoredKey>,
    ) -> Result<Synced, ServiceError> {
        let copied = if self.offline.is_some() { keys.clone() } else { Vec::new() };
        let synced = self.serve(caller, keys).await?;
        let is_kept = self.keep_copy(&copied).await;
        *self.standing() = if is_kept { Standing::InForce } else { Standing::Behind };
        Ok(synced)
    }

    /// Serves what the store holds, though nobody asked for it.
    async fn take_over(&self, stored: Vec<StoredKey>) -> Result<Synced, ServiceError> {
        if let Some(reason) = self.too_few(&stored, false) {
            *self.standing() = Standing::Withheld(reason.clone());
            return Err(ServiceError::new(ErrorKind::Unavailable, TOO_FEW, reason));
        }
        self.serve_stored(None, stored).await
    }

    /// Waits for a store that was away at the start, then looks again and again
    /// whether somebody else changed it. Never ends.
    pub async fn follow(&self) {
        if !self.store.may_be_away() {
            return std::future::pending().await;
        }
        let mut pause = TRY_AGAIN_FIRST;
        while !self.is_fresh() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(TRY_AGAIN_MAX);
            if let Err(error) = self.start_late().await {
                tracing::warn!("the store is still away, trying again in {pause:?}: {error}");
                self.waits_for(&error);
            }
        }
        loop {
            tokio::time::sleep(self.poll).await;
            self.look().await;
        }
    }

    /// Starts with the store after all, unless a reload did meanwhile.
    async fn start_late(&self) -> Result<(), KeysError> {
        let _one_at_a_time = self.reloading.lock().await;
        if !self.is_fresh() {
            self.try_start().await?;
            tracing::info!("the keys are loaded");
            self.is_loaded();
        }
        Ok(())
    }

    /// There is nothing to give yet, for this reason.
    fn waits_for(&self, error: &KeysError) {
        self.readiness.send_if_modified(|readiness| match readiness {
            Readiness::Waiting(reason) => {
                *reason = error.to_string();
                true
            }
            _ => false,
        });
    }

    /// Takes over what somebody else changed in the store.
    async fn look(&self) {
        let as_of_ms = self.engine.clock.wall_ms();
        if self.is_in_force() {
            let changed = self.store.has_changed().await;
            self.observe(&changed);
            match changed {
                // Unless a reload came between.
                Ok(false) if self.is_in_force() => return self.touch_copy(as_of_ms),
                Ok(true) => {}
                _ => return,
            }
        }
        match self.resync().await {
            Ok(synced) if synced == Synced::default() => {}
            Ok(_) => tracing::info!("the keys were changed in the store; they are in force"),
            Err(error) => tracing::warn!("the keys were changed in the store: {error}"),
        }
    }

    /// Nobody reloads meanwhile.
    async fn try_start(&self) -> Result<(), KeysError> {
        let stored = self.load().await?;
        let is_missing = !self.csv.path.try_exists().unwrap_or(true);
        if is_missing && !self.csv.is_expected {
            if stored.is_empty() && !self.is_ready() {
                let store = self.store.name();
                return Err(KeysError::None { path: self.csv.path.clone(), store });
            }
            self.take_over(stored).await?;
            return Ok(());
        }
        let reload = Reload { path: None, force: false, dry_run: false };
        let is_empty = stored.is_empty();
        let reloaded = match self.import(None, &reload, stored).await {
            // Reading is permitted, writing is not.
            Err(error) if error.reason == DENIED => {
                return self.go_on_without(is_empty, &error.to_string(), &[]).await;
            }
            imported => imported?,
        };
        match reloaded.refusal {
            None => Ok(()),
            Some(refusal) => self.go_on_without(is_empty, &refusal, &reloaded.problems).await,
        }
    }

    /// Serves what the store held, though the CSV is bad.
    async fn go_on_without(
        &self,
        is_empty: bool,
        refusal: &str,
        problems: &[Problem],
    ) -> Result<(), KeysError> {
        let problems = problems.iter().map(ToString::to_string);
        let notes: Vec<String> = std::iter::once(refusal.to_owned()).chain(problems).collect();
        if is_empty {
            return Err(KeysError::Bad(notes));
        }
        for note in &notes {
            tracing::error!("{note}");
        }
        tracing::error!("the CSV is not in force; serving the keys that the store held");
        self.set_notes(notes);
        let stored = self.load().await?;
        self.take_over(stored).await?;
        Ok(())
    }

    /// Reads policy, CSV and store again and serves what they say: all of it
    /// or nothing.
    ///
    /// # Errors
    /// `Unavailable` when the store or the ledger does not take it. A bad
    /// policy or CSV is not an error but a [`Reloaded::refusal`].
    pub async fn reload(
        &self,
        caller: Option<&Arc<Caller>>,
        reload: &Reload,
    ) -> Result<Reloaded, ServiceError> {
        let _one_at_a_time = self.reloading.lock().await;
        let policy = match self.read_policy().await? {
            Ok(policy) => policy,
            Err(error) => return Ok(policy_refused(error)),
        };
        let reloaded = self.reload_keys(caller, reload).await?;
        if reloaded.refusal.is_none()
            && !reload.dry_run
            && let (Some(access), Some(policy)) = (&self.access, policy)
        {
            access.put(policy);
        }
        Ok(reloaded)
    }

    /// The policy that is to be in force after a reload; none without a file.
    async fn read_policy(&self) -> Result<Result<Option<Source>, PolicyError>, ServiceError> {
        let Some(access) = self.access.clone() else { return Ok(Ok(None)) };
        // It may ask the user database, which may be far away.
        let read = tokio::task::spawn_blocking(move || access.read_again()).await;
        read.map_err(|error| ServiceError::bug(&error))
    }

    async fn reload_keys(
        &self,
        caller: Option<&Arc<Caller>>,
        reload: &Reload,
    ) -> Result<Reloaded, ServiceError> {
        let stored = self.load().await.map_err(|error| store_failed(&error))?;
        let path = reload.path.as_deref().unwrap_or(&self.csv.path);
        let is_missing = !path.try_exists().unwrap_or(true);
        let reloaded = if is_missing && reload.path.is_none() && !self.csv.is_expected {
            self.reload_store(caller, reload, stored).await?
        } else {
            self.import(caller, reload, stored).await?
        };
        if reloaded.refusal.is_none() && !reload.dry_run {
            self.set_notes(Vec::new());
            self.is_loaded();
        }
        Ok(reloaded)
    }

    /// What the store holds is served.
    fn is_loaded(&self) {
        self.readiness.send_if_modified(|readiness| {
            let was = std::mem::replace(readiness, Readiness::Ready);
            was != Readiness::Ready
        });
    }

    /// Without a CSV the store alone says what is served.
    async fn reload_store(
        &self,
        caller: Option<&Arc<Caller>>,
        reload: &Reload,
        stored: Vec<StoredKey>,
    ) -> Result<Reloaded, ServiceError> {
        if let Some(refusal) = self.too_few(&stored, reload.force) {
            return Ok(Reloaded { refusal: Some(refusal), ..Reloaded::default() });
        }
        let count = stored.len();
        let synced = if reload.dry_run {
            self.would_serve(&stored)
        } else {
            self.serve_stored(caller, stored).await?
        };
        Ok(Reloaded::of(&synced, count))
    }

    /// Imports the CSV; once more on what another node wrote at the same time.
    async fn import(
        &self,
        caller: Option<&Arc<Caller>>,
        reload: &Reload,
        mut stored: Vec<StoredKey>,
    ) -> Result<Reloaded, ServiceError> {
        for _ in 0..CONFLICTS_MAX {
            match self.try_import(caller, reload, stored).await {
                Err(error) if error.reason == CONFLICT => {
                    tracing::info!("another node changed keys at the same time; planning anew");
                    stored = self.load().await.map_err(|error| store_failed(&error))?;
                }
                imported => return imported,
            }
        }
        self.try_import(caller, reload, stored).await
    }

    async fn try_import(
        &self,
        caller: Option<&Arc<Caller>>,
        reload: &Reload,
        stored: Vec<StoredKey>,
    ) -> Result<Reloaded, ServiceError> {
        let import = self.read_csv(reload.path.as_deref()).await?;
        let force = if reload.force { Force::Yes } else { Force::No };
        let plan = match plan(&stored, &import, &self.csv.source, force) {
            Ok(plan) => plan,
            Err(refusal) => {
                let refusal = Some(refusal.to_string());
                return Ok(Reloaded { problems: import.problems, refusal, ..Reloaded::default() });
            }
        };
        let keys = planned(stored, &plan);
        if let Some(refusal) = self.too_few(&keys, reload.force) {
            let refusal = Some(refusal);
            return Ok(Reloaded { problems: import.problems, refusal, ..Reloaded::default() });
        }
        let count = keys.len();
        let synced = if reload.dry_run {
            self.would_serve(&keys)
        } else {
            self.commit(&plan).await?;
            self.serve_stored(caller, keys).await?
        };
        Ok(Reloaded { problems: import.problems, ..Reloaded::of(&synced, count) })
    }

    async fn commit(&self, plan: &Plan) -> Result<(), ServiceError> {
        if plan.change.is_empty() {
            return Ok(());
        }
        self.check_ledger()?;
        let committed = self.store.commit(&plan.change).await;
        self.observe(&committed);
        committed.map_err(|error| store_failed(&error))
    }

    /// What [`Keys::serve`] would do.
    fn would_serve(&self, keys: &[StoredKey]) -> Synced {
        let command = exactly(keys);
        let Ok(decision) = self.engine.read(|state| command.decide(state, state.now(), 0));
        decision.reply
    }

    /// Serves exactly these keys: new ones are there before they can be drawn,
    /// old ones until they cannot be drawn any more.
    async fn serve(
        &self,
        caller: Option<&Arc<Caller>>,
        keys: Vec<StoredKey>,
    ) -> Result<Synced, ServiceError> {
        let command = exactly(&keys);
        let ids: HashSet<KeyId> = keys.iter().map(StoredKey::id).collect();
        {
            let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
            served.extend(keys.into_iter().map(|key| (key.id(), key.secret)));
        }
        let Ok(synced) = self.engine.submit(caller, None, &command).await?;
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        served.retain(|key, _| ids.contains(key));
        served.shrink_to_fit();
        Ok(synced)
    }

    /// Makes what is served follow the store, unless that lost too much: then
    /// [`Keys::notes`] says so.
    ///
    /// # Errors
    /// As [`Keys::reload`].
    pub async fn resync(&self) -> Result<Synced, ServiceError> {
        let _one_at_a_time = self.reloading.lock().await;
        let stored = self.load().await.map_err(|error| store_failed(&error))?;
        self.take_over(stored).await
    }

    /// Nothing is committed to the store while the ledger cannot tell of it.
    fn check_ledger(&self) -> Result<(), ServiceError> {
        match self.engine.ledger().condition() {
            key_server_ledger::Condition::Writable => Ok(()),
            key_server_ledger::Condition::Refusing { error, .. } => {
                let message =
                    format!("the ledger cannot be written, so no keys are changed: {error}");
                let error = ServiceError::new(ErrorKind::Unavailable, "LEDGER_UNWRITABLE", message);
                Err(error.retry_after(RETRY_AFTER))
            }
        }
    }

    async fn read_csv(&self, path: Option<&Path>) -> Result<Import, ServiceError> {
        let path = path.unwrap_or(&self.csv.path).to_owned();
        let limits = self.csv.limits;
        let read = tokio::task::spawn_blocking(move || import_csv(&path, &limits)).await;
        let import = read.map_err(|_| ServiceError::bug(&"reading the CSV panicked"))?;
        for problem in &import.problems {
            tracing::warn!("{problem}");
        }
        Ok(import)
    }

    /// What the store holds, which is not served yet.
    async fn load(&self) -> Result<Vec<StoredKey>, SecretStoreError> {
        self.falls_behind();
        let loaded = self.store.load().await;
        self.observe(&loaded);
        loaded
    }

    fn observe<T>(&self, result: &Result<T, SecretStoreError>) {
        match result {
            Ok(_) => self.backend.works(),
            Err(error) => self.backend.fails(BackendState::Unavailable, error),
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in_force(&self) -> bool {
        *self.standing() == Standing::InForce
    }

    /// The store is asked, or written to, and what it then holds may never be
    /// served. What was withheld still is.
    fn falls_behind(&self) {
        let mut standing = self.standing();
        if *standing == Standing::InForce {
            *standing = Standing::Behind;
        }
    }

    fn set_notes(&self, notes: Vec<String>) {
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
    }
}

/// Nothing changes while the policy is wrong.
fn policy_refused(error: PolicyError) -> Reloaded {
    let refusal = format!("the policy {} is wrong: nothing was changed", error.path.display());
    let file: Arc<str> = error.path.display().to_string().into();
    let problem = |problem: policy::Problem| Problem {
        severity: key_server_secrets::Severity::Error,
        file: Arc::clone(&file),
        line: problem.line,
        column: None,
        message: problem.message,
    };
    let problems = error.problems.into_iter().map(problem).collect();
    Reloaded { problems, refusal: Some(refusal), ..Reloaded::default() }
}

/// Whether the copy of the keys was written; says why not.
fn is_kept(written: Result<(), SecretStoreError>) -> bool {
    if let Err(error) = &written {
        tracing::warn!("the copy of the keys cannot be kept: {error}");
    }
    written.is_ok()
}

fn wall_text(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms);
    time.map_or_else(|_| "an unknown time".into(), |time| format!("{time:.0}"))
}

/// The command that has these keys served and no others.
fn exactly(keys: &[StoredKey]) -> SyncKeys {
    SyncKeys { desired: keys.iter().map(|key| Arc::clone(&key.facts)).collect() }
}

/// What the store holds after the plan.
fn planned(stored: Vec<StoredKey>, plan: &Plan) -> Vec<StoredKey> {
    let mut keys: BTreeMap<KeyId, StoredKey> =
        stored.into_iter().map(|key| (key.id(), key)).collect();
    for key in &plan.change.remove {
        keys.remove(key);
    }
    keys.extend(plan.change.put.iter().map(|key| (key.id(), key.clone())));
    keys.into_values().collect()
}

fn store_failed(error: &SecretStoreError) -> ServiceError {
    match error {
        SecretStoreError::Corrupt(text) => {
            ServiceError::new(ErrorKind::Corrupt, "STORE_CORRUPT", text.clone())
        }
        SecretStoreError::Unavailable(text) => {
            ServiceError::new(ErrorKind::Unavailable, "STORE_UNAVAILABLE", text.clone())
        }
        SecretStoreError::Denied(text) => {
            ServiceError::new(ErrorKind::Unavailable, DENIED, text.clone())
        }
        SecretStoreError::Conflict(text) => {
            ServiceError::new(ErrorKind::Unavailable, CONFLICT, text.clone())
                .retry_after(RETRY_AFTER)
        }
    }
}
