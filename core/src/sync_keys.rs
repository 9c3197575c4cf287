use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

use crate::event::{Event, KeyFacts};
use crate::id::KeyId;
use crate::key::Key;
use crate::state::{Decide, Decision, State};
use crate::time::Time;

/// Bring the served keys in line with what the secret store holds.
#[derive(Clone, Debug)]
pub struct SyncKeys {
    /// All keys that are to be served, each once.
    pub desired: Vec<Arc<KeyFacts>>,
}

/// How many keys came, changed and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Served from now on, or again.
    pub added: usize,
    /// Served with other facts.
    pub changed: usize,
    /// Not served any more.
    pub retired: usize,
}

impl Decide for SyncKeys {
    type Reply = Synced;
    type Refusal = Infallible;

    fn decide(
        &self,
        state: &State,
        _now: Time,
        _seed: u64,
    ) -> Result<Decision<Synced>, Infallible> {
        let mut reply = Synced::default();
        let mut events = Vec::new();
        for facts in &self.desired {
            match state.key(facts.key) {
                Some((_, key)) if key.retired => events.push(Event::KeyAdded(facts.clone())),
                Some((_, key)) if key.facts() == facts => {}
                Some(_) => events.push(Event::KeyChanged(facts.clone())),
                None => events.push(Event::KeyAdded(facts.clone())),
            }
        }
        events.extend(self.gone(state).map(|key| Event::KeyRetired { key }));
        for event in &events {
            match event {
                Event::KeyAdded(_) => reply.added += 1,
                Event::KeyChanged(_) => reply.changed += 1,
                _ => reply.retired += 1,
            }
        }
        Ok(Decision { events, reply })
    }
}

impl SyncKeys {
    /// Served keys that are not desired.
    fn gone(&self, state: &State) -> impl Iterator<Item = KeyId> {
        let desired: HashSet<KeyId> = self.desired.iter().map(|facts| facts.key).collect();
        let served = state.keys.iter().filter(|key| !key.retired).map(Key::id);
        served.filter(move |key| !desired.contains(key))
    }
}
