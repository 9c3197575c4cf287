use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::draw::{Cuts, Draw};
use crate::event::{Event, KeysSelected, Pick, SessionRef};
use crate::id::{KeyId, ModelName};
use crate::key::{KeyIndex, KeyState};
use crate::nearest::nearest;
use crate::pool::{Counts, Pool, PoolIndex};
use crate::rules::ALLOCATIONS_PER_SESSION;
use crate::session::Session;
use crate::state::{Decide, Decision, State};
use crate::time::Time;

/// Give `count` distinct keys for each model to a session.
#[derive(Clone, Debug)]
pub struct Select {
    /// Who will hold them; opened when it is not in use.
    pub session: SessionRef,
    /// The caller's number for whom it works.
    pub user: i32,
    /// Each model once; a repeat means nothing.
    pub models: Vec<ModelName>,
    /// Keys wanted for each model, at least 1.
    pub count: u32,
    /// What was reserved for the session among all nodes, if that was asked:
    /// then these keys are given instead of drawn ones.
    pub reserved: Option<Reserved>,
    /// How many sessions the owner may have live at this node; none: no limit.
    pub owner_sessions_max: Option<u32>,
}

/// Keys that were reserved for a session among all nodes, for each model.
pub type Reserved = HashMap<ModelName, Vec<KeyId>>;

/// Keys that a session would like for one model, in the order of a draw; more
/// than it wants, for other nodes may have taken some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The model.
    pub model: ModelName,
    /// How many are wanted.
    pub count: usize,
    /// Whether the session holds none of the model: without one, all of the
    /// call is refused.
    pub is_needed: bool,
    /// Each once, and how many live sessions may hold it; none: no cap.
    pub keys: Vec<(KeyId, Option<u32>)>,
}

/// Keys that a [`Wish`] names beyond those that are wanted.
const SPARE_KEYS: usize = 16;

/// Keys given to a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected {
    /// By model, in the order asked for; what was held already comes first.
    pub picks: Vec<Pick>,
    /// When the session ends unless renewed.
    pub deadline: Time,
    /// Models that got fewer keys than asked for.
    pub shortages: Vec<Shortage>,
}

/// Why a model got fewer keys than asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    /// The model.
    pub model: ModelName,
    /// Why.
    pub reason: ShortageReason,
    /// Keys asked for.
    pub wanted: u32,
    /// Keys given, or 0 when the call was refused.
    pub given: u32,
    /// Keys of the pool, and how many of them are out for which reason.
    pub keys_total: u32,
    /// Keys that wait for a known instant.
    pub keys_cooling: u32,
    /// Keys held by as many sessions as they may be.
    pub keys_at_cap: u32,
    /// When the first cooling key is usable again, counted from now.
    pub retry_after: Option<Duration>,
    /// The nearest known names, the nearest first.
    pub did_you_mean: Vec<ModelName>,
}

/// The kind of a [`Shortage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortageReason {
    /// No key serves the model.
    UnknownModel,
    /// Every key of the pool was given, and that was not enough.
    PoolTooSmall,
    /// Every key that was not given cools.
    AllCooling,
    /// Every key that was not given is at its cap.
    AllAtCap,
    /// Every key that was not given is out, for several reasons or because it
    /// weighs nothing.
    NoneUsable,
}

/// Why nothing was given.
#[derive(Clone, Debug, PartialEq)]
pub enum SelectRefusal {
    /// These models have no usable key.
    Short(Vec<Shortage>),
    /// The session is in use for another user.
    OtherUser,
    /// There are as many live sessions as there may be.
    TooManySessions,
    /// The owner has as many live sessions as it may.
    TooManyOfOwner,
    /// The session, or all sessions together, hold as many keys as they may.
    TooManyAllocations,
}

impl Decide for Select {
    type Reply = Selected;
    type Refusal = SelectRefusal;

    fn decide(
        &self,
        state: &State,
        now: Time,
        seed: u64,
    ) -> Result<Decision<Selected>, SelectRefusal> {
        let now = state.not_before(now);
        let remembered = state.session(&self.session);
        let live = remembered.filter(|session| session.live_until(now).is_some());
        self.check_session(state, live)?;
        let (picks, shortages) = self.pick(state, live, now, seed)?;
        let deadline = now.after(state.rules.session_ttl);
        let event = KeysSelected {
            session: self.session.clone(),
            user: self.user,
            opened: live.is_none(),
            deadline,
            seed,
            picks: picks.clone(),
        };
        Ok(Decision {
            events: vec![Event::KeysSelected(event)],
            reply: Selected { picks, deadline, shortages },
        })
    }
}

