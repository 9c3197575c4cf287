//! A select against the floor: bare tonic, and one fdatasync for all that
//! wait.

use std::time::Duration;

use crate::figures::{Compared, compare, median};
use crate::load::{Deed, Load, Target};
use crate::own::OwnProcess;
use crate::row::{Goal, Row, Unit};
use crate::{Place, Role, daemon, output};

/// Many short rounds: what else happens on the machine then meets both sides.
const ROUNDS: usize = 60;
const ROUND: Duration = Duration::from_millis(250);
const IN_FLIGHT: usize = 64;
const KEYS: usize = 1_000;

/// Who is called, in turns.
struct Turns {
    floor: Target,
    ours: Target,
    floor_in_memory: Target,
}

/// What all were found to do in one round.
struct Round {
    floor: Load,
    ours: Load,
    released: Load,
    floor_in_memory: Load,
}

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let home = daemon::home(place, KEYS)?;
    let floor = OwnProcess::start(Role::FloorDisk, home.path()).await?;
    let in_memory = OwnProcess::start(Role::FloorMemory, home.path()).await?;
    let daemon = daemon::start(&home).await?;
    let turns = Turns {
        floor: Target::connect(&floor.socket(), floor.pid()).await?,
        ours: Target::connect(&home.socket(), daemon.server.pid()).await?,
        floor_in_memory: Target::connect(&in_memory.socket(), in_memory.pid()).await?,
    };
    let one = turns.rounds(1).await?;
    let many = turns.rounds(IN_FLIGHT).await?;
    drop(turns);
    daemon.stop()?;
    Ok(latency_rows(&one).into_iter().chain(throughput_rows(&many)).collect())
}

impl Turns {
    async fn rounds(&self, in_flight: usize) -> anyhow::Result<Vec<Round>> {
        let mut rounds = Vec::new();
        output::progress(&format!("  {in_flight} in flight, {ROUNDS} rounds"));
        for _ in 0..ROUNDS {
            rounds.push(Round {
                floor: self.floor.load(Deed::Select, in_flight, ROUND).await?,
                ours: self.ours.load(Deed::Select, in_flight, ROUND).await?,
                released: self.ours.load(Deed::SelectAndRelease, in_flight, ROUND).await?,
                floor_in_memory: self.floor_in_memory.load(Deed::Select, in_flight, ROUND).await?,
            });
        }
        Ok(rounds)
    }
}

fn latency_rows(rounds: &[Round]) -> [Row; 3] {
    let select = against_floor(rounds, |round| round.ours, |load| load.p50_ms);
    let released = against_floor(rounds, |round| round.released, |load| load.p50_ms);
    [
        Row {
            what: "select, 1 in flight: p50 ÷ floor",
            goal: Goal::AtMost(1.25),
            measured: select.ratio,
            unit: Unit::Ratio,
            details: show_times(select, &cpu(rounds)),
        },
        Row {
            what: "the same, each session released before the next",
            goal: Goal::None,
            measured: released.ratio,
            unit: Unit::Ratio,
            details: show_times(released, ""),
        },
        Row {
            what: "floor without the disk, 1 in flight: p50",
            goal: Goal::None,
            measured: of(rounds, |round| round.floor_in_memory.p50_ms),
            unit: Unit::Milliseconds,
            details: String::new(),
        },
    ]
}

fn throughput_rows(rounds: &[Round]) -> [Row; 3] {
    let select = against_floor(rounds, |round| round.ours, |load| load.calls_per_second);
    let released = against_floor(rounds, |round| round.released, |load| load.calls_per_second);
    [
        Row {
            what: "select, 64 in flight: throughput ÷ floor",
            goal: Goal::AtLeast(0.7),
            measured: select.ratio,
            unit: Unit::Ratio,
            details: show_rates(select, &cpu(rounds)),
        },
        Row {
            what: "the same, each session released before the next",
            goal: Goal::None,
            measured: released.ratio,
            unit: Unit::Ratio,
            details: show_rates(released, ""),
        },
        Row {
            what: "floor without the disk, 64 in flight: throughput",
            goal: Goal::None,
            measured: of(rounds, |round| round.floor_in_memory.calls_per_second),
            unit: Unit::PerSecond,
            details: String::new(),
        },
    ]
}

fn against_floor(rounds: &[Round], ours: fn(&Round) -> Load, figure: fn(&Load) -> f64) -> Compared {
    let pairs = rounds.iter().map(|round| (figure(&ours(round)), figure(&round.floor)));
    compare(&pairs.collect::<Vec<_>>())
}

fn of(rounds: &[Round], figure: fn(&Round) -> f64) -> f64 {
    median(&rounds.iter().map(figure).collect::<Vec<_>>())
}

fn cpu(rounds: &[Round]) -> String {
    let ours = of(rounds, |round| round.ours.cpu_us_per_call);
    let floor = of(rounds, |round| round.floor.cpu_us_per_call);
    format!("; processor time of a call {ours:.0} µs, of the floor {floor:.0} µs")
}

fn show_times(compared: Compared, more: &str) -> String {
    format!("{:.3} ms, floor {:.3} ms{more}", compared.first, compared.second)
}

fn show_rates(compared: Compared, more: &str) -> String {
    format!("{:.0}/s, floor {:.0}/s{more}", compared.first, compared.second)
}
