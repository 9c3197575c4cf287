//! What every verb works with.

use std::sync::Arc;

use key_server_core::Time;
use prost_types::Timestamp;

use crate::audit::Audit;
use crate::clock;
use crate::config::{CapsAlone, Durability};
use crate::engine::Engine;
use crate::fleet::Fleet;
use crate::guard::Guard;
use crate::keys::Keys;
use crate::panics::Panics;
use crate::projector::Projector;

/// The service behind the socket; one file of [`crate::verbs`] per call.
#[derive(Clone)]
pub struct Service {
    pub(crate) engine: Arc<Engine>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) projector: Arc<Projector>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) node: Arc<Node>,
    /// None when this node works alone.
    pub(crate) fleet: Option<Arc<Fleet>>,
}

/// What Health tells of the node itself.
#[derive(Debug)]
pub struct Node {
    /// Made once, kept beside the ledger.
    pub id: String,
    /// Of the program.
    pub version: &'static str,
    /// The setting in force.
    pub durability: Durability,
    /// When this process began to serve.
    pub started: Time,
    /// What is done with capped keys while other nodes cannot be asked.
    pub caps_alone: CapsAlone,
    /// What was noticed at start and stays worth a look.
    pub notes: Vec<String>,
    /// What the process gave up before it served, in words.
    pub sandbox: String,
    /// How often something failed that cannot.
    pub panics: Arc<Panics>,
}

impl Service {
    /// An instant of the timeline, as the wire has it.
    pub(crate) fn timestamp(&self, time: Time) -> Timestamp {
        let wall = clock::wall_of(self.engine.clock.as_ref(), time);
        Timestamp { seconds: wall.as_second(), nanos: wall.subsec_nanosecond() }
    }

    /// A wall clock's instant, as the wire has it.
    pub(crate) fn wall_timestamp(&self, ms: i64) -> Timestamp {
        let nanos = i32::try_from(ms.rem_euclid(1_000)).unwrap_or(0) * 1_000_000;
        Timestamp { seconds: ms.div_euclid(1_000), nanos }
    }
}