impl Select {
    fn check_session(&self, state: &State, live: Option<&Session>) -> Result<(), SelectRefusal> {
        match live {
            Some(session) if session.user != self.user => Err(SelectRefusal::OtherUser),
            None if state.sessions_live >= state.rules.sessions_max => {
                Err(SelectRefusal::TooManySessions)
            }
            None if self
                .owner_sessions_max
                .is_some_and(|max| state.live_of(self.session.owner) >= max) =>
            {
                Err(SelectRefusal::TooManyOfOwner)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// All or nothing: picks for every model, or what every refused one lacks.
    fn pick(
        &self,
        state: &State,
        live: Option<&Session>,
        now: Time,
        seed: u64,
    ) -> Result<(Vec<Pick>, Vec<Shortage>), SelectRefusal> {
        let mut picks = Vec::new();
        let mut shortages = Vec::new();
        let mut draw = Draw::new(seed);
        let room = room(state, live);
        let reserved = self.reserved.as_ref();
        let mut picking = Picking { state, live, now, count: self.count, reserved, room };
        for (place, model) in self.models.iter().enumerate() {
            if self.models[..place].contains(model) {
                continue;
            }
            let given = picking.run(model, &mut draw)?;
            if (given.len() as u64) < u64::from(self.count) {
                shortages.push(picking.shortage(model, &given));
            }
            picks.extend(given);
        }
        if shortages.iter().any(|shortage| shortage.given == 0) {
            shortages.retain(|shortage| shortage.given == 0);
            return Err(SelectRefusal::Short(shortages));
        }
        Ok((picks, shortages))
    }
}

impl State {
    /// Whether a choice draws keys that only so many sessions may hold: with
    /// other nodes about, these have to be reserved first.
    pub fn draws_capped(&self, session: &SessionRef, selected: &Selected) -> bool {
        let held = self.session(session).filter(|session| session.is_live());
        self.keys_capped > 0
            && selected.picks.iter().filter(|pick| !pick.already_held).any(|pick| {
                let key = self.key(pick.key);
                key.is_some_and(|(index, key)| {
                    key.is_capped(&self.rules) && !held.is_some_and(|held| held.holds(index))
                })
            })
    }

    /// What `select` would like, model by model; without the models of which
    /// the session holds enough.
    pub fn wishes(&self, select: &Select, now: Time, seed: u64) -> Vec<Wish> {
        self.wishes_beyond(select, now, seed, &[])
    }

    /// What `select` would like when none of `named` could be had; none when a
    /// model has no other keys.
    pub fn further_wishes(
        &self,
        select: &Select,
        now: Time,
        seed: u64,
        named: &[Wish],
    ) -> Option<Vec<Wish>> {
        let wishes = self.wishes_beyond(select, now, seed, named);
        wishes.iter().all(|wish| !wish.keys.is_empty()).then_some(wishes)
    }

    fn wishes_beyond(&self, select: &Select, now: Time, seed: u64, named: &[Wish]) -> Vec<Wish> {
        let now = self.not_before(now);
        let live = self.session(&select.session);
        let live = live.filter(|session| session.live_until(now).is_some());
        let picking = Picking {
            state: self,
            live,
            now,
            count: select.count,
            reserved: None,
            room: room(self, live),
        };
        let mut draw = Draw::new(seed);
        let models = select.models.iter().collect::<BTreeSet<_>>().into_iter();
        let named = |model: &ModelName| named.iter().find(|wish| wish.model == *model);
        models
            .filter_map(|model| {
                let named = named(model).map_or(&[][..], |wish| &wish.keys);
                picking.wish(model, named, &mut draw)
            })
            .collect()
    }
}

/// How many more keys the session may hold.
fn room(state: &State, live: Option<&Session>) -> usize {
    let allocations = live.map_or(&[][..], |session| &session.allocations);
    let held = allocations.iter().filter(|allocation| allocation.held).count();
    let of_all = state.rules.sessions_max.saturating_mul(ALLOCATIONS_PER_SESSION);
    let of_session = state.rules.session_allocations_max.saturating_sub(held);
    of_session.min(of_all.saturating_sub(state.allocations_live))
}

/// The choice of keys for the models of one call.
struct Picking<'state> {
    state: &'state State,
    live: Option<&'state Session>,
    now: Time,
    count: u32,
    reserved: Option<&'state Reserved>,
    /// How many more keys the session may hold.
    room: usize,
}

impl Picking<'_> {
    /// Keys for a model in the order of a draw, without those that were named;
    /// none when enough are held.
    fn wish(
        &self,
        model: &ModelName,
        named: &[(KeyId, Option<u32>)],
        draw: &mut Draw,
    ) -> Option<Wish> {
        let (index, pool) = self.state.pool(model)?;
        let held = self.held(index, pool);
        let count = (self.count as usize).checked_sub(held.len()).filter(|count| *count > 0)?;
        let taken = held.iter().map(|pick| pick.key).chain(named.iter().map(|(key, _)| *key));
        let leaves = taken.filter_map(|key| self.leaf(index, key));
        let mut cuts = Cuts::new(&pool.weights, leaves);
        let shared = self.shared(index, pool, &held);
        let drawn = std::iter::from_fn(|| self.drawn(pool, &mut cuts, draw));
        let keys = drawn.take(count + SPARE_KEYS).chain(shared);
        let keys = keys.map(|pick| (pick.key, self.cap(pick.key)));
        let keys = keys.filter(|key| !named.contains(key)).collect();
        Some(Wish { model: model.clone(), count, is_needed: held.is_empty(), keys })
    }

    fn cap(&self, key: KeyId) -> Option<u32> {
        self.state.key(key).and_then(|(_, key)| key.holders_max(&self.state.rules))
    }

    /// What was reserved for a model and may still be given.
    fn given(&self, index: PoolIndex, pool: &Pool, reserved: &[KeyId]) -> Vec<Pick> {
        let keys = reserved.iter().filter_map(|key| self.state.key(*key));
        let usable = keys.filter(|(key, _)| self.may_go_on(*key, index));
        usable.map(|(key, _)| self.chosen(pool, index, key)).collect()
    }

    /// A pick as if it had been drawn just now.
    fn chosen(&self, pool: &Pool, index: PoolIndex, key: KeyIndex) -> Pick {
        let slot = self.state.keys[key.0 as usize].slot(index);
        let weight = slot.map_or(0, |slot| pool.weights.get(slot.leaf as usize));
        let candidates = pool.weights.nonzero() as u32;
        self.pick(pool, key, false, candidates, weight, pool.weights.total())
    }

    /// Fewer than wanted when the pool has no more.
    fn run(&mut self, model: &ModelName, draw: &mut Draw) -> Result<Vec<Pick>, SelectRefusal> {
        let Some((index, pool)) = self.state.pool(model) else { return Ok(Vec::new()) };
        let mut picks = self.held(index, pool);
        if let Some(reserved) = self.reserved {
            let reserved = reserved.get(model).map_or(&[][..], Vec::as_slice);
            let missing = (self.count as usize).saturating_sub(picks.len());
            let mut taken: HashSet<KeyId> = picks.iter().map(|pick| pick.key).collect();
            let mut given = self.given(index, pool, reserved);
            given.retain(|pick| taken.insert(pick.key));
            given.into_iter().take(missing).try_for_each(|pick| self.give(&mut picks, pick))?;
            return Ok(picks);
        }
        let leaves = picks.iter().filter_map(|pick| self.leaf(index, pick.key));
        let mut cuts = Cuts::new(&pool.weights, leaves);
        while self.wants_more(&picks) {
            let Some(pick) = self.drawn(pool, &mut cuts, draw) else { break };
            self.give(&mut picks, pick)?;
        }
        if self.wants_more(&picks) {
            let missing = self.count as usize - picks.len();
            let shared = self.shared(index, pool, &picks);
            shared.into_iter().take(missing).try_for_each(|pick| self.give(&mut picks, pick))?;
        }
        Ok(picks)
    }

    fn wants_more(&self, picks: &[Pick]) -> bool {
        (picks.len() as u64) < u64::from(self.count)
    }

    /// Adds what the session does not hold for this model yet.
    fn give(&mut self, picks: &mut Vec<Pick>, pick: Pick) -> Result<(), SelectRefusal> {
        self.room = self.room.checked_sub(1).ok_or(SelectRefusal::TooManyAllocations)?;
        picks.push(pick);
        Ok(())
    }

    /// What the session holds for this model and may go on using.
    fn held(&self, index: PoolIndex, pool: &Pool) -> Vec<Pick> {
        let allocations = self.live.map_or(&[][..], |session| &session.allocations);
        let held = allocations.iter().filter(|allocation| allocation.held);
        let held = held.filter(|allocation| allocation.pool == index);
        let usable = held.filter(|allocation| self.may_go_on(allocation.key, index));
        let usable = usable.take(self.count as usize);
        usable.map(|allocation| self.pick(pool, allocation.key, true, 0, 0, 0)).collect()
    }

    /// One more key, drawn by weight from those that are not taken yet.
    fn drawn(&self, pool: &Pool, cuts: &mut Cuts, draw: &mut Draw) -> Option<Pick> {
        let total = cuts.left(&pool.weights);
        let leaf = draw.leaf(&pool.weights, cuts)?;
        let candidates = pool.weights.nonzero() - cuts.len();
        cuts.add(&pool.weights, leaf);
        let key = pool.key_at(leaf)?;
        let weight = pool.weights.get(leaf);
        Some(self.pick(pool, key, false, candidates as u32, weight, total))
    }

    /// Keys at their cap that the session holds for other models: one session
    /// is one holder, for however many models.
    fn shared(&self, index: PoolIndex, pool: &Pool, picks: &[Pick]) -> Vec<Pick> {
        let mut taken: HashSet<KeyId> = picks.iter().map(|pick| pick.key).collect();
        let allocations = self.live.map_or(&[][..], |session| &session.allocations);
        let held = allocations.iter().filter(|allocation| allocation.held);
        let keys = held.map(|allocation| allocation.key).filter(|key| self.is_shared(*key, index));
        let picks = keys.map(|key| self.pick(pool, key, false, 0, 0, 0));
        picks.filter(|pick| taken.insert(pick.key)).collect()
    }

    /// Whether a key would stand for the draw, were it not at its cap.
    fn is_shared(&self, key: KeyIndex, pool: PoolIndex) -> bool {
        self.state_in(key, pool) == Some(KeyState::AtCap)
            && self.state.keys[key.0 as usize].effective_weight(&self.state.rules) > 0
    }

    /// Whether a session that holds the key may use it for this pool.
    fn may_go_on(&self, key: KeyIndex, pool: PoolIndex) -> bool {
        matches!(self.state_in(key, pool), Some(KeyState::Usable | KeyState::AtCap))
    }

    /// The state of a key in a pool; none where it is not in the pool.
    fn state_in(&self, key: KeyIndex, pool: PoolIndex) -> Option<KeyState> {
        let key = &self.state.keys[key.0 as usize];
        key.slot(pool).map(|slot| key.state_in(slot, self.now, &self.state.rules))
    }

    fn shortage(&self, model: &ModelName, given: &[Pick]) -> Shortage {
        let Some((index, pool)) = self.state.pool(model) else { return self.unknown(model) };
        let counts = pool.counts();
        Shortage {
            model: model.clone(),
            reason: match reason(self.not_given(index, counts, given)) {
                // Free as far as this node knows, and taken at others.
                ShortageReason::NoneUsable if self.reserved.is_some() => ShortageReason::AllAtCap,
                reason => reason,
            },
            wanted: self.count,
            given: given.len() as u32,
            keys_total: counts.all() as u32,
            keys_cooling: counts.cooling as u32,
            keys_at_cap: counts.at_cap as u32,
            retry_after: pool.soonest().map(|until| until.since(self.now)),
            did_you_mean: Vec::new(),
        }
    }

    fn unknown(&self, model: &ModelName) -> Shortage {
        Shortage {
            model: model.clone(),
            reason: ShortageReason::UnknownModel,
            wanted: self.count,
            given: 0,
            keys_total: 0,
            keys_cooling: 0,
            keys_at_cap: 0,
            retry_after: None,
            did_you_mean: nearest(self.state, model),
        }
    }

    /// How many keys of the pool are in each state, without those given.
    fn not_given(&self, pool: PoolIndex, mut counts: Counts, given: &[Pick]) -> Counts {
        let keys = given.iter().filter_map(|pick| self.state.key(pick.key));
        for state in keys.filter_map(|(key, _)| self.state_in(key, pool)) {
            counts.take(state);
        }
        counts
    }

    fn leaf(&self, pool: PoolIndex, key: KeyId) -> Option<usize> {
        let (_, key) = self.state.key(key)?;
        key.slot(pool).map(|slot| slot.leaf as usize)
    }

    fn pick(
        &self,
        pool: &Pool,
        key: KeyIndex,
        already_held: bool,
        candidates: u32,
        weight: u64,
        total_weight: u64,
    ) -> Pick {
        let key = &self.state.keys[key.0 as usize];
        Pick {
            model: pool.model.clone(),
            key: key.id(),
            tier: key.tier(&self.state.rules),
            already_held,
            candidates,
            weight,
            total_weight,
        }
    }
}

/// Why a pool has no more to give than it gave.
fn reason(left: Counts) -> ShortageReason {
    let all = left.all();
    if all == 0 {
        ShortageReason::PoolTooSmall
    } else if left.cooling == all {
        ShortageReason::AllCooling
    } else if left.at_cap == all {
        ShortageReason::AllAtCap
    } else {
        ShortageReason::NoneUsable
    }
}
