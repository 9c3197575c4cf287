mod keys;
mod sessions;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use crate::changes::{Journal, Reader};
use crate::deadlines::{Chain, Deadlines, List};
use crate::event::{Event, SessionExpired, SessionRef};
use crate::fleet::Fleet;
use crate::id::{KeyId, ModelName};
use crate::key::{Key, KeyIndex, Usage};
use crate::pool::{Pool, PoolIndex};
use crate::receipts::Receipts;
use crate::rules::Rules;
use crate::session::{Session, SessionIndex, Sessions};
use crate::time::Time;

/// A verb: it looks at the state and decides what happens.
pub trait Decide {
    /// What the caller gets.
    type Reply;
    /// Why nothing happens.
    type Refusal;

    /// Decides, changing nothing. `seed` feeds every draw. What ended since the
    /// state was last brought to the present counts as not ended yet, so
    /// [`State::advance`] comes first; a `now` in the past is taken as the
    /// state's own.
    ///
    /// # Errors
    /// The refusal; then no event comes of the call.
    fn decide(
        &self,
        state: &State,
        now: Time,
        seed: u64,
    ) -> Result<Decision<Self::Reply>, Self::Refusal>;
}

/// What a verb decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<Reply> {
    /// What happens, in order; all of it or nothing.
    pub events: Vec<Event>,
    /// What the caller gets once the events are durable.
    pub reply: Reply,
}

/// What the ledger adds up to.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) rules: Rules,
    pub(crate) now: Time,
    pub(crate) keys: Vec<Key>,
    pub(crate) key_index: HashMap<KeyId, KeyIndex>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) pool_index: BTreeMap<ModelName, PoolIndex>,
    pub(crate) keys_served: usize,
    pub(crate) sessions: Sessions,
    pub(crate) sessions_live: usize,
    /// What live sessions hold or remember.
    pub(crate) allocations_live: usize,
    /// The same by owner; who has none is not in it.
    live_by_owner: HashMap<u32, u32>,
    sessions_ended: usize,
    allocations_ended: usize,
    deadlines: Deadlines,
    overdue: List,
    ended: List,
    pub(crate) by_user: HashMap<i32, List>,
    pub(crate) receipts: Receipts,
    /// Keys with a bucket that leaves the window in that minute.
    pub(crate) leaving: BTreeMap<u32, Vec<KeyIndex>>,
    /// Pools with a key whose cooldown ends then.
    cooling: BTreeSet<(Time, PoolIndex)>,
    pub(crate) lifetime: Usage,
    /// The keys' window tokens, each stopping at the largest number.
    pub(crate) window_tokens: u128,
    /// The same, spent through other nodes.
    pub(crate) window_tokens_elsewhere: u128,
    pub(crate) journal: Journal,
    /// Served keys that only so many sessions may hold.
    pub(crate) keys_capped: usize,
    /// None when the node works alone. No part of what the ledger adds up to.
    pub(crate) fleet: Option<Box<Fleet>>,
}

