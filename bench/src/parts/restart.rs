//! Restarts with 1,000,000 live sessions and 10,000,000 past events.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use key_server_testkit::process::Home;

use super::history::{self, EVENTS_PER_STEP, LIVE};
use crate::figures::median;
use crate::row::{Goal, Row, Unit};
use crate::{Place, daemon, output, process};

const KEYS: usize = 1_000;
const ROUNDS: usize = 5;
const SESSION_TTL: Duration = Duration::from_secs(30 * 86_400);
const GIB: f64 = 1_073_741_824.0;

/// One start, and what the daemon had become by then.
struct Start {
    seconds: f64,
    /// Processor time of all threads.
    cpu_seconds: f64,
    memory: process::Memory,
    /// How long it took to stop.
    stopped_in: Duration,
}

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let ttl = format!("{}s", SESSION_TTL.as_secs());
    let home = daemon::home(place, KEYS)?.with("KEY_SERVER_SESSION_TTL", ttl);
    daemon::start(&home).await?.stop()?;
    write_history(&home.state()).await?;
    output::progress("  the local database is made from the ledger");
    let rebuild = start(&home).await?;
    let mut restarts = Vec::new();
    for round in 1..=ROUNDS {
        output::progress(&format!("  restart, round {round} of {ROUNDS}"));
        restarts.push(start(&home).await?);
    }
    output::progress("  restart after a kill");
    let killed = killed(&home).await?;
    Ok(rows(&rebuild, &restarts, &killed, &sizes(&home.state())?))
}

/// And takes the database away, so that it has to be made again.
async fn write_history(state: &Path) -> anyhow::Result<()> {
    let node = std::fs::read_to_string(state.join("node_id"))?.trim().to_owned();
    let ledger = state.join("ledger");
    // In a thread of its own: it waits for the ledger's writer.
    tokio::task::spawn_blocking(move || history::write(&ledger, &node, SESSION_TTL)).await??;
    for file in std::fs::read_dir(state)? {
        let path = file?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("state.sqlite")) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

async fn start(home: &Home) -> anyhow::Result<Start> {
    let mut daemon = daemon::start(home).await?;
    check(&mut daemon).await?;
    let (seconds, pid) = (daemon.started_in.as_secs_f64(), daemon.server.pid());
    let cpu_seconds = daemon.started_cpu.as_secs_f64();
    let memory = process::memory(pid)?;
    Ok(Start { seconds, cpu_seconds, memory, stopped_in: daemon.stop()? })
}

/// A start after a kill; what the kill left to be read is in the ledger only.
async fn killed(home: &Home) -> anyhow::Result<Start> {
    let mut daemon = daemon::start(home).await?;
    check(&mut daemon).await?;
    daemon.server.kill()?;
    start(home).await
}

/// All of the past is there.
async fn check(daemon: &mut daemon::Daemon) -> anyhow::Result<()> {
    let health = daemon.health().await?;
    let events = LIVE * EVENTS_PER_STEP;
    ensure!(health.sessions == LIVE as i64, "{} sessions are live, not {LIVE}", health.sessions);
    ensure!(health.ledger_position >= events as i64, "the ledger has fewer than {events} events");
    Ok(())
}

/// Of ledger and database.
fn sizes(state: &Path) -> anyhow::Result<String> {
    let mut ledger = 0;
    for segment in std::fs::read_dir(state.join("ledger"))? {
        ledger += segment?.metadata()?.len();
    }
    let database = std::fs::metadata(state.join("state.sqlite"))?.len();
    Ok(format!("ledger {:.1} GiB, database {:.2} GiB", gib(ledger), gib(database)))
}

fn rows(rebuild: &Start, restarts: &[Start], killed: &Start, sizes: &str) -> Vec<Row> {
    let seconds: Vec<f64> = restarts.iter().map(|start| start.seconds).collect();
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let cpu = median(&restarts.iter().map(|start| start.cpu_seconds).collect::<Vec<_>>());
    let resident = median(&restarts.iter().map(|start| start.memory.resident).collect::<Vec<_>>());
    vec![
        Row {
            what: "restart, 1,000,000 live sessions, 10,000,000 past events",
            goal: Goal::AtMost(3.0),
            measured: median(&seconds),
            unit: Unit::Seconds,
            details: format!(
                "best of {ROUNDS}: {best:.2} s; processor time {cpu:.2} s; {:.2} GiB resident; {sizes}",
                resident / GIB
            ),
        },
        Row {
            what: "the same after a kill",
            goal: Goal::None,
            measured: killed.seconds,
            unit: Unit::Seconds,
            details: String::new(),
        },
        Row {
            what: "the same from the ledger alone",
            goal: Goal::None,
            measured: rebuild.seconds,
            unit: Unit::Seconds,
            details: format!(
                "{:.2} GiB resident at most until the first answer; stopped, with the database written, {:.1} s after it",
                rebuild.memory.peak / GIB,
                rebuild.stopped_in.as_secs_f64()
            ),
        },
    ]
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / GIB
}
