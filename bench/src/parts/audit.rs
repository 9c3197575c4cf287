//! What the record of every call costs: the server with it and without.

use std::time::Duration;

use crate::figures::{Compared, compare, median};
use crate::load::{Deed, Load, Target};
use crate::own::OwnProcess;
use crate::row::{Goal, Row, Unit};
use crate::{Place, Role, output};

const ROUNDS: usize = 60;
const ROUND: Duration = Duration::from_millis(250);
const IN_FLIGHT: usize = 64;

/// What all were found to do in one round.
struct Round {
    disk: Load,
    process: Load,
    off: Load,
}

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let dir = place.scratch()?;
    let disk = OwnProcess::start(Role::AuditDisk, dir.path()).await?;
    let process = OwnProcess::start(Role::AuditProcess, dir.path()).await?;
    let off = OwnProcess::start(Role::AuditOff, dir.path()).await?;
    let disk_target = Target::connect(&disk.socket(), disk.pid()).await?;
    let process_target = Target::connect(&process.socket(), process.pid()).await?;
    let off_target = Target::connect(&off.socket(), off.pid()).await?;
    output::progress(&format!("  {ROUNDS} rounds"));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(Round {
            disk: disk_target.load(Deed::Select, IN_FLIGHT, ROUND).await?,
            process: process_target.load(Deed::Select, IN_FLIGHT, ROUND).await?,
            off: off_target.load(Deed::Select, IN_FLIGHT, ROUND).await?,
        });
    }
    let on = against_off(&rounds, |round| round.process);
    let on_disk = against_off(&rounds, |round| round.disk);
    Ok(vec![
        Row {
            what: "audit on ÷ off, select throughput at 64 in flight",
            goal: Goal::AtLeast(0.8),
            measured: on.ratio,
            unit: Unit::Ratio,
            details: show(on, &rounds, |round| round.process),
        },
        Row {
            what: "the same, replies waiting for the disk",
            goal: Goal::None,
            measured: on_disk.ratio,
            unit: Unit::Ratio,
            details: show(on_disk, &rounds, |round| round.disk),
        },
    ])
}

fn against_off(rounds: &[Round], on: fn(&Round) -> Load) -> Compared {
    let rate = |round: &Round| (on(round).calls_per_second, round.off.calls_per_second);
    compare(&rounds.iter().map(rate).collect::<Vec<_>>())
}

fn show(compared: Compared, rounds: &[Round], on: fn(&Round) -> Load) -> String {
    let cpu = |load: fn(&Round) -> Load| {
        median(&rounds.iter().map(|round| load(round).cpu_us_per_call).collect::<Vec<_>>())
    };
    format!(
        "{:.0}/s, off {:.0}/s; processor time of a call {:.0} µs, off {:.0} µs",
        compared.first,
        compared.second,
        cpu(on),
        cpu(|round| round.off)
    )
}
