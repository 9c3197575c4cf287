//! What the tests share: a server for all that do not stop it, keys, stores.

use std::sync::Arc;

use key_server_core::{KeyFacts, OwnWeight};
use key_server_secrets::{
    Change, KvVersion, SecretKey, SecretStore, SecretStoreError, SignIn, StoredKey, VaultSettings,
    VaultStore, key_id,
};
use key_server_testkit::vault::VaultServer;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// What no text and no file in clear may contain.
pub(crate) const CANARY: &str = "sk-fake-canary";

/// Runs an asynchronous test.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// The server of the tests that only need one: never sealed, never killed.
pub(crate) async fn shared() -> &'static VaultServer {
    static SHARED: OnceCell<VaultServer> = OnceCell::const_new();
    SHARED.get_or_init(VaultServer::dev).await
}

/// Settings for a folder of `secret/`, and a token with the documented least
/// policy for it.
pub(crate) async fn settings(server: &VaultServer, folder: &str) -> VaultSettings {
    settings_on(server, "secret", folder, KvVersion::V2).await
}

/// The same on another mount.
pub(crate) async fn settings_on(
    server: &VaultServer,
    mount: &str,
    folder: &str,
    version: KvVersion,
) -> VaultSettings {
    let mut settings = VaultSettings::new(server.address(), SignIn::Agent);
    settings.mount = mount.into();
    settings.path = folder.into();
    let policy = VaultStore::policy(&settings, version);
    settings.sign_in = token(&server.token(&policy, "1h", "").await);
    settings
}

pub(crate) fn token(text: &str) -> SignIn {
    SignIn::Token(Arc::new(SecretKey::copy_of(text)))
}

pub(crate) async fn store(server: &VaultServer, folder: &str) -> VaultStore {
    VaultStore::new(settings(server, folder).await).unwrap()
}

pub(crate) fn key(number: usize) -> StoredKey {
    let secret = SecretKey::copy_of(&format!("{CANARY}-{number:06}"));
    let facts = KeyFacts {
        key: key_id("openai", &secret),
        models: vec!["openai/gpt-4o".parse().unwrap()],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["csv@node-1".into()],
    };
    StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) }
}

/// The same key with another list of sources.
pub(crate) fn listed_by(key: &StoredKey, sources: &[&str]) -> StoredKey {
    let mut facts = KeyFacts::clone(&key.facts);
    facts.sources = sources.iter().map(|source| (*source).into()).collect();
    StoredKey { facts: Arc::new(facts), secret: Arc::clone(&key.secret) }
}

pub(crate) fn put(keys: impl IntoIterator<Item = StoredKey>) -> Change {
    Change { put: keys.into_iter().collect(), remove: Vec::new() }
}

pub(crate) fn remove(keys: impl IntoIterator<Item = StoredKey>) -> Change {
    Change { put: Vec::new(), remove: keys.into_iter().map(|key| key.id()).collect() }
}

/// The credentials that a store holds, sorted.
pub(crate) async fn secrets(store: &VaultStore) -> Vec<String> {
    let keys = store.load().await.unwrap();
    let mut secrets: Vec<String> = keys.iter().map(|key| key.secret.expose().to_owned()).collect();
    secrets.sort();
    secrets
}

pub(crate) fn secrets_of(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("{CANARY}-{number:06}")).collect()
}

/// The text of an error, which never holds a credential.
pub(crate) fn text(error: &SecretStoreError) -> String {
    let text = error.to_string();
    assert!(!text.contains(CANARY) && !text.contains("hvs."), "{text}");
    text
}

pub(crate) fn denied<T>(result: Result<T, SecretStoreError>) -> String {
    match result {
        Err(error @ SecretStoreError::Denied(_)) => text(&error),
        Err(error) => panic!("not Denied: {error:?}"),
        Ok(_) => panic!("not Denied but done"),
    }
}

pub(crate) fn unavailable<T>(result: Result<T, SecretStoreError>) -> String {
    match result {
        Err(error @ SecretStoreError::Unavailable(_)) => text(&error),
        Err(error) => panic!("not Unavailable: {error:?}"),
        Ok(_) => panic!("not Unavailable but done"),
    }
}

/// Writes an entry of `secret/` as a person does.
pub(crate) async fn write_by_hand(server: &VaultServer, folder: &str, name: &str, data: Value) {
    let path = format!("secret/data/{folder}/{name}");
    server.admin(Method::POST, &path, json!({ "data": data })).await;
}

/// The newest version's number of an entry of `secret/`.
pub(crate) async fn version_of(server: &VaultServer, folder: &str, name: &str) -> u64 {
    let path = format!("secret/metadata/{folder}/{name}");
    let reply = server.admin(Method::GET, &path, Value::Null).await;
    reply["data"]["current_version"].as_u64().unwrap()
}
