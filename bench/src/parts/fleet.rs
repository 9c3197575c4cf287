//! What sharing costs the caller of a select.

use std::time::Duration;

use anyhow::ensure;

use crate::figures::{compare, median};
use crate::fleet::{Fleet, Node};
use crate::load::{Deed, Load, Target};
use crate::redis::Commands;
use crate::row::{Goal, Row, Unit};
use crate::{Place, daemon, output, redis};

const KEYS: usize = 1_000;
const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 40;
const ROUND: Duration = Duration::from_secs(1);
/// For one call in flight.
const SHORT_ROUND: Duration = Duration::from_millis(250);
const PINGS: usize = 500;
/// A cap that no key comes near.
const CAP: &str = "1000000000";

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut rows = throughput(place).await?;
    rows.extend(reservation(place).await?);
    Ok(rows)
}

/// What both were found to do in one round.
struct Round {
    shared: Load,
    alone: Load,
    released: Load,
    alone_released: Load,
    /// From the last reply of a select until others could know of all of them.
    told_after: Duration,
    /// In Redis, for each select.
    commands: Commands,
}

/// With Redis and without, in turns; the next turn begins when the node has
/// told everything.
async fn throughput(place: &Place) -> anyhow::Result<Vec<Row>> {
    let fleet = Fleet::start(place, 1, KEYS).await?;
    let alone_home = daemon::home(place, KEYS)?;
    let alone_daemon = daemon::start(&alone_home).await?;
    let alone = Target::connect(&alone_home.socket(), alone_daemon.server.pid()).await?;
    let shared = fleet.nodes[0].target().await?;
    let mut rounds = Vec::new();
    output::progress(&format!("  with Redis and without, {} rounds", place.count(ROUNDS)));
    for _ in 0..place.count(ROUNDS) {
        rounds.push(round(&fleet, &shared, &alone).await?);
    }
    drop((shared, alone));
    fleet.stop()?;
    alone_daemon.stop()?;
    Ok(throughput_rows(&rounds))
}

async fn round(fleet: &Fleet, shared: &Target, alone: &Target) -> anyhow::Result<Round> {
    let node = &fleet.nodes[0];
    let load = async |target: &Target, deed| target.load(deed, IN_FLIGHT, ROUND).await;
    let (before, first) = (redis::commands(&fleet.redis)?, node.position().await?);
    let on = load(shared, Deed::Select).await?;
    let (after, last) = (redis::commands(&fleet.redis)?, node.position().await?);
    let told_after = node.settle(&fleet.redis).await?;
    // Each select is one event.
    let selects = (last - first) as f64;
    let commands = Commands {
        all: (after.all - before.all) / selects,
        scripts: (after.scripts - before.scripts) / selects,
    };
    let alone_released = load(alone, Deed::SelectAndRelease).await?;
    let released = load(shared, Deed::SelectAndRelease).await?;
    node.settle(&fleet.redis).await?;
    let off = load(alone, Deed::Select).await?;
    Ok(Round { shared: on, alone: off, released, alone_released, told_after, commands })
}

fn throughput_rows(rounds: &[Round]) -> Vec<Row> {
    let rates = |pair: fn(&Round) -> (Load, Load)| {
        let pairs = rounds.iter().map(pair);
        let pairs = pairs.map(|(on, off)| (on.calls_per_second, off.calls_per_second));
        compare(&pairs.collect::<Vec<_>>())
    };
    let of = |figure: fn(&Round) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
    let select = rates(|round| (round.shared, round.alone));
    let released = rates(|round| (round.released, round.alone_released));
    vec![
        Row {
            what: "select, 64 in flight: throughput with Redis ÷ without",
            goal: Goal::AtLeast(0.85),
            measured: select.ratio,
            unit: Unit::Ratio,
            details: format!(
                "{:.0}/s, without {:.0}/s; processor time of a call {:.0} µs, without {:.0} µs; all told {:.0} ms after the last",
                select.first,
                select.second,
                of(|round| round.shared.cpu_us_per_call),
                of(|round| round.alone.cpu_us_per_call),
                of(|round| round.told_after.as_secs_f64() * 1e3),
            ),
        },
        Row {
            what: "the same, each session released before the next",
            goal: Goal::None,
            measured: released.ratio,
            unit: Unit::Ratio,
            details: format!("{:.0}/s, without {:.0}/s", released.first, released.second),
        },
        Row {
            what: "Redis commands for each select, 64 in flight",
            goal: Goal::AtMost(0.1),
            measured: of(|round| round.commands.all),
            unit: Unit::Ratio,
            details: format!(
                "those within scripts counted; {:.4} scripts, each one round trip",
                of(|round| round.commands.scripts)
            ),
        },
    ]
}

/// A select of a key with a cap asks Redis first: no more than one round trip?
async fn reservation(place: &Place) -> anyhow::Result<Vec<Row>> {
    let fleet = Fleet::start(place, 1, KEYS).await?;
    let settings = [("KEY_SERVER_MAX_HOLDERS", CAP)];
    let capped_node = Node::start(place, KEYS, &fleet.redis, &settings).await?;
    let (free, capped) = (fleet.nodes[0].target().await?, capped_node.target().await?);
    let (mut times, mut trips) = (Vec::new(), Vec::new());
    output::progress(&format!("  with a reservation and without, {} rounds", place.count(ROUNDS)));
    for _ in 0..place.count(ROUNDS) {
        let free = free.load(Deed::SelectAndRelease, 1, SHORT_ROUND).await?.p50_ms;
        let capped = capped.load(Deed::SelectAndRelease, 1, SHORT_ROUND).await?.p50_ms;
        let trip = redis::round_trip(&fleet.redis, PINGS)?.as_secs_f64() * 1e3;
        times.push((capped, free + trip));
        trips.push((trip, free));
    }
    let holders: String = fleet.redis.ask(&["INFO", "commandstats"])?;
    ensure!(holders.contains("cmdstat_zadd:"), "nothing was reserved");
    drop((free, capped));
    fleet.stop()?;
    capped_node.daemon.stop()?;
    let (capped, trips) = (compare(&times), compare(&trips));
    Ok(vec![
        Row {
            what: "one Redis round trip (PING over TCP): p50",
            goal: Goal::None,
            measured: trips.first * 1e3,
            unit: Unit::Microseconds,
            details: String::new(),
        },
        Row {
            what: "select of a capped key, 1 in flight: p50 ÷ (select + round trip)",
            goal: Goal::None,
            measured: capped.ratio,
            unit: Unit::Ratio,
            details: format!(
                "{:.3} ms; select without a cap {:.3} ms; sessions released",
                capped.first, trips.second
            ),
        },
    ])
}
