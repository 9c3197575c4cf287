//! What every secret store must do, and a store that fails on demand.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use key_server_core::{KeyFacts, KeyId, OwnWeight};
use key_server_secrets::{
    Change, SecretKey, SecretStore, SecretStoreError, StoredKey, async_trait, key_id,
};

const MANY: usize = 1_000;

/// Runs the port's contract against an adapter; panics where it is broken.
///
/// `open` opens the store at a place, named by a short text of `a-z` and `-`:
/// a place that was never opened before is a store that was never written;
/// the same place again is the same store, as after a restart.
pub async fn conformance<S: SecretStore>(open: impl AsyncFn(&str) -> S) {
    store_that_was_never_written_is_empty(&open("never-written").await).await;
    empty_change_does_nothing(&open("empty-change").await).await;
    committed_keys_come_back_with_all_their_facts(&open("facts").await).await;
    credentials_come_back_to_the_byte(&open("bytes").await).await;
    put_again_replaces_the_facts_as_a_whole(&open("replace").await).await;
    keys_that_are_not_named_stay(&open("stay").await).await;
    repeated_commit_is_harmless(&open("repeat").await).await;
    removing_what_is_not_there_is_harmless(&open("remove").await).await;
    key_that_is_put_and_removed_is_kept(&open("both").await).await;
    last_put_of_a_key_counts(&open("last").await).await;
    removed_key_can_come_back(&open("back").await).await;
    commits_at_the_same_time_are_all_kept(&open("together").await).await;
    many_keys_are_kept(&open("many").await).await;
    reopened_store_holds_what_was_committed(&open).await;
    two_openings_see_each_other(&open).await;
    places_are_apart(&open).await;
    assert!(!open("name").await.name().is_empty());
}

async fn store_that_was_never_written_is_empty(store: &impl SecretStore) {
    assert_eq!(load(store).await, []);
}

async fn empty_change_does_nothing(store: &impl SecretStore) {
    commit(store, Change::default()).await;
    assert_eq!(load(store).await, []);
    commit(store, put([key(1)])).await;
    commit(store, Change::default()).await;
    assert_eq!(load(store).await, seen([key(1)]));
}

async fn committed_keys_come_back_with_all_their_facts(store: &impl SecretStore) {
    let bare = key(1);
    let full = with_facts(key(2), |facts| {
        facts.models.push("openai/ft:gpt-4o/team/a".parse().expect("a model"));
        facts.own_weight = OwnWeight::from_thousandths(125).expect("a weight");
        facts.max_holders = NonZeroU32::new(u32::MAX);
        facts.label = Some("team \"a\", Zürich \u{1F511}".into());
        facts.sources = vec!["cli".into(), "csv@node-1".into(), "csv@node-2".into()];
    });
    let zero = with_facts(key(3), |facts| {
        facts.own_weight = OwnWeight::from_thousandths(0).expect("a weight");
        facts.sources = Vec::new();
    });
    commit(store, put([full.clone(), zero.clone(), bare.clone()])).await;
    assert_eq!(load(store).await, seen([bare, full, zero]));
}

async fn credentials_come_back_to_the_byte(store: &impl SecretStore) {
    let long = "k".repeat(4_096);
    let secrets = [
        "a",
        "sk-\"quoted\"",
        "back\\slash",
        "ünïcode\u{200b}",
        "{\"json\":1}",
        "a=b&c%20+/",
        &long,
    ];
    let keys = secrets.map(|secret| key_of("openai", secret));
    commit(store, put(keys.clone())).await;
    assert_eq!(load(store).await, seen(keys));
}

async fn put_again_replaces_the_facts_as_a_whole(store: &impl SecretStore) {
    let first = with_facts(key(1), |facts| {
        facts.label = Some("first".into());
        facts.max_holders = NonZeroU32::new(2);
        facts.models.push("openai/o3".parse().expect("a model"));
    });
    commit(store, put([first])).await;
    commit(store, put([key(1)])).await;
    assert_eq!(load(store).await, seen([key(1)]));
}

async fn keys_that_are_not_named_stay(store: &impl SecretStore) {
    commit(store, put([key(1), key(2), key(3)])).await;
    let change = Change { put: vec![key(4)], remove: vec![key(2).id()] };
    commit(store, change).await;
    assert_eq!(load(store).await, seen([key(1), key(3), key(4)]));
}

async fn repeated_commit_is_harmless(store: &impl SecretStore) {
    commit(store, put([key(1), key(2)])).await;
    let change = Change { put: vec![key(3)], remove: vec![key(1).id()] };
    for _ in 0..3 {
        commit(store, change.clone()).await;
        assert_eq!(load(store).await, seen([key(2), key(3)]));
    }
}

async fn removing_what_is_not_there_is_harmless(store: &impl SecretStore) {
    commit(store, remove([key(1)])).await;
    assert_eq!(load(store).await, []);
    commit(store, put([key(2)])).await;
    commit(store, remove([key(1), key(1)])).await;
    assert_eq!(load(store).await, seen([key(2)]));
}

async fn key_that_is_put_and_removed_is_kept(store: &impl SecretStore) {
    let change = Change { put: vec![key(1)], remove: vec![key(1).id()] };
    for _ in 0..2 {
        commit(store, change.clone()).await;
        assert_eq!(load(store).await, seen([key(1)]));
    }
}

async fn last_put_of_a_key_counts(store: &impl SecretStore) {
    let label = |text: &str| with_facts(key(1), |facts| facts.label = Some(text.into()));
    commit(store, put([label("one"), label("two")])).await;
    assert_eq!(load(store).await, seen([label("two")]));
}

