//! Homes of daemons that keep their keys in Vault.

use key_server_secrets::{KvVersion, SignIn, VaultSettings, VaultStore};
use key_server_testkit::process::Home;
use key_server_testkit::vault::VaultServer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::home;

/// A token with the least policy for a folder of `secret/`.
pub(crate) async fn token(vault: &VaultServer, folder: &str) -> String {
    let mut settings = VaultSettings::new(vault.address(), SignIn::Agent);
    settings.path = folder.into();
    vault.token(&VaultStore::policy(&settings, KvVersion::V2), "1h", "").await
}

/// A home whose daemon keeps its keys in a folder of `secret/`.
pub(crate) async fn home_in(vault: &VaultServer, folder: &str, csv: &str) -> Home {
    at(home(csv), vault, folder).with("VAULT_TOKEN", token(vault, folder).await)
}

/// The same without anything to sign in with.
pub(crate) fn at(home: Home, vault: &VaultServer, folder: &str) -> Home {
    home.with("VAULT_ADDR", vault.address())
        .with("KEY_SERVER_VAULT_PATH", folder)
        .with("KEY_SERVER_VAULT_POLL", "1s")
        .with("KEY_SERVER_VAULT_TIMEOUT", "1s")
}

/// Writes an entry as a person does.
pub(crate) async fn put(vault: &VaultServer, folder: &str, name: &str, api_key: &str) {
    let data = json!({ "data": { "api_key": api_key, "models": "openai/gpt-4o" } });
    vault.admin(Method::POST, &format!("secret/data/{folder}/{name}"), data).await;
}

/// Deletes an entry as a person does.
pub(crate) async fn delete(vault: &VaultServer, folder: &str, name: &str) {
    vault.admin(Method::DELETE, &format!("secret/data/{folder}/{name}"), Value::Null).await;
}

/// How many entries a folder has, deleted ones included.
pub(crate) async fn listed_count(vault: &VaultServer, folder: &str) -> usize {
    let list = format!("secret/metadata/{folder}?list=true");
    let listed = vault.admin(Method::GET, &list, Value::Null).await;
    listed["data"]["keys"].as_array().map_or(0, Vec::len)
}

/// The entries of a folder: name, version, and who lists the key.
pub(crate) async fn entries(vault: &VaultServer, folder: &str) -> Vec<(String, u64, Vec<String>)> {
    let list = format!("secret/metadata/{folder}?list=true");
    let listed = vault.admin(Method::GET, &list, Value::Null).await;
    let mut entries = Vec::new();
    for name in listed["data"]["keys"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        let path = format!("secret/data/{folder}/{name}");
        let entry = vault.admin(Method::GET, &path, Value::Null).await;
        let version = entry["data"]["metadata"]["version"].as_u64().unwrap();
        let sources = entry["data"]["data"]["sources"].as_array().cloned().unwrap_or_default();
        let mut sources: Vec<_> =
            sources.iter().map(|source| source.as_str().unwrap().to_owned()).collect();
        sources.sort();
        entries.push((name.to_owned(), version, sources));
    }
    entries
}
