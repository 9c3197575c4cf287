//! What of a key is in the daemon's memory, and who may look there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use key_server_proto::v1;
use key_server_testkit::client::{Client, connect};
use key_server_testkit::memory::{copies, is_locked, places};
use key_server_testkit::process::{Home, ServerProcess};
use key_server_testkit::raw::Raw;
use prost::Message;
use rustix::process::Signal;

use crate::support::{
    CSV, OPENAI, PROGRAM, figure, home, is_root, release, report, select, selected, skip, until,
};

/// What every key begins with; six digits follow.
const MARK: &str = "sk-fake-mark-of-memory-";
const DIGITS: usize = 6;
const KEYS_COUNT: usize = 1_000;
const CLIENTS_COUNT: usize = 8;
/// Ten seconds, and the time of the looks themselves.
const LOOKS_MAX: usize = 40;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The keys from `from` on.
fn csv(from: usize) -> String {
    let mut csv = String::from("provider,model,api_key\n");
    for number in from..KEYS_COUNT {
        writeln!(csv, "openai,gpt-4o,{MARK}{number:06}").unwrap();
    }
    csv
}

fn copies_in(server: &ServerProcess) -> BTreeMap<String, usize> {
    copies(server.pid(), MARK, DIGITS).unwrap()
}

/// Looks again and again, as a scan takes its time, until the copies are as
/// they should be; else the last ones are shown.
async fn settled(
    server: &ServerProcess,
    is_right: impl Fn(&BTreeMap<String, usize>) -> bool,
) -> BTreeMap<String, usize> {
    for _ in 0..LOOKS_MAX {
        let copies = copies_in(server);
        if is_right(&copies) {
            return copies;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let copies = copies_in(server);
    let many: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
    panic!("{} keys are in memory; more than once: {many:?}", copies.len());
}

fn most(copies: &BTreeMap<String, usize>) -> usize {
    copies.values().copied().max().unwrap_or(0)
}

/// Each client gets keys, one and many at a time, and stays connected.
async fn use_keys(clients: &mut [Client], round: usize) {
    for (number, client) in clients.iter_mut().enumerate() {
        for count in [1, 2, 3, 20, 64] {
            let session = format!("s-{round}-{number}-{count}");
            let keys = selected(client, select(&session, &[OPENAI], count)).await;
            client.track_usage(report(&session, &keys[0], "e1")).await.unwrap();
            if count % 2 == 0 {
                client.release_key(release(&session)).await.unwrap();
            }
        }
        // The last answer on this connection has keys in it.
        selected(client, select(&format!("s-{round}-{number}-1"), &[OPENAI], 1)).await;
    }
}

async fn clients(home: &Home) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS_COUNT {
        clients.push(connect(&home.socket()).await.unwrap());
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_in_memory_twice_at_most_and_not_at_all_once_it_is_removed() {
    let name = "a_key_is_in_memory_twice_at_most_and_not_at_all_once_it_is_removed";
    if !is_root() {
        return skip(name, "only root may look into the daemon's memory");
    }
    let home = home(&csv(0));
    let (server, mut client) = home.start().await.unwrap();
    let mut clients = clients(&home).await;
    let started = copies_in(&server);
    assert_eq!(started.len(), KEYS_COUNT, "the daemon has every key");
    use_keys(&mut clients, 1).await;
    let live = settled(&server, |copies| most(copies) <= 2).await;
    assert_eq!(live.len(), KEYS_COUNT);
    // Half of the keys go, the last answers on all connections name some.
    home.write_csv(&csv(KEYS_COUNT / 2)).unwrap();
    let request = v1::ReloadKeysRequest { force: true, ..Default::default() };
    assert_eq!(client.reload_keys(request).await.unwrap().into_inner().withdrawn, 500);
    let removed = |copies: &BTreeMap<String, usize>| {
        let removed = copies.iter().filter(|(key, _)| key.parse::<usize>().unwrap() < 500);
        removed.map(|(_, count)| count).sum::<usize>()
    };
    let at_once = removed(&copies_in(&server));
    let after = settled(&server, |copies| removed(copies) == 0).await;
    assert_eq!(after.len(), KEYS_COUNT / 2);
    assert!(most(&after) <= 2, "{after:?}");
    let all = |copies: &BTreeMap<String, usize>| copies.values().sum::<usize>();
    figure(&format!(
        "copies of {KEYS_COUNT} keys: {} after the start (at most {} of one), {} after use (at \
         most {}); of 500 removed keys: {at_once} at once, then 0; {} of the other 500",
        all(&started),
        most(&started),
        all(&live),
        most(&live),
        all(&after),
    ));
    drop(clients);
}

/// A client that takes a byte of each answer and no more.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_keep_no_key_that_was_removed() {
    let name = "answers_that_nobody_reads_keep_no_key_that_was_removed";
    if !is_root() {
        return skip(name, "only root may look into the daemon's memory");
    }
    let home = home(&csv(0)).with("KEY_SERVER_ANSWER_TIMEOUT", "1s");
    let (server, mut client) = home.start().await.unwrap();
    let mut raw = Raw::connect_with_window(&home.socket(), 1).unwrap();
    selected(&mut client, select("s", &[OPENAI], 64)).await;
    for number in 0..100 {
        raw.begin_call(2 * number + 1, SELECT).unwrap();
        let message = select("s", &[OPENAI], 64).encode_to_vec();
        raw.end_call(2 * number + 1, &message).unwrap();
    }
    let unread = settled(&server, |copies| most(copies) > 100).await;
    home.write_csv(&csv(KEYS_COUNT - 1)).unwrap();
    let request = v1::ReloadKeysRequest { force: true, ..Default::default() };
    client.reload_keys(request).await.unwrap();
    let after = settled(&server, |copies| copies.len() == 1).await;
    figure(&format!(
        "100 answers that nobody reads: at most {} copies of a key, {} of what was removed",
        most(&unread),
        after.len() - 1
    ));
    drop(raw);
}

const SELECT: &str = "/keyserver.v1.KeyServer/SelectKeysForSession";
const NOBODY: u32 = 65_534;
/// Tries the three ways into another process's memory; says for each whether
/// it was let in.
const PEEK: &str = r#"
import ctypes, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def mem():
    open(f"/proc/{pid}/mem", "rb").close()
    return True
def readv():
    class V(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(8)
    here, there = V(ctypes.addressof(buffer), 8), V(4096, 8)
    libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    # EFAULT: it looked, and nothing is there.
    return ctypes.get_errno() != 1
def trace():
    if libc.ptrace(16, pid, None, None):
        return False
    import os
    os.waitpid(pid, 0x40000000)
    libc.ptrace(17, pid, None, None)
    return True
def tried(way):
    try:
        return way()
    except PermissionError:
        return False
print(*[tried(way) for way in (mem, readv, trace)])
"#;

/// Tries the same for each pid that it is told, again and again, and says how
/// often it was let in, and how often after it had once been refused.
const PEEK_AGAIN: &str = r#"
rounds = int(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    pid, got_in, after = int(line), 0, 0
    for way in (mem, readv, trace):
        way.refused = False
    for _ in range(rounds):
        for way in (mem, readv, trace):
            let_in = tried(way)
            got_in += let_in
            after += let_in and way.refused
            way.refused = way.refused or not let_in
    print(got_in, after, flush=True)
"#;
const PEEKED_STARTS: usize = 20;
const PEEK_ROUNDS: usize = 30;

/// Who is let in, as the uid of the daemon; none without Python.
fn peek(pid: u32) -> Option<String> {
    let mut python = Command::new("/usr/bin/env");
    python.args(["python3", "-c", PEEK, &pid.to_string()]).uid(NOBODY).gid(NOBODY);
    let output = python.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// Starts a daemon of another uid than root's.
fn begin_as_nobody(home: &Home) -> ServerProcess {
    chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    chown(home.path().join("api_keys.csv"), Some(NOBODY), None).unwrap();
    let mut command = home.command(&["serve"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).uid(NOBODY).gid(NOBODY);
    ServerProcess::of(command.spawn().unwrap())
}

async fn server_of_nobody(home: &Home) -> ServerProcess {
    let server = begin_as_nobody(home);
    until("it listens", async || connect(&home.socket()).await.ok()).await;
    server
}

/// Whether the kernel lets a process look into another one of its uid, unless
/// that one objects.
fn others_can_be_looked_into() -> bool {
    let mut other: Child = Command::new("sleep").arg("60").uid(NOBODY).gid(NOBODY).spawn().unwrap();
    let of_other = peek(other.id());
    other.kill().unwrap();
    other.wait().unwrap();
    of_other.as_deref() == Some("True True True")
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_the_same_uid_are_not_let_into_the_daemons_memory() {
    let name = "processes_of_the_same_uid_are_not_let_into_the_daemons_memory";
    if !is_root() {
        return skip(name, "only root can run a daemon as somebody else");
    }
    if !others_can_be_looked_into() {
        return skip(name, "no process may be looked into here, or Python is missing");
    }
    let home = home(CSV);
    let server = server_of_nobody(&home).await;
    assert_eq!(peek(server.pid()).as_deref(), Some("False False False"));
    for file in ["mem", "environ", "maps", "auxv"] {
        let path = format!("/proc/{}/{file}", server.pid());
        let read = Command::new("cat").arg(&path).uid(NOBODY).gid(NOBODY).output().unwrap();
        assert!(!read.status.success() && read.stdout.is_empty(), "{path}: {read:?}");
    }
    server.kill().unwrap();
}

/// Starts daemons of `program`; a process of the same uid tries to get in from
/// the first moment on. Answers how many of how many attempts were let in, and
/// how many after a refusal.
fn peek_at_starts(program: &std::path::Path) -> (usize, usize, usize) {
    let ways = PEEK.rsplit_once("print(").unwrap().0;
    let mut python = Command::new("/usr/bin/env");
    python.args(["python3", "-c", &format!("{ways}{PEEK_AGAIN}"), "0", &PEEK_ROUNDS.to_string()]);
    python.uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let mut pids = python.stdin.take().unwrap();
    let mut words = BufReader::new(python.stdout.take().unwrap()).lines();
    assert_eq!(words.next().unwrap().unwrap(), "ready");
    let (mut got_in, mut after) = (0, 0);
    for _ in 0..PEEKED_STARTS {
        let home = Home::new(program, CSV).unwrap();
        let server = begin_as_nobody(&home);
        writeln!(pids, "{}", server.pid()).unwrap();
        let line = words.next().unwrap().unwrap();
        let counts: Vec<usize> = line.split(' ').map(|count| count.parse().unwrap()).collect();
        got_in += counts[0];
        after += counts[1];
        server.kill().unwrap();
    }
    drop(pids);
    assert!(python.wait().unwrap().success());
    (got_in, PEEKED_STARTS * PEEK_ROUNDS * 3, after)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_into_memory_while_the_daemon_starts_from_a_program_that_only_root_reads() {
    let name =
        "nobody_is_let_into_memory_while_the_daemon_starts_from_a_program_that_only_root_reads";
    if !is_root() {
        return skip(name, "only root can run a daemon as somebody else");
    }
    if !others_can_be_looked_into() {
        return skip(name, "no process may be looked into here, or Python is missing");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let program = dir.path().join("key-server");
    fs::copy(PROGRAM, &program).unwrap();
    // To be read by all, as programs are: an instant passes from the kernel's
    // start of the program to the program's own first act.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (got_in, attempts, after) = peek_at_starts(&program);
    assert_eq!(after, 0, "who was refused once is never let in");
    figure(&format!("{got_in} of {attempts} looks into a start were in time"));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o711)).unwrap();
    let (got_in, attempts, _) = peek_at_starts(&program);
    assert!(attempts >= 500);
    assert_eq!(got_in, 0, "of {attempts} looks");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_leaves_no_core_though_the_parent_wants_one() {
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -c unlimited; exec {line}")]);
        command
    };
    let home = home(CSV);
    // What runs it; then the daemon in the same way.
    let mut other = shell("sleep 60").current_dir(home.path()).spawn().unwrap();
    let sleeps = format!("/proc/{}/comm", other.id());
    until("it sleeps", async || (fs::read_to_string(&sleeps).ok()? == "sleep\n").then_some(()))
        .await;
    let pid = rustix::process::Pid::from_child(&other);
    rustix::process::kill_process(pid, Signal::ABORT).unwrap();
    if !other.wait().unwrap().core_dumped() {
        let name = "an_abort_leaves_no_core_though_the_parent_wants_one";
        return skip(name, "nothing leaves a core here");
    }
    let as_set_up = home.command(&["serve"]);
    let mut command = shell(&format!("{} serve", PROGRAM));
    command.env_clear().current_dir(home.path()).stderr(Stdio::null());
    for (variable, value) in as_set_up.get_envs() {
        command.env(variable, value.unwrap());
    }
    let mut child = command.spawn().unwrap();
    until("it answers", async || connect(&home.socket()).await.ok()).await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::ABORT).unwrap();
    let ended = child.wait().unwrap();
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!ended.core_dumped());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_environment_are_wiped_and_the_identity_is_never_swapped() {
    let name = "secrets_of_the_environment_are_wiped_and_the_identity_is_never_swapped";
    if !is_root() {
        return skip(name, "only root may look into the daemon's memory");
    }
    let (token, password) = ("token-of-memory-000001", "token-of-memory-000002");
    let redis = format!("redis://:{password}@127.0.0.1:1");
    let home = home(CSV).with("VAULT_TOKEN", token).with("KEY_SERVER_REDIS_URL", redis);
    let (server, _client) = home.start().await.unwrap();
    let environ = fs::read(format!("/proc/{}/environ", server.pid())).unwrap();
    let environ = String::from_utf8(environ).unwrap();
    assert!(environ.contains("VAULT_TOKEN=") && environ.contains("KEY_SERVER_REDIS_URL="));
    assert!(!environ.contains(token) && !environ.contains(password), "{environ:?}");
    let found = copies(server.pid(), "token-of-memory-", DIGITS).unwrap();
    figure(&format!("copies of what the environment gave: {found:?}"));
    assert_eq!(found.get("000001"), Some(&1), "the settings have it, and nothing else");
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    assert_ne!(locked.trim(), "0 kB");
    server.kill().unwrap();
}

/// The 32 bytes that an age identity stands for (BIP 173, without its check).
fn scalar(identity: &str) -> Vec<u8> {
    const DIGITS: &str = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in identity.strip_prefix("AGE-SECRET-KEY-1").unwrap().chars() {
        bits = bits << 5 | u32::try_from(DIGITS.find(digit).unwrap()).unwrap();
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes.truncate(32);
    bytes
}

/// Waits until the bytes are in the daemon's memory, and all that there is of
/// them in pages that are never swapped.
async fn until_locked(what: &str, server: &ServerProcess, bytes: &[u8]) {
    let mut places_now = Vec::new();
    for _ in 0..LOOKS_MAX {
        let is_locked = |place: &u64| is_locked(server.pid(), *place).unwrap_or(false);
        places_now = places(server.pid(), bytes).unwrap();
        if !places_now.is_empty() && places_now.iter().all(is_locked) {
            return figure(&format!("{what}: {} copies, all locked", places_now.len()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    panic!("{what} lies at {places_now:x?}, not all of it locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_identity_or_vaults_token_lies_is_locked_memory() {
    let name = "wherever_the_identity_or_vaults_token_lies_is_locked_memory";
    if !is_root() {
        return skip(name, "only root may look into the daemon's memory");
    }
    let with_file = home(CSV);
    let (server, mut client) = with_file.start().await.unwrap();
    client.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap();
    let text = fs::read_to_string(with_file.state().join("identity.age.txt")).unwrap();
    let identity = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    until_locked("the identity", &server, &scalar(identity)).await;
    let texts = places(server.pid(), identity.as_bytes()).unwrap();
    assert!(texts.is_empty(), "its text is not kept");
    server.kill().unwrap();
    let token = "token-of-memory-000003";
    let with_vault = home(CSV).with("VAULT_ADDR", "http://127.0.0.1:1").with("VAULT_TOKEN", token);
    let server = with_vault.spawn().unwrap();
    until("it has tried", async || with_vault.words().contains("127.0.0.1:1").then_some(())).await;
    until_locked("Vault's token", &server, token.as_bytes()).await;
    server.kill().unwrap();
}
