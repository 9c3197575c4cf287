//! Real Redis servers: one, with a replica and a sentinel, or a cluster, each
//! in its own processes and temporary directory, ended when dropped.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Client, Cmd, Connection, FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a server may take for what it is asked.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// The user of the tests: that of the page, with no other rights.
pub const USER: &str = "keyserver";
/// Its password: an obviously fake one.
pub const PASSWORD: &str = "fake-redis-password";
/// The password of `default`, who may do everything.
pub const ADMIN_PASSWORD: &str = "fake-admin-password";
/// The password of sentinels.
pub const SENTINEL_PASSWORD: &str = "fake-sentinel-password";
/// The name that sentinels know the master by.
pub const MASTER: &str = "mymaster";

/// What the page says about the user.
const PAGE: &str = include_str!("../../docs/redis.md");

/// One server; its data lives as long as this value.
pub struct RedisServer {
    program: PathBuf,
    dir: TempDir,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// A master, its replica, and a sentinel that watches them.
pub struct RedisSentinel {
    /// Who began as the master.
    pub master: RedisServer,
    /// Who takes its place.
    pub replica: RedisServer,
    /// Who knows which is which.
    pub sentinel: RedisServer,
}

impl RedisServer {
    /// The program: `KEY_SERVER_TEST_REDIS`, or the first in the `PATH`.
    ///
    /// # Errors
    /// In words, when there is none.
    pub fn find() -> Result<PathBuf, String> {
        if let Some(program) = variable("KEY_SERVER_TEST_REDIS") {
            return Ok(PathBuf::from(program));
        }
        let path = variable("PATH").unwrap_or_default();
        let programs = std::env::split_paths(&path).map(|dir| dir.join("redis-server"));
        let found = programs.into_iter().find(|program| program.is_file());
        found.ok_or_else(|| {
            "there is no redis-server in PATH: install it, or name it in KEY_SERVER_TEST_REDIS"
                .to_owned()
        })
    }

    /// A server on a port and a Unix socket of its own, with more settings as
    /// in its configuration file, one a line.
    ///
    /// # Errors
    /// In words: there is no program, or it does not answer.
    pub fn start(settings: &[&str]) -> io::Result<Self> {
        let mut server = Self::prepare(settings, &[])?;
        server.resume()?;
        Ok(server)
    }

    /// A server that is not started yet.
    fn prepare(settings: &[&str], arguments: &[&str]) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("key-server-redis-").tempdir()?;
        let program = Self::find().map_err(io::Error::other)?;
        let port = free_port()?;
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let server = Self { program, dir, port, arguments, child: None };
        std::fs::write(server.path("redis.conf"), server.configuration(settings))?;
        Ok(server)
    }

    fn configuration(&self, settings: &[&str]) -> String {
        let (port, dir) = (self.port, self.dir.path().display());
        let has_port = settings.iter().any(|line| line.starts_with("port "));
        let mut lines = vec![
            if has_port { String::new() } else { format!("port {port}") },
            format!("unixsocket {dir}/redis.sock"),
            format!("dir {dir}"),
            "bind 127.0.0.1".to_owned(),
            "hz 100".to_owned(),
        ];
        if !settings.iter().any(|line| line.starts_with("sentinel ")) {
            lines.push("save \"\"".to_owned());
            lines.push(format!("masterauth {ADMIN_PASSWORD}"));
            lines.push(format!("user default on >{ADMIN_PASSWORD} ~* &* +@all"));
            lines.push(format!("user {USER} on >{PASSWORD} {}", rules()));
        }
        lines.extend(settings.iter().map(|&line| line.to_owned()));
        lines.join("\n")
    }

