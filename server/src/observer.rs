//! How a running server is, for whoever watches over it: without figures and
//! errors, which are for operators.

use key_server_ledger::Condition;
use key_server_proto::v1::HealthStatus;

use crate::keys::Readiness;
use crate::lifecycle::serving;
use crate::service::Service;
use tonic_health::ServingStatus;

/// What was seen of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It gives keys, and all is well.
    Serving,
    /// It gives keys, and Health tells of something to look at.
    Degraded,
    /// It never had keys to give: their store is away.
    WaitsForKeys,
    /// The copy of the keys is too old to be given out, and their store is away.
    KeysTooOld,
    /// The ledger takes no records, so no keys are given.
    CannotRecord,
}

impl Seen {
    /// Whether it answers calls for keys; the same as `grpc.health.v1` says.
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Serving | Self::Degraded)
    }
}

/// Looks at a running server.
#[derive(Clone)]
pub struct Observer {
    service: Service,
}

impl Observer {
    pub(crate) fn new(service: Service) -> Self {
        Self { service }
    }

    /// Looks at memory under the engine's lock, as every call does. Blocks as
    /// long as that is taken: when this returns, the engine is alive.
    pub fn look(&self) -> Seen {
        let health = self.service.whole_health();
        if serving(&self.service) == ServingStatus::Serving {
            return match health.status() {
                HealthStatus::Ok => Seen::Serving,
                _ => Seen::Degraded,
            };
        }
        match (self.service.engine.ledger().condition(), &*self.service.keys.readiness().borrow()) {
            (Condition::Refusing { .. }, _) => Seen::CannotRecord,
            (_, Readiness::Stale(_)) => Seen::KeysTooOld,
            // Ready: it became so just now.
            (_, Readiness::Waiting(_) | Readiness::Ready) => Seen::WaitsForKeys,
        }
    }
}
