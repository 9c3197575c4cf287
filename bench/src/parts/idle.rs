//! What the daemon takes while nobody calls.

use std::time::Duration;

use crate::row::{Goal, Row, Unit};
use crate::{Place, daemon, output, process};

const KEYS: usize = 1_000;
/// After the import, whose changes are written in the background.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(30);
const MIB: f64 = 1_048_576.0;

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let home = daemon::home(place, KEYS)?;
    let imported = idle(daemon::start(&home).await?, "after the import").await?;
    let restarted = idle(daemon::start(&home).await?, "after a restart").await?;
    let memory = imported.memory;
    let show =
        |memory: process::Memory| format!("{:.1} MiB of it anonymous", memory.anonymous / MIB);
    Ok(vec![
        Row {
            what: "idle with 1,000 keys: resident memory",
            goal: Goal::AtMost(20.0),
            measured: memory.resident / MIB,
            unit: Unit::Mebibytes,
            details: format!(
                "{}; {:.1} MiB after a restart",
                show(memory),
                restarted.memory.resident / MIB
            ),
        },
        Row {
            what: "idle: processor time over 30 s",
            goal: Goal::AtMost(0.1),
            measured: imported.percent,
            unit: Unit::Percent,
            details: format!("{:.3} % after a restart", restarted.percent),
        },
    ])
}

struct Idle {
    memory: process::Memory,
    percent: f64,
}

async fn idle(daemon: daemon::Daemon, when: &str) -> anyhow::Result<Idle> {
    output::progress(&format!("  {} s, {when}", IDLE.as_secs()));
    let daemon::Daemon { server, client, .. } = daemon;
    drop(client);
    tokio::time::sleep(SETTLE).await;
    let before = process::cpu(server.pid())?;
    tokio::time::sleep(IDLE).await;
    let spent = process::cpu(server.pid())?.saturating_sub(before);
    let memory = process::memory(server.pid())?;
    server.terminate()?;
    Ok(Idle { memory, percent: spent.as_secs_f64() / IDLE.as_secs_f64() * 100.0 })
}
