//! Tells the other nodes what happened here, in batches, in the background.

use std::sync::Arc;
use std::time::Duration;

use key_server_core::{CappedHold, SharedChanges, Time};
use key_server_projections::{Announced, Hold, Mark, NodeStatus, Projection, ProjectionError};

use super::Fleet;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, SharedExtract};

/// How long news are collected before they are told.
const COLLECT: Duration = Duration::from_millis(20);
/// How often the node says that it is there.
pub(crate) const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// Keys and sessions of one batch, each.
const ROWS_MAX: usize = 4_000;
/// Changes that may wait while they cannot be told; beyond that, everything is
/// told anew later.
const WAITING_MAX: usize = 500_000;
/// Stands for the sequence number while everything is told anew.
const BEGUN: u64 = 0;
/// How often the counts of the pools are told, in announcements.
const POOLS_EVERY: u32 = 5;

/// Writes this node's rows to the shared projection; the only one who does.
pub(crate) struct Publisher {
    fleet: Arc<Fleet>,
    engine: Arc<Engine>,
    projection: Box<dyn Projection>,
    version: &'static str,
    started: Time,
    /// The sequence number up to which the others have been told; none when
    /// they have to be told everything.
    told: Option<u64>,
    /// The generation of memory that was told.
    generation: u64,
    /// A batch that could not be written yet; later ones wait behind it.
    stuck: Option<SharedExtract>,
    announcements: u32,
}

impl Publisher {
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        projection: Box<dyn Projection>,
        version: &'static str,
    ) -> Self {
        let engine = Arc::clone(&fleet.engine);
        Self {
            projection,
            version,
            started: engine.clock.now(),
            told: None,
            generation: engine.generation(),
            stuck: None,
            announcements: 0,
            engine,
            fleet,
        }
    }

    /// Tells until the stop, and once more then.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.announce().await;
            self.tell_for(ANNOUNCE_EVERY, &stop).await;
        }
        if self.flush().await
            && let Err(error) = self.fleet.port.leave().await
        {
            tracing::debug!("the other nodes were not told of the end: {error}");
        }
    }

    /// Tells news as they come, until it is time to announce the node again. A
    /// batch that was begun is finished: what is taken out of the state must be
    /// told, or kept.
    async fn tell_for(&mut self, time: Duration, stop: &CancellationToken) {
        let due = tokio::time::sleep(time);
        tokio::pin!(due);
        let mut works = self.flush().await;
        loop {
            tokio::select! {
                () = &mut due => return,
                () = stop.cancelled() => return,
                () = self.engine.has_news(), if works => {}
            }
            tokio::time::sleep(COLLECT).await;
            works = self.flush().await;
        }
    }

    /// Says that the node is there, and finds out whether its rows are.
    pub(crate) async fn announce(&mut self) {
        let status = self.status();
        let announced = self.fleet.port.announce(&status).await;
        self.announcements = self.announcements.wrapping_add(1);
        match announced {
            Ok(announced) => self.announced(announced),
            Err(error) => self.failed(&error),
        }
    }

    fn status(&self) -> NodeStatus {
        let tells_pools = self.announcements.is_multiple_of(POOLS_EVERY);
        let (totals, pools) = self.engine.read(|state| {
            let pools = tells_pools.then(|| state.pools_after(None).collect());
            (state.totals(), pools)
        });
        NodeStatus {
            version: self.version,
            started: self.started,
            now: self.engine.clock.now(),
            keys: totals.keys,
            sessions_live: totals.sessions_live,
            pools,
        }
    }

    fn announced(&mut self, announced: Announced) {
        self.fleet.answers();
        self.fleet.warn(announced.warnings);
        // A batch whose answer was lost may be there all the same.
        let stuck = self.stuck.as_ref().and_then(SharedExtract::seq);
        let seq = announced.mark_seq;
        let is_there = seq == self.told || (stuck.is_some() && seq == stuck);
        if self.told.is_some() && !is_there {
            tracing::warn!("what this node had published was lost; publishing it anew");
        }
        if !is_there || announced.clock_moved {
            self.told = None;
        } else if self.stuck.is_none() {
            self.fleet.backend.works();
        }
    }

    /// Tells the others everything that they have not been told; false when
    /// that does not work now.
    async fn flush(&mut self) -> bool {
        if self.generation != self.engine.generation() {
            self.generation = self.engine.generation();
            (self.told, self.stuck) = (None, None);
        }
        if self.told.is_none() && !self.begin_anew() {
            return false;
        }
        while let Some(extract) = self.stuck.take().or_else(|| self.extract()) {
            let is_all = extract.shared.is_all;
            if !self.tell(extract).await {
                return false;
            }
            // What came meanwhile is collected first.
            if is_all {
                break;
            }
        }
        true
    }

    fn extract(&self) -> Option<SharedExtract> {
        // Before the state is looked at: what is decided until then is in it.
        self.fleet.reserving.look();
        self.engine.extract_shared(ROWS_MAX)
    }

    fn begin_anew(&mut self) -> bool {
        let cleared = tokio::task::block_in_place(|| self.projection.clear());
        if let Err(error) = cleared {
            self.failed(&error);
            return false;
        }
        self.stuck = None;
        self.told = Some(BEGUN);
        self.engine.share_everything();
        true
    }

    /// False when the rest has to wait.
    async fn tell(&mut self, mut extract: SharedExtract) -> bool {
        // Not durable: memory will be made anew from what is, and told anew.
        let Ok(mark) = extract.mark().await else { return false };
        match self.write(&mark, &extract.shared).await {
            Ok(()) => {
                self.fleet.answers();
                self.fleet.backend.works();
                true
            }
            Err(error) => {
                let begins_anew =
                    self.told == Some(BEGUN) || matches!(error, ProjectionError::Corrupt { .. });
                if begins_anew {
                    self.told = None;
                } else {
                    self.stuck = Some(extract.durable(mark));
                }
                self.failed(&error);
                false
            }
        }
    }

    async fn write(&mut self, mark: &Mark, shared: &SharedChanges) -> Result<(), ProjectionError> {
        if !shared.holds.is_empty() {
            let telling = self.fleet.reserving.tell(&shared.holds);
            let holds = shared.holds.iter().map(|one| hold(one, telling.is_reserving(one)));
            self.fleet.port.hold(&holds.collect::<Vec<_>>()).await?;
        }
        if !shared.is_all {
            return self.fleet.port.fill(mark, &shared.changes).await;
        }
        tokio::task::block_in_place(|| self.projection.write(mark, &shared.changes))?;
        self.told = Some(mark.seq);
        Ok(())
    }

    fn failed(&mut self, error: &ProjectionError) {
        self.fleet.away(error);
        if self.engine.let_unshared_go_beyond(WAITING_MAX) {
            (self.told, self.stuck) = (None, None);
        }
    }
}

fn hold(hold: &CappedHold, is_reserving: bool) -> Hold {
    Hold {
        key: hold.key,
        session: hold.session.clone(),
        until: hold.until,
        came_from: hold.came_from.clone(),
        is_reserving,
    }
}
