use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::changes::Listed;
use crate::deadlines::{Chain, Due, Linked, Links};
use crate::event::{Event, SessionRef};
use crate::fleet::NodeIndex;
use crate::key::{KeyIndex, Usage};
use crate::pool::PoolIndex;
use crate::state::{Decide, Decision, State};
use crate::time::Time;

/// Where a session is kept; used again once the session is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionIndex(NonZeroU32);

impl SessionIndex {
    fn at(place: usize) -> Self {
        let number = u32::try_from(place + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("`sessions_max` keeps places far below 2^32"))
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// One key that a session holds, or held, for one model.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) key: KeyIndex,
    pub(crate) pool: PoolIndex,
    /// False once it was given back; late usage still counts.
    pub(crate) held: bool,
    pub(crate) usage: Usage,
}

/// Whether a session is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In use until the deadline. Kept under `due` among the deadlines, or
    /// among the overdue ones when that is none.
    Live { deadline: Time, due: Due },
    /// Released or expired; remembered for late usage.
    Ended { at: Time },
}

/// A caller's period of use.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: Arc<str>,
    pub(crate) owner: u32,
    pub(crate) user: i32,
    pub(crate) opened: Time,
    pub(crate) phase: Phase,
    /// Grows whenever it draws a key or moves from node to node.
    pub(crate) term: u32,
    /// The term in which it was at the node that it came from, if any.
    pub(crate) base: u32,
    pub(crate) allocations: Vec<Allocation>,
    due_links: Links,
    user_links: Links,
    /// The lists of changes that it is on.
    pub(crate) listed: Listed,
    /// Where it lives, for a session of another node; where it came from, for
    /// one of this node, as far as that was learned since the start.
    pub(crate) node: Option<NodeIndex>,
}

const _: () = assert!(size_of::<Session>() <= 104, "there are millions of them");

impl Session {
    pub(crate) fn new(session: &SessionRef, user: i32, opened: Time, phase: Phase) -> Self {
        Self {
            id: session.id.clone(),
            owner: session.owner,
            user,
            opened,
            phase,
            term: 0,
            base: 0,
            allocations: Vec::new(),
            due_links: Links::default(),
            user_links: Links::default(),
            listed: Listed::default(),
            node: None,
        }
    }

    pub(crate) fn name(&self) -> SessionRef {
        SessionRef { owner: self.owner, id: self.id.clone() }
    }

    /// Whether no event has ended it yet.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }

    /// The deadline of a session that is in use at `now`.
    pub(crate) fn live_until(&self, now: Time) -> Option<Time> {
        match self.phase {
            Phase::Live { deadline, .. } if deadline > now => Some(deadline),
            Phase::Live { .. } | Phase::Ended { .. } => None,
        }
    }

    /// Goes on to a larger term. When the session is opened at `opened`, it is
    /// above terms that were forgotten, too: they began with older seconds.
    pub(crate) fn next_term(&mut self, opened: Option<Time>) {
        let second = opened.map_or(0, Time::second);
        self.term = self.term.saturating_add(1).max(second);
        self.listed.set_taken_back(0);
    }

    pub(crate) fn holds(&self, key: KeyIndex) -> bool {
        self.allocations.iter().any(|allocation| allocation.held && allocation.key == key)
    }

    /// Adds or renews an allocation. When as many are known as may be, the
    /// oldest that was given back is forgotten.
    pub(crate) fn hold(&mut self, key: KeyIndex, pool: PoolIndex, allocations_max: usize) {
        if let Some(allocation) = self.allocation_mut(key, pool) {
            allocation.held = true;
            return;
        }
        if self.allocations.len() >= allocations_max
            && let Some(oldest) = self.allocations.iter().position(|allocation| !allocation.held)
        {
            self.allocations.remove(oldest);
        }
        self.allocations.push(Allocation::new(key, pool));
    }

    pub(crate) fn allocation(&self, key: KeyIndex, pool: PoolIndex) -> Option<&Allocation> {
        self.allocations.iter().find(|allocation| allocation.is(key, pool))
    }

    pub(crate) fn allocation_mut(
        &mut self,
        key: KeyIndex,
        pool: PoolIndex,
    ) -> Option<&mut Allocation> {
        self.allocations.iter_mut().find(|allocation| allocation.is(key, pool))
    }
}

impl Allocation {
    pub(crate) fn new(key: KeyIndex, pool: PoolIndex) -> Self {
        Self { key, pool, held: true, usage: Usage::default() }
    }

    fn is(&self, key: KeyIndex, pool: PoolIndex) -> bool {
        self.key == key && self.pool == pool
    }

