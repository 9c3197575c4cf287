//! How Vault is, for Health.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::http::Call;
use super::kv::Kv;
use super::settings::{KvVersion, VaultSettings};
use crate::SecretStoreError;

/// How Vault is, without secrets; its text is one line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultHealth {
    /// The address, as set.
    pub address: String,
    /// Vault's version, as in `1.21.1`.
    pub version: Option<String>,
    /// `active`, `standby`, `sealed` or `not initialised`.
    pub state: &'static str,
    /// Whether it serves keys.
    pub is_ready: bool,
    /// The KV engine's version; none when it cannot be known now.
    pub kv_version: Option<KvVersion>,
    /// How we sign in, as in `approle`.
    pub sign_in: &'static str,
    /// How long the token still lives; none: for ever, or not known.
    pub token_ttl: Option<Duration>,
}

#[derive(Deserialize)]
struct State {
    initialized: bool,
    sealed: bool,
    standby: bool,
    version: Option<String>,
}

/// The same status for every state that Vault can tell of.
const ANY_STATE: &str = "standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200";

pub(super) async fn check(
    kv: &Kv,
    settings: &VaultSettings,
) -> Result<VaultHealth, SecretStoreError> {
    let mut call = Call::get("sys/health");
    call.query = Some(ANY_STATE);
    let reply = kv.http.send(&call, None).await?;
    let state: State = serde_json::from_slice(&reply.body).map_err(|_| {
        kv.http.unavailable(&format!(
            "what answers there (status {}) is not Vault; correct VAULT_ADDR",
            reply.status
        ))
    })?;
    let is_ready = state.initialized && !state.sealed;
    let kv_version = match is_ready {
        true => Some(kv.version().await?),
        false => None,
    };
    if is_ready {
        kv.tokens.get(&kv.http).await?;
    }
    Ok(VaultHealth {
        address: settings.address.clone(),
        version: state.version.clone(),
        state: state.words(),
        is_ready,
        kv_version,
        sign_in: settings.sign_in.name(),
        token_ttl: kv.tokens.time_left().await,
    })
}

impl State {
    fn words(&self) -> &'static str {
        match self {
            Self { initialized: false, .. } => "not initialised",
            Self { sealed: true, .. } => "sealed",
            Self { standby: true, .. } => "standby",
            _ => "active",
        }
    }
}

impl fmt::Display for VaultHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().unwrap_or("of unknown version");
        write!(f, "Vault {version} at {} is {}", self.address, self.state)?;
        if let Some(version) = self.kv_version {
            write!(f, ", KV version {version}")?;
        }
        write!(f, ", signed in by {}", self.sign_in)?;
        match self.token_ttl {
            Some(ttl) => write!(f, ", the token ends in {} s unless renewed", ttl.as_secs()),
            None => Ok(()),
        }
    }
}
