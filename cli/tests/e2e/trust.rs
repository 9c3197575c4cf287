//! Whom the command line talks to: nobody but who may run the server.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use key_server_testkit::client::{as_user, connect};
use key_server_testkit::process::{Home, ServerProcess};

use crate::door::within_shell;
use crate::support::{CSV, Ended, health, home, is_root, run, skip, until};

const NOBODY: u32 = 65_534;
const STRANGER: u32 = 65_533;
/// A group that no user has.
const GROUP: u32 = 70_123;

/// Commands that tell something about the caller.
const COMMANDS: [&[&str]; 5] = [
    &["health"],
    &["status"],
    &["select", "--session", "secret-session", "--user", "1", "--model", "openai/gpt-4o"],
    &["sessions", "release", "secret-session"],
    &["reload"],
];

/// Somebody who listens where the server should, and keeps what he hears.
struct Squatter(JoinHandle<Vec<u8>>);

impl Squatter {
    /// Takes `count` connections, one after the other, to their ends.
    fn listen(listener: UnixListener, count: usize) -> Self {
        Self(std::thread::spawn(move || {
            let mut heard = Vec::new();
            for _ in 0..count {
                let (mut connection, _) = listener.accept().expect("it listens");
                // As much as is said before somebody waits for an answer.
                let mut bytes = [0; 4_096];
                let length = connection.read(&mut bytes).unwrap_or(0);
                heard.extend_from_slice(&bytes[..length]);
            }
            heard
        }))
    }

    fn heard(self) -> Vec<u8> {
        self.0.join().unwrap()
    }
}

/// A home in which everybody may make files.
fn open_home() -> Home {
    let home = home(CSV);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    home
}

fn listener_of(uid: u32, home: &Home) -> UnixListener {
    let path = home.socket();
    as_user(uid, move || UnixListener::bind(path).expect("everybody may"))
}

fn assert_refused(ended: &Ended, what: &str) {
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.error.contains("is not trusted") && ended.error.contains(what), "{ended:?}");
    assert!(ended.error.contains("nothing was sent"), "{ended:?}");
    assert!(ended.error.contains("KEY_SERVER_TRUSTED_USERS"), "{ended:?}");
    assert_eq!(ended.output, "");
}

#[test]
fn a_squatter_of_another_user_hears_nothing() {
    if !is_root() {
        return skip("a_squatter_of_another_user_hears_nothing", "only root can be another user");
    }
    let home = open_home();
    let squatter = Squatter::listen(listener_of(NOBODY, &home), COMMANDS.len());
    for command in COMMANDS {
        assert_refused(&run(home.command(command)), "uid 65534 listens there, trusted are 0");
    }
    assert_eq!(squatter.heard(), b"");
}

/// So the silence above is the check's doing.
#[test]
fn a_squatter_who_is_trusted_is_talked_to() {
    if !is_root() {
        return skip("a_squatter_who_is_trusted_is_talked_to", "only root can be another user");
    }
    let home = open_home();
    let squatter = Squatter::listen(listener_of(NOBODY, &home), 1);
    let mut command = home.command(&["health"]);
    command.env("KEY_SERVER_TRUSTED_USERS", "root, 65534");
    assert_eq!(run(command).code, Some(3), "he does not answer");
    assert!(squatter.heard().starts_with(b"PRI * HTTP/2.0"));
}

#[test]
fn a_socket_that_belongs_to_another_user_is_not_talked_to() {
    let name = "a_socket_that_belongs_to_another_user_is_not_talked_to";
    if !is_root() {
        return skip(name, "only root can give a file away");
    }
    let home = open_home();
    let listener = UnixListener::bind(home.socket()).unwrap();
    chown(home.socket(), Some(NOBODY), None).unwrap();
    let squatter = Squatter::listen(listener, 1);
    assert_refused(&run(home.command(&["health"])), "uid 65534 owns that file");
    assert_eq!(squatter.heard(), b"");
}

