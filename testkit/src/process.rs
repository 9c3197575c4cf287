//! The real daemon, in its own process and its own temporary directory.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use key_server_proto::v1;
use tempfile::TempDir;

use crate::client::{Client, connect};

/// How long a server may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// Where a server lives: state, socket, CSV and log, all in one temporary
/// directory, which outlives the processes that are started in it.
pub struct Home {
    program: PathBuf,
    dir: TempDir,
    variables: Vec<(String, String)>,
}

/// A running daemon; killed when dropped.
pub struct ServerProcess {
    child: Child,
}

impl Home {
    /// A home for the daemon `program`, with this CSV.
    ///
    /// # Errors
    /// As the file system says.
    pub fn new(program: impl Into<PathBuf>, csv: &str) -> io::Result<Self> {
        Self::new_in(&std::env::temp_dir(), program, csv)
    }

    /// The same within `parent`, where the disk matters.
    ///
    /// # Errors
    /// As the file system says.
    pub fn new_in(parent: &Path, program: impl Into<PathBuf>, csv: &str) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("key-server-").tempdir_in(parent)?;
        let home = Self { program: program.into(), dir, variables: Vec::new() };
        home.write_csv(csv)?;
        Ok(home)
    }

    /// With another environment variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// Replaces the CSV.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write_csv(&self, csv: &str) -> io::Result<()> {
        std::fs::write(self.path().join("api_keys.csv"), csv)
    }

    /// Writes a policy for the next start, and says where it is.
    ///
    /// # Errors
    /// As the file system says.
    #[must_use = "the home that knows the policy is the one that is returned"]
    pub fn with_policy(self, policy: &str) -> io::Result<Self> {
        self.write_policy(policy)?;
        let path = self.policy().display().to_string();
        Ok(self.with("KEY_SERVER_POLICY_FILE", path))
    }

    /// Replaces the policy, whatever the caller's umask.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write_policy(&self, policy: &str) -> io::Result<()> {
        write_for_owner(&self.policy(), policy)
    }

    /// The policy.
    pub fn policy(&self) -> PathBuf {
        self.path().join("policy.toml")
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.path().join("s.sock")
    }

    /// The daemon's command line in this home, with nothing of the caller's
    /// environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", "/usr/bin:/bin")
            .env("KEY_SERVER_SOCKET", self.socket())
            .env("KEY_SERVER_STATE_DIR", self.state())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts the daemon without waiting for it; its words go to
    /// `server.stderr`.
    ///
    /// # Errors
    /// As the system says.
    pub fn spawn(&self) -> io::Result<ServerProcess> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("server.stderr"))?;
        let child = self.command(&["serve"]).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(ServerProcess { child })
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// With its words, when it ends or does not answer.
    pub async fn start(&self) -> io::Result<(ServerProcess, Client)> {
        self.start_within(START_MAX).await
    }

    /// The same with another patience.
    ///
    /// # Errors
    /// As [`Home::start`].
    pub async fn start_within(&self, max: Duration) -> io::Result<(ServerProcess, Client)> {
        let mut server = self.spawn()?;
        let polls = max.as_millis() / POLL_EVERY.as_millis();
        for _ in 0..polls {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}: {}", self.words())));
            }
            if let Ok(mut client) = connect(&self.socket()).await
                && client.health(v1::HealthRequest {}).await.is_ok()
            {
                return Ok((server, client));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Err(io::Error::other(format!("it does not answer: {}", self.words())))
    }

    /// What the daemon said on standard error, over all its runs.
    pub fn words(&self) -> String {
        std::fs::read_to_string(self.path().join("server.stderr")).unwrap_or_default()
    }
}

/// Writes a file that only its owner may change.
pub(crate) fn write_for_owner(path: &Path, text: &str) -> io::Result<()> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

impl ServerProcess {
    /// A daemon that was started by hand.
    pub fn of(child: Child) -> Self {
        Self { child }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as `kill -9` does, and waits for the end.
    ///
    /// # Errors
    /// As the system says.
    pub fn kill(mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Asks it to end, as `kill` does, and waits for the end.
    ///
    /// # Errors
    /// As the system says.
    pub fn terminate(mut self) -> io::Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        self.child.wait()
    }

    /// How it ended, once it has.
    ///
    /// # Errors
    /// As the system says.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// As the system says.
    pub fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
