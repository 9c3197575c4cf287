use key_server_core::Time;
use key_server_ledger::Condition;
use key_server_projections::OtherNode;
use key_server_proto::v1;

use super::wire;
use crate::backend::{Backend, BackendState};
use crate::config::SettingValue;
use crate::guard::Peer;
use crate::policy::Verb;
use crate::service::Service;

impl Service {
    /// How the server is. Anybody who can connect may ask; how much it does,
    /// and what is wrong with it, is for those who may see all statistics.
    pub(crate) fn health(&self, caller: &Peer) -> v1::HealthResponse {
        let health = self.whole_health();
        if self.guard.may(caller, Verb::StatsAll) {
            return health;
        }
        v1::HealthResponse {
            status: health.status,
            version: health.version,
            durability: health.durability,
            ..Default::default()
        }
    }

    pub(crate) fn whole_health(&self) -> v1::HealthResponse {
        let totals = self.engine.read(key_server_core::State::totals);
        let now = self.engine.clock.now();
        let mut notes = self.keys.notes();
        notes.extend(self.node.notes.iter().cloned());
        notes.extend(self.node.panics.note());
        let mut backends = vec![
            self.ledger_backend(),
            self.backend(&self.keys.backend),
            self.backend(&self.projector.backend),
        ];
        let mut nodes = Vec::new();
        if let Some(fleet) = &self.fleet {
            backends.push(self.backend(&fleet.backend));
            notes.extend(fleet.notes());
            nodes.extend(fleet.nodes().into_iter().map(fleet_node));
        }
        backends.push(self.sandbox());
        v1::HealthResponse {
            status: status(&backends, &notes, self.keys.is_ready()).into(),
            version: self.node.version.to_owned(),
            uptime: now.since(self.node.started).try_into().ok(),
            node_id: self.node.id.clone(),
            keys: wire::count(totals.keys),
            models: wire::count(totals.models),
            sessions: wire::count(totals.sessions_live),
            ledger_position: wire::count(self.engine.ledger().durable().seq),
            durability: self.node.durability.show(),
            backends,
            notes,
            nodes,
            pid: i64::from(std::process::id()),
        }
    }

    fn ledger_backend(&self) -> v1::Backend {
        let (state, since, last_error) = match self.engine.ledger().condition() {
            Condition::Writable => (BackendState::Ok, self.node.started, String::new()),
            Condition::Refusing { since, error } => {
                (BackendState::Unavailable, since, error.to_string())
            }
        };
        self.backend_of("ledger", state, since, last_error)
    }

    fn sandbox(&self) -> v1::Backend {
        let name = format!("sandbox ({})", self.node.sandbox);
        self.backend_of(&name, BackendState::Ok, self.node.started, String::new())
    }

    fn backend_of(
        &self,
        name: &str,
        state: BackendState,
        since: Time,
        last_error: String,
    ) -> v1::Backend {
        v1::Backend {
            name: name.to_owned(),
            state: state.as_str().to_owned(),
            since: Some(self.timestamp(since)),
            last_error,
        }
    }

    fn backend(&self, backend: &Backend) -> v1::Backend {
        let status = backend.status();
        v1::Backend {
            name: backend.name().to_owned(),
            state: status.state.as_str().to_owned(),
            since: Some(self.wall_timestamp(status.since_ms)),
            last_error: status.last_error,
        }
    }
}

fn fleet_node(node: OtherNode) -> v1::FleetNode {
    v1::FleetNode {
        node_id: node.node.to_string(),
        version: node.version,
        silent_for: node.silent_for.try_into().ok(),
    }
}

/// Only the ledger, and keys that were never loaded, make the server unavailable: everything else it can do
/// without for a while.
fn status(backends: &[v1::Backend], notes: &[String], is_ready: bool) -> v1::HealthStatus {
    let ok = BackendState::Ok.as_str();
    if !is_ready || backends.first().is_some_and(|ledger| ledger.state != ok) {
        v1::HealthStatus::Unavailable
    } else if !notes.is_empty() || backends.iter().any(|backend| backend.state != ok) {
        v1::HealthStatus::Degraded
    } else {
        v1::HealthStatus::Ok
    }
}
