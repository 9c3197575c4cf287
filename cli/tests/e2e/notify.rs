//! What a service manager is told, over a socket as it has one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use key_server_proto::v1;
use key_server_testkit::client::connect;
use key_server_testkit::process::{Home, ServerProcess};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{CSV, OPENAI, health, home, is_root, select, selected, until};

/// Where nothing comes any more once it did not for so long.
const SILENCE: Duration = Duration::from_millis(1_500);

/// The manager's end.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _dir: TempDir,
}

impl Manager {
    fn at_a_path() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = path.display().to_string();
        Self { socket: UnixDatagram::bind(path).unwrap(), name, _dir: dir }
    }

    fn abstract_one() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // As unique as the directory.
        let name = format!("key-server-test{}", dir.path().display());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self { socket, name: format!("@{name}"), _dir: dir }
    }

    /// The next message; none when there is silence for `max`.
    fn next_within(&self, max: Duration) -> Option<String> {
        let mut bytes = [0; 4_096];
        self.socket.set_read_timeout(Some(max)).unwrap();
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    /// All lines up to and with that of the message that has `line`.
    fn lines_until(&self, line: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines.iter().any(|one| one == line) {
            let message = self.next_within(Duration::from_secs(60));
            let message = message.unwrap_or_else(|| panic!("no {line}, only {lines:?}"));
            lines.extend(message.lines().map(str::to_owned));
        }
        lines
    }

    fn home(&self) -> Home {
        home(CSV).with("NOTIFY_SOCKET", &self.name)
    }
}

fn has(lines: &[String], line: &str) -> bool {
    lines.iter().any(|one| one == line)
}

fn begin(home: &Home, manager: &Manager) -> ServerProcess {
    let server = home.spawn().unwrap();
    let lines = manager.lines_until("READY=1");
    assert!(has(&lines, "STATUS=serving"), "{lines:?}");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_told_when_keys_are_given_and_the_stop_when_it_begins() {
    for manager in [Manager::at_a_path(), Manager::abstract_one()] {
        let home = manager.home();
        let server = begin(&home, &manager);
        // The first call of all, and no second try.
        let mut client = connect(&home.socket()).await.unwrap();
        assert_eq!(health(&mut client).await.status(), v1::HealthStatus::Ok);
        selected(&mut client, select("s1", &[OPENAI], 1)).await;
        if is_root() {
            let environment = std::fs::read(format!("/proc/{}/environ", server.pid())).unwrap();
            let environment = String::from_utf8_lossy(&environment);
            assert!(!environment.contains(&manager.name), "{environment}");
        }
        server.signal(Signal::TERM).unwrap();
        let lines = manager.lines_until("STOPPING=1");
        assert!(lines.iter().any(|line| line.starts_with("STATUS=stopping")), "{lines:?}");
        // The grace of 8 s, and what is left to write.
        assert!(has(&lines, "EXTEND_TIMEOUT_USEC=18000000"), "{lines:?}");
        assert_eq!(manager.next_within(SILENCE), None);
        assert!(server.terminate().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_a_server_listens_and_is_not_ready() {
    let manager = Manager::at_a_path();
    // Nobody is there.
    let home = manager.home().with("VAULT_ADDR", "http://127.0.0.1:1");
    let home = home.with("VAULT_TOKEN", "fake-token-71fk");
    let server = home.spawn().unwrap();
    let waits = "STATUS=no keys to give yet: waiting for their store";
    let mut lines = manager.lines_until(waits);
    assert!(lines.iter().any(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")), "{lines:?}");
    let mut client = until("an answer", async || connect(&home.socket()).await.ok()).await;
    assert_eq!(health(&mut client).await.status(), v1::HealthStatus::Unavailable);
    while let Some(message) = manager.next_within(SILENCE) {
        lines.extend(message.lines().map(str::to_owned));
    }
    server.signal(Signal::TERM).unwrap();
    lines.extend(manager.lines_until("STOPPING=1"));
    assert!(!has(&lines, "READY=1"), "{lines:?}");
    let told = lines.join("\n");
    assert!(!told.contains("127.0.0.1") && !told.contains("71fk"), "everybody reads it: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_by_signal_is_told_with_its_end_also_when_it_is_refused() {
    let manager = Manager::at_a_path();
    let home = manager.home();
    let server = begin(&home, &manager);
    home.write_csv("provider,model,api_key\nOpenAI,gpt-4o,\n").unwrap();
    server.signal(Signal::HUP).unwrap();
    let lines = manager.lines_until("READY=1");
    assert!(has(&lines, "RELOADING=1"), "{lines:?}");
    let at = lines.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(at.parse::<u64>().unwrap() > 0);
    assert!(lines.iter().any(|line| line.contains("the last reload was refused")), "{lines:?}");
    home.write_csv(CSV).unwrap();
    server.signal(Signal::HUP).unwrap();
    let lines = manager.lines_until("READY=1");
    assert_eq!(lines.last().map(String::as_str), Some("STATUS=serving"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_hears_from_a_server_that_lives_and_nothing_from_one_that_hangs() {
    let manager = Manager::at_a_path();
    let home = manager.home().with("WATCHDOG_USEC", 400_000);
    let server = begin(&home, &manager);
    for _ in 0..5 {
        manager.lines_until("WATCHDOG=1");
    }
    server.signal(Signal::STOP).unwrap();
    // What was under way when it was stopped.
    while manager.next_within(Duration::from_millis(100)).is_some() {}
    assert_eq!(manager.next_within(SILENCE), None);
    server.signal(Signal::CONT).unwrap();
    manager.lines_until("WATCHDOG=1");
    server.kill().unwrap();
    // A watchdog for another process.
    let home = manager.home().with("WATCHDOG_USEC", 400_000).with("WATCHDOG_PID", 1);
    let _server = begin(&home, &manager);
    assert_eq!(manager.next_within(SILENCE), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_anything_who_does_not_ask() {
    let manager = Manager::at_a_path();
    let home = home(CSV).with("WATCHDOG_USEC", 400_000).with("NOTIFY_SOCKET", "");
    let (server, _client) = home.start().await.unwrap();
    assert!(server.terminate().unwrap().success());
    assert_eq!(manager.next_within(Duration::from_millis(100)), None);
    assert!(!home.words().contains("service manager"), "{}", home.words());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_cannot_be_reached_costs_a_warning_and_nothing_else() {
    let long = format!("/{}", "x".repeat(200));
    for name in ["relative", "/nowhere/notify", "@", "@nobody-is-there", "vsock:2:1", &long] {
        let home = home(CSV).with("NOTIFY_SOCKET", name);
        let (server, mut client) = home.start().await.unwrap();
        selected(&mut client, select("s1", &[OPENAI], 1)).await;
        assert!(server.terminate().unwrap().success(), "{name}");
        let words = home.words();
        let warnings = words.lines().filter(|line| line.contains("service manager"));
        assert_eq!(warnings.count(), 1, "{name}: {words}");
        assert!(words.contains(name), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_goes_away_is_found_again() {
    let manager = Manager::at_a_path();
    let home = manager.home().with("WATCHDOG_USEC", 400_000);
    let _server = begin(&home, &manager);
    let path = manager.name.clone();
    std::fs::remove_file(&path).unwrap();
    drop(manager.socket);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let manager = Manager { socket: UnixDatagram::bind(&path).unwrap(), ..Manager::at_a_path() };
    manager.lines_until("WATCHDOG=1");
    let words = home.words();
    assert_eq!(words.matches("service manager cannot be told").count(), 1, "{words}");
}
