//! How to reach Vault, and as whom.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{SecretKey, SecretStoreError};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONCURRENCY: usize = 16;
const CONCURRENCY_MAX: usize = 1_024;

/// Where Vault is, where the keys lie in it, and how to sign in.
///
/// Nothing is taken from the environment. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct VaultSettings {
    /// `http://host:port`, `https://host:port`, or `unix:///path` for the
    /// socket of a Vault agent or proxy. A path after the port is kept.
    pub address: String,
    /// The namespace (Vault Enterprise, HCP); none: the root.
    pub namespace: Option<String>,
    /// Where the KV engine is mounted, as in `secret`.
    pub mount: String,
    /// The folder of the keys within the mount, as in `key-server/keys`.
    pub path: String,
    /// The KV engine's version; asked of Vault when absent.
    pub kv_version: Option<KvVersion>,
    /// How to get a token.
    pub sign_in: SignIn,
    /// Whether [`SignIn::Token`] or [`SignIn::TokenFile`] holds a
    /// response-wrapping token, which is exchanged once for the token itself.
    pub token_is_wrapped: bool,
    /// For `https` addresses.
    pub tls: VaultTls,
    /// How long one request may take, its whole reply included.
    pub request_timeout: Duration,
    /// How many requests may be under way at once: 1 to 1,024.
    pub concurrency: usize,
}

impl VaultSettings {
    /// The defaults: `secret`, `key-server/keys`, version asked of Vault, 5 s,
    /// 16 requests at once.
    pub fn new(address: impl Into<String>, sign_in: SignIn) -> Self {
        Self {
            address: address.into(),
            namespace: None,
            mount: String::from("secret"),
            path: String::from("key-server/keys"),
            kv_version: None,
            sign_in,
            token_is_wrapped: false,
            tls: VaultTls::default(),
            request_timeout: REQUEST_TIMEOUT,
            concurrency: CONCURRENCY,
        }
    }

    /// The settings in the form that the rest relies on: no slashes around
    /// mount and path.
    pub(super) fn checked(mut self) -> Result<Self, SecretStoreError> {
        self.mount = segments("mount", &self.mount)?;
        self.path = segments("path", &self.path)?;
        if self.request_timeout.is_zero() {
            return Err(wrong("the request timeout is 0; 5 s is the default"));
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return Err(wrong("the number of requests at once must be from 1 to 1,024"));
        }
        let holds_token = matches!(self.sign_in, SignIn::Token(_) | SignIn::TokenFile(_));
        if self.token_is_wrapped && !holds_token {
            return Err(wrong(
                "only a token or a token file can be wrapped; remove KEY_SERVER_VAULT_TOKEN_WRAPPED",
            ));
        }
        if self.tls.client_cert.is_some() != self.tls.client_key.is_some() {
            return Err(wrong("VAULT_CLIENT_CERT and VAULT_CLIENT_KEY belong together; set both"));
        }
        if matches!(self.sign_in, SignIn::Certificate { .. }) && self.tls.client_cert.is_none() {
            return Err(wrong(
                "signing in by certificate needs VAULT_CLIENT_CERT and VAULT_CLIENT_KEY",
            ));
        }
        Ok(self)
    }
}

/// The two layouts of Vault's key-value engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvVersion {
    /// No versions, no check-and-set: two writers may overwrite each other
    /// within the moment between look and write.
    V1,
    /// Versions, check-and-set, deletions that can be undone.
    V2,
}

impl fmt::Display for KvVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "1",
            Self::V2 => "2",
        })
    }
}