    /// Starts the process again, with the data that is on disk.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn resume(&mut self) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        let child = Command::new(&self.program)
            .arg(self.path("redis.conf"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        self.wait_until("it answers", |server| {
            server.ask::<String>(&["PING"]).is_ok_and(|answer| answer == "PONG")
        })
    }

    /// Ends the process at once, as `kill -9` does.
    ///
    /// # Errors
    /// As the system says.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends the process and deletes what it has on disk.
    ///
    /// # Errors
    /// As the system says.
    pub fn kill_and_forget(&mut self) -> io::Result<()> {
        self.kill()?;
        let files = std::fs::read_dir(self.dir.path())?;
        for file in files {
            let path = file?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else if path.extension().is_some_and(|extension| extension == "rdb") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Stops the process as it stands; it keeps its connections and answers
    /// nothing.
    ///
    /// # Errors
    /// As the system says.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As the system says.
    pub fn thaw(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = self.child.as_ref().map(Child::id).and_then(|id| i32::try_from(id).ok());
        let pid = id.and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.path("redis.sock")
    }

    /// A file in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its address for [`USER`].
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same at another port, where a proxy listens.
    pub fn url_at(&self, port: u16) -> String {
        format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}")
    }

    /// Asks it something, as `default`, over a connection of its own.
    ///
    /// # Errors
    /// What it says.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut command = Cmd::new();
        command.arg(words);
        command.query(&mut self.connect()?)
    }

    /// A connection of its own, as `default`.
    ///
    /// # Errors
    /// What the server says.
    pub fn connect(&self) -> RedisResult<Connection> {
        let password = if self.arguments.is_empty() { ADMIN_PASSWORD } else { SENTINEL_PASSWORD };
        let socket = self.socket();
        let url = format!("redis+unix://{}?pass={password}", socket.display());
        let connection = Client::open(url)?.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        Ok(connection)
    }

    /// Waits for something.
    ///
    /// # Errors
    /// With its log, when it does not come about, or the process ends.
    pub fn wait_until(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&Self) -> bool,
    ) -> io::Result<()> {
        for _ in 0..PATIENCE.as_millis() / POLL_EVERY.as_millis() {
            if is_so(self) {
                return Ok(());
            }
            if self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                return Err(io::Error::other(format!("it ended: {}", self.log())));
            }
            std::thread::sleep(POLL_EVERY);
        }
        Err(io::Error::other(format!("not so after {PATIENCE:?}: {what}: {}", self.log())))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

impl RedisSentinel {
    /// Starts all three and waits until the sentinel knows the replica.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn start() -> io::Result<Self> {
        let master = RedisServer::start(&[])?;
        let replica = RedisServer::start(&[&format!("replicaof 127.0.0.1 {}", master.port())])?;
        let settings = [
            format!("sentinel monitor {MASTER} 127.0.0.1 {} 1", master.port()),
            format!("sentinel auth-pass {MASTER} {ADMIN_PASSWORD}"),
            format!("sentinel down-after-milliseconds {MASTER} 300"),
            format!("sentinel failover-timeout {MASTER} 3000"),
            format!("requirepass {SENTINEL_PASSWORD}"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let mut sentinel = RedisServer::prepare(&settings, &["--sentinel"])?;
        sentinel.resume()?;
        sentinel.wait_until("the sentinel knows the replica", |sentinel| {
            let master: RedisResult<Vec<String>> = sentinel.ask(&["SENTINEL", "MASTER", MASTER]);
            master.is_ok_and(|words| field(&words, "num-slaves") == Some("1"))
        })?;
        Ok(Self { master, replica, sentinel })
    }

    /// Waits until the sentinel names the replica as the master and it is one.
    ///
    /// # Errors
    /// With the sentinel's log, when it does not come about.
    pub fn wait_for_fail_over(&mut self) -> io::Result<()> {
        let port = self.replica.port().to_string();
        self.sentinel.wait_until("the replica is the master", |sentinel| {
            let named: RedisResult<Vec<String>> =
                sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
            named.is_ok_and(|named| named.get(1) == Some(&port))
        })?;
        self.replica.wait_until("it takes writes", |replica| {
            let info: RedisResult<String> = replica.ask(&["INFO", "replication"]);
            info.is_ok_and(|info| info.contains("role:master"))
        })
    }
}

/// Starts three servers and makes a cluster of them.
///
/// # Errors
/// As [`RedisServer::start`].
pub fn start_cluster() -> io::Result<Vec<RedisServer>> {
    let settings = ["cluster-enabled yes", "cluster-node-timeout 2000"];
    let start = |_| RedisServer::start(&settings);
    let mut servers = (0..3).map(start).collect::<io::Result<Vec<_>>>()?;
    let addresses = servers.iter().map(|server| format!("127.0.0.1:{}", server.port()));
    let made = Command::new(servers[0].program.with_file_name("redis-cli"))
        .args(["--no-auth-warning", "-a", ADMIN_PASSWORD, "--cluster", "create"])
        .args(addresses)
        .args(["--cluster-yes", "--cluster-replicas", "0"])
        .stdin(Stdio::null())
        .output()?;
    if !made.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&made.stdout).into_owned()));
    }
    for server in &mut servers {
        server.wait_until("the cluster is whole", |server| {
            let info: RedisResult<String> = server.ask(&["CLUSTER", "INFO"]);
            info.is_ok_and(|info| info.contains("cluster_state:ok"))
        })?;
    }
    Ok(servers)
}

/// The rights of [`USER`], as the page has them.
pub fn rules() -> &'static str {
    let line = PAGE.lines().find_map(|line| line.strip_prefix("ACL SETUSER keyserver on "));
    let line = line.expect("the page has the line that makes the user");
    line.split_once(' ').expect("the password comes first").1
}

/// The value of a field in what a sentinel says: names and values in turn.
fn field<'words>(words: &'words [String], name: &str) -> Option<&'words str> {
    let mut pairs = words.chunks_exact(2);
    pairs.find(|pair| pair[0] == name).map(|pair| pair[1].as_str())
}

/// A port that was free a moment ago, and the one 10,000 above, which a
/// cluster uses as well.
fn free_port() -> io::Result<u16> {
    loop {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let bus = port.checked_add(10_000);
        if bus.is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok()) {
            return Ok(port);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "tests are told by the environment what to use")]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// Writes a file that only its owner may read, such as a password's.
///
/// # Errors
/// As the file system says.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
