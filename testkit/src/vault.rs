//! A real Vault server, in its own process and its own temporary directory.

use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The version that `testkit/vault-build/build.sh` builds.
const BUILT_VERSION: &str = "1.21.1";
const POLL_EVERY: Duration = Duration::from_millis(20);
const POLLS_MAX: u32 = 1_500;

/// Starts `$@` with its words in `$LOG`, says its process id, and ends it as
/// soon as whoever holds our standard input is gone, however that ended. Then
/// removes `$REMOVE`.
const GUARDED: &str = r#""$@" </dev/null >>"$LOG" 2>&1 & echo $!; cat >/dev/null; kill -9 $! 2>/dev/null; wait; [ -z "$REMOVE" ] || rm -rf "$REMOVE""#;

/// A program that ends when this value is dropped, or the test's process ends.
pub struct GuardedProcess {
    guard: Child,
    pid: Pid,
}

impl GuardedProcess {
    /// Starts `program`; its words are appended to `log`.
    ///
    /// # Errors
    /// As the system says.
    pub fn start(program: &Path, arguments: &[&str], log: &Path) -> io::Result<Self> {
        Self::start_and_remove(program, arguments, log, Path::new(""))
    }

    fn start_and_remove(
        program: &Path,
        arguments: &[&str],
        log: &Path,
        remove: &Path,
    ) -> io::Result<Self> {
        let mut guard = Command::new("sh")
            .args(["-c", GUARDED, "sh"])
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", log.parent().unwrap_or(Path::new("/")))
            .env("LOG", log)
            .env("REMOVE", remove)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = guard.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let pid = line.trim().parse().map_err(io::Error::other)?;
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { guard, pid })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// As the system says.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }
}

impl Drop for GuardedProcess {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A Vault server; killed when dropped.
pub struct VaultServer {
    process: Option<GuardedProcess>,
    arguments: Vec<String>,
    dir: TempDir,
    port: u16,
    scheme: &'static str,
    root_token: String,
    unseal_key: Option<String>,
}

impl VaultServer {
    /// Where the program is: `KEY_SERVER_TEST_VAULT`, `PATH`, or what
    /// `testkit/vault-build/build.sh` built.
    ///
    /// # Errors
    /// With what to do, when it is nowhere.
    #[expect(clippy::disallowed_methods, reason = "tests have no settings but the environment")]
    pub fn find() -> Result<PathBuf, String> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("KEY_SERVER_TEST_VAULT") {
            return Ok(path.into());
        }
        let path = variable("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).map(|folder| folder.join("vault"));
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
        let built =
            cache.map(|cache| cache.join(format!("key-server/vault-{BUILT_VERSION}/vault")));
        on_path.chain(built).find(|program| program.is_file()).ok_or_else(|| {
            String::from("there is no vault: install it, or run testkit/vault-build/build.sh")
        })
    }

    /// A server in memory: unsealed, with KV version 2 at `secret/`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn dev() -> Self {
        let mut server = Self::new("http");
        let listen = format!("-dev-listen-address=127.0.0.1:{}", server.port);
        let token = format!("-dev-root-token-id={}", server.root_token);
        server.arguments =
            ["server", "-dev", "-dev-no-store-token", &listen, &token].map(String::from).into();
        server.start().await;
        server
    }

