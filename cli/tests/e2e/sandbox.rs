//! What the daemon gave up before it served.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use key_server_proto::v1;
use key_server_testkit::process::ServerProcess;

use crate::support::{CSV, OPENAI, health, home, is_root, select, selected, skip};

/// What the kernel says of every thread, one line of its status each.
fn of_threads(server: &ServerProcess, line: &str) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let of_thread = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().to_owned())
        };
        Some((value("Name:")?, value(line)?))
    };
    // One may end while they are counted.
    threads.filter_map(|thread| of_thread(thread.ok()?)).collect()
}

fn sandbox(health: &v1::HealthResponse) -> &str {
    let row = health.backends.iter().find(|row| row.name.starts_with("sandbox"));
    &row.expect("Health says what is in force").name
}

#[tokio::test(flavor = "multi_thread")]
async fn every_thread_is_in_the_sandbox_and_health_says_so() {
    let home = home(CSV);
    let (server, mut client) = home.start().await.unwrap();
    let health = health(&mut client).await;
    let words = sandbox(&health);
    assert!(words.contains("no programs, no debugging, no listening"), "{words}");
    assert!(words.contains("no networks"), "{words}");
    assert_eq!(health.status(), v1::HealthStatus::Ok, "{health:?}");
    for (line, value) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let threads = of_threads(&server, line);
        assert!(threads.len() > 2, "{threads:?}");
        assert!(threads.iter().all(|(_, said)| said == value), "{line} {threads:?}");
    }
    assert!(server.terminate().unwrap().success());
    assert!(!home.socket().exists(), "it may still remove its socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_peers_may_connect_to_them_and_still_never_listens() {
    let home = home(CSV).with("KEY_SERVER_REDIS_URL", "redis://127.0.0.1:1");
    let (server, mut client) = home.start().await.unwrap();
    let health = health(&mut client).await;
    let words = sandbox(&health);
    assert!(words.contains("no listening") && !words.contains("no networks"), "{words}");
    server.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_can_be_left_out() {
    let home = home(CSV).with("KEY_SERVER_SANDBOX", "false");
    let (server, mut client) = home.start().await.unwrap();
    let health = health(&mut client).await;
    assert_eq!(sandbox(&health), "sandbox (off)");
    let threads = of_threads(&server, "Seccomp:");
    assert!(threads.iter().all(|(_, said)| said == "0"), "{threads:?}");
    server.kill().unwrap();
}

/// Lets the main thread of a process make system calls of ours, as code that
/// took it over could, and says what the kernel answered to each. It stands in
/// a call that it waits in; that one is begun again in the end.
const CALLS: &str = r#"
import ctypes, os, sys
pid, calls = int(sys.argv[1]), sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
ATTACH, DETACH, GETREGS, SETREGS, STEP = 16, 17, 12, 13, 9
class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_longlong) for name in
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss"
        " fs_base gs_base ds es fs gs".split()]
def trace(request, data=None):
    if libc.ptrace(request, pid, None, data) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request}")
def wait():
    os.waitpid(pid, 0x40000000)
def registers():
    now = Registers()
    trace(GETREGS, ctypes.byref(now))
    return now
trace(ATTACH)
wait()
before = registers()
for call in calls:
    name, number, *arguments = call.split(",")
    now = Registers.from_buffer_copy(before)
    # It stands behind the instruction of the call that it waits in.
    now.rip, now.rax, now.orig_rax = before.rip - 2, int(number), -1
    for register, value in zip(["rdi", "rsi", "rdx", "r10", "r8", "r9"], arguments):
        setattr(now, register, int(value))
    trace(SETREGS, ctypes.byref(now))
    trace(STEP)
    wait()
    print(name, registers().rax)
