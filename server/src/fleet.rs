//! This node among others: what it publishes, what it follows, what it
//! reserves.

mod follower;
mod publisher;
mod unread;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use key_server_core::{Reserved, SessionRef, Wish};
use key_server_projections::{
    Fleet as Port, OtherNode, Projection, Reservation, ReservationForModel,
};

use crate::backend::{Backend, BackendState};
use crate::engine::Engine;

pub(crate) use follower::Follower;
pub(crate) use publisher::Publisher;
use unread::Unread;

/// How long a call waits for a reservation.
const RESERVE_MAX: Duration = Duration::from_millis(250);
/// How long reservations are not tried after one failed.
const NOT_TRIED_FOR: Duration = Duration::from_secs(1);
/// A node that has been silent for so long is away.
const AWAY_AFTER: Duration = Duration::from_secs(5);
/// A node that has been away for so long is not waited for any more.
const MISSED_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What a fleet needs of the outside; whoever starts the server names it.
pub struct FleetParts {
    /// Where this node publishes its rows.
    pub projection: Box<dyn Projection>,
    /// What nodes learn of each other.
    pub port: Arc<dyn Port>,
}

/// What the parts of the server know of the fleet.
pub struct Fleet {
    port: Arc<dyn Port>,
    engine: Arc<Engine>,
    nodes: Mutex<Vec<OtherNode>>,
    warnings: Mutex<Vec<String>>,
    unread: Unread,
    /// Until when, on the timeline, reservations are not tried.
    not_before_ms: AtomicU64,
    /// How the shared projection is.
    pub(crate) backend: Backend,
}

impl Fleet {
    /// Nothing is contacted yet.
    pub fn new(engine: Arc<Engine>, port: Arc<dyn Port>) -> Self {
        let name = format!("fleet ({})", port.name());
        let backend = Backend::new(name, Arc::clone(&engine.clock));
        Self {
            port,
            engine,
            nodes: Mutex::default(),
            warnings: Mutex::default(),
            unread: Unread::default(),
            not_before_ms: AtomicU64::new(0),
            backend,
        }
    }

    /// The other nodes, as last seen.
    pub(crate) fn nodes(&self) -> Vec<OtherNode> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an operator should look at, in words.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        notes.extend(self.unread.notes());
        let nodes = self.nodes().into_iter();
        let missed = nodes.filter(is_missed);
        notes.extend(missed.map(|node| {
            let (silent, node) = (node.silent_for.as_secs(), node.node);
            let forget = self.port.how_to_forget(&node);
            format!("node {node} has been silent for {silent} s; if it is gone for good: {forget}")
        }));
        notes
    }

    fn saw(&self, nodes: Vec<OtherNode>) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    fn warn(&self, warnings: Vec<String>) {
        let mut known = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.iter().filter(|warning| !known.contains(warning)) {
            tracing::warn!("{}: {warning}", self.port.name());
        }
        *known = warnings;
    }

    /// Reserves keys for a session among all nodes; none when that cannot be
    /// asked now.
    pub(crate) async fn reserve(&self, session: &SessionRef, wishes: &[Wish]) -> Option<Reserved> {
        let now_ms = self.engine.clock.now().as_ms();
        if now_ms < self.not_before_ms.load(Ordering::Relaxed) {
            return None;
        }
        let wanted = reservation(session, wishes);
        let asked = tokio::time::timeout(RESERVE_MAX, self.port.reserve(&wanted)).await;
        let error = match asked {
            Ok(Ok(granted)) => {
                let models = wishes.iter().map(|wish| wish.model.clone());
                return Some(models.zip(granted).collect());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} ms", RESERVE_MAX.as_millis()),
        };
        let pause_ms = u64::try_from(NOT_TRIED_FOR.as_millis()).unwrap_or(u64::MAX);
        self.not_before_ms.store(now_ms.saturating_add(pause_ms), Ordering::Relaxed);
        self.backend.fails(BackendState::Unavailable, error);
        None
    }
}

fn is_missed(node: &OtherNode) -> bool {
    node.silent_for > AWAY_AFTER && node.silent_for <= MISSED_MAX && !node.has_left
}

fn reservation(session: &SessionRef, wishes: &[Wish]) -> Reservation {
    let models = wishes.iter().map(|wish| ReservationForModel {
        model: wish.model.clone(),
        count: wish.count,
        keys: wish.keys.clone(),
    });
    Reservation { session: session.clone(), models: models.collect() }
}

/// Positions by node.
type Applied = BTreeMap<Arc<str>, u64>;
