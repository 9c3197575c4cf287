use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::redis::url::RedisUrl;

/// How long a connection and each command may take, unless said otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);

/// Which Redis, how to reach it, and as which node.
///
/// Files are read at each new connection, so that a password or a certificate
/// can be replaced without a restart.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// The server; the sentinels; or some nodes of the cluster. User, password
    /// and database are those of the first.
    pub urls: Vec<RedisUrl>,
    /// What is there.
    pub mode: RedisMode,
    /// As which user, whatever the address says.
    pub username: Option<String>,
    /// The file with the password, whatever the address says.
    pub password_file: Option<PathBuf>,
    /// For addresses with `rediss://`.
    pub tls: RedisTls,
    /// How long a connection may take to come about, and each command.
    pub timeout: Duration,
    /// The id of the node that publishes.
    pub node: Arc<str>,
}

/// What the addresses name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    Single,
    /// Sentinels, which know the server.
    Sentinel {
        /// The name that they know it by.
        master: String,
        /// The file with the sentinels' own password.
        password_file: Option<PathBuf>,
    },
    /// Nodes of a cluster.
    Cluster,
}

/// Certificates, each a file in PEM form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Who signed the server's certificate; none: whom the system trusts.
    pub ca_cert: Option<PathBuf>,
    /// The node's own certificate; with `client_key` or not at all.
    pub client_cert: Option<PathBuf>,
    /// Its key.
    pub client_key: Option<PathBuf>,
}

impl RedisSettings {
    /// One server, with nothing out of the ordinary.
    pub fn single(url: RedisUrl, node: impl Into<Arc<str>>) -> Self {
        Self {
            urls: vec![url],
            mode: RedisMode::Single,
            username: None,
            password_file: None,
            tls: RedisTls::default(),
            timeout: TIMEOUT_DEFAULT,
            node: node.into(),
        }
    }

    /// The addresses, as errors name them: without passwords.
    pub(crate) fn store(&self) -> String {
        let urls: Vec<String> = self.urls.iter().map(ToString::to_string).collect();
        format!("Redis at {}", urls.join(","))
    }
}
