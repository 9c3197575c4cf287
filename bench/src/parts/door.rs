//! What peers that mean no good can do at the socket: connect and say nothing,
//! send too much, come in masses, hold up a stop.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use key_server_testkit::client::{as_user, connect};
use key_server_testkit::process::ServerProcess;
use key_server_testkit::raw::{self, Raw};

use crate::clock::now;
use crate::figures::compare;
use crate::load::select_p99_ms;
use crate::row::{Goal, Row, Unit};
use crate::{Place, calls, daemon, output, process};

const KEYS: usize = 1_000;
const NOBODY: u32 = 65_534;
const SILENT: usize = 500;
const HALF_OPEN: usize = 500;
const RATE: f64 = 200.0;
const ROUNDS: usize = 6;
const ROUND: Duration = Duration::from_secs(6);
const MIB: f64 = 1_048_576.0;
const SELECT: &str = "/keyserver.v1.KeyServer/SelectKeysForSession";
const HEALTH: &str = "/keyserver.v1.KeyServer/Health";

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut rows = silence(place).await?;
    rows.push(masses(place).await?);
    rows.extend(few_files(place).await?);
    rows.extend(stop(place).await?);
    Ok(rows)
}

/// Connections of another user, if this one may be another.
fn peers(path: PathBuf, count: usize, beginning: &'static [u8]) -> Vec<UnixStream> {
    let connect = move || {
        let connect = || {
            let mut stream = UnixStream::connect(&path).ok()?;
            // One too many is closed already.
            let _ = stream.write_all(beginning);
            Some(stream)
        };
        (0..count).filter_map(|_| connect()).collect()
    };
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    if is_root { as_user(NOBODY, connect) } else { connect() }
}

