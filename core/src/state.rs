use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::changes::{Journal, ReceiptRow, UsageRow};
use crate::deadlines::{Chain, Deadlines, List, second_of};
use crate::event::{
    Event, KeyFacts, KeysReleased, KeysSelected, Pick, SessionExpired, SessionRef, UsageTracked,
};
use crate::id::{KeyId, ModelName};
use crate::key::{Key, KeyIndex, KeyState, Slot, Usage};
use crate::pool::{Pool, PoolIndex};
use crate::receipts::{Receipt, Receipts};
use crate::rules::Rules;
use crate::session::{Phase, Session, SessionIndex, Sessions};
use crate::time::Time;
use crate::window::leaves_at;

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
    sessions_ended: usize,
    deadlines: Deadlines,
    overdue: List,
    ended: List,
    pub(crate) by_user: HashMap<i32, List>,
    pub(crate) receipts: Receipts,
    /// Keys with a bucket that leaves the window in that minute.
    leaving: BTreeMap<u32, Vec<KeyIndex>>,
    /// Pools with a key whose cooldown ends then.
    cooling: BTreeSet<(Time, PoolIndex)>,
    pub(crate) lifetime: Usage,
    /// The keys' window tokens, each stopping at the largest number.
    pub(crate) window_tokens: u128,
    pub(crate) journal: Journal,
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
            sessions_ended: 0,
            deadlines: Deadlines::default(),
            overdue: List::new(Chain::Due),
            ended: List::new(Chain::Due),
            by_user: HashMap::new(),
            receipts: Receipts::default(),
            leaving: BTreeMap::new(),
            cooling: BTreeSet::new(),
            lifetime: Usage::default(),
            window_tokens: 0,
            journal: Journal::default(),
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

    // Keys and pools.

    pub(crate) fn put_key(&mut self, facts: &Arc<KeyFacts>) {
        let index = self.key_place(facts);
        let key = &mut self.keys[index.0 as usize];
        key.change(facts);
        self.keys_served += usize::from(std::mem::replace(&mut key.retired, false));
        self.leave_pools(index, |model| !facts.models.contains(model));
        for model in &facts.models {
            let pool = self.pool_place(model);
            self.join_pool(index, pool);
        }
        self.refresh(index);
        self.key_changed(index);
    }

    fn key_place(&mut self, facts: &Arc<KeyFacts>) -> KeyIndex {
        let next = KeyIndex(self.keys.len() as u32);
        let index = *self.key_index.entry(facts.key).or_insert(next);
        if index == next {
            self.keys.push(Key::new(facts.clone()));
        }
        index
    }

    pub(crate) fn pool_place(&mut self, model: &ModelName) -> PoolIndex {
        if let Some(index) = self.pool_index.get(model) {
            return *index;
        }
        let index = PoolIndex(self.pools.len() as u32);
        self.pools.push(Pool::new(model.clone()));
        self.pool_index.insert(model.clone(), index);
        index
    }

    fn join_pool(&mut self, index: KeyIndex, pool: PoolIndex) {
        let key = &mut self.keys[index.0 as usize];
        if key.slot(pool).is_some() {
            return;
        }
        let leaf = self.pools[pool.0 as usize].join(index);
        key.slots.push(Slot { pool, leaf, cooling_until: None, state: KeyState::Retired });
    }

    fn leave_pools(&mut self, index: KeyIndex, leaves: impl Fn(&ModelName) -> bool) {
        let Self { keys, pools, cooling, .. } = self;
        keys[index.0 as usize].slots.retain(|slot| {
            let pool = &mut pools[slot.pool.0 as usize];
            let stays = !leaves(&pool.model);
            if !stays {
                recool(pool, cooling, index, slot, None);
                pool.leave(slot.leaf, slot.state);
            }
            stays
        });
    }

    pub(crate) fn retire_key(&mut self, key: KeyId) {
        let Some(index) = self.key_index.get(&key).copied() else { return };
        self.leave_pools(index, |_| true);
        let retired = &mut self.keys[index.0 as usize].retired;
        self.keys_served -= usize::from(!std::mem::replace(retired, true));
        self.key_changed(index);
    }

    /// Brings a key's weights and counts in line with its facts, window,
    /// holders and cooldowns.
    pub(crate) fn refresh(&mut self, index: KeyIndex) {
        let Self { keys, pools, rules, now, .. } = self;
        let key = &mut keys[index.0 as usize];
        let weight = key.effective_weight(rules);
        for place in 0..key.slots.len() {
            let slot = &key.slots[place];
            let state = key.state_in(slot, *now, rules);
            let pool = &mut pools[slot.pool.0 as usize];
            pool.recount(slot.state, state);
            let weight = if state == KeyState::Usable { weight } else { 0 };
            pool.weights.set(slot.leaf as usize, weight);
            key.slots[place].state = state;
        }
    }

    /// Makes a key cool for one model until then.
    pub(crate) fn cool(&mut self, index: KeyIndex, pool: PoolIndex, until: Time) {
        let Self { keys, pools, cooling, .. } = self;
        let slots = &mut keys[index.0 as usize].slots;
        let Some(slot) = slots.iter_mut().find(|slot| slot.pool == pool) else { return };
        recool(&mut pools[pool.0 as usize], cooling, index, slot, Some(until));
        slot.cooling_until = Some(until);
    }

    pub(crate) fn advance_cooldowns(&mut self) {
        while let Some((until, pool)) = self.cooling.first().copied() {
            if until > self.now {
                break;
            }
            self.cooling.pop_first();
            while let Some(index) = self.pools[pool.0 as usize].cooled(self.now) {
                self.end_cooldown(index, pool);
            }
        }
    }

    fn end_cooldown(&mut self, index: KeyIndex, pool: PoolIndex) {
        let key = &mut self.keys[index.0 as usize];
        if let Some(slot) = key.slots.iter_mut().find(|slot| slot.pool == pool) {
            let old = slot.cooling_until.take();
            self.pools[pool.0 as usize].cool(index, old, None);
        }
        self.refresh(index);
        self.key_changed(index);
    }

    fn advance_windows(&mut self) {
        let minute = self.now.minute();
        while let Some(entry) = self.leaving.first_entry() {
            if *entry.key() > minute {
                break;
            }
            for index in entry.remove() {
                let window = &mut self.keys[index.0 as usize].window;
                let before = window.tokens();
                window.advance(minute);
                let gone = before - window.tokens();
                self.window_tokens -= u128::from(gone);
                self.refresh(index);
            }
        }
    }

    /// Counts tokens in a key's window, if the minute is still inside.
    pub(crate) fn add_to_window(&mut self, index: KeyIndex, minute: u32, tokens: u64) {
        if leaves_at(minute) <= self.now.minute() {
            return;
        }
        let window = &mut self.keys[index.0 as usize].window;
        let before = window.tokens();
        if window.add(minute, tokens) {
            self.leaving.entry(leaves_at(minute)).or_default().push(index);
        }
        let added = window.tokens() - before;
        self.window_tokens += u128::from(added);
    }

    // Sessions.

    fn select(&mut self, at: Time, selected: &KeysSelected) {
        let index = match self.sessions.find(selected.session.owner, &selected.session.id) {
            Some(index) => index,
            None => self.insert_session(&selected.session, selected.user, at),
        };
        let is_live = self.sessions.get(index).is_some_and(Session::is_live);
        if selected.opened || !is_live {
            self.open(index, selected.user, at, selected.deadline);
        } else {
            self.renew(index, selected.deadline);
        }
        self.make_room(index, &selected.picks);
        for pick in &selected.picks {
            let pool = self.pool_place(&pick.model);
            if let Some((key, _)) = self.key(pick.key) {
                self.hold(index, key, pool);
                self.keys[key.0 as usize].last_used = Some(at);
                self.key_changed(key);
            }
        }
        self.session_changed(index);
    }

    /// Adds a session as ended; [`State::open`] makes it live.
    pub(crate) fn insert_session(
        &mut self,
        name: &SessionRef,
        user: i32,
        at: Time,
    ) -> SessionIndex {
        let session = Session::new(name, user, at, Phase::Ended { at });
        let index = self
            .sessions
            .insert(session)
            .expect("`State::select` looked for it and did not find it");
        self.ended.push(&mut self.sessions, index);
        self.sessions_ended += 1;
        self.user_list(user).push(index);
        index
    }

    /// Adds a session as it was; none when it is there already.
    pub(crate) fn restore_session(&mut self, session: Session) -> Option<SessionIndex> {
        let (user, phase) = (session.user, session.phase);
        let index = self.sessions.insert(session)?;
        self.user_list(user).push(index);
        match phase {
            Phase::Ended { .. } => {
                self.ended.push(&mut self.sessions, index);
                self.sessions_ended += 1;
            }
            Phase::Live { deadline, .. } => {
                let kept = self.deadlines.push(&mut self.sessions, index, deadline);
                self.sessions_live += 1;
                if let Some(session) = self.sessions.get_mut(index) {
                    session.phase = Phase::Live { deadline, second: kept };
                }
            }
        }
        Some(index)
    }

    /// Begins a period of use, in which nothing is held yet.
    pub(crate) fn open(&mut self, index: SessionIndex, user: i32, at: Time, deadline: Time) {
        self.give_back_all(index);
        self.leave_phase(index);
        self.user_list_of(index).remove(index);
        self.user_list(user).push(index);
        let second = self.deadlines.push(&mut self.sessions, index, deadline);
        self.sessions_live += 1;
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.user = user;
        session.opened = at;
        session.phase = Phase::Live { deadline, second };
    }

    fn renew(&mut self, index: SessionIndex, later: Time) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Phase::Live { deadline, second } = &mut session.phase else { return };
        *deadline = later;
        let is_in_time = second.is_some_and(|second| second <= second_of(later));
        if !is_in_time {
            self.look_at(index, later);
        }
    }

    /// Moves a live session that would be looked at too late, or was found
    /// overdue before it was renewed.
    fn look_at(&mut self, index: SessionIndex, deadline: Time) {
        self.leave_phase(index);
        let second = self.deadlines.push(&mut self.sessions, index, deadline);
        self.sessions_live += 1;
        if let Some(session) = self.sessions.get_mut(index) {
            session.phase = Phase::Live { deadline, second };
        }
    }

    /// Takes the session out of the list that its phase keeps it in.
    fn leave_phase(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get(index) else { return };
        match session.phase {
            Phase::Live { second, .. } => {
                self.sessions_live -= 1;
                match second {
                    Some(second) => self.deadlines.remove(&mut self.sessions, index, second),
                    None => self.overdue.remove(&mut self.sessions, index),
                }
            }
            Phase::Ended { .. } => {
                self.sessions_ended -= 1;
                self.ended.remove(&mut self.sessions, index);
            }
        }
    }

    /// Takes the memory that new allocations need, and no more.
    fn make_room(&mut self, index: SessionIndex, picks: &[Pick]) {
        let drawn = picks.iter().filter(|pick| !pick.already_held).count();
        if let Some(session) = self.sessions.get_mut(index) {
            session.allocations.reserve_exact(drawn);
        }
    }

    fn hold(&mut self, index: SessionIndex, key: KeyIndex, pool: PoolIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let is_new_holder = !session.holds(key);
        session.hold(key, pool, self.rules.session_allocations_max);
        if is_new_holder {
            self.keys[key.0 as usize].holders += 1;
            self.refresh(key);
        }
    }

    fn give_back(&mut self, index: SessionIndex, key: KeyIndex, pool: PoolIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(allocation) = session.allocation_mut(key, pool) else { return };
        if !std::mem::take(&mut allocation.held) || session.holds(key) {
            return;
        }
        self.keys[key.0 as usize].holders -= 1;
        self.refresh(key);
    }

    fn give_back_all(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let allocations = session.allocations.iter_mut();
        let held = allocations.filter_map(|one| std::mem::take(&mut one.held).then_some(one.key));
        let mut keys: Vec<KeyIndex> = held.collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            self.keys[key.0 as usize].holders -= 1;
            self.refresh(key);
        }
    }

    fn release(&mut self, at: Time, released: &KeysReleased) {
        let name = &released.session;
        let Some(deadline) = released.deadline else { return self.end_named(at, name) };
        let Some(index) = self.sessions.find(name.owner, &name.id) else { return };
        for (model, key) in &released.allocations {
            let pool = self.pool_place(model);
            if let Some((key, _)) = self.key(*key) {
                self.give_back(index, key, pool);
            }
        }
        self.renew(index, deadline);
        self.session_changed(index);
    }

    fn end_named(&mut self, at: Time, name: &SessionRef) {
        if let Some(index) = self.sessions.find(name.owner, &name.id) {
            self.end(index, at);
        }
    }

    /// Ends a live session; one that has ended stays as it is.
    fn end(&mut self, index: SessionIndex, at: Time) {
        if !self.sessions.get(index).is_some_and(Session::is_live) {
            return;
        }
        self.give_back_all(index);
        self.leave_phase(index);
        self.ended.push(&mut self.sessions, index);
        self.sessions_ended += 1;
        if let Some(session) = self.sessions.get_mut(index) {
            session.phase = Phase::Ended { at };
        }
        self.session_changed(index);
        self.forget_ended();
    }

    pub(crate) fn advance_deadlines(&mut self) {
        while let Some((second, index)) = self.deadlines.due(self.now) {
            self.deadlines.remove(&mut self.sessions, index, second);
            let second = self.keep_or_expire(index);
            if let Some(session) = self.sessions.get_mut(index)
                && let Phase::Live { second: kept, .. } = &mut session.phase
            {
                *kept = second;
            }
        }
    }

    /// Puts a session whose second came back under its deadline, if it was
    /// renewed, or among the overdue ones.
    fn keep_or_expire(&mut self, index: SessionIndex) -> Option<NonZeroU64> {
        let renewed = self.sessions.get(index).and_then(|session| session.live_until(self.now));
        match renewed {
            Some(deadline) => self.deadlines.push(&mut self.sessions, index, deadline),
            None => {
                self.overdue.push(&mut self.sessions, index);
                None
            }
        }
    }

    fn forget_ended(&mut self) {
        while let Some(index) = self.ended.first() {
            let Some(session) = self.sessions.get(index) else { return };
            let Phase::Ended { at } = session.phase else { return };
            let is_recent = at.after(self.rules.ended_session_ttl) > self.now;
            if is_recent && self.sessions_ended <= self.rules.ended_sessions_max {
                return;
            }
            self.leave_phase(index);
            self.user_list_of(index).remove(index);
            if let Some(session) = self.sessions.remove(index) {
                self.journal.forgotten.push(session.name());
            }
        }
    }

    /// Puts the ended sessions in the order they ended in. Those of the same
    /// instant stay as they are.
    pub(crate) fn order_ended(&mut self) {
        let ended = self.ended.iter(&self.sessions);
        let mut ended: Vec<_> =
            ended.filter_map(|index| Some((self.ended_at(index)?, index))).collect();
        ended.sort_by_key(|(at, _)| *at);
        self.ended = List::new(Chain::Due);
        for (_, index) in ended {
            self.ended.push(&mut self.sessions, index);
        }
    }

    fn ended_at(&self, index: SessionIndex) -> Option<Time> {
        match self.sessions.get(index)?.phase {
            Phase::Ended { at } => Some(at),
            Phase::Live { .. } => None,
        }
    }

    // Usage.

    fn track(&mut self, at: Time, usage: &UsageTracked) {
        let receipt = Receipt::of(usage);
        self.receipts.add(receipt, at);
        self.journal.receipts.push(ReceiptRow { hour: at.hour(), receipt });
        self.journal.usage.push(usage_row(at, usage));
        self.lifetime.add(usage.tokens, usage.outcome);
        let pool = self.pool_place(&usage.model);
        let index = self.sessions.find(usage.session.owner, &usage.session.id);
        if let Some((key, _)) = self.key(usage.key) {
            self.track_key(at, key, pool, usage);
            if let Some(index) = index {
                self.track_session(index, key, pool, usage);
            }
        }
    }

    fn track_key(&mut self, at: Time, index: KeyIndex, pool: PoolIndex, usage: &UsageTracked) {
        let key = &mut self.keys[index.0 as usize];
        key.lifetime.add(usage.tokens, usage.outcome);
        key.last_used = Some(at);
        self.add_to_window(index, usage.occurred.minute(), usage.tokens.spent());
        if let Some(until) = usage.cooling_until {
            self.cool(index, pool, until);
        }
        self.refresh(index);
        self.key_changed(index);
    }

    fn track_session(
        &mut self,
        index: SessionIndex,
        key: KeyIndex,
        pool: PoolIndex,
        usage: &UsageTracked,
    ) {
        if let Some(session) = self.sessions.get_mut(index)
            && let Some(allocation) = session.allocation_mut(key, pool)
        {
            allocation.usage.add(usage.tokens, usage.outcome);
        }
        if let Some(deadline) = usage.deadline {
            self.renew(index, deadline);
        }
        self.session_changed(index);
    }

    // Bookkeeping.

    fn user_list(&mut self, user: i32) -> UserList<'_> {
        UserList { user, by_user: &mut self.by_user, sessions: &mut self.sessions }
    }

    fn user_list_of(&mut self, index: SessionIndex) -> UserList<'_> {
        let user = self.sessions.get(index).map_or(0, |session| session.user);
        self.user_list(user)
    }

    pub(crate) fn key_changed(&mut self, index: KeyIndex) {
        let key = &mut self.keys[index.0 as usize];
        if !std::mem::replace(&mut key.changed, true) {
            self.journal.keys.push(index);
        }
    }

    pub(crate) fn session_changed(&mut self, index: SessionIndex) {
        if let Some(session) = self.sessions.get_mut(index)
            && !std::mem::replace(&mut session.changed, true)
        {
            self.journal.sessions.push(index);
        }
    }
}

