//! How long it takes until another node knows of a session.

use std::time::Duration;

use anyhow::{bail, ensure};
use key_server_proto::v1;
use key_server_testkit::client::Client;
use tokio::task::JoinSet;
use tonic::Code;

use crate::clock::now;
use crate::figures::{median_time, percentile};
use crate::fleet::Fleet;
use crate::load::at_rate;
use crate::row::{Goal, Row, Unit};
use crate::{Place, calls, output};

const KEYS: usize = 1_000;
/// Sessions whose way to another node is timed.
const MARKERS: usize = 1_000;
/// How long the load of both fleets goes on at most.
const LOAD: Duration = Duration::from_secs(300);
const ASK_EVERY: Duration = Duration::from_millis(1);
const UNKNOWN_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let two = delays(place, 2, 500.0).await?;
    let ten = delays(place, 10, 100.0).await?;
    let idle = delays(place, 2, 1.0).await?;
    Ok(vec![
        row("two nodes, 500 selects/s each: until the other knows, p99", Goal::AtMost(50.0), &two),
        row("ten nodes, 100 selects/s each: until another knows, p99", Goal::AtMost(100.0), &ten),
        row("two nodes with nothing else to do: until the other knows, p99", Goal::None, &idle),
    ])
}

/// What one fleet was found to do.
struct Delays {
    /// Until another node knew.
    known: Vec<Duration>,
    /// Of the selects before.
    selects: Vec<Duration>,
    /// Of the load.
    selects_per_second: f64,
}

fn row(what: &'static str, goal: Goal, delays: &Delays) -> Row {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let Delays { known, selects, selects_per_second } = delays;
    Row {
        what,
        goal,
        measured: ms(percentile(known, 99.0)),
        unit: Unit::Milliseconds,
        details: format!(
            "p50 {:.1} ms, at most {:.1} ms of {}; {selects_per_second:.0} selects/s in all, p50 {:.1} ms",
            ms(median_time(known)),
            ms(percentile(known, 100.0)),
            known.len(),
            ms(median_time(selects))
        ),
    }
}

/// Of so many nodes with so many selects a second each.
async fn delays(place: &Place, nodes: usize, rate: f64) -> anyhow::Result<Delays> {
    let markers = place.count(MARKERS);
    output::progress(&format!("  {nodes} nodes, {rate} selects/s each, {markers} markers"));
    let fleet = Fleet::start(place, nodes, KEYS).await?;
    let clients = fleet.clients();
    let mut load = JoinSet::new();
    load.spawn(select_on_all(clients.clone(), rate));
    let (begin, first) = (now(), positions(&fleet).await?);
    let (mut known, mut selects) = (Vec::new(), Vec::new());
    for number in 0..markers {
        ensure!(load.try_join_next().is_none(), "the load ended before all was measured");
        let from = number % nodes;
        // Each other node in turn.
        let to = (from + 1 + number / nodes % (nodes - 1)) % nodes;
        let (session, begin) = (calls::new_session(), now());
        calls::select(&mut clients[from].clone(), &session).await?;
        selects.push(begin.elapsed());
        known.push(until_known(clients[to].clone(), &session).await?);
    }
    let events = positions(&fleet).await? - first;
    let selects_per_second = events as f64 / begin.elapsed().as_secs_f64();
    drop(load);
    fleet.stop()?;
    Ok(Delays { known, selects, selects_per_second })
}

/// Events in all ledgers; each select is one.
async fn positions(fleet: &Fleet) -> anyhow::Result<i64> {
    let mut events = 0;
    for node in &fleet.nodes {
        events += node.position().await?;
    }
    Ok(events)
}

/// Sessions that live on: only they are told.
async fn select_on_all(clients: Vec<Client>, rate: f64) -> anyhow::Result<()> {
    let nodes = clients.len();
    let select = |number: usize| {
        let mut client: Client = clients[number % nodes].clone();
        async move { calls::select(&mut client, &calls::new_session()).await.map(|_| ()) }
    };
    at_rate(rate * nodes as f64, LOAD, select).await?;
    Ok(())
}

/// Until the first reply of a node that knows the session, asked every
/// millisecond.
async fn until_known(mut node: Client, session: &str) -> anyhow::Result<Duration> {
    let begin = now();
    let mut asks = tokio::time::interval(ASK_EVERY);
    asks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while begin.elapsed() < UNKNOWN_MAX {
        asks.tick().await;
        if knows(&mut node, session).await? {
            return Ok(begin.elapsed());
        }
    }
    bail!("the other node does not know of a session after {UNKNOWN_MAX:?}")
}

async fn knows(client: &mut Client, session: &str) -> anyhow::Result<bool> {
    let request = v1::GetStatsRequest {
        session_id: session.to_owned(),
        view: v1::StatsView::Sessions.into(),
        ..Default::default()
    };
    match client.get_stats(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}