    /// Whether both are about the same key and model.
    pub(crate) fn names(&self, other: &Self) -> bool {
        self.is(other.key, other.pool)
    }
}

/// All sessions that are remembered, found by owner and id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    places: Vec<Option<Session>>,
    free: Vec<SessionIndex>,
    index: HashTable<SessionIndex>,
    /// Keyed: callers choose the ids.
    hasher: RandomState,
}

impl Sessions {
    pub(crate) fn find(&self, owner: u32, id: &str) -> Option<SessionIndex> {
        let found = self.index.find(self.hash(owner, id), |index| {
            self.get(*index).is_some_and(|session| session.owner == owner && &*session.id == id)
        });
        found.copied()
    }

    pub(crate) fn get(&self, index: SessionIndex) -> Option<&Session> {
        self.places.get(index.place())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: SessionIndex) -> Option<&mut Session> {
        self.places.get_mut(index.place())?.as_mut()
    }

    /// Makes room for that many more sessions.
    pub(crate) fn reserve(&mut self, sessions: usize) {
        let Self { places, index: table, hasher, .. } = self;
        places.reserve(sessions);
        table.reserve(sessions, |index| place_hash(hasher, places, *index));
    }

    /// Adds a session; none when it is there already.
    pub(crate) fn insert(&mut self, session: Session) -> Option<SessionIndex> {
        let hash = self.hash(session.owner, &session.id);
        let Self { places, free, index: table, hasher } = self;
        let is_same = |index: &SessionIndex| {
            let other = places[index.place()].as_ref();
            other.is_some_and(|other| other.owner == session.owner && other.id == session.id)
        };
        let Entry::Vacant(vacant) =
            table.entry(hash, is_same, |index| place_hash(hasher, places, *index))
        else {
            return None;
        };
        let index = free.pop().unwrap_or_else(|| SessionIndex::at(places.len()));
        vacant.insert(index);
        match places.get_mut(index.place()) {
            Some(place) => *place = Some(session),
            None => places.push(Some(session)),
        }
        Some(index)
    }

    pub(crate) fn remove(&mut self, index: SessionIndex) -> Option<Session> {
        let session = self.places.get_mut(index.place())?.take()?;
        let hash = self.hash(session.owner, &session.id);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        self.free.push(index);
        Some(session)
    }

    /// Live and ended ones, in the order of their places, from `place` on.
    pub(crate) fn iter_from(&self, place: usize) -> impl Iterator<Item = (usize, &Session)> {
        let places = self.places.iter().enumerate().skip(place);
        places.filter_map(|(place, session)| Some((place, session.as_ref()?)))
    }

    fn hash(&self, owner: u32, id: &str) -> u64 {
        hash_of(&self.hasher, owner, id)
    }
}

impl Linked for Sessions {
    fn links(&mut self, session: SessionIndex, chain: Chain) -> &mut Links {
        let session = self.places[session.place()].as_mut();
        let session = session.expect("a session leaves its lists before it is forgotten");
        match chain {
            Chain::Due => &mut session.due_links,
            Chain::User => &mut session.user_links,
        }
    }

    fn next(&self, session: SessionIndex, chain: Chain) -> Option<SessionIndex> {
        let session = self.get(session)?;
        match chain {
            Chain::Due => session.due_links.next(),
            Chain::User => session.user_links.next(),
        }
    }
}

fn place_hash(hasher: &RandomState, places: &[Option<Session>], index: SessionIndex) -> u64 {
    places[index.place()].as_ref().map_or(0, |session| hash_of(hasher, session.owner, &session.id))
}

fn hash_of(hasher: &RandomState, owner: u32, id: &str) -> u64 {
    hasher.hash_one((owner, id))
}

/// Ends sessions whose deadline has passed.
#[derive(Clone, Debug)]
pub struct Expire {
    /// This one first, if it is overdue.
    pub first: Option<SessionRef>,
    /// How many at most; call again while the answer is this many.
    pub sessions_max: usize,
}

impl Decide for Expire {
    type Reply = usize;
    type Refusal = std::convert::Infallible;

    fn decide(
        &self,
        state: &State,
        now: Time,
        _seed: u64,
    ) -> Result<Decision<usize>, Self::Refusal> {
        let now = state.not_before(now);
        let first = self.first.as_ref().and_then(|name| state.overdue_named(name, now));
        let others = state.overdue().filter(|session| Some(*session) != first);
        let due = first.into_iter().chain(others).take(self.sessions_max);
        let expired = due.filter_map(|session| state.sessions.get(session));
        let events: Vec<Event> =
            expired.flat_map(|session| state.settle_overdue(now, session)).collect();
        Ok(Decision { reply: events.len(), events })
    }
}