/// The sessions of one user; users without any take no room.
struct UserList<'state> {
    user: i32,
    by_user: &'state mut HashMap<i32, List>,
    sessions: &'state mut Sessions,
}

impl UserList<'_> {
    fn push(self, index: SessionIndex) {
        let list = self.by_user.entry(self.user).or_insert(List::new(Chain::User));
        list.push(self.sessions, index);
    }

    fn remove(self, index: SessionIndex) {
        let Some(list) = self.by_user.get_mut(&self.user) else { return };
        list.remove(self.sessions, index);
        if list.first().is_none() {
            self.by_user.remove(&self.user);
        }
    }
}

/// Replaces the instant until which a key cools in one pool, and keeps the
/// pool on the list of due cooldowns as long as any of its keys cools until
/// then.
fn recool(
    pool: &mut Pool,
    cooling: &mut BTreeSet<(Time, PoolIndex)>,
    index: KeyIndex,
    slot: &Slot,
    until: Option<Time>,
) {
    pool.cool(index, slot.cooling_until, until);
    if let Some(old) = slot.cooling_until
        && !pool.cools_until(old)
    {
        cooling.remove(&(old, slot.pool));
    }
    if let Some(until) = until {
        cooling.insert((until, slot.pool));
    }
}

fn usage_row(at: Time, usage: &UsageTracked) -> UsageRow {
    UsageRow {
        at,
        session: usage.session.clone(),
        user: usage.user,
        key: usage.key,
        model: usage.model.clone(),
        tokens: usage.tokens,
        outcome: usage.outcome,
        late: usage.late,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::OwnWeight;

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
