//! The key-value engine: what is asked of it, and what its replies mean.

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tracing::warn;

use super::entry::{self, Fault};
use super::fault::{self, Capability};
use super::http::{Call, Http, Reply};
use super::seen::{Mark, Name};
use super::settings::{KvVersion, VaultSettings};
use super::sign_in::{self, json};
use super::token::Tokens;
use crate::{SecretStoreError, StoredKey};

/// A quota is waited for so many times as long as an answer.
const QUOTA_WAIT_TIMEOUTS: u32 = 6;

/// One folder of a KV engine, asked with a token of ours.
pub(super) struct Kv {
    pub(super) http: Http,
    pub(super) tokens: Tokens,
    pub(super) mount: String,
    pub(super) path: String,
    /// How long one request waits for a quota.
    pub(super) quota_wait_max: Duration,
    set_version: Option<KvVersion>,
    /// As Vault said; asked anew when its answers do not fit.
    version: Mutex<Option<KvVersion>>,
}

/// What an entry holds.
pub(super) enum Found {
    /// A key.
    Key(Mark, StoredKey),
    /// What cannot be read as a key.
    Broken(Fault),
    /// Nothing any more; its versions may be kept.
    Deleted(Mark),
}

/// How a write ended.
pub(super) enum Written {
    /// It is durable.
    Done(Mark),
    /// The entry is not where it was expected to be.
    Elsewhere,
}

#[derive(Deserialize)]
pub(super) struct Data<T> {
    pub(super) data: T,
}

#[derive(Deserialize)]
struct Names {
    keys: Vec<String>,
}

#[derive(Deserialize)]
struct MountInfo {
    #[serde(default)]
    path: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    options: Option<MountOptions>,
}

#[derive(Deserialize)]
struct MountOptions {
    #[serde(default)]
    version: Option<String>,
}

#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    data: Option<entry::Entry<'a>>,
    metadata: VersionInfo,
}

#[derive(Default, Deserialize)]
struct VersionInfo {
    #[serde(default)]
    version: u64,
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
}

#[derive(Deserialize)]
struct Metadata {
    current_version: u64,
    #[serde(default)]
    versions: std::collections::HashMap<String, VersionInfo>,
}

impl VersionInfo {
    fn mark(self, version: u64) -> Mark {
        let deletion = if self.destroyed { String::from("destroyed") } else { self.deletion_time };
        Mark { version, deletion: deletion.into() }
    }
}

impl Kv {
    pub(super) fn new(settings: &VaultSettings) -> Result<Self, SecretStoreError> {
        Ok(Self {
            http: Http::new(settings)?,
            tokens: Tokens::new(settings),
            mount: settings.mount.clone(),
            path: settings.path.clone(),
            quota_wait_max: settings.request_timeout * QUOTA_WAIT_TIMEOUTS,
            set_version: settings.kv_version,
            version: Mutex::default(),
        })
    }

    /// The engine's version, by setting or as Vault says.
    pub(super) async fn version(&self) -> Result<KvVersion, SecretStoreError> {
        if let Some(version) = self.set_version {
            return Ok(version);
        }
        let mut known = self.version.lock().await;
        let version = match *known {
            Some(version) => version,
            None => self.detect().await?,
        };
        *known = Some(version);
        Ok(version)
    }

    /// The names of the folder's entries, deleted ones included.
    pub(super) async fn list(&self) -> Result<Vec<Name>, SecretStoreError> {
        let version = self.version().await?;
        let folder = match version {
            KvVersion::V1 => format!("{}/{}", self.mount, self.path),
            KvVersion::V2 => format!("{}/metadata/{}", self.mount, self.path),
        };
        let reply = self.ask(&Call::list(folder), Capability::List, &[]).await?;
        match reply.status {
            200 => Ok(self.names(self.parsed::<Data<Names>>(&reply, "a list")?.data)),
            404 => self.empty_if_mounted(&reply).await,
            _ => Err(self.odd(&reply, "a list", &[])),
        }
    }

    /// What an entry holds.
    pub(super) async fn read(&self, name: &str) -> Result<Found, SecretStoreError> {
        let version = self.version().await?;
        let call = Call::get(self.entry_path(version, name));
        let reply = self.ask(&call, Capability::Read, &[]).await?;
        match (version, reply.status) {
            (KvVersion::V1, 200) => self.plain(&reply),
            (KvVersion::V2, 200 | 404) => self.versioned(&reply),
            (KvVersion::V1, 404) => Ok(Found::Deleted(Mark::default())),
            _ => Err(self.odd(&reply, "an entry", &[])),
        }
    }

    /// Where an entry of version 2 stands; nothing when it never was.
    pub(super) async fn mark(&self, name: &str) -> Result<Option<Mark>, SecretStoreError> {
        let path = format!("{}/metadata/{}/{name}", self.mount, self.path);
        let reply = self.ask(&Call::get(path), Capability::Read, &[]).await?;
        match reply.status {
            200 => {
                let Metadata { current_version, mut versions } =
                    self.parsed::<Data<Metadata>>(&reply, "metadata")?.data;
                let newest = versions.remove(&current_version.to_string()).unwrap_or_default();
                Ok(Some(newest.mark(current_version)))
            }
            404 => Ok(None),
            _ => Err(self.odd(&reply, "metadata", &[])),
        }
    }

