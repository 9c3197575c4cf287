//! The real daemon inside of the test's process, on a clock that the test
//! moves, behind a real socket.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use key_server_projections::SqliteProjection;
use key_server_secrets::{AgeFileStore, IdentitySource};
use key_server_server::clock::Clock;
use key_server_server::config::{Settings, Sources, resolve};
use key_server_server::lifecycle::{self, Parts, RunError, Running};
use key_server_server::state_dir::StateDir;
use tempfile::TempDir;

use crate::client::{Client, connect};
use crate::clock::ManualClock;
use crate::process::write_for_owner;

/// Where an embedded server lives; outlives the servers that are started in it.
pub struct EmbeddedHome {
    dir: TempDir,
    settings: Vec<(String, String)>,
    /// The servers' clock.
    pub clock: Arc<ManualClock>,
}

/// An embedded server and a client of it.
pub struct Embedded {
    /// The server.
    pub running: Running,
    /// A client with this process's own uid.
    pub client: Client,
}

impl EmbeddedHome {
    /// With this CSV, and settings by name.
    ///
    /// # Panics
    /// When the file system does not cooperate.
    pub fn new(csv: &str, settings: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        std::fs::write(dir.path().join("api_keys.csv"), csv).expect("it can be written to");
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Self { settings: settings.collect(), dir, clock: Arc::default() }
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    /// The CSV.
    pub fn csv(&self) -> PathBuf {
        self.dir.path().join("api_keys.csv")
    }

    /// With a policy, and a socket that every uid may connect to.
    ///
    /// # Panics
    /// When the file system does not cooperate.
    #[must_use]
    pub fn open_to_all(mut self, policy: &str) -> Self {
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(self.dir.path(), open).expect("it is ours");
        self.write_policy(policy);
        let path = self.policy().display().to_string();
        self.settings.push(("policy_file".into(), path));
        self.settings.push(("socket_mode".into(), "0666".into()));
        self
    }

    /// Without the policy again.
    #[must_use]
    pub fn without_policy(mut self) -> Self {
        self.settings.retain(|(name, _)| name != "policy_file");
        self
    }

    /// The policy.
    pub fn policy(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    /// Replaces the policy.
    ///
    /// # Panics
    /// When the file system does not cooperate.
    pub fn write_policy(&self, policy: &str) {
        write_for_owner(&self.policy(), policy).expect("it can be written to");
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn resolved(&self) -> Settings {
        let text = |path: PathBuf| path.display().to_string();
        let own = [
            ("socket".to_owned(), text(self.socket())),
            ("key_config_file".to_owned(), text(self.csv())),
            ("state_dir".to_owned(), text(self.state())),
        ];
        let sources = Sources::new(own.into_iter().chain(self.settings.clone()), []);
        resolve(&sources).expect("the test's settings are right").0
    }

    /// What a server here is made of.
    ///
    /// # Panics
    /// When the state directory or its files cannot be made.
    pub fn parts(&self) -> Parts {
        embedded_parts(self.resolved(), Some(Arc::clone(&self.clock) as _))
    }

    /// Starts a server.
    ///
    /// # Errors
    /// As [`lifecycle::start`].
    ///
    /// # Panics
    /// When the state directory or its files cannot be made.
    pub async fn try_start(&self) -> Result<Embedded, RunError> {
        self.try_start_of(self.parts()).await
    }

    /// Starts a server of these parts.
    ///
    /// # Errors
    /// As [`lifecycle::start`].
    pub async fn try_start_of(&self, parts: Parts) -> Result<Embedded, RunError> {
        let running = lifecycle::start(parts).await?;
        let client = connect(&self.socket()).await.expect("a started server listens");
        Ok(Embedded { running, client })
    }

    /// Starts a server that must start.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(&self) -> Embedded {
        self.try_start().await.unwrap_or_else(|error| panic!("it starts: {error}"))
    }
}

/// What a server on embedded defaults is made of, in the state directory that
/// the settings name.
///
/// # Panics
/// When the state directory or its files cannot be made.
pub fn embedded_parts(settings: Settings, clock: Option<Arc<dyn Clock>>) -> Parts {
    let state_dir = StateDir::claim(&settings.state_dir).expect("nobody else is here");
    let identity = IdentitySource::StateDirectory;
    let store = AgeFileStore::open(state_dir.path(), &identity).expect("the store opens");
    let database = state_dir.path().join("state.sqlite");
    let projection = SqliteProjection::open(&database).expect("the database opens");
    Parts {
        settings,
        csv_is_expected: true,
        state_dir,
        inherited: None,
        store: Arc::new(store),
        projection: Box::new(projection),
        offline: None,
        fleet: None,
        clock,
        background: Vec::new(),
        notes: Vec::new(),
        confine: Box::new(|| "off".to_owned()),
    }
}
