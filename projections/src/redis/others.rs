use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, from_redis_value};

use crate::fleet::OtherNode;
use crate::redis::Shared;
use crate::redis::announce::{command, fleet_ms};
use crate::redis::fault::Fault;
use crate::redis::names;
use crate::redis::settings::RedisMode;

/// What a node says of itself: version, position, heartbeat, whether it left.
type Fields = (Option<String>, Option<String>, Option<String>, Option<String>);

impl Shared {
    /// The other nodes; those of which nothing is left are forgotten.
    pub(crate) async fn others(&self) -> Result<Vec<OtherNode>, Fault> {
        let members = self.reader.ask_one(command("SMEMBERS", &[names::NODES])).await?;
        let mut nodes: Vec<String> = from_redis_value(members)?;
        nodes.retain(|node| node != self.node());
        let looks = nodes.iter().map(|node| look_at(node));
        let commands: Vec<Cmd> = std::iter::once(redis::cmd("TIME")).chain(looks).collect();
        let mut answers = self.reader.ask(&commands).await?.into_iter();
        let now = fleet_ms(from_redis_value(answers.next().unwrap_or(redis::Value::Nil))?);
        let (mut others, mut gone) = (Vec::new(), Vec::new());
        for (node, answer) in nodes.into_iter().zip(answers) {
            match other(&node, from_redis_value(answer)?, now) {
                Some(other) => others.push(other),
                None => gone.push(node),
            }
        }
        self.forget(&gone).await?;
        Ok(others)
    }

    /// The command that deletes what a node says of itself: whoever looks next
    /// takes it out of the rest.
    pub(crate) fn how_to_forget(&self, node: &str) -> String {
        let database = self.settings.urls.first().map_or(0, |url| url.database);
        let place = match (&self.settings.mode, database) {
            (RedisMode::Cluster, _) => " -c".to_owned(),
            (_, 0) => String::new(),
            (_, database) => format!(" -n {database}"),
        };
        format!("redis-cli{place} del '{}'", names::node(node))
    }

    /// Says that this node ends.
    pub(crate) async fn leave(&self) -> Result<(), Fault> {
        let leave = command("HSET", &[&names::node(self.node()), "left", "1"]);
        self.publisher.ask_one(leave).await?;
        Ok(())
    }

    /// Takes nodes out of what several nodes share.
    async fn forget(&self, gone: &[String]) -> Result<(), Fault> {
        if gone.is_empty() {
            return Ok(());
        }
        let pools = self.reader.ask_one(command("SMEMBERS", &[names::POOLS])).await?;
        let pools: Vec<String> = from_redis_value(pools)?;
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        let mut commands: Vec<Cmd> = Vec::with_capacity(pools.len() + 1);
        for pool in pools {
            let mut command = command("HDEL", &[&names::pool(&pool)]);
            command.arg(&gone);
            commands.push(command);
        }
        let mut nodes = command("SREM", &[names::NODES]);
        nodes.arg(&gone);
        commands.push(nodes);
        self.reader.ask(&commands).await?;
        Ok(())
    }
}

/// None when nothing is left of the node. What is no number is taken for none:
/// the node writes it again, or has been silent since ever.
fn other(node: &str, fields: Fields, now: u64) -> Option<OtherNode> {
    let (version, seq, heartbeat, left) = fields;
    let heartbeat = heartbeat?.parse().unwrap_or(0);
    Some(OtherNode {
        node: Arc::from(node),
        version: version.unwrap_or_default(),
        mark_seq: seq.and_then(|seq| seq.parse().ok()),
        silent_for: Duration::from_millis(now.saturating_sub(heartbeat)),
        has_left: left.is_some(),
    })
}

fn look_at(node: &str) -> Cmd {
    command("HMGET", &[&names::node(node), "version", "seq", "heartbeat", "left"])
}