/// How to get a token from Vault. `mount` is where the auth method is
/// mounted, as in `approle`.
#[derive(Clone)]
pub enum SignIn {
    /// A token. It is renewed, but when it ends a person has to give another.
    Token(Arc<SecretKey>),
    /// A file with a token, read again when it changes: what a Vault agent
    /// writes, for one. Others must not be able to read it.
    TokenFile(PathBuf),
    /// Role and secret id.
    AppRole {
        /// The auth method's mount.
        mount: String,
        /// Which role.
        role_id: String,
        /// The second half.
        secret_id: SecretId,
    },
    /// The token of a Kubernetes service account.
    Kubernetes {
        /// The auth method's mount.
        mount: String,
        /// Which role.
        role: String,
        /// The service account's token, read at every sign-in.
        jwt_file: PathBuf,
    },
    /// The client certificate of [`VaultTls`].
    Certificate {
        /// The auth method's mount.
        mount: String,
        /// Which certificate role; none: Vault looks for one that fits.
        name: Option<String>,
    },
    /// No token: the agent or proxy at the address adds its own.
    Agent,
}

impl SignIn {
    /// The method's name in settings and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::TokenFile(_) => "token file",
            Self::AppRole { .. } => "approle",
            Self::Kubernetes { .. } => "kubernetes",
            Self::Certificate { .. } => "cert",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The second half of an AppRole.
#[derive(Clone)]
pub enum SecretId {
    /// The secret id itself.
    Value(Arc<SecretKey>),
    /// A file with it, read at every sign-in. Others must not be able to read
    /// it.
    File(PathBuf),
}

/// TLS to Vault.
#[derive(Clone, Debug, Default)]
pub struct VaultTls {
    /// The only authorities that are trusted, in PEM; none: the system's.
    pub ca_cert: Option<PathBuf>,
    /// What we show of ourselves, in PEM, with the chain.
    pub client_cert: Option<PathBuf>,
    /// The private key of `client_cert`, in PEM. Others must not be able to
    /// read it.
    pub client_key: Option<PathBuf>,
    /// Believes any certificate: whoever is in between gets every key. Only
    /// for trying things out; every start warns.
    pub skip_verify: bool,
}

/// A path of Vault without slashes around it.
fn segments(what: &str, text: &str) -> Result<String, SecretStoreError> {
    let text = text.trim_matches('/');
    let wrong_segment = |segment: &str| {
        segment.is_empty()
            || matches!(segment, "." | "..")
            || segment.chars().any(|c| c.is_control() || matches!(c, '*' | '+' | '"' | '\\'))
    };
    if text.split('/').any(wrong_segment) {
        return Err(wrong(&format!("the {what} is not a path as in secret or key-server/keys")));
    }
    Ok(text.to_owned())
}

pub(super) fn wrong(what: &str) -> SecretStoreError {
    SecretStoreError::Denied(format!("the settings for Vault are wrong: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> VaultSettings {
        let token = SecretKey::copy_of("fake-canary-token");
        VaultSettings::new("http://127.0.0.1:8200", SignIn::Token(Arc::new(token)))
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut settings = settings();
        assert!(!format!("{settings:?}").contains("canary"));
        let secret_id = SecretId::Value(Arc::new(SecretKey::copy_of("fake-canary-id")));
        settings.sign_in =
            SignIn::AppRole { mount: "approle".into(), role_id: "role".into(), secret_id };
        assert!(!format!("{settings:?}").contains("canary"));
    }

    #[test]
    fn slashes_around_mount_and_path_do_not_matter() {
        let mut settings = settings();
        settings.mount = "/team/secret/".into();
        settings.path = "keys/".into();
        let checked = settings.checked().unwrap();
        assert_eq!((&*checked.mount, &*checked.path), ("team/secret", "keys"));
    }

    #[test]
    fn wrong_settings_are_named() {
        type Case = (fn(&mut VaultSettings), &'static str);
        let cases: [Case; 6] = [
            (|s| s.mount = "/".into(), "the mount is not a path"),
            (|s| s.path = "a/../b".into(), "the path is not a path"),
            (|s| s.request_timeout = Duration::ZERO, "the request timeout is 0"),
            (|s| s.concurrency = 0, "requests at once"),
            (
                |s| {
                    s.sign_in = SignIn::Agent;
                    s.token_is_wrapped = true;
                },
                "can be wrapped",
            ),
            (|s| s.tls.client_cert = Some("cert.pem".into()), "belong together"),
        ];
        for (change, expected) in cases {
            let mut settings = settings();
            change(&mut settings);
            let text = settings.checked().unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }
}