    /// A server that keeps what it has in files: initialised, unsealed, with
    /// KV version 2 at `secret/`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn stored() -> Self {
        Self::new("http").initialised("tls_disable = true").await
    }

    /// The same behind TLS; it asks for a client certificate and takes any.
    /// `certificate` and `key` are files in PEM form.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn with_tls(certificate: &Path, key: &Path) -> Self {
        let listener = format!(
            "tls_cert_file = \"{}\"\n  tls_key_file = \"{}\"",
            certificate.display(),
            key.display()
        );
        Self::new("https").initialised(&listener).await
    }

    fn new(scheme: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("key-server-vault-").tempdir();
        let port = free_port();
        Self {
            process: None,
            arguments: Vec::new(),
            dir: dir.expect("a temporary directory can be made"),
            port,
            scheme,
            root_token: format!("fake-root-token-{port}"),
            unseal_key: None,
        }
    }

    async fn initialised(mut self, listener: &str) -> Self {
        let data = self.dir.path().join("data");
        std::fs::create_dir(&data).expect("the directory can be written to");
        let (data, scheme, port, cluster_port) =
            (data.display(), self.scheme, self.port, free_port());
        // The minimal build keeps files by way of raft only.
        let config = format!(
            r#"disable_mlock = true
ui = false
storage "raft" {{
  path = "{data}"
  node_id = "one"
  performance_multiplier = 1
}}
api_addr = "{scheme}://127.0.0.1:{port}"
cluster_addr = "{scheme}://127.0.0.1:{cluster_port}"
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  {listener}
}}
"#
        );
        let path = self.dir.path().join("vault.hcl");
        std::fs::write(&path, config).expect("the directory can be written to");
        self.arguments =
            vec!["server".into(), format!("-config={}", path.display()), "-log-level=warn".into()];
        self.start().await;
        let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = self.admin(Method::PUT, "sys/init", shares).await;
        self.unseal_key = made["keys"][0].as_str().map(String::from);
        self.root_token = made["root_token"].as_str().expect("a new Vault gives a token").into();
        self.unseal().await;
        self.mount("secret", 2).await;
        self
    }

    /// Starts it again after [`VaultServer::kill`]: sealed, unless in memory.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&mut self) {
        let program = Self::find().expect("the test program looked for it");
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        // A server in memory may belong to the whole test program, whose end
        // drops nothing.
        let remove = if self.is_in_memory() { self.path() } else { Path::new("") };
        let process = GuardedProcess::start_and_remove(&program, &arguments, &self.log(), remove);
        self.process = Some(process.expect("the program can be started"));
        for _ in 0..POLLS_MAX {
            if self.try_admin(Method::GET, "sys/seal-status", Value::Null).await.is_ok() {
                return;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        panic!("it does not answer: {}", self.words());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        process.signal(signal).expect("it is ours");
    }

    /// Seals it.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn seal(&self) {
        self.admin(Method::PUT, "sys/seal", Value::Null).await;
    }

    /// Unseals it, and waits until it serves.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn unseal(&self) {
        let key = self.unseal_key.as_ref().expect("a server in memory is never sealed");
        self.admin(Method::PUT, "sys/unseal", json!({ "key": key })).await;
        for _ in 0..POLLS_MAX {
            if matches!(self.try_admin(Method::GET, "sys/health", Value::Null).await, Ok((200, _)))
                && self
                    .try_admin(Method::GET, "sys/mounts", Value::Null)
                    .await
                    .is_ok_and(|r| r.0 == 200)
            {
                return;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        panic!("it does not serve: {}", self.words());
    }

    /// Mounts a KV engine, and waits until it takes writes.
    ///
    /// # Panics
    /// When that does not work.
    pub async fn mount(&self, mount: &str, version: u8) {
        let options = json!({ "type": "kv", "options": { "version": version.to_string() } });
        self.admin(Method::POST, &format!("sys/mounts/{mount}"), options).await;
        let probe = match version {
            2 => format!("{mount}/metadata/key-server-probe"),
            _ => format!("{mount}/key-server-probe"),
        };
        // Version 2 takes its time to get ready.
        for _ in 0..POLLS_MAX {
            let body = json!({ "max_versions": 0 });
            let answer = self.try_admin(Method::POST, &probe, body).await;
            if answer.is_ok_and(|(status, _)| status < 300) {
                self.admin(Method::DELETE, &probe, Value::Null).await;
                return;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        panic!("{mount} does not get ready: {}", self.words());
    }

    /// A token with this policy alone and this lifetime (as in `2s`; with
    /// `explicit_max_ttl`, it cannot be renewed beyond that).
    ///
    /// # Panics
    /// When Vault refuses.
    pub async fn token(&self, policy: &str, ttl: &str, explicit_max_ttl: &str) -> String {
        let name = self.policy(policy).await;
        let body = json!({
            "policies": [name],
            "no_default_policy": true,
            "ttl": ttl,
            "explicit_max_ttl": explicit_max_ttl,
        });
        let made = self.admin(Method::POST, "auth/token/create", body).await;
        made["auth"]["client_token"].as_str().expect("a token").into()
    }

    /// Writes a policy; its name.
    ///
    /// # Panics
    /// When Vault refuses.
    pub async fn policy(&self, policy: &str) -> String {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("test-{number}");
        let path = format!("sys/policies/acl/{name}");
        self.admin(Method::PUT, &path, json!({ "policy": policy })).await;
        name
    }

    /// Asks as root; the reply's JSON.
    ///
    /// # Panics
    /// When Vault refuses.
    pub async fn admin(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, reply) =
            self.try_admin(method, path, body).await.expect("a running Vault answers");
        assert!(status < 300, "{path}: {status} {reply}");
        reply
    }

    /// Asks as root; status and JSON.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn try_admin(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> Result<(u16, Value), reqwest::Error> {
        self.ask_with(&[], method, path, body).await
    }

    /// The same with further headers.
    ///
    /// # Errors
    /// When there is no answer.
    ///
    /// # Panics
    /// When no client can be made.
    pub async fn ask_with(
        &self,
        headers: &[(&str, &str)],
        method: Method,
        path: &str,
        body: Value,
    ) -> Result<(u16, Value), reqwest::Error> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .tls_certs_only([])
            .tls_danger_accept_invalid_certs(true)
            .build()
            .expect("a client without files can be made");
        let mut request = client
            .request(method, format!("{}/v1/{path}", self.address()))
            .header("X-Vault-Token", &self.root_token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// As in `http://127.0.0.1:8200`.
    pub fn address(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// A token that may do anything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The directory of its files, for further ones.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What it said.
    pub fn words(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn is_in_memory(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "-dev")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("vault.log")
    }
}

/// A port that nobody listens on at this moment.
///
/// # Panics
/// When the system has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}