    /// Writes an entry of version 2, if version `cas` is the newest.
    pub(super) async fn write_versioned(
        &self,
        name: &str,
        key: &StoredKey,
        cas: u64,
    ) -> Result<Written, SecretStoreError> {
        let call =
            Call::post(self.entry_path(KvVersion::V2, name), entry::versioned_body(key, cas));
        let needs = if cas == 0 { Capability::Create } else { Capability::Update };
        let hidden = [key.secret.expose()];
        let reply = self.ask(&call, needs, &hidden).await?;
        match reply.status {
            200 => {
                let info = self.parsed::<Data<VersionInfo>>(&reply, "the answer to a write")?.data;
                let version = info.version;
                Ok(Written::Done(info.mark(version)))
            }
            400 if fault::words(&reply, &hidden).contains("check-and-set") => {
                Ok(Written::Elsewhere)
            }
            _ => Err(self.odd(&reply, "a write", &hidden)),
        }
    }

    /// Writes an entry of version 1, whatever it holds.
    pub(super) async fn write_plain(
        &self,
        name: &str,
        key: &StoredKey,
        needs: Capability,
    ) -> Result<(), SecretStoreError> {
        let call = Call::post(self.entry_path(KvVersion::V1, name), entry::plain_body(key));
        let hidden = [key.secret.expose()];
        let reply = self.ask(&call, needs, &hidden).await?;
        match reply.status {
            200 | 204 => Ok(()),
            _ => Err(self.odd(&reply, "a write", &hidden)),
        }
    }

    /// Deletes one version of an entry, which can be undone. A newer version,
    /// by someone else, stays: which a deletion of "the newest" would not
    /// respect.
    pub(super) async fn delete_version(
        &self,
        name: &str,
        version: u64,
    ) -> Result<(), SecretStoreError> {
        let path = format!("{}/delete/{}/{name}", self.mount, self.path);
        let body = json(&serde_json::json!({ "versions": [version] }));
        let reply = self.ask(&Call::post(path, body), Capability::Update, &[]).await?;
        self.deleted(&reply)
    }

    /// Deletes an entry of version 1 for ever.
    pub(super) async fn delete_plain(&self, name: &str) -> Result<(), SecretStoreError> {
        let call = Call::delete(self.entry_path(KvVersion::V1, name));
        let reply = self.ask(&call, Capability::Delete, &[]).await?;
        self.deleted(&reply)
    }