trace(SETREGS, ctypes.byref(before))
trace(DETACH)
"#;
/// Calls by name, number on x86-64 and arguments, and what the kernel says to
/// them when nothing refuses them before it looks: they are all wrong in some
/// other way, so that nothing happens.
const ATTEMPTS: [(&str, &str, i64); 12] = [
    ("execve", "59,0,0,0", -14),
    ("execveat", "322,-1,0,0,0,0", -14),
    ("ptrace", "101,16,0,0,0", -3),
    ("process_vm_readv", "310,0,0,0,0,0,1", -22),
    ("pidfd_getfd", "438,-1,0,0", -9),
    ("bind", "49,-1,0,0", -9),
    ("listen", "50,-1,0", -9),
    ("mount", "165,0,0,0,0,0", -14),
    ("unshare", "272,1", -22),
    ("bpf", "321,-1,0,0", -22),
    ("socket_inet_stream", "41,2,1,77", -93),
    ("socket_inet6_stream", "41,10,1,77", -93),
];
const EPERM: i64 = -1;

/// What the kernel answers to each attempt of the process.
fn answers(server: &ServerProcess) -> Option<BTreeMap<&'static str, i64>> {
    let mut python = Command::new("/usr/bin/env");
    python.args(["python3", "-c", CALLS, &server.pid().to_string()]);
    python.args(ATTEMPTS.map(|(name, call, _)| format!("{name},{call}")));
    let output = python.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).unwrap();
    let answers = text
        .lines()
        .zip(ATTEMPTS)
        .map(|(line, (name, ..))| (name, line.strip_prefix(name).unwrap().trim().parse().unwrap()));
    Some(answers.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_itself_can_run_debug_and_listen_to_nothing() {
    let name = "the_daemon_itself_can_run_debug_and_listen_to_nothing";
    if !is_root() || !cfg!(target_arch = "x86_64") {
        return skip(name, "only root on x86-64 can make the daemon call what it never calls");
    }
    let open = home(CSV).with("KEY_SERVER_SANDBOX", "false");
    let (server, mut client) = open.start().await.unwrap();
    let Some(answered) = answers(&server) else {
        return skip(name, "no process may be traced here, or Python is missing");
    };
    // Without the sandbox they all get to the kernel, so that refusals mean
    // something; and the daemon serves on.
    let expected = ATTEMPTS.map(|(name, _, answer)| (name, answer));
    assert_eq!(answered, BTreeMap::from(expected));
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    server.kill().unwrap();
    let closed = home(CSV);
    let (server, mut client) = closed.start().await.unwrap();
    let refused = answers(&server).unwrap();
    assert_eq!(refused, BTreeMap::from(ATTEMPTS.map(|(name, ..)| (name, EPERM))));
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    server.kill().unwrap();
    // With peers it may have sockets, and still not listen.
    let with_peers = home(CSV).with("KEY_SERVER_REDIS_URL", "redis://127.0.0.1:1");
    let (server, _client) = with_peers.start().await.unwrap();
    let answered = answers(&server).unwrap();
    for (name, _, answer) in ATTEMPTS {
        let expected = if name.starts_with("socket_") { answer } else { EPERM };
        assert_eq!(answered[name], expected, "{name}");
    }
    server.kill().unwrap();
}

/// A rule for a user by name.
fn rule(user: &str) -> String {
    format!("[[rule]]\nname = \"a\"\nuser = \"{user}\"\nproviders = \"*\"\n")
}

/// The user database may map and ask modules that it did not need before.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_up_from_within_the_sandbox() {
    let numbers = "[[rule]]\nname = \"a\"\nuid = 4711\nproviders = \"*\"\n";
    let home = home(CSV).with_policy(numbers).unwrap();
    let (_server, mut client) = home.start().await.unwrap();
    home.write_policy(&rule("daemon")).unwrap();
    let reload = v1::ReloadKeysRequest::default;
    let reloaded = client.reload_keys(reload()).await.unwrap().into_inner();
    assert!(reloaded.success, "{reloaded:?}");
    home.write_policy(&rule("no-such-user-here")).unwrap();
    let refused = client.reload_keys(reload()).await;
    let words = format!("{refused:?}");
    assert!(words.contains("there is no user of this name"), "{words}");
}
