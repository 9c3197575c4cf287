//! How much memory Redis needs.

use std::sync::Arc;
use std::time::Duration;

use key_server_testkit::client::Client;
use key_server_testkit::redis::RedisServer;
use tokio::task::JoinSet;

use crate::fleet::Node;
use crate::row::{Goal, Row, Unit};
use crate::{Place, calls, output, redis};

/// Keys, and sessions.
const ROWS: usize = 100_000;
const IN_FLIGHT: usize = 64;
/// Until Redis has given back what it only needed to take them.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let count = place.count(ROWS);
    let redis = redis::start()?;
    let empty = redis::used_memory(&redis)?;
    let node = Node::start(place, count, &redis, &[]).await?;
    let sessions: Arc<[String]> = (0..count).map(|_| calls::new_session()).collect();
    output::progress(&format!("  {count} sessions, each reported on"));
    for_each(&node, &sessions, Deed::Open).await?;
    let whole = settled(&node, &redis).await?;
    let usage = |what: &str| usage(&redis, &format!("keys:{what}:{{{}}}", node.id));
    let (keys_usage, sessions_usage) = (usage("keys")?, usage("sessions")?);
    output::progress("  all released");
    for_each(&node, &sessions, Deed::Release).await?;
    let keys_only = settled(&node, &redis).await?;
    node.daemon.stop()?;
    let row = |what, goal, bytes: f64, usage: f64| Row {
        what,
        goal: Goal::AtMost(goal),
        measured: bytes / count as f64,
        unit: Unit::Bytes,
        details: format!("used_memory; MEMORY USAGE of the hash: {:.0} B", usage / count as f64),
    };
    Ok(vec![
        row("Redis memory of a key, of 100,000", 300.0, keys_only - empty, keys_usage),
        row("Redis memory of a live session, of 100,000", 400.0, whole - keys_only, sessions_usage),
    ])
}

#[derive(Clone, Copy)]
enum Deed {
    /// A select and a report.
    Open,
    Release,
}

/// Some at a time, each of which goes through its part of the sessions.
async fn for_each(node: &Node, sessions: &Arc<[String]>, deed: Deed) -> anyhow::Result<()> {
    let mut callers = JoinSet::new();
    for first in 0..IN_FLIGHT {
        let (client, sessions) = (node.daemon.client.clone(), Arc::clone(sessions));
        callers.spawn(async move {
            let own = sessions.iter().skip(first).step_by(IN_FLIGHT);
            do_all(client, own, deed).await
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(())
}

async fn do_all(
    mut client: Client,
    sessions: impl Iterator<Item = &String>,
    deed: Deed,
) -> anyhow::Result<()> {
    for session in sessions {
        match deed {
            Deed::Open => {
                let key = calls::select(&mut client, session).await?;
                calls::report(&mut client, session, &key).await?;
            }
            Deed::Release => calls::release(&mut client, session).await?,
        }
    }
    Ok(())
}

/// What Redis has allocated when the node has told all.
async fn settled(node: &Node, redis: &RedisServer) -> anyhow::Result<f64> {
    node.settle(redis).await?;
    tokio::time::sleep(SETTLE).await;
    redis::used_memory(redis)
}

fn usage(redis: &RedisServer, name: &str) -> anyhow::Result<f64> {
    Ok(redis.ask(&["MEMORY", "USAGE", name, "SAMPLES", "0"])?)
}
