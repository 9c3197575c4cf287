use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use crate::deadlines::{Chain, List};
use crate::event::{KeyFacts, SessionRef};
use crate::fleet::{NodeKeyStats, NodeTotals};
use crate::id::{KeyId, ModelName};
use crate::key::{Key, KeyIndex, KeyState, Usage, weight_for_people};
use crate::session::Session;
use crate::state::State;
use crate::tier::Tier;
use crate::time::Time;

/// A key as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyStats {
    /// Its facts.
    pub facts: Arc<KeyFacts>,
    /// Whether it can be drawn; cooling when it cools for any of its models.
    pub state: KeyState,
    /// How much it was used in the last hour.
    pub tier: Tier,
    /// Tier weight x own weight / (1 + holders).
    pub weight: f64,
    /// Live sessions that hold it.
    pub holders: u32,
    /// How many may; none: no cap.
    pub holders_max: Option<u32>,
    /// Tokens spent in the last hour.
    pub window_tokens: u64,
    /// Since it was first seen.
    pub lifetime: Usage,
    /// When it was last given or reported on.
    pub last_used: Option<Time>,
    /// The soonest end of a cooldown.
    pub cooling_until: Option<Time>,
}

/// A pool as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Its model.
    pub model: ModelName,
    /// Keys in each state.
    pub usable: usize,
    /// Keys that wait for a known instant.
    pub cooling: usize,
    /// Keys held by as many sessions as they may be.
    pub at_cap: usize,
}

/// A session as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionStats {
    /// Its name.
    pub session: SessionRef,
    /// The caller's number for whom it works.
    pub user: i32,
    /// When it was opened.
    pub opened: Time,
    /// When it ends unless renewed, or ended.
    pub end: Time,
    /// Whether it has ended.
    pub ended: bool,
    /// What it holds or held.
    pub allocations: Vec<AllocationStats>,
    /// Where it lives; none for this node.
    pub node: Option<Arc<str>>,
}

/// One key that a session holds or held.
#[derive(Clone, Debug, PartialEq)]
pub struct AllocationStats {
    /// The key.
    pub key: KeyId,
    /// The model.
    pub model: ModelName,
    /// False once it was given back.
    pub held: bool,
    /// What the session spent with it.
    pub usage: Usage,
}

/// Keys, sessions and what was spent, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Served keys.
    pub keys: usize,
    /// Models with at least one key.
    pub models: usize,
    /// Sessions in use.
    pub sessions_live: usize,
    /// Tokens of all keys in the last hour; stops at the largest number.
    pub window_tokens: u64,
    /// What all keys spent since they were first seen.
    pub lifetime: Usage,
}

impl Session {
    /// When it ends or ended, and whether it has.
    pub(crate) fn end(&self) -> (Time, bool) {
        match self.phase {
            crate::session::Phase::Live { deadline, .. } => (deadline, false),
            crate::session::Phase::Ended { at } => (at, true),
        }
    }
}

impl State {
    /// The whole node; O(models).
    pub fn totals(&self) -> Totals {
        let models = self.pools.iter().filter(|pool| pool.counts().all() > 0).count();
        Totals {
            keys: self.keys_served,
            models,
            sessions_live: self.sessions_live,
            window_tokens: u64::try_from(self.window_tokens).unwrap_or(u64::MAX),
            lifetime: self.lifetime,
        }
    }

    /// All nodes together: what is known here, and what others published.
    pub fn totals_everywhere(&self) -> Totals {
        let own = self.totals();
        let Some(fleet) = &self.fleet else { return own };
        let window = self.window_tokens + self.window_tokens_elsewhere;
        Totals {
            sessions_live: own.sessions_live + fleet.guests_live(),
            window_tokens: u64::try_from(window).unwrap_or(u64::MAX),
            lifetime: fleet.lifetime().fold(own.lifetime, |sum, node| sum.plus(&node)),
            ..own
        }
    }

