//! The shared projection: what each node publishes of itself in Redis, and
//! what it learns there of the others.
//!
//! `docs/redis.md` describes every key for people. Redis holds no secret, and
//! losing it costs time, nothing else: each node writes only what it owns, as
//! absolute values with its position, and readers add up over nodes.

mod announce;
mod check;
mod clock;
mod connect;
mod fault;
mod lane;
mod listen;
mod names;
mod others;
mod password;
mod publish;
mod read;
mod reserve;
mod rows;
mod settings;
mod url;

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use key_server_core::{Changes, KeyId, NodeRows};
use tokio::runtime::Handle;

use crate::error::ProjectionError;
use crate::fleet::{Announced, Fleet, Hold, Listen, NodeStatus, OtherNode, Reservation};
use crate::projection::{Mark, Projection};
use crate::redis::announce::Presence;
use crate::redis::clock::Offset;
use crate::redis::lane::{Lane, Script};
use crate::redis::listen::Subscription;

pub use password::Password;
pub use settings::{RedisMode, RedisSettings, RedisTls, TIMEOUT_DEFAULT};
pub use url::{RedisAddress, RedisUrl, RedisUrlError};

/// What one node publishes of itself in Redis.
///
/// It waits for Redis on the runtime that it was made with, so it is called
/// from threads that may wait. Usage and receipts of [`Changes`] are not kept.
/// When the node has not announced itself before its first write, the mark's
/// instant is taken for now.
///
/// `Corrupt` from a write says that rows are lost that it follows on: clear it
/// and write everything. Who asks for the mark first may go on from there.
pub struct RedisProjection {
    shared: Arc<Shared>,
    handle: Handle,
    /// The mark that Redis must have; none when nobody looked.
    follows: Cell<Option<u64>>,
}

/// The fleet, as one node sees it in Redis.
///
/// What crosses it in terms of the node's timeline (`read`, `hold`, news) needs
/// the difference to Redis's clock: it is known from the first announcement, or
/// the first write of the projection, on.
pub struct RedisFleet {
    shared: Arc<Shared>,
}

/// What both are made of. Publishing, reserving and reading have a connection
/// each, so that none waits for another.
pub(crate) struct Shared {
    settings: Arc<RedisSettings>,
    store: String,
    publisher: Lane,
    reserver: Lane,
    reader: Lane,
    scripts: Scripts,
    offset: Mutex<Option<Offset>>,
    presence: tokio::sync::Mutex<Presence>,
    /// Tells this process from others that call themselves the same node.
    process: Box<str>,
}

struct Scripts {
    write: Script,
    clear: Script,
    announce: Script,
    move_clock: Script,
    reserve: Script,
    hold: Script,
}

impl RedisProjection {
    /// A projection of these settings. Nothing is contacted before it is asked.
    pub fn new(settings: RedisSettings, handle: Handle) -> Self {
        let shared = Arc::new(Shared::new(settings));
        Self { shared, handle, follows: Cell::new(None) }
    }

    /// The fleet that the node belongs to.
    pub fn fleet(&self) -> Arc<RedisFleet> {
        Arc::new(RedisFleet { shared: Arc::clone(&self.shared) })
    }
}

impl Shared {
    fn new(settings: RedisSettings) -> Self {
        let settings = Arc::new(settings);
        let lane = || Lane::new(Arc::clone(&settings));
        Self {
            store: settings.store(),
            publisher: lane(),
            reserver: lane(),
            reader: lane(),
            scripts: Scripts::new(),
            offset: Mutex::default(),
            presence: tokio::sync::Mutex::default(),
            process: format!("{:016x}", getrandom::u64().unwrap_or_default()).into(),
            settings,
        }
    }

    fn node(&self) -> &str {
        &self.settings.node
    }

    /// Names of the hashes that only this node writes.
    fn own_names(&self) -> [String; 3] {
        let node = self.node();
        [names::node(node), names::keys(node), names::sessions(node)]
    }
}

impl Scripts {
    fn new() -> Self {
        Self {
            write: Script::new(include_str!("redis/write.lua")),
            clear: Script::new(include_str!("redis/clear.lua")),
            announce: Script::new(include_str!("redis/announce.lua")),
            move_clock: Script::new(include_str!("redis/move.lua")),
            reserve: Script::repeatable(include_str!("redis/reserve.lua")),
            hold: Script::repeatable(include_str!("redis/hold.lua")),
        }
    }
}

impl Projection for RedisProjection {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn mark(&self) -> Result<Option<Mark>, ProjectionError> {
        let mark = self.handle.block_on(self.shared.mark());
        let mark = mark.map_err(|fault| fault.at(&self.shared.store))?;
        self.follows.set(mark.as_ref().map(|mark| mark.seq));
        Ok(mark)
    }

    fn write(&mut self, mark: &Mark, changes: &Changes) -> Result<(), ProjectionError> {
        let written = self.handle.block_on(self.shared.write(self.follows.get(), mark, changes));
        let seq = written.map_err(|fault| fault.at(&self.shared.store))?;
        self.follows.set(Some(seq));
        Ok(())
    }

    fn clear(&mut self) -> Result<(), ProjectionError> {
        let cleared = self.handle.block_on(self.shared.clear());
        cleared.map_err(|fault| fault.at(&self.shared.store))?;
        self.follows.set(None);
        Ok(())
    }
}

#[async_trait]
impl Fleet for RedisFleet {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn fill(&self, mark: &Mark, changes: &Changes) -> Result<(), ProjectionError> {
        let filled = self.shared.fill(mark, changes).await;
        filled.map_err(|fault| fault.at(&self.shared.store))
    }

    async fn announce(&self, status: &NodeStatus) -> Result<Announced, ProjectionError> {
        let announced = self.shared.announce(status).await;
        announced.map_err(|fault| fault.at(&self.shared.store))
    }

    async fn leave(&self) -> Result<(), ProjectionError> {
        self.shared.leave().await.map_err(|fault| fault.at(&self.shared.store))
    }

    async fn others(&self) -> Result<Vec<OtherNode>, ProjectionError> {
        self.shared.others().await.map_err(|fault| fault.at(&self.shared.store))
    }

    fn how_to_forget(&self, node: &str) -> String {
        self.shared.how_to_forget(node)
    }

    async fn read(
        &self,
        node: &str,
        page: &mut (dyn FnMut(NodeRows) + Send),
    ) -> Result<Option<u64>, ProjectionError> {
        let read = self.shared.read(node, page).await;
        read.map_err(|fault| fault.at(&self.shared.store))
    }

    async fn listen(&self) -> Result<Box<dyn Listen>, ProjectionError> {
        match Subscription::open(Arc::clone(&self.shared)).await {
            Ok(subscription) => Ok(Box::new(subscription)),
            Err(fault) => Err(fault.at(&self.shared.store)),
        }
    }

    async fn reserve(&self, wanted: &Reservation) -> Result<Vec<Vec<KeyId>>, ProjectionError> {
        self.shared.reserve(wanted).await.map_err(|fault| fault.at(&self.shared.store))
    }

    async fn hold(&self, holds: &[Hold]) -> Result<(), ProjectionError> {
        self.shared.hold(holds).await.map_err(|fault| fault.at(&self.shared.store))
    }
}