/// Whether the server hung up.
fn is_closed(stream: &mut UnixStream) -> bool {
    let mut bytes = [0; 4_096];
    let _ = stream.set_nonblocking(true);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

async fn silence(place: &Place) -> anyhow::Result<Vec<Row>> {
    let home = daemon::open_home(place, KEYS)?;
    let daemon = daemon::start(&home).await?;
    let (mut rounds, mut closed_in) = (Vec::new(), Vec::new());
    let count = place.count(ROUNDS);
    output::progress(&format!("  silent peers and none, {count} rounds of {ROUND:?} each"));
    for _ in 0..count {
        let quiet = select_p99_ms(&daemon.client, RATE, ROUND).await?;
        let begin = now();
        let path = home.socket();
        let flood = tokio::task::spawn_blocking(move || {
            let mut flood = peers(path.clone(), SILENT, b"");
            flood.extend(peers(path, HALF_OPEN, &raw::PREFACE[..12]));
            flood
        });
        let closing = async {
            let mut flood = flood.await?;
            while !flood.is_empty() {
                flood.retain_mut(|stream| !is_closed(stream));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(begin.elapsed())
        };
        let (flooded, closed) = tokio::join!(select_p99_ms(&daemon.client, RATE, ROUND), closing);
        rounds.push((flooded?, quiet));
        closed_in.push(closed?);
    }
    daemon.stop()?;
    let compared = compare(&rounds);
    let slowest = closed_in.iter().max().context("no rounds")?.as_secs_f64();
    Ok(vec![
        Row {
            what: "500 silent and 500 half-open peers of one uid: until the last is closed",
            goal: Goal::AtMost(5.0),
            measured: slowest,
            unit: Unit::Seconds,
            details: format!("the slowest of {count} rounds"),
        },
        Row {
            what: "another uid's select p99 meanwhile ÷ quiet, 200/s",
            goal: Goal::AtMost(2.0),
            measured: compared.ratio,
            unit: Unit::Ratio,
            details: format!("{:.2} ms, quiet {:.2} ms", compared.first, compared.second),
        },
    ])
}

/// 100 connections that send as much of messages that may be as the server
/// allows ahead of reading, and do not finish; 100 with messages of 4 MiB beside
/// them; then the first send 4 MiB more, regardless of what is allowed.
async fn masses(place: &Place) -> anyhow::Result<Row> {
    output::progress("  messages of 4 MiB");
    let home = daemon::open_home(place, KEYS)?;
    let daemon = daemon::start(&home).await?;
    let before = process::memory(daemon.server.pid())?.resident;
    let path = home.socket();
    let hold_all = move || (0..CONNECTIONS).map(|_| hold(&path)).collect::<std::io::Result<_>>();
    let mut held: Vec<Raw> = tokio::task::spawn_blocking(hold_all)
        .await?
        .context("a connection failed before it sent too much")?;
    let allowed = process::memory(daemon.server.pid())?.resident;
    let path = home.socket();
    let held = tokio::task::spawn_blocking(move || {
        let large = (0..CONNECTIONS).map(|_| large(&path)).collect::<std::io::Result<Vec<_>>>()?;
        held.iter_mut().for_each(send_too_much);
        std::io::Result::Ok((held, large))
    })
    .await??;
    let peak = process::memory(daemon.server.pid())?.peak;
    let mut client = daemon.client.clone();
    calls::select(&mut client, &calls::new_session()).await?;
    drop(held);
    daemon.stop()?;
    Ok(Row {
        what: "100 connections × messages of 4 MiB: memory growth",
        goal: Goal::AtMost(32.0),
        measured: (peak - before) / MIB,
        unit: Unit::Mebibytes,
        details: format!(
            "at most, beside 100 with unfinished messages; {:.1} MiB of it for those",
            (allowed - before) / MIB
        ),
    })
}

const CONNECTIONS: usize = 100;
/// The longest that the server takes.
const MESSAGE_BYTES_MAX: usize = 262_144;
const TOO_MANY_BYTES: usize = 4 << 20;

fn hold(path: &Path) -> std::io::Result<Raw> {
    let mut raw = Raw::connect(path)?;
    // Before its answer comes what the server allows.
    raw.ping()?;
    for stream in [1, 3] {
        raw.begin_call(stream, SELECT)?;
        raw.begin_message(stream, MESSAGE_BYTES_MAX)?;
        for _ in 0..4 {
            raw.part(stream, &[b'x'; 15_000])?;
        }
    }
    raw.ping()?;
    Ok(raw)
}

fn large(path: &Path) -> std::io::Result<Raw> {
    let mut raw = Raw::connect(path)?;
    raw.begin_call(1, SELECT)?;
    raw.begin_message(1, TOO_MANY_BYTES)?;
    send_too_much(&mut raw);
    Ok(raw)
}

/// Until the server cuts the connection.
fn send_too_much(raw: &mut Raw) {
    let chunk = [b'x'; 16_384];
    for _ in 0..TOO_MANY_BYTES / chunk.len() {
        if raw.part(1, &chunk).is_err() {
            break;
        }
    }
}

/// 256 open files and 1,000 who want to connect.
async fn few_files(place: &Place) -> anyhow::Result<Vec<Row>> {
    const LIMIT: &str = "ulimit -n 256; exec \"$0\" serve";
    const FLOOD: usize = 1_000;
    const TIME: Duration = Duration::from_secs(5);
    output::progress("  256 open files, 1,000 connections");
    let home = daemon::open_home(place, KEYS)?;
    let serve = home.command(&["serve"]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", LIMIT]).arg(serve.get_program()).current_dir(home.path()).env_clear();
    shell.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = shell.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let server = ServerProcess::of(child);
    let mut client = loop {
        match connect(&home.socket()).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    calls::select(&mut client, &calls::new_session()).await?;
    let before = process::cpu(server.pid())?;
    let path = home.socket();
    // Of our own uid, so that the places of this client's user are what runs out.
    let flood: Vec<UnixStream> = tokio::task::spawn_blocking(move || {
        (0..FLOOD).filter_map(|_| UnixStream::connect(&path).ok()).collect()
    })
    .await?;
    tokio::time::sleep(TIME).await;
    let spent = process::cpu(server.pid())?.saturating_sub(before);
    ensure!(flood.len() == FLOOD, "only {} could connect", flood.len());
    drop(flood);
    let begin = now();
    let served = async {
        loop {
            if let Ok(mut late) = connect(&home.socket()).await
                && calls::select(&mut late, &calls::new_session()).await.is_ok()
            {
                return begin.elapsed();
            }
        }
    };
    let recovered = served.await;
    server.terminate()?;
    Ok(vec![
        Row {
            what: "256 open files, 1,000 connections: processor time over 5 s",
            goal: Goal::AtMost(20.0),
            measured: spent.as_secs_f64() / TIME.as_secs_f64() * 100.0,
            unit: Unit::Percent,
            details: "of one core, the accepting of all of them included".to_owned(),
        },
        Row {
            what: "the same: until a new client is served after they left",
            goal: Goal::AtMost(1.0),
            measured: recovered.as_secs_f64(),
            unit: Unit::Seconds,
            details: String::new(),
        },
    ])
}

/// SIGTERM while 100 peers say nothing and 50 calls wait for the rest of their
/// request, which comes a second later.
async fn stop(place: &Place) -> anyhow::Result<Vec<Row>> {
    const PEERS: usize = 100;
    const CALLS: usize = 50;
    output::progress("  a stop with silent peers and calls in flight");
    let home = daemon::open_home(place, KEYS)?;
    let daemon = daemon::start(&home).await?;
    let silent = peers(home.socket(), PEERS, b"");
    let path = home.socket();
    let begin_all = move || -> std::io::Result<Vec<Raw>> {
        let begin_one = || {
            let mut raw = Raw::connect(&path)?;
            raw.begin_call(1, HEALTH)?;
            raw.ping()?;
            Ok(raw)
        };
        (0..CALLS).map(|_| begin_one()).collect()
    };
    let calls = tokio::task::spawn_blocking(begin_all).await??;
    let begin = now();
    let finish = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(1));
        let mut calls = calls;
        let sent = calls.iter_mut().map(|raw| raw.end_call(1, b"").is_ok()).filter(|sent| *sent);
        output::progress(&format!("  {} of {CALLS} could send the rest", sent.count()));
        let finished = calls.into_iter().filter_map(|mut raw| {
            let frames = raw.rest().ok()?;
            frames.iter().any(|frame| frame.stream == 1 && frame.kind == raw::DATA).then_some(())
        });
        finished.count()
    });
    let ended = tokio::task::spawn_blocking(move || daemon.stop());
    ended.await??;
    let took = begin.elapsed();
    let finished = finish.await?;
    drop(silent);
    Ok(vec![
        Row {
            what: "SIGTERM with 100 silent peers and 50 calls in flight: calls answered",
            goal: Goal::AtLeast(CALLS as f64),
            measured: finished as f64,
            unit: Unit::Count,
            details: "their requests were whole 1 s after the signal".to_owned(),
        },
        Row {
            what: "the same: until the process has ended",
            goal: Goal::AtMost(10.0),
            measured: took.as_secs_f64(),
            unit: Unit::Seconds,
            details: String::new(),
        },
    ])
}