/// A daemon that runs as nobody.
async fn server_of_nobody() -> (Home, ServerProcess) {
    let home = home(CSV);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    chown(home.path().join("api_keys.csv"), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = home.command(&["serve"]);
    command.uid(NOBODY).gid(NOBODY).stderr(Stdio::null());
    let server = ServerProcess::of(command.spawn().unwrap());
    let mut client = until("a listener", async || connect(&home.socket()).await.ok()).await;
    health(&mut client).await;
    (home, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_uid_of_its_own_has_to_be_named() {
    let name = "a_server_with_a_uid_of_its_own_has_to_be_named";
    if !is_root() {
        return skip(name, "only root can run a server as another user");
    }
    let (home, server) = server_of_nobody().await;
    assert_refused(&run(home.command(&["health"])), "uid 65534 listens there");
    let mut by_variable = home.command(&["health"]);
    by_variable.env("KEY_SERVER_TRUSTED_USERS", "nobody");
    let mut by_settings = home.command(&["health"]);
    let settings = home.path().join("config.toml");
    fs::write(&settings, "trusted_users = \"65534\"\n").unwrap();
    by_settings.env("KEY_SERVER_CONFIG", &settings);
    for command in [by_variable, by_settings] {
        let ended = run(command);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let mut unknown = home.command(&["health"]);
    unknown.env("KEY_SERVER_TRUSTED_USERS", "no-such-user-here");
    let ended = run(unknown);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains("no-such-user-here"), "{ended:?}");
    assert!(server.terminate().unwrap().success());
}

/// A rule for nobody in particular, in a file of the server's.
fn policy_of(uid: u32, home: &Home) -> String {
    home.write_policy("[[rule]]\nname = \"a\"\nuid = 4711\nproviders = \"*\"\n").unwrap();
    chown(home.policy(), Some(uid), None).unwrap();
    home.policy().display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_a_policy_may_be_is_asked_of_the_running_server() {
    let name = "whose_a_policy_may_be_is_asked_of_the_running_server";
    if !is_root() {
        return skip(name, "only root can run a server as another user");
    }
    let (home, server) = server_of_nobody().await;
    let policy = policy_of(NOBODY, &home);
    let check = |trusted: &str, more: &[&str]| {
        let args = [&["policy", "check", "--file", &policy], more].concat();
        let mut command = home.command(&args);
        command.env("KEY_SERVER_TRUSTED_USERS", trusted);
        run(command)
    };
    let ended = check("nobody", &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = check("nobody", &["--server-uid", "65533"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains("belongs to uid 65534"), "{ended:?}");
    server.kill().unwrap();
    // Its dead socket still says whose it was.
    let ended = check("nobody", &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    fs::remove_file(home.socket()).unwrap();
    let ended = check("nobody", &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains("taken to run as you: --server-uid"), "{ended:?}");
    assert_eq!(check("nobody", &["--server-uid", "65534"]).code, Some(0));
}

/// As systemd does it with a socket unit: root makes the socket and listens,
/// the server runs as somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn the_socket_of_a_socket_unit_is_trusted_and_its_group_is_given_keys() {
    let name = "the_socket_of_a_socket_unit_is_trusted_and_its_group_is_given_keys";
    if !is_root() {
        return skip(name, "only root can run a server as another user");
    }
    let home = open_home();
    chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let path = home.path().join("made-by-root.sock");
    let listener = UnixListener::bind(&path).unwrap();
    chown(&path, Some(0), Some(GROUP)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    // The settings name another path, which nobody made.
    let first = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$";
    let mut command = within_shell(first, &home.command(&["serve"]));
    command.stdin(OwnedFd::from(listener)).stderr(Stdio::null()).uid(NOBODY).gid(NOBODY);
    let server = ServerProcess::of(command.spawn().unwrap());
    let mut client = connect(&path).await.unwrap();
    health(&mut client).await;
    let as_member = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        let group = GROUP.to_string();
        let ids = ["--reuid", &STRANGER.to_string(), "--regid", &group, "--clear-groups"];
        command.args(ids).arg(crate::support::PROGRAM).args(args).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("KEY_SERVER_SOCKET", &path);
        run(command)
    };
    let args = ["select", "--session", "s1", "--user", "1", "--model", "openai/gpt-4o"];
    let ended = as_member(&args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // The kernel says that root listens; the server is asked for its process.
    let uid = NOBODY.to_string();
    let args = ["policy", "explain", "--json", "--uid", &uid, "--verb", "reload"];
    let mut command = home.command(&args);
    command.env("KEY_SERVER_SOCKET", &path);
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let said: serde_json::Value = serde_json::from_str(&ended.output).unwrap();
    assert_eq!((&said["server_uid"], &said["decided_by"]), (&NOBODY.into(), &"operator".into()));
    assert!(server.terminate().unwrap().success());
}
