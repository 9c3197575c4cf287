//! Several daemons that share their state through one Redis.

use std::time::Duration;

use anyhow::ensure;
use key_server_proto::v1;
use key_server_testkit::client::Client;
use key_server_testkit::process::Home;
use key_server_testkit::redis::RedisServer;

use crate::clock::now;
use crate::daemon::{self, Daemon};
use crate::load::Target;
use crate::{Place, redis};

/// How long nodes may take to know each other, or to tell what they have.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(10);
/// A node that has told nothing for so long has nothing left to tell.
const QUIET_FOR: Duration = Duration::from_millis(300);

/// Nodes, and the Redis between them.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) redis: RedisServer,
}

/// One daemon of several.
pub(crate) struct Node {
    pub(crate) home: Home,
    pub(crate) daemon: Daemon,
    /// As it names itself.
    pub(crate) id: String,
}

impl Fleet {
    /// So many nodes with the same keys, which know each other.
    pub(crate) async fn start(place: &Place, nodes: usize, keys: usize) -> anyhow::Result<Self> {
        Self::start_with(place, nodes, keys, &[]).await
    }

    /// The same, with further settings by their variables.
    pub(crate) async fn start_with(
        place: &Place,
        nodes: usize,
        keys: usize,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut fleet = Self { nodes: Vec::new(), redis: redis::start()? };
        for _ in 0..nodes {
            fleet.nodes.push(Node::start(place, keys, &fleet.redis, settings).await?);
        }
        fleet.wait_until_all_are_known().await?;
        Ok(fleet)
    }

    async fn wait_until_all_are_known(&mut self) -> anyhow::Result<()> {
        let others = self.nodes.len() - 1;
        for node in &mut self.nodes {
            let begin = now();
            while node.daemon.health().await?.nodes.len() < others {
                ensure!(begin.elapsed() < PATIENCE, "the nodes do not know each other");
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        Ok(())
    }

    /// Clients of all nodes, in their order.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(|node| node.daemon.client.clone()).collect()
    }

    /// Ends all in good order.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        for node in self.nodes {
            node.daemon.stop()?;
        }
        Ok(())
    }
}

impl Node {
    /// A node with so many keys beside others of this Redis.
    pub(crate) async fn start(
        place: &Place,
        keys: usize,
        redis: &RedisServer,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let home = daemon::home(place, keys)?.with("KEY_SERVER_REDIS_URL", redis.url());
        let home = settings.iter().fold(home, |home, (name, value)| home.with(name, value));
        let mut daemon = daemon::start(&home).await?;
        let id = daemon.health().await?.node_id;
        Ok(Self { home, daemon, id })
    }

    /// For a load of calls.
    pub(crate) async fn target(&self) -> anyhow::Result<Target> {
        Target::connect(&self.home.socket(), self.daemon.server.pid()).await
    }

    /// The last event in its ledger.
    pub(crate) async fn position(&self) -> anyhow::Result<i64> {
        let health = self.daemon.client.clone().health(v1::HealthRequest {}).await?;
        Ok(health.into_inner().ledger_position)
    }

    /// The last event that the others were told of; -1 when Redis knows of none.
    pub(crate) fn told(&self, redis: &RedisServer) -> anyhow::Result<i64> {
        let name = format!("keys:node:{{{}}}", self.id);
        let seq: Option<i64> = redis.ask(&["HGET", &name, "seq"])?;
        Ok(seq.unwrap_or(-1))
    }

    /// Waits until it has told the others everything; how long that took.
    pub(crate) async fn settle(&self, redis: &RedisServer) -> anyhow::Result<Duration> {
        let begin = now();
        let (mut last, mut changed) = (self.told(redis)?, begin);
        while changed.elapsed() < QUIET_FOR {
            ensure!(begin.elapsed() < PATIENCE, "the node does not come to an end of its news");
            tokio::time::sleep(POLL_EVERY).await;
            let told = self.told(redis)?;
            if told != last {
                (last, changed) = (told, now());
            }
        }
        Ok(changed - begin)
    }

    /// What it says of all nodes together.
    pub(crate) async fn totals(&self) -> anyhow::Result<v1::Totals> {
        let request = v1::GetStatsRequest { page_size: 1, ..Default::default() };
        let response = self.daemon.client.clone().get_stats(request).await?.into_inner();
        Ok(response.totals.unwrap_or_default())
    }
}