impl State {
    /// A state in which nothing has happened yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            now: Time::default(),
            keys: Vec::new(),
            key_index: HashMap::new(),
            pools: Vec::new(),
            pool_index: BTreeMap::new(),
            keys_served: 0,
            sessions: Sessions::default(),
            sessions_live: 0,
            allocations_live: 0,
            live_by_owner: HashMap::new(),
            sessions_ended: 0,
            allocations_ended: 0,
            deadlines: Deadlines::default(),
            overdue: List::new(Chain::Due),
            ended: List::new(Chain::Due),
            by_user: HashMap::new(),
            receipts: Receipts::default(),
            leaving: BTreeMap::new(),
            cooling: BTreeSet::new(),
            lifetime: Usage::default(),
            window_tokens: 0,
            window_tokens_elsewhere: 0,
            journal: Journal::default(),
            keys_capped: 0,
            fleet: None,
        }
    }

    /// The instant the state was last brought to.
    pub fn now(&self) -> Time {
        self.now
    }

    /// `now`, or the instant the state was brought to when `now` lies behind it:
    /// a clock that steps back decides nothing.
    pub(crate) fn not_before(&self, now: Time) -> Time {
        self.now.max(now)
    }

    /// Lets time pass up to `now`: tokens leave windows, cooldowns end, ended
    /// sessions and old receipts are forgotten. An instant in the past changes
    /// nothing. Costs what is due, never a scan.
    pub fn advance(&mut self, now: Time) {
        self.now = self.not_before(now);
        self.advance_windows();
        self.advance_cooldowns();
        self.advance_deadlines();
        self.forget_ended();
        self.advance_guests();
        self.receipts.advance(self.now);
    }

    /// Makes `event` part of what is known; `at` is when it happened. An event
    /// about keys or sessions that are not known any more has no effect on
    /// them. Time may have been let pass since the event was decided: once the
    /// event is applied, what is known is the same.
    pub fn apply(&mut self, at: Time, event: &Event) {
        self.advance(at);
        match event {
            Event::KeyAdded(facts) | Event::KeyChanged(facts) => self.put_key(facts),
            Event::KeyRetired { key } => self.retire_key(*key),
            Event::KeysSelected(selected) => self.select(at, selected),
            Event::UsageTracked(usage) => self.track(at, usage),
            Event::KeysReleased(released) => self.release(at, released),
            Event::SessionExpired(SessionExpired { session }) => self.end_named(at, session),
            Event::SessionMovedIn(moved) => self.move_in(at, moved),
            Event::SessionMovedOut(moved) => self.move_out(at, moved),
        }
    }

    /// Whether a session's deadline has passed without the event that says so.
    pub(crate) fn overdue_named(&self, name: &SessionRef, now: Time) -> Option<SessionIndex> {
        let index = self.sessions.find(name.owner, &name.id)?;
        let session = self.sessions.get(index)?;
        (session.is_live() && session.live_until(now).is_none()).then_some(index)
    }

    /// Sessions that wait for the event that ends them.
    pub(crate) fn overdue(&self) -> impl Iterator<Item = SessionIndex> {
        self.overdue.iter(&self.sessions)
    }

    /// Whether any session waits for the event that ends it.
    pub fn has_overdue(&self) -> bool {
        self.overdue.first().is_some()
    }

    pub(crate) fn key(&self, id: KeyId) -> Option<(KeyIndex, &Key)> {
        let index = *self.key_index.get(&id)?;
        Some((index, &self.keys[index.0 as usize]))
    }

    /// The pool of a model that at least one key serves.
    pub(crate) fn pool(&self, model: &ModelName) -> Option<(PoolIndex, &Pool)> {
        let index = *self.pool_index.get(model)?;
        let pool = &self.pools[index.0 as usize];
        (pool.counts().all() > 0).then_some((index, pool))
    }

    pub(crate) fn session(&self, name: &SessionRef) -> Option<&Session> {
        self.sessions.get(self.sessions.find(name.owner, &name.id)?)
    }

    pub(crate) fn key_changed(&mut self, index: KeyIndex) {
        let listed = &mut self.keys[index.0 as usize].listed;
        if listed.put(Reader::Local) {
            self.journal.keys.push(index);
        }
        if let Some(fleet) = &mut self.fleet
            && listed.put(Reader::Fleet)
        {
            fleet.unshared.key(index);
        }
    }

    pub(crate) fn session_changed(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.listed.put(Reader::Local) {
            self.journal.sessions.push(index);
        }
        if let Some(fleet) = &mut self.fleet
            && session.listed.put(Reader::Fleet)
        {
            fleet.unshared.session(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{KeyFacts, OwnWeight};
    use crate::fleet::{NodeKeyRow, NodeRows};

    fn facts(number: u8, names: &[&str]) -> Arc<KeyFacts> {
        Arc::new(KeyFacts {
            key: KeyId::from_digest(&[number; 32]),
            models: names.iter().map(|name| name.parse().unwrap()).collect(),
            own_weight: OwnWeight::DEFAULT,
            max_holders: None,
            label: None,
            sources: Vec::new(),
        })
    }

    /// A state with two keys in one pool.
    fn two_keys() -> (State, [KeyIndex; 2], PoolIndex) {
        let mut state = State::new(Rules::default());
        [0, 1].iter().for_each(|number| state.put_key(&facts(*number, &["acme/large"])));
        (state, [KeyIndex(0), KeyIndex(1)], PoolIndex(0))
    }

    #[test]
    fn a_cooldown_that_is_put_off_again_and_again_takes_no_more_room() {
        let (mut state, [first, second], pool) = two_keys();
        state.cool(second, pool, Time::from_ms(1_000));
        for until in 1_000..2_000 {
            state.cool(first, pool, Time::from_ms(until));
            assert!(state.cooling.len() <= 2, "one entry for each key at most");
        }
        state.retire_key(state.keys[1].id());
        assert_eq!(state.cooling.len(), 1);
        state.advance(Time::from_ms(2_000));
        assert!(state.cooling.is_empty());
        assert_eq!(state.pools[0].counts().usable, 1);
    }

    #[test]
    fn two_keys_that_cool_until_the_same_instant_both_come_back() {
        let (mut state, [first, second], pool) = two_keys();
        state.cool(first, pool, Time::from_ms(1_000));
        state.cool(second, pool, Time::from_ms(1_000));
        [first, second].iter().for_each(|key| state.refresh(*key));
        assert_eq!(state.pools[0].counts().cooling, 2);
        let mut put_off = state.clone();
        state.advance(Time::from_ms(1_000));
        assert_eq!(state.pools[0].counts().usable, 2);
        put_off.cool(first, pool, Time::from_ms(2_000));
        put_off.advance(Time::from_ms(1_000));
        assert_eq!(put_off.pools[0].counts().usable, 1, "the other is not forgotten");
    }

    #[test]
    fn a_key_that_changes_every_minute_for_a_day_keeps_an_hour_of_due_changes() {
        let (mut state, [key, _], _) = two_keys();
        for minute in 0..1_440 {
            state.advance(Time::from_ms(u64::from(minute) * 60_000));
            state.add_to_window(key, minute, 1);
            state.add_to_window(key, minute, 1);
            assert!(state.leaving.values().map(Vec::len).sum::<usize>() <= 60);
        }
        assert_eq!(state.keys[0].window.tokens(), 120);
    }

    #[test]
    fn tokens_of_other_nodes_that_come_and_go_keep_an_hour_of_due_changes() {
        let (mut state, [key, _], _) = two_keys();
        state.join_fleet(&"own".into());
        state.advance(Time::from_ms(100 * 60_000));
        let mut row = NodeKeyRow {
            key: state.keys[key.0 as usize].id(),
            lifetime: Usage::default(),
            last_used: None,
            window: Vec::new(),
            cooling: Vec::new(),
        };
        for round in 0..1_000 {
            row.window = (41..=100).filter(|minute| (minute + round) % 2 == 0).zip(1..).collect();
            state.learn("other", &NodeRows { keys: vec![row.clone()], ..NodeRows::default() });
            assert!(state.leaving.values().map(Vec::len).sum::<usize>() <= 60);
        }
        state.advance(Time::from_ms(160 * 60_000));
        assert!(state.leaving.is_empty());
        assert_eq!(state.window_tokens_elsewhere, 0);
    }

    #[test]
    fn a_place_that_is_used_again_gives_the_new_sessions_row() {
        let (mut state, ..) = two_keys();
        state.rules.ended_sessions_max = 0;
        for id in ["a", "b"] {
            let name = SessionRef { owner: 0, id: id.into() };
            let index = state.insert_session(&name, 7, Time::default());
            state.open(index, 7, Time::default(), Time::from_ms(1));
            state.session_changed(index);
            if id == "a" {
                state.end(index, Time::default());
            }
        }
        let changes = state.take_changes();
        let written: Vec<&str> = changes.sessions.iter().map(|row| &*row.session.id).collect();
        assert_eq!(written, ["b"]);
        assert_eq!(changes.forgotten.len(), 1);
    }
}