    /// One key.
    pub fn key_stats(&self, id: KeyId) -> Option<KeyStats> {
        self.key(id).map(|(_, key)| self.stats_of(key))
    }

    /// Keys from `place` on, with their places.
    pub fn keys_from(&self, place: usize) -> impl Iterator<Item = (usize, KeyStats)> {
        let keys = self.keys.iter().enumerate().skip(place);
        keys.map(|(place, key)| (place, self.stats_of(key)))
    }

    /// Keys of one model from `place` on, with their places in the pool.
    pub fn keys_of_model(
        &self,
        model: &ModelName,
        place: usize,
    ) -> impl Iterator<Item = (usize, KeyStats)> {
        let pool = self.pool(model).map(|(_, pool)| pool);
        let places = pool.map_or(0..0, |pool| place..pool.weights.len());
        places.filter_map(move |place| {
            let index = pool?.key_at(place)?;
            Some((place, self.stats_of(&self.keys[index.0 as usize])))
        })
    }

    /// Keys that the first `sessions_max` sessions of a user hold or held.
    pub fn keys_of_user(&self, user: i32, sessions_max: usize) -> Vec<KeyStats> {
        let empty = List::new(Chain::User);
        let list = self.by_user.get(&user).unwrap_or(&empty);
        let sessions = list.iter(&self.sessions).take(sessions_max);
        let sessions = sessions.filter_map(|index| self.sessions.get(index));
        self.keys_of(sessions)
    }

    /// Keys that one session holds or held.
    pub fn keys_of_session(&self, name: &SessionRef) -> Vec<KeyStats> {
        self.keys_of(self.session(name).into_iter().chain(self.guest(name)))
    }

