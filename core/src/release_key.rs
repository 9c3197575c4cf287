use crate::event::{Event, KeysReleased, SessionRef};
use crate::id::{KeyId, ModelName};
use crate::session::{Allocation, Session};
use crate::state::{Decide, Decision, State};
use crate::time::Time;

/// Take keys back from a session.
#[derive(Clone, Debug)]
pub struct Release {
    /// Who gives them back.
    pub session: SessionRef,
    /// Which of them.
    pub scope: ReleaseScope,
}

/// Which keys of a session are given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseScope {
    /// All; the session ends.
    Session,
    /// This key, for every model.
    Key(KeyId),
    /// Every key of this model.
    Model(ModelName),
}

/// What was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// Allocations given back by this call; 0 when they had been before.
    pub allocations_count: usize,
}

/// Why nothing could be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseRefusal {
    /// The owner has no such session.
    UnknownSession,
}

impl Decide for Release {
    type Reply = Released;
    type Refusal = ReleaseRefusal;

    fn decide(
        &self,
        state: &State,
        now: Time,
        _seed: u64,
    ) -> Result<Decision<Released>, ReleaseRefusal> {
        let now = state.not_before(now);
        let session = state.session(&self.session).ok_or(ReleaseRefusal::UnknownSession)?;
        if session.live_until(now).is_none() {
            return Ok(Decision { events: Vec::new(), reply: Released { allocations_count: 0 } });
        }
        let allocations = self.allocations(state, session);
        let reply = Released { allocations_count: allocations.len() };
        let ends = self.scope == ReleaseScope::Session;
        let event = KeysReleased {
            session: self.session.clone(),
            allocations,
            deadline: (!ends).then(|| now.after(state.rules.session_ttl)),
        };
        Ok(Decision { events: vec![Event::KeysReleased(event)], reply })
    }
}

impl Release {
    fn allocations(&self, state: &State, session: &Session) -> Vec<(ModelName, KeyId)> {
        let held = session.allocations.iter().filter(|allocation| allocation.held);
        let named = held.map(|allocation| name(state, allocation));
        named.filter(|(model, key)| self.scope.covers(model, *key)).collect()
    }
}

impl ReleaseScope {
    fn covers(&self, model: &ModelName, key: KeyId) -> bool {
        match self {
            Self::Session => true,
            Self::Key(wanted) => *wanted == key,
            Self::Model(wanted) => wanted == model,
        }
    }
}

fn name(state: &State, allocation: &Allocation) -> (ModelName, KeyId) {
    let model = state.pools[allocation.pool.0 as usize].model.clone();
    (model, state.keys[allocation.key.0 as usize].id())
}