    /// The entry's place in words, as `vault kv get` takes it.
    pub(super) fn place(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.mount, self.path)
    }

    fn deleted(&self, reply: &Reply) -> Result<(), SecretStoreError> {
        match reply.status {
            200 | 204 | 404 => Ok(()),
            _ => Err(self.odd(reply, "a deletion", &[])),
        }
    }

    fn entry_path(&self, version: KvVersion, name: &str) -> String {
        match version {
            KvVersion::V1 => format!("{}/{}/{name}", self.mount, self.path),
            KvVersion::V2 => format!("{}/data/{}/{name}", self.mount, self.path),
        }
    }

    fn names(&self, names: Names) -> Vec<Name> {
        let (folders, names): (Vec<String>, Vec<String>) =
            names.keys.into_iter().partition(|name| name.ends_with('/'));
        if !folders.is_empty() {
            warn!(
                at = self.place(""),
                count = folders.len(),
                "there are folders beside the keys in Vault; what is in them is not read"
            );
        }
        names.into_iter().map(Name::from).collect()
    }

    fn plain(&self, reply: &Reply) -> Result<Found, SecretStoreError> {
        let entry = self.parsed::<Data<entry::Entry<'_>>>(reply, "an entry")?.data;
        Ok(found(entry, Mark::default()))
    }

    fn versioned(&self, reply: &Reply) -> Result<Found, SecretStoreError> {
        // A name that was listed and is gone since has no body.
        let Ok(Data { data }) = serde_json::from_slice::<Data<Versioned<'_>>>(&reply.body) else {
            return match reply.status {
                404 => Ok(Found::Deleted(Mark::default())),
                _ => Err(self.odd(reply, "an entry", &[])),
            };
        };
        let version = data.metadata.version;
        if version == 0 {
            return Err(self.odd(reply, "an entry", &[]));
        }
        let mark = data.metadata.mark(version);
        match data.data {
            Some(entry) if reply.status == 200 => Ok(found(entry, mark)),
            _ => Ok(Found::Deleted(mark)),
        }
    }

    /// A folder that is not there is empty; an engine that is not there, or is
    /// of the other version, must not look so.
    async fn empty_if_mounted(&self, reply: &Reply) -> Result<Vec<Name>, SecretStoreError> {
        let words = fault::words(reply, &[]);
        if words.contains("no handler for route") {
            return Err(self.not_mounted());
        }
        if let Some(error) = self.version_set_wrong().await? {
            return Err(error);
        }
        match self.mounted_version().await? {
            Some(is) if is != self.version().await? => Err(self.version_changed().await),
            _ => Ok(Vec::new()),
        }
    }

    /// The engine is not of the version any more that Vault said, or that was
    /// set.
    pub(super) async fn version_changed(&self) -> SecretStoreError {
        *self.version.lock().await = None;
        match Box::pin(self.version_set_wrong()).await {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => SecretStoreError::Unavailable(format!(
                "the KV engine at {} in Vault at {} became one of another version: looking anew",
                self.mount,
                self.http.address(),
            )),
        }
    }

    /// What is wrong when the version was set and another is mounted; nothing
    /// when it was not, or Vault does not say.
    ///
    /// # Errors
    /// When Vault cannot be asked.
    pub(super) async fn version_set_wrong(
        &self,
    ) -> Result<Option<SecretStoreError>, SecretStoreError> {
        let Some(set) = self.set_version else { return Ok(None) };
        let is = self.mounted_version().await?.filter(|is| *is != set);
        Ok(is.map(|is| {
            SecretStoreError::Denied(format!(
                "the KV engine at {} in Vault at {} is of version {is}, not {set}: set \
                 KEY_SERVER_VAULT_KV_VERSION={is}, or leave it out",
                self.mount,
                self.http.address(),
            ))
        }))
    }

    async fn detect(&self) -> Result<KvVersion, SecretStoreError> {
        if let Some(version) = self.mounted_version().await? {
            return Ok(version);
        }
        if !self.token_is_known().await? {
            return Err(SecretStoreError::Denied(format!(
                "Vault at {} does not know the token: it is mistyped, has ended or was revoked; \
                 give another. (A live token without the policy \"default\" may not ask after \
                 itself: then set KEY_SERVER_VAULT_KV_VERSION to 1 or 2)",
                self.http.address(),
            )));
        }
        Err(SecretStoreError::Denied(format!(
            "Vault at {} does not say what is mounted at {}: there is no such mount (run: vault \
             secrets enable -version=2 -path={} kv), or the token may do nothing there. If it may \
             not look, set KEY_SERVER_VAULT_KV_VERSION to 1 or 2. The policy that a token \
             needs:\n\n{}",
            self.http.address(),
            self.mount,
            self.mount,
            fault::policy(KvVersion::V2, &self.mount, &self.path),
        )))
    }

    /// Whether Vault answers for the token; an agent answers for its own.
    async fn token_is_known(&self) -> Result<bool, SecretStoreError> {
        let token = self.tokens.get(&self.http).await?;
        match token.secret {
            None => Ok(true),
            Some(secret) => Ok(sign_in::look_up(&self.http, &secret).await?.is_some()),
        }
    }

    /// The version of what is mounted; nothing when Vault does not say.
    async fn mounted_version(&self) -> Result<Option<KvVersion>, SecretStoreError> {
        let call = Call::get(format!("sys/internal/ui/mounts/{}", self.mount));
        let reply = self.try_ask(&call).await?;
        match reply.status {
            200 => {}
            403 | 404 => return Ok(None),
            _ => return Err(self.odd(&reply, "what is mounted", &[])),
        }
        let info = self.parsed::<Data<MountInfo>>(&reply, "what is mounted")?.data;
        if info.path.trim_matches('/') != self.mount {
            return Err(SecretStoreError::Denied(format!(
                "the mount in Vault at {} is {}, not {}: set KEY_SERVER_VAULT_MOUNT to it, and put \
                 the rest into KEY_SERVER_VAULT_PATH",
                self.http.address(),
                info.path.trim_matches('/'),
                self.mount,
            )));
        }
        if !matches!(&*info.kind, "kv" | "generic") {
            return Err(SecretStoreError::Denied(format!(
                "{} in Vault at {} is a mount of type {}, not kv: set KEY_SERVER_VAULT_MOUNT to a KV engine",
                self.mount,
                self.http.address(),
                info.kind,
            )));
        }
        let version = info.options.and_then(|options| options.version);
        Ok(Some(if version.as_deref() == Some("2") { KvVersion::V2 } else { KvVersion::V1 }))
    }

    fn not_mounted(&self) -> SecretStoreError {
        SecretStoreError::Denied(format!(
            "nothing is mounted at {} in Vault at {}: run: vault secrets enable -version=2 \
             -path={} kv, or set KEY_SERVER_VAULT_MOUNT",
            self.mount,
            self.http.address(),
            self.mount,
        ))
    }
}

fn found(entry: entry::Entry<'_>, mark: Mark) -> Found {
    match entry.into_key() {
        Ok(key) => Found::Key(mark, key),
        Err(fault) => Found::Broken(fault),
    }
}