    fn keys_of<'state>(&self, sessions: impl Iterator<Item = &'state Session>) -> Vec<KeyStats> {
        let allocations = sessions.flat_map(|session| &session.allocations);
        let keys: BTreeSet<KeyIndex> = allocations.map(|allocation| allocation.key).collect();
        keys.into_iter().map(|index| self.stats_of(&self.keys[index.0 as usize])).collect()
    }

    /// Pools after `model` in the order of their names.
    pub fn pools_after(&self, model: Option<&str>) -> impl Iterator<Item = PoolStats> {
        let from = model.map_or(Bound::Unbounded, Bound::Excluded);
        let pools = self.pool_index.range::<str, _>((from, Bound::Unbounded));
        let pools = pools.map(|(_, index)| &self.pools[index.0 as usize]);
        let counts = pools.map(|pool| (pool.model.clone(), pool.counts()));
        counts.filter(|(_, counts)| counts.all() > 0).map(|(model, counts)| PoolStats {
            model,
            usable: counts.usable,
            cooling: counts.cooling,
            at_cap: counts.at_cap,
        })
    }

    /// One session, of whatever node it lives at.
    pub fn session_stats(&self, name: &SessionRef) -> Option<SessionStats> {
        let own = self.session(name).filter(|own| own.is_live());
        let guest = self.guest(name).filter(|guest| guest.is_live());
        let session = own.or(guest).or_else(|| self.session(name))?;
        Some(self.session_stats_of(session))
    }

    fn guest(&self, name: &SessionRef) -> Option<&Session> {
        let fleet = self.fleet.as_ref()?;
        fleet.guest(name).map(|(_, guest)| guest)
    }

    /// Live sessions of other nodes from `place` on, with their places.
    pub fn guests_from(&self, place: usize) -> impl Iterator<Item = (usize, SessionStats)> {
        let guests = self.fleet.iter().flat_map(move |fleet| fleet.guests_from(place));
        guests.map(|(place, guest)| (place, self.session_stats_of(guest)))
    }

    /// Sessions of every owner from `place` on, with their places; without those
    /// that went on at another node.
    pub fn sessions_from(&self, place: usize) -> impl Iterator<Item = (usize, SessionStats)> {
        let sessions = self.sessions.iter_from(place);
        let went_on = |session: &Session| {
            let guest = self.fleet.is_some().then(|| self.guest(&session.name())).flatten();
            !session.is_live() && guest.is_some_and(Session::is_live)
        };
        let sessions = sessions.filter(move |(_, session)| !went_on(session));
        sessions.map(|(place, session)| (place, self.session_stats_of(session)))
    }

    /// The first `sessions_max` sessions of a user, of every owner.
    pub fn sessions_of_user(&self, user: i32, sessions_max: usize) -> Vec<SessionStats> {
        let empty = List::new(Chain::User);
        let list = self.by_user.get(&user).unwrap_or(&empty);
        let sessions = list.iter(&self.sessions).take(sessions_max);
        let sessions = sessions.filter_map(|index| self.sessions.get(index));
        sessions.map(|session| self.session_stats_of(session)).collect()
    }

    fn stats_of(&self, key: &Key) -> KeyStats {
        let state = self.state_of(key);
        let usable = key.slots.iter().any(|slot| slot.state == KeyState::Usable);
        let weight = if usable { key.effective_weight(&self.rules) } else { 0 };
        KeyStats {
            facts: key.facts().clone(),
            state,
            tier: key.tier(&self.rules),
            weight: weight_for_people(weight),
            holders: key.holders_everywhere(),
            holders_max: key.holders_max(&self.rules),
            window_tokens: key.window_tokens(),
            lifetime: self.lifetime_everywhere(key),
            last_used: self.last_used_everywhere(key),
            cooling_until: key.slots.iter().filter_map(|slot| slot.cools_until()).min(),
        }
    }

    /// This node's own part of a key; none when it works alone.
    pub fn key_here(&self, id: KeyId) -> Option<NodeKeyStats> {
        let (node, (_, key)) = (self.fleet.as_ref()?.own(), self.key(id)?);
        let (window_tokens, lifetime) = (key.window.tokens(), key.lifetime);
        Some(NodeKeyStats { node, window_tokens, lifetime, last_used: key.last_used })
    }

    /// This node's own part of the totals; none when it works alone.
    pub fn totals_here(&self) -> Option<NodeTotals> {
        let (node, totals) = (self.fleet.as_ref()?.own(), self.totals());
        let Totals { sessions_live, window_tokens, lifetime, .. } = totals;
        Some(NodeTotals { node, sessions_live, window_tokens, lifetime })
    }

    fn lifetime_everywhere(&self, key: &Key) -> Usage {
        let nodes = self.key_by_node(key.id());
        nodes.iter().fold(key.lifetime, |sum, node| sum.plus(&node.lifetime))
    }

    fn last_used_everywhere(&self, key: &Key) -> Option<Time> {
        let nodes = self.key_by_node(key.id());
        nodes.iter().filter_map(|node| node.last_used).chain(key.last_used).max()
    }

    fn state_of(&self, key: &Key) -> KeyState {
        let mut states = key.slots.iter().map(|slot| slot.state);
        if key.retired {
            KeyState::Retired
        } else if states.clone().any(|state| state == KeyState::Cooling) {
            KeyState::Cooling
        } else {
            states.next().unwrap_or(KeyState::Retired)
        }
    }

    fn session_stats_of(&self, session: &Session) -> SessionStats {
        let (end, ended) = session.end();
        let allocations = session.allocations.iter().map(|allocation| AllocationStats {
            key: self.keys[allocation.key.0 as usize].id(),
            model: self.model_of(allocation.pool),
            held: allocation.held,
            usage: allocation.usage,
        });
        let name = session.name();
        let lives_here = self.session(&name).is_some_and(|own| std::ptr::eq(own, session));
        let fleet = self.fleet.as_ref().filter(|_| !lives_here);
        SessionStats {
            session: name,
            user: session.user,
            opened: session.opened,
            end,
            ended,
            allocations: allocations.collect(),
            node: fleet.and_then(|fleet| fleet.home_of(session)),
        }
    }
}