async fn removed_key_can_come_back(store: &impl SecretStore) {
    for _ in 0..2 {
        commit(store, put([key(1)])).await;
        assert_eq!(load(store).await, seen([key(1)]));
        commit(store, remove([key(1)])).await;
        assert_eq!(load(store).await, []);
    }
}

async fn commits_at_the_same_time_are_all_kept(store: &impl SecretStore) {
    let changes = [1, 2, 3, 4].map(|number| put([key(number)]));
    let [one, two, three, four] = &changes;
    let results = tokio::join!(
        store.commit(one),
        store.commit(two),
        store.commit(three),
        store.commit(four),
    );
    assert_eq!(results, (Ok(()), Ok(()), Ok(()), Ok(())));
    assert_eq!(load(store).await, seen([1, 2, 3, 4].map(key)));
}

async fn many_keys_are_kept(store: &impl SecretStore) {
    let keys: Vec<StoredKey> = (0..MANY).map(key).collect();
    commit(store, put(keys.clone())).await;
    assert_eq!(load(store).await, seen(keys.clone()));
    commit(store, remove(keys.iter().step_by(2).cloned())).await;
    let odd = keys.into_iter().skip(1).step_by(2);
    assert_eq!(load(store).await, seen(odd));
}

async fn reopened_store_holds_what_was_committed<S: SecretStore>(open: &impl AsyncFn(&str) -> S) {
    let store = open("reopened").await;
    commit(&store, put([key(1), key(2)])).await;
    commit(&store, remove([key(2)])).await;
    drop(store);
    assert_eq!(load(&open("reopened").await).await, seen([key(1)]));
}

async fn two_openings_see_each_other<S: SecretStore>(open: &impl AsyncFn(&str) -> S) {
    let (one, other) = (open("shared").await, open("shared").await);
    commit(&one, put([key(1)])).await;
    assert_eq!(load(&other).await, seen([key(1)]));
    commit(&other, put([key(2)])).await;
    assert_eq!(load(&one).await, seen([key(1), key(2)]));
}

async fn places_are_apart<S: SecretStore>(open: &impl AsyncFn(&str) -> S) {
    let (one, other) = (open("apart-a").await, open("apart-b").await);
    commit(&one, put([key(1)])).await;
    assert_eq!(load(&other).await, []);
}

/// What a test compares of a key: its facts and its credential, an obviously
/// fake one.
#[derive(Debug, PartialEq)]
struct Seen {
    facts: Arc<KeyFacts>,
    secret: String,
}

/// What [`load`] is to give for these keys.
fn seen(keys: impl IntoIterator<Item = StoredKey>) -> Vec<Seen> {
    let mut keys: Vec<Seen> = keys.into_iter().map(|key| see(&key)).collect();
    keys.sort_by_key(|key| key.facts.key);
    keys
}

fn see(key: &StoredKey) -> Seen {
    Seen { facts: Arc::clone(&key.facts), secret: key.secret.expose().to_owned() }
}

/// What the store holds, in its own order.
async fn load(store: &impl SecretStore) -> Vec<Seen> {
    let keys = store.load().await.expect("a store in good order loads");
    keys.iter().map(see).collect()
}

async fn commit(store: &impl SecretStore, change: Change) {
    let committed = store.commit(&change).await;
    committed.expect("a store in good order takes a change");
}

fn put(keys: impl IntoIterator<Item = StoredKey>) -> Change {
    Change { put: keys.into_iter().collect(), remove: Vec::new() }
}

fn remove(keys: impl IntoIterator<Item = StoredKey>) -> Change {
    let ids = keys.into_iter().map(|key| key.id());
    Change { put: Vec::new(), remove: ids.collect::<Vec<KeyId>>() }
}

fn key(number: usize) -> StoredKey {
    key_of("openai", &format!("sk-fake-{number:06}"))
}

fn key_of(provider: &str, secret: &str) -> StoredKey {
    let secret = SecretKey::copy_of(secret);
    let model = format!("{provider}/gpt-4o");
    let facts = KeyFacts {
        key: key_id(provider, &secret),
        models: vec![model.parse().expect("a provider and a model")],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["csv@node-1".into()],
    };
    StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) }
}

/// The same key with other facts; lists are put in order.
fn with_facts(key: StoredKey, change: impl FnOnce(&mut KeyFacts)) -> StoredKey {
    let mut facts = KeyFacts::clone(&key.facts);
    change(&mut facts);
    facts.models.sort();
    facts.sources.sort();
    StoredKey { facts: Arc::new(facts), secret: key.secret }
}

/// A store that fails on demand: each call first takes the next error of the
/// queue, if there is one, and then does nothing.
pub struct FailingSecretStore<S> {
    store: S,
    errors: Mutex<VecDeque<SecretStoreError>>,
}

impl<S: SecretStore> FailingSecretStore<S> {
    /// A store that works until told otherwise.
    pub fn new(store: S) -> Self {
        Self { store, errors: Mutex::default() }
    }

    /// Makes one more of the coming calls fail.
    pub fn fail_next(&self, error: SecretStoreError) {
        self.queue().push_back(error);
    }

    fn next_error(&self) -> Result<(), SecretStoreError> {
        self.queue().pop_front().map_or(Ok(()), Err)
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<SecretStoreError>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<S: SecretStore> SecretStore for FailingSecretStore<S> {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    async fn load(&self) -> Result<Vec<StoredKey>, SecretStoreError> {
        self.next_error()?;
        self.store.load().await
    }

    async fn commit(&self, change: &Change) -> Result<(), SecretStoreError> {
        self.next_error()?;
        self.store.commit(change).await
    }
}
