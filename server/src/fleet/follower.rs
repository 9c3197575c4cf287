//! Learns what other nodes publish: news as they come, whole nodes where news
//! were missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use key_server_core::NodeRows;
use key_server_projections::{Listen, News, OtherNode, ProjectionError};
use tokio_util::sync::CancellationToken;

use super::{Applied, Fleet};
use crate::engine::Engine;

/// How often the nodes are counted, and their positions compared.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a start waits for what other nodes did.
const LOOK_FIRST_MAX: Duration = Duration::from_secs(2);
/// How long to wait before listening anew.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// After so many looks a node that is gone is forgotten.
const GONE_AFTER_LOOKS: u32 = 60;
/// When sessions may expire though nobody could be asked what other nodes did.
const EXPIRE_AFTER: Duration = Duration::from_secs(5);

/// Follows the other nodes.
pub(crate) struct Follower {
    fleet: Arc<Fleet>,
    engine: Arc<Engine>,
    /// The sequence number of each node up to which its rows are known here.
    applied: Applied,
    /// The positions of the nodes at the last look.
    seen: Applied,
    /// Nodes that are known here and nowhere else, for how many looks.
    missing: BTreeMap<Arc<str>, u32>,
    followed: BTreeSet<Arc<str>>,
}

impl Follower {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        Self {
            engine: Arc::clone(&fleet.engine),
            fleet,
            applied: Applied::new(),
            seen: Applied::new(),
            missing: BTreeMap::new(),
            followed: BTreeSet::new(),
        }
    }

    /// Looks once at what the other nodes did meanwhile, before calls come that
    /// name their sessions; not for long, for they may not be there.
    pub(crate) async fn look_first(&mut self) {
        let looked = tokio::time::timeout(LOOK_FIRST_MAX, self.look_once()).await;
        match looked {
            Ok(Ok(())) => self.engine.let_expire(),
            Ok(Err(error)) => tracing::debug!("other nodes cannot be asked yet: {error}"),
            Err(_) => tracing::debug!("other nodes did not answer in time"),
        }
        self.followed.clear();
    }

    async fn look_once(&mut self) -> Result<(), ProjectionError> {
        let mut listen = self.fleet.port.listen().await?;
        self.look(&mut *listen).await
    }

    /// Follows until the stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let engine = Arc::clone(&self.engine);
        let patience = async {
            tokio::time::sleep(EXPIRE_AFTER).await;
            engine.let_expire();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.follow() => {}
            () = patience => {}
            () = stop.cancelled() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            self.followed.clear();
            let Err(error) = self.listen().await;
            tracing::debug!("listening to other nodes ended: {error}");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Listens until the subscription breaks.
    async fn listen(&mut self) -> Result<std::convert::Infallible, ProjectionError> {
        let mut listen = self.fleet.port.listen().await?;
        self.look(&mut *listen).await?;
        self.engine.let_expire();
        let engine = Arc::clone(&self.engine);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                news = listen.next() => self.hear(&mut *listen, news?).await?,
                _ = looks.tick() => self.look(&mut *listen).await?,
                () = engine.forgot() => self.applied.clear(),
            }
        }
    }

    async fn hear(&mut self, listen: &mut dyn Listen, news: News) -> Result<(), ProjectionError> {
        match news {
            News::Joined { node } => self.join(listen, &node).await,
            News::Rows { node, from, to, rows } => self.hear_rows(&node, from, to, rows).await,
        }
    }

    async fn hear_rows(
        &mut self,
        node: &Arc<str>,
        from: Option<u64>,
        to: u64,
        rows: NodeRows,
    ) -> Result<(), ProjectionError> {
        let applied = self.applied.get(node).copied();
        if from.is_some() && applied == from {
            self.engine.learn(node, rows);
            self.applied.insert(Arc::clone(node), to);
        } else if (from.is_none() || applied.is_none_or(|applied| applied < to))
            && !self.fleet.unread.has(node)
        {
            // Something is missing. What could not be read is tried again by the
            // next look, not with each piece of news.
            self.read(node).await?;
        }
        Ok(())
    }

    async fn join(
        &mut self,
        listen: &mut dyn Listen,
        node: &Arc<str>,
    ) -> Result<(), ProjectionError> {
        if self.followed.insert(Arc::clone(node)) {
            listen.follow(node).await?;
        }
        Ok(())
    }

    /// Counts the nodes, and reads those of which something is missing.
    async fn look(&mut self, listen: &mut dyn Listen) -> Result<(), ProjectionError> {
        let others = self.fleet.port.others().await?;
        for other in &others {
            self.join(listen, &other.node).await?;
            if self.is_behind(other) {
                self.read(&other.node).await?;
            }
        }
        self.seen = others
            .iter()
            .filter_map(|other| Some((Arc::clone(&other.node), other.mark_seq?)))
            .collect();
        self.forget_gone(&others);
        self.fleet.unread.keep(&others);
        self.fleet.saw(others);
        Ok(())
    }

    /// Whether rows of a node are missing here. News may be on the way: what is
    /// missing was there at the last look already.
    fn is_behind(&self, other: &OtherNode) -> bool {
        if self.fleet.unread.has(&other.node) {
            return true;
        }
        let Some(applied) = self.applied.get(&other.node) else { return other.mark_seq.is_some() };
        self.seen.get(&other.node).is_some_and(|seen| applied < seen)
    }

    /// Forgets nodes that nobody has heard of for a while. A store that lost
    /// everything knows no nodes for a moment, and they come again.
    fn forget_gone(&mut self, others: &[OtherNode]) {
        let is_there = |node: &Arc<str>| others.iter().any(|other| other.node == *node);
        let missing = self.applied.keys().filter(|node| !is_there(node));
        let missing: Vec<Arc<str>> = missing.cloned().collect();
        self.missing.retain(|node, _| !is_there(node));
        for node in missing {
            let looks = self.missing.entry(Arc::clone(&node)).or_default();
            *looks += 1;
            if *looks > GONE_AFTER_LOOKS {
                self.missing.remove(&node);
                self.applied.remove(&node);
                self.engine.learn_all(&node);
                self.engine.learned_all(&node);
            }
        }
    }

    /// Reads a node as a whole. Nothing is learned from a reading that breaks
    /// off, or from one with a row that cannot be read: what is known stays.
    async fn read(&mut self, node: &Arc<str>) -> Result<(), ProjectionError> {
        let mut pages = Vec::new();
        let mut keep = |rows: NodeRows| pages.push(rows);
        let seq = match self.fleet.port.read(node, &mut keep).await {
            Err(error @ ProjectionError::Corrupt { .. }) => {
                self.fleet.unread.put(node, &error);
                return Ok(());
            }
            read => read?,
        };
        self.fleet.unread.take(node);
        let Some(seq) = seq else {
            self.applied.remove(node);
            return Ok(());
        };
        self.engine.learn_all(node);
        pages.into_iter().for_each(|rows| self.engine.learn(node, rows));
        self.engine.learned_all(node);
        self.applied.insert(Arc::clone(node), seq);
        Ok(())
    }
}
