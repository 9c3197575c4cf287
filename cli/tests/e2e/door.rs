//! Who may come in, how long he may say nothing, and how he is told to go.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use key_server_proto::v1;
use key_server_testkit::client::{as_user, connect, connect_as};
use key_server_testkit::process::{Home, ServerProcess};
use key_server_testkit::raw::{self, Frame, Raw};
use rustix::process::{Pid, Resource, Rlimit, Signal, geteuid, prlimit};

use crate::support::{
    CSV, OPENAI, health, home, is_root, records, run, select, selected, skip, until, within,
};

const NOBODY: u32 = 65_534;
const GROUP: u32 = 65_533;

/// A home whose directory others may enter.
fn open_home() -> Home {
    let home = home(CSV);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    home
}

/// Whether the server hung up, once it has.
fn is_closed(stream: &mut UnixStream) -> Option<()> {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 1_024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Some(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(_) => return Some(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_http2_in_time_is_closed_and_who_only_waits_is_not() {
    let home = home(CSV).with("KEY_SERVER_FIRST_BYTE_TIMEOUT", "200ms");
    let (_server, _client) = home.start().await.unwrap();
    let mut waiting = connect_as(geteuid().as_raw(), &home.socket()).await;
    let beginnings: [&[u8]; 4] =
        [b"", &raw::PREFACE[..10], raw::PREFACE, &[raw::PREFACE, &raw::SETTINGS].concat()];
    let mut peers = Vec::new();
    for beginning in beginnings.iter().cycle().take(40) {
        let mut peer = UnixStream::connect(home.socket()).unwrap();
        peer.write_all(beginning).unwrap();
        peers.push(peer);
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        until(&format!("peer {number} is closed"), async || is_closed(peer)).await;
    }
    // It was connected before them, has called nothing, and is still there:
    // its channel could not connect again.
    health(&mut waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_closed_at_once() {
    let home = home(CSV).with("KEY_SERVER_FIRST_BYTE_TIMEOUT", "7d");
    let (_server, _client) = home.start().await.unwrap();
    let mut peer = UnixStream::connect(home.socket()).unwrap();
    peer.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    until("it is closed", async || is_closed(&mut peer)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_has_his_places_and_others_have_theirs() {
    let name = "one_user_has_his_places_and_others_have_theirs";
    if !is_root() {
        return skip(name, "only root can call as somebody else");
    }
    let home = open_home()
        .with("KEY_SERVER_SOCKET_MODE", "0666")
        .with("KEY_SERVER_FIRST_BYTE_TIMEOUT", "7d")
        .with("KEY_SERVER_CONNECTIONS_PER_UID", 5);
    let (_server, mut client) = home.start().await.unwrap();
    let path = home.socket();
    let twenty = move || (0..20).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut peers: Vec<UnixStream> = as_user(NOBODY, twenty);
    let closed = async || {
        let closed = peers.iter_mut().filter_map(is_closed).count();
        (closed >= 15).then_some(closed)
    };
    assert_eq!(until("15 are closed", closed).await, 15);
    let again = connect(&home.socket()).await.unwrap();
    health(&mut again.clone()).await;
    health(&mut client).await;
    assert!(home.words().contains("uid 65534 has 5 connections"), "{}", home.words());
    drop(peers);
    // His places are free again once the server has noticed.
    until("he may come again", async || {
        let (path, mut is_open) = (home.socket(), false);
        let mut peer = as_user(NOBODY, move || UnixStream::connect(path).unwrap());
        for _ in 0..5 {
            is_open = is_closed(&mut peer).is_none();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        is_open.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_with_all_places_keep_out_neither_root_nor_a_third() {
    let name = "two_users_with_all_places_keep_out_neither_root_nor_a_third";
    if !is_root() {
        return skip(name, "only root can call as somebody else");
    }
    let home = open_home()
        .with("KEY_SERVER_SOCKET_MODE", "0666")
        .with("KEY_SERVER_FIRST_BYTE_TIMEOUT", "7d")
        .with("KEY_SERVER_CONNECTIONS_MAX", 20)
        .with("KEY_SERVER_CONNECTIONS_PER_UID", 10);
    let (_server, mut client) = home.start().await.unwrap();
    let mut peers = Vec::new();
    for uid in [NOBODY, GROUP] {
        let path = home.socket();
        let ten = move || (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let ten: Vec<UnixStream> = as_user(uid, ten);
        peers.extend(ten);
    }
    let ended = run(home.command(&["health"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let third = NOBODY - 2;
    let mut other = within("a third", connect_as(third, &home.socket())).await;
    health(&mut other).await;
    health(&mut client).await;
    let closed = peers.iter_mut().filter_map(is_closed).count();
    assert!((1..=3).contains(&closed), "{closed} gave way");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_old_connections_are_told_to_go_and_not_cut() {
    for (setting, other) in [
        ("KEY_SERVER_CONNECTION_IDLE", "KEY_SERVER_CONNECTION_AGE"),
        ("KEY_SERVER_CONNECTION_AGE", "KEY_SERVER_CONNECTION_IDLE"),
    ] {
        let home = home(CSV).with(setting, "1s").with(other, "7d");
        let (_server, mut client) = home.start().await.unwrap();
        let mut raw = Raw::connect(&home.socket()).unwrap();
        let frames = tokio::task::spawn_blocking(move || raw.rest()).await.unwrap().unwrap();
        assert!(frames.iter().any(|frame| frame.kind == raw::GOAWAY), "{setting}: {frames:?}");
        // Clients connect again by themselves.
        health(&mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_never_finished_is_ended_and_the_connection_goes_on() {
    let home = home(CSV).with("KEY_SERVER_REQUEST_TIMEOUT", "200ms");
    let (_server, _client) = home.start().await.unwrap();
    let mut raw = Raw::connect(&home.socket()).unwrap();
    let answers = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        raw.begin_call(1, HEALTH)?;
        let refused = raw.until(|frame| frame.stream == 1 && frame.ends_stream())?;
        raw.begin_call(3, HEALTH)?;
        raw.end_call(3, b"")?;
        Ok((refused, raw.until(|frame| frame.stream == 3 && frame.ends_stream())?))
    });
    let (refused, answered) = answers.await.unwrap().unwrap();
    assert!(refused.iter().all(|frame| frame.kind != raw::DATA), "{refused:?}");
    assert!(answered.iter().any(|frame| frame.kind == raw::DATA), "{answered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_answers_is_cut_and_who_reads_them_late_is_not() {
    let home = home(CSV).with("KEY_SERVER_ANSWER_TIMEOUT", "500ms");
    let (_server, mut client) = home.start().await.unwrap();
    for window in [0, 1] {
        let mut raw = Raw::connect_with_window(&home.socket(), window).unwrap();
        let frames = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
            for number in 0..100 {
                raw.begin_call(2 * number + 1, HEALTH)?;
                raw.end_call(2 * number + 1, b"")?;
            }
            raw.rest()
        });
        let frames = within("the connection", frames).await.unwrap().unwrap();
        let ends = frames.iter().filter(|frame| frame.ends_stream());
        assert_eq!(ends.count(), 0, "a window of {window} bytes: {frames:?}");
    }
    // What is read later than that, and in time.
    let mut raw = Raw::connect_with_window(&home.socket(), 0).unwrap();
    let late = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        for number in 0..4 {
            let stream = 2 * number + 1;
            raw.begin_call(stream, HEALTH)?;
            raw.end_call(stream, b"")?;
            std::thread::sleep(Duration::from_millis(200));
            raw.widen(stream, 10_000)?;
            raw.until(|frame| frame.stream == stream && frame.ends_stream())?;
        }
        Ok(())
    });
    within("the late answers", late).await.unwrap().unwrap();
    health(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_ends_does_not_keep_an_old_connection_beyond_the_grace() {
    let home = home(CSV)
        .with("KEY_SERVER_CONNECTION_AGE", "1s")
        .with("KEY_SERVER_CONNECTION_GRACE", "200ms")
        .with("KEY_SERVER_CONNECTION_IDLE", "7d")
        .with("KEY_SERVER_REQUEST_TIMEOUT", "7d");
    let (_server, _client) = home.start().await.unwrap();
    let mut raw = Raw::connect(&home.socket()).unwrap();
    raw.begin_call(1, HEALTH).unwrap();
    let rest = tokio::task::spawn_blocking(move || raw.rest());
    let frames = within("the connection", rest).await.unwrap().unwrap();
    assert!(frames.iter().any(|frame| frame.kind == raw::GOAWAY), "told first: {frames:?}");
    until("it says so", async || {
        home.words().contains("cut a connection with calls that did not end").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_and_the_others_are_answered() {
    const STREAMS_MAX: u32 = 4;
    let home = home(CSV).with("KEY_SERVER_STREAMS_MAX", STREAMS_MAX);
    let home = home.with("KEY_SERVER_REQUEST_TIMEOUT", "7d");
    let (_server, _client) = home.start().await.unwrap();
    let mut raw = Raw::connect(&home.socket()).unwrap();
    let frames = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        // It says its limit before it holds anybody to it.
        raw.ping()?;
        let stream = |number: u32| 2 * number + 1;
        for number in 0..=STREAMS_MAX {
            raw.begin_call(stream(number), HEALTH)?;
        }
        let beyond = stream(STREAMS_MAX);
        let refused = raw.until(|frame| frame.kind == raw::RST_STREAM && frame.stream == beyond)?;
        let mut answers = Vec::new();
        for number in 0..STREAMS_MAX {
            raw.end_call(stream(number), b"")?;
            let ends = |frame: &Frame| frame.stream == stream(number) && frame.ends_stream();
            answers.push(raw.until(ends)?);
        }
        Ok((refused, answers))
    });
    let (refused, answers) = within("the calls", frames).await.unwrap().unwrap();
    assert_eq!(refused.last().unwrap().payload, raw::REFUSED_STREAM);
    let has_data = |frames: &Vec<Frame>| frames.iter().any(|frame| frame.kind == raw::DATA);
    assert!(answers.iter().all(has_data), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_too_long_cost_their_call_and_nothing_else() {
    let home = home(CSV);
    let (_server, mut client) = home.start().await.unwrap();
    let mut raw = Raw::connect(&home.socket()).unwrap();
    let frames = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        let long = "x".repeat(120);
        // As they are 14 KB; with what HTTP/2 counts for each, 16 KiB and more.
        let headers = [("x-a", long.as_str()); 110];
        raw.begin_call_with(1, HEALTH, &headers)?;
        raw.end_call(1, b"")?;
        let refused = raw.until(|frame| frame.stream == 1 && frame.ends_stream())?;
        raw.begin_call(3, HEALTH)?;
        raw.end_call(3, b"")?;
        Ok((refused, raw.until(|frame| frame.stream == 3 && frame.ends_stream())?))
    });
    let (refused, answered) = within("the calls", frames).await.unwrap().unwrap();
    assert!(refused.iter().all(|frame| frame.kind != raw::DATA), "{refused:?}");
    assert!(answered.iter().any(|frame| frame.kind == raw::DATA), "{answered:?}");
    health(&mut client).await;
}

const HEALTH: &str = "/keyserver.v1.KeyServer/Health";

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_50_calls_finish_and_does_not_wait_for_100_silent_peers() {
    let home = home(CSV).with("KEY_SERVER_SHUTDOWN_GRACE", "7d");
    let home = home.with("KEY_SERVER_REQUEST_TIMEOUT", "7d");
    let home = home.with("KEY_SERVER_FIRST_BYTE_TIMEOUT", "7d");
    let (mut server, _client) = home.start().await.unwrap();
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    let mut calls = Vec::new();
    for _ in 0..50 {
        let mut raw = Raw::connect(&home.socket()).unwrap();
        raw.begin_call(1, HEALTH).unwrap();
        // The server has read that far: it answers a ping in order.
        raw.ping().unwrap();
        calls.push(raw);
    }
    server.signal(Signal::TERM).unwrap();
    until("nobody can come any more", async || (!home.socket().exists()).then_some(())).await;
    assert!(server.ended().unwrap().is_none());
    for raw in &mut calls {
        raw.end_call(1, b"").unwrap();
    }
    for mut raw in calls {
        let frames = tokio::task::spawn_blocking(move || raw.rest()).await.unwrap().unwrap();
        let is_answer = |frame: &Frame| frame.stream == 1 && frame.kind == raw::DATA;
        assert!(frames.iter().any(is_answer), "{frames:?}");
    }
    assert_eq!(exit_code(server).await, Some(0));
    drop(silent);
}

async fn exit_code(mut server: ServerProcess) -> Option<i32> {
    let ended = async || server.ended().expect("it is our child");
    until("the daemon ends", ended).await.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_open_files_it_takes_what_fits_and_recovers() {
    let home = home(CSV).with("KEY_SERVER_FIRST_BYTE_TIMEOUT", "1s");
    let log = fs::File::create(home.path().join("server.stderr")).unwrap();
    let serve = home.command(&["serve"]);
    let mut command = within_shell("ulimit -n 256", &serve);
    let server = ServerProcess::of(command.stderr(log).spawn().unwrap());
    let connected = async || connect(&home.socket()).await.ok();
    let mut client = until("it answers", connected).await;
    health(&mut client).await;
    assert!(home.words().contains("may open 256 files"), "{}", home.words());
    let path = home.socket();
    let flood = move || (0..1_000).filter_map(|_| UnixStream::connect(&path).ok()).collect();
    let peers: Vec<UnixStream> = tokio::task::spawn_blocking(flood).await.unwrap();
    assert_eq!(peers.len(), 1_000);
    health(&mut client).await;
    drop(peers);
    // While the dead ones are found out, a new one may be sent away.
    until("a new one is served", async || {
        let mut late = connected().await?;
        late.health(v1::HealthRequest {}).await.ok()
    })
    .await;
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    assert!(server.terminate().unwrap().success());
}

/// How long the server waits before it tries again, as `accept.rs` has it.
const BACKOFF: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_it_waits_and_does_not_spin() {
    let home = home(CSV).with("KEY_SERVER_FIRST_BYTE_TIMEOUT", "7d");
    let (server, mut client) = home.start().await.unwrap();
    health(&mut client).await;
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    let files = || fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    // No more than it has open: what comes now cannot be accepted.
    let none_left = Rlimit { current: Some(files() as u64), maximum: hard_limit(&server) };
    let began = now_by_file(&home);
    let before = prlimit(pid, Resource::Nofile, none_left).unwrap();
    let mut peers: Vec<_> = (0..20).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    until("it cannot accept", async || {
        home.words().contains("cannot accept a connection").then_some(())
    })
    .await;
    // Who is in is served all the while.
    for number in 0..20 {
        selected(&mut client, select(&format!("s{number}"), &[OPENAI], 1)).await;
        tokio::time::sleep(BACKOFF / 2).await;
    }
    prlimit(pid, Resource::Nofile, before).unwrap();
    let failures = until("it accepts again", async || {
        let words = home.words();
        let (_, rest) = words.split_once("are accepted again, after ")?;
        rest.split(' ').next()?.parse::<u128>().ok()
    })
    .await;
    // One try in each span; a loop that spins has thousands.
    let took = now_by_file(&home).duration_since(began).unwrap();
    let spans = took.as_millis() / BACKOFF.as_millis();
    assert!(failures > 1 && failures <= spans + 1, "{failures} tries in {spans} spans");
    assert_eq!(home.words().matches("cannot accept a connection").count(), 1, "told once");
    let mut late = connect(&home.socket()).await.unwrap();
    health(&mut late).await;
    assert!(peers.iter_mut().all(|peer| is_closed(peer).is_none()), "they were only kept waiting");
    assert!(server.terminate().unwrap().success());
}

/// Files know the time.
fn now_by_file(home: &Home) -> SystemTime {
    let file = home.path().join("now");
    fs::write(&file, "").unwrap();
    file.metadata().unwrap().modified().unwrap()
}

fn hard_limit(server: &ServerProcess) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_ascii_whitespace().nth(4).unwrap().parse().ok()
}

/// The same command after something that only a shell does, in the same
/// process.
pub(crate) fn within_shell(first: &str, command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_systemd_opened_is_served_and_left() {
    let home = home(CSV);
    let listener = UnixListener::bind(home.socket()).unwrap();
    let made = home.socket().metadata().unwrap().ino();
    // As sd_listen_fds(3) has it; the socket comes as standard input here,
    // because that is what can be given to a child.
    let first = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$";
    let mut command = within_shell(first, &home.command(&["serve"]));
    let log = fs::File::create(home.path().join("server.stderr")).unwrap();
    command.stdin(OwnedFd::from(listener.try_clone().unwrap())).stderr(log);
    let server = ServerProcess::of(command.spawn().unwrap());
    let mut client = connect(&home.socket()).await.unwrap();
    let told = within("an answer", health(&mut client)).await.pid;
    assert_eq!(told, i64::from(server.pid()));
    assert!(!home.path().join("s.sock.lock").exists());
    assert!(server.terminate().unwrap().success());
    assert_eq!(home.socket().metadata().unwrap().ino(), made);
    // Meant for another process: the path is bound as ever, and is taken.
    let mut command = home.command(&["serve"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let ended = run(command);
    assert_eq!(ended.code, Some(2));
    assert!(ended.error.contains("is listening on"), "{ended:?}");
    drop(listener);
}

#[test]
fn several_sockets_from_systemd_are_refused() {
    let home = home(CSV);
    let first = "export LISTEN_FDS=2 LISTEN_PID=$$";
    let ended = run(within_shell(first, &home.command(&["serve"])));
    assert_eq!(ended.code, Some(2));
    assert!(ended.error.contains("2 sockets were passed"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_names_the_process_with_its_start() {
    let home = home(CSV);
    let (_server, mut client) = home.start().await.unwrap();
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    let mut other = connect(&home.socket()).await.unwrap();
    selected(&mut other, select("s2", &[OPENAI], 1)).await;
    let callers: Vec<_> = records(&home)
        .into_iter()
        .filter(|record| record["event"] == "keys.selected")
        .map(|record| record["caller"].clone())
        .collect();
    assert_eq!(callers.len(), 2);
    assert_eq!(callers[0], callers[1], "one process looks the same by every connection");
    assert_eq!(callers[0]["pid"], std::process::id());
    let exe = std::env::current_exe().unwrap();
    assert_eq!(callers[0]["exe"].as_str(), exe.to_str());
    let started = Duration::from_millis(callers[0]["started"].as_u64().unwrap());
    let node_started = fs::metadata(home.state().join("node_id")).unwrap().mtime().unsigned_abs();
    assert!(started.as_secs() <= node_started, "this process is older than its server");
    assert!(started.as_secs() > node_started - 86_400);
}

/// What another user saw at the socket's path while servers came and went.
struct Probe {
    stop: Arc<AtomicBool>,
    /// Connections that were made.
    connected: Arc<AtomicUsize>,
    seen: std::thread::JoinHandle<Vec<(u32, u32, u32)>>,
}

impl Probe {
    /// Looks and connects as fast as it can, as nobody and without groups.
    fn start(path: PathBuf) -> Self {
        let (stop, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stops, connects) = (Arc::clone(&stop), Arc::clone(&connected));
        let look = move || {
            let mut seen = Vec::new();
            while !stops.load(Ordering::Relaxed) {
                if UnixStream::connect(&path).is_ok() {
                    connects.fetch_add(1, Ordering::Relaxed);
                }
                if let Ok(metadata) = path.symlink_metadata() {
                    let found = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
                    if !seen.contains(&found) {
                        seen.push(found);
                    }
                }
            }
            seen
        };
        let seen = std::thread::spawn(move || as_user(NOBODY, look));
        Self { stop, connected, seen }
    }

    fn stop(self) -> (usize, Vec<(u32, u32, u32)>) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.seen.join().unwrap();
        (self.connected.load(Ordering::Relaxed), seen)
    }
}

/// Starts and kills, each start finding the dead socket of the one before.
async fn start_and_kill(home: &Home, count: usize) {
    for _ in 0..count {
        let (server, client) = home.start().await.unwrap();
        drop(client);
        server.kill().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_200_starts_nobody_gets_in_who_may_not() {
    if !is_root() {
        return skip("in_200_starts_nobody_gets_in_who_may_not", "only root can try as another");
    }
    let plain = open_home();
    let probe = Probe::start(plain.socket());
    start_and_kill(&plain, 100).await;
    let (connected, seen) = probe.stop();
    assert_eq!((connected, seen), (0, vec![(0o600, 0, 0)]));
    let of_group = open_home().with("KEY_SERVER_SOCKET_GROUP", GROUP);
    let probe = Probe::start(of_group.socket());
    start_and_kill(&of_group, 100).await;
    let (connected, seen) = probe.stop();
    assert_eq!((connected, seen), (0, vec![(0o660, 0, GROUP)]));
    no_hidden_directory_stays(of_group.path());
    // The probe can connect where it may, so the zeros above mean something.
    let everybody = open_home().with("KEY_SERVER_SOCKET_MODE", "0666");
    let probe = Probe::start(everybody.socket());
    let (server, _client) = everybody.start().await.unwrap();
    let connected = async || (probe.connected.load(Ordering::Relaxed) > 0).then_some(());
    until("the probe connects", connected).await;
    server.kill().unwrap();
    assert!(probe.stop().0 > 0);
}

fn no_hidden_directory_stays(dir: &Path) {
    let names = dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_the_group_and_the_owner_get_in() {
    if !is_root() {
        return skip("members_of_the_group_and_the_owner_get_in", "only root gives sockets away");
    }
    let home = open_home()
        .with("KEY_SERVER_SOCKET_GROUP", GROUP)
        .with("KEY_SERVER_SOCKET_OWNER", NOBODY)
        .with("KEY_SERVER_SOCKET_MODE", "0660");
    let (server, _client) = home.start().await.unwrap();
    let metadata = home.socket().metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o660, NOBODY, GROUP));
    // Of the group (its gid is its uid here), and the owner.
    for uid in [GROUP, NOBODY] {
        let mut client = connect_as(uid, &home.socket()).await;
        selected(&mut client, select("s1", &[OPENAI], 1)).await;
    }
    server.kill().unwrap();
    // Its dead socket is known as ours although it belongs to another.
    let (server, _client) = home.start().await.unwrap();
    assert!(server.terminate().unwrap().success());
    assert!(!home.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_others_can_write_to_is_told_of() {
    for (mode, is_told) in [(0o1777, true), (0o770, true), (0o755, false), (0o700, false)] {
        let home = home(CSV);
        let dir = home.path().join("sockets");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        let socket = dir.join("s.sock");
        let home = home.with("KEY_SERVER_SOCKET", socket.display());
        let server = home.spawn().unwrap();
        until("it listens", async || connect(&socket).await.ok()).await;
        let words = home.words();
        let tells = words.contains("others can write to the socket's directory");
        assert_eq!(tells, is_told, "{mode:o}: {words}");
        assert!(server.terminate().unwrap().success());
    }
}

#[test]
fn a_directory_that_everybody_can_write_to_stops_a_start() {
    let home = home(CSV);
    let dir = home.path().join("open");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let home = home.with("KEY_SERVER_SOCKET", dir.join("s.sock").display());
    let ended = run(home.command(&["serve"]));
    assert_eq!(ended.code, Some(2));
    assert!(ended.error.contains("without the sticky bit"), "{ended:?}");
    assert_eq!(dir.read_dir().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_servers_that_want_one_dead_socket_one_gets_it() {
    let first = home(CSV);
    drop(UnixListener::bind(first.socket()).unwrap());
    let others: Vec<_> =
        (0..6).map(|_| home(CSV).with("KEY_SERVER_SOCKET", first.socket().display())).collect();
    let mut servers: Vec<_> = others.iter().map(|home| home.spawn().unwrap()).collect();
    let count = servers.len();
    until("all but one gave up", async || {
        let ended = servers.iter_mut().filter_map(|server| server.ended().unwrap()).count();
        (ended >= count - 1).then_some(())
    })
    .await;
    let mut client = until("one answers", async || connect(&first.socket()).await.ok()).await;
    let pid = health(&mut client).await.pid;
    let alive = servers.iter_mut().find_map(|server| {
        let is_alive = server.ended().unwrap().is_none();
        is_alive.then(|| i64::from(server.pid()))
    });
    assert_eq!(alive, Some(pid));
}
