use std::collections::HashSet;

use crate::draw::{Cuts, Draw};
use crate::event::{Event, KeysSelected, Pick};
use crate::id::{KeyId, ModelName};
use crate::key::{Key, KeyState};
use crate::pool::{Pool, PoolIndex};
use crate::rules::Rules;
use crate::session::Session;
use crate::state::State;
use crate::time::Time;

/// Goes through a history once more and judges each selection by what was known
/// when it was made.
///
/// What cannot be known is not judged: what came before a history that does not
/// begin with its first event, and what other nodes had said.
#[derive(Debug)]
pub struct Replay {
    state: State,
    /// Whether the history began with its first event.
    is_whole: bool,
    /// Whether it was said which rules are in force.
    knows_rules: bool,
    /// Whether other nodes have a say.
    shares: bool,
    events: u64,
}

/// What there is to say of one selection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// What was against the rules.
    pub violations: Vec<Violation>,
    /// Keys of which not everything could be judged.
    pub unjudged: u64,
    /// Keys that the recorded seed draws again.
    pub redrawn: u64,
    /// Keys in whose place the seed draws another one: a restart changes the
    /// order in which keys lie in memory, which is not on record.
    pub redrawn_other: u64,
}

/// A rule that a selection did not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A session was opened that was open, or used that was not.
    #[error("the session was {}, but the record says that this call {} it", if *.opened { "open" } else { "not open" }, if *.opened { "opened" } else { "did not open" })]
    Opened {
        /// What the record says.
        opened: bool,
    },
    /// The session belongs to another user.
    #[error("the session is open for another user")]
    OtherUser,
    /// The session lives too long, or too short.
    #[error("the session's deadline is {} ms, by the rules it is {} ms", found.as_ms(), expected.as_ms())]
    Deadline {
        /// What the record says.
        found: Time,
        /// What the rules say.
        expected: Time,
    },
    /// Something about one key.
    #[error("{model} {key}: {fault}")]
    Pick {
        /// For this model.
        model: ModelName,
        /// This key.
        key: KeyId,
        /// What is wrong.
        fault: PickFault,
    },
    /// Keys that the session held were left out while others were drawn.
    #[error("{model}: the session held usable keys that were not given first")]
    HeldLeftOut {
        /// For this model.
        model: ModelName,
    },
}

/// What is wrong with a key that was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickFault {
    /// It was never added, or retired, or not for this model.
    #[error("the key did not serve the model")]
    NotServed,
    /// It waited for an instant.
    #[error("the key was cooling until {} ms", until.as_ms())]
    Cooling {
        /// Which one.
        until: Time,
    },
    /// As many sessions as may hold it did.
    #[error("the key was at its cap")]
    AtCap,
    /// It stands twice for one model.
    #[error("the key was given twice")]
    Twice,
    /// A key that was held comes after one that was not.
    #[error("a key that the session held comes after a drawn one")]
    HeldAfterDrawn,
    /// Held, says the record.
    #[error("the session did not hold the key")]
    NotHeld,
    /// Drawn, says the record.
    #[error("the session held the key already")]
    HeldBefore,
    /// The tier is another one.
    #[error("the key's tier was another one")]
    Tier,
    /// The weight in the draw is another one.
    #[error("the key weighed {expected} in the draw, the record says {found}")]
    Weight {
        /// What the record says.
        found: u64,
        /// What the rules say.
        expected: u64,
    },
    /// The weights of all that stood for the draw are other ones.
    #[error("all candidates weighed {expected}, the record says {found}")]
    TotalWeight {
        /// What the record says.
        found: u64,
        /// What the rules say.
        expected: u64,
    },
    /// The number of keys that stood for the draw is another one.
    #[error("{expected} keys stood for the draw, the record says {found}")]
    Candidates {
        /// What the record says.
        found: u32,
        /// What the rules say.
        expected: u32,
    },
}

/// Events between two drains of what a projection would have been told.
const DRAIN_EVERY: u64 = 10_000;

impl Replay {
    /// Begins with nothing; `is_whole` when the first event of all comes first.
    pub fn new(is_whole: bool) -> Self {
        let state = State::new(Rules::default());
        Self { state, is_whole, knows_rules: false, shares: false, events: 0 }
    }

    /// From here on these rules are in force; `shares` when other nodes have a
    /// say.
    pub fn set_rules(&mut self, rules: Rules, shares: bool) {
        (self.knows_rules, self.shares) = (true, shares);
        let state = &mut self.state;
        state.rules = rules;
        let capped = state.keys.iter().filter(|key| !key.retired && key.is_capped(&state.rules));
        state.keys_capped = capped.count();
        for place in 0..state.keys.len() {
            if let Some(index) = state.key_index.get(&state.keys[place].id()).copied() {
                state.refresh(index);
            }
        }
    }

    /// Takes an event in; of a selection, says whether it followed the rules.
    pub fn take(&mut self, at: Time, event: &Event) -> Option<Review> {
        self.state.advance(at);
        let review = match event {
            Event::KeysSelected(selected) => Some(self.review(selected)),
            _ => None,
        };
        self.state.apply(at, event);
        self.events += 1;
        if self.events.is_multiple_of(DRAIN_EVERY) {
            drop(self.state.take_changes());
        }
        review
    }

    /// Everything that a weight depends on is known.
    fn is_exact(&self) -> bool {
        self.is_whole && self.knows_rules && !self.shares
    }

    fn review(&self, selected: &KeysSelected) -> Review {
        let mut review = Review::default();
        let session = self.state.session(&selected.session);
        let live = session.filter(|session| session.live_until(self.state.now).is_some());
        review.violations.extend(self.session_faults(selected, live));
        let mut draw = Draw::new(selected.seed);
        for picks in selected.picks.chunk_by(|one, next| one.model == next.model) {
            let judge = Judge { replay: self, live };
            judge.model(picks, &mut draw, &mut review);
        }
        review
    }

    fn session_faults(&self, selected: &KeysSelected, live: Option<&Session>) -> Vec<Violation> {
        let mut faults = Vec::new();
        let may_judge_opened = self.is_whole || live.is_some();
        if may_judge_opened && selected.opened == live.is_some() {
            faults.push(Violation::Opened { opened: selected.opened });
        }
        if live.is_some_and(|live| live.user != selected.user) {
            faults.push(Violation::OtherUser);
        }
        let expected = self.state.now.after(self.state.rules.session_ttl);
        if self.knows_rules && selected.deadline != expected {
            faults.push(Violation::Deadline { found: selected.deadline, expected });
        }
        faults
    }
}

/// Judges the keys of one selection.
struct Judge<'replay> {
    replay: &'replay Replay,
    live: Option<&'replay Session>,
}

impl Judge<'_> {
    /// All keys that were given for one model.
    fn model(&self, picks: &[Pick], draw: &mut Draw, review: &mut Review) {
        let state = &self.replay.state;
        let Some(model) = picks.first().map(|pick| &pick.model) else { return };
        let Some((index, pool)) = state.pool(model) else {
            return picks.iter().for_each(|pick| self.not_served(pick, review));
        };
        let held = picks.iter().filter(|pick| pick.already_held);
        let leaves = held.clone().filter_map(|pick| self.leaf(pick, index));
        let mut cuts = Cuts::new(&pool.weights, leaves);
        let mut given = HashSet::new();
        let mut was_drawn = false;
        for pick in picks {
            let mut faults = Vec::new();
            if !given.insert(pick.key) {
                faults.push(PickFault::Twice);
            }
            if pick.already_held && was_drawn {
                faults.push(PickFault::HeldAfterDrawn);
            }
            was_drawn |= !pick.already_held;
            match state.key(pick.key).and_then(|(_, key)| Some((key, key.slot(index)?.leaf))) {
                None => self.not_served(pick, review),
                Some((key, leaf)) => {
                    faults.extend(self.key_faults(pick, key, index));
                    if self.is_drawn(pick) && self.replay.is_exact() {
                        faults.extend(draw_faults(pick, pool, leaf as usize, &cuts));
                        self.redraw(pick, pool, &cuts, draw, review);
                        cuts.add(&pool.weights, leaf as usize);
                    } else if self.is_drawn(pick) {
                        review.unjudged += 1;
                        faults.extend(self.weight_bound(pick, pool, leaf as usize));
                    }
                }
            }
            let named = |fault| Violation::Pick { model: model.clone(), key: pick.key, fault };
            review.violations.extend(faults.into_iter().map(named));
        }
        if self.knows_held() && was_drawn && held.count() < self.held_usable(index) {
            review.violations.push(Violation::HeldLeftOut { model: model.clone() });
        }
    }

    /// Whether it is known which keys the session held and could go on using.
    fn knows_held(&self) -> bool {
        self.replay.is_whole && !self.replay.shares
    }

    fn not_served(&self, pick: &Pick, review: &mut Review) {
        let is_known = self.replay.state.key(pick.key).is_some();
        if !self.replay.is_whole && !is_known {
            review.unjudged += 1;
            return;
        }
        let (model, key) = (pick.model.clone(), pick.key);
        review.violations.push(Violation::Pick { model, key, fault: PickFault::NotServed });
    }

    /// What is wrong whatever the draw was.
    fn key_faults(&self, pick: &Pick, key: &Key, pool: PoolIndex) -> Vec<PickFault> {
        let (state, mut faults) = (&self.replay.state, Vec::new());
        let Some(slot) = key.slot(pool) else { return faults };
        let holds = self.live.is_some_and(|live| {
            state
                .key(pick.key)
                .and_then(|(index, _)| live.allocation(index, pool))
                .is_some_and(|allocation| allocation.held)
        });
        match key.state_in(slot, state.now, &state.rules) {
            KeyState::Cooling => {
                let until = slot.cools_until().unwrap_or_default();
                faults.push(PickFault::Cooling { until });
            }
            KeyState::AtCap if self.is_drawn(pick) && !self.replay.shares => {
                faults.push(PickFault::AtCap);
            }
            KeyState::Retired => faults.push(PickFault::NotServed),
            KeyState::AtCap | KeyState::Usable => {}
        }
        if self.replay.is_whole && pick.already_held && !holds {
            faults.push(PickFault::NotHeld);
        }
        if !pick.already_held && holds {
            faults.push(PickFault::HeldBefore);
        }
        if self.is_shared(pick) && self.replay.is_whole && !self.holds_elsewhere(pick) {
            faults.push(PickFault::AtCap);
        }
        let tier = key.tier(&state.rules);
        let fits = if self.replay.is_exact() { pick.tier == tier } else { pick.tier >= tier };
        if self.replay.knows_rules && !fits {
            faults.push(PickFault::Tier);
        }
        faults
    }

    /// Given beyond its cap because the session holds it for another model.
    fn is_shared(&self, pick: &Pick) -> bool {
        !pick.already_held && pick.candidates == 0 && !self.replay.shares
    }

    fn is_drawn(&self, pick: &Pick) -> bool {
        !pick.already_held && !self.is_shared(pick)
    }

    fn holds_elsewhere(&self, pick: &Pick) -> bool {
        let key = self.replay.state.key(pick.key);
        self.live.is_some_and(|live| key.is_some_and(|(index, _)| live.holds(index)))
    }

    /// What is not known can only make a key lighter.
    fn weight_bound(&self, pick: &Pick, pool: &Pool, leaf: usize) -> Option<PickFault> {
        let expected = pool.weights.get(leaf);
        let is_over = self.replay.knows_rules && pick.weight > expected;
        is_over.then_some(PickFault::Weight { found: pick.weight, expected })
    }

    fn redraw(&self, pick: &Pick, pool: &Pool, cuts: &Cuts, draw: &mut Draw, review: &mut Review) {
        let drawn = draw.leaf(&pool.weights, cuts).and_then(|leaf| pool.key_at(leaf));
        let drawn = drawn.map(|key| self.replay.state.keys[key.0 as usize].id());
        match drawn == Some(pick.key) {
            true => review.redrawn += 1,
            false => review.redrawn_other += 1,
        }
    }

    fn leaf(&self, pick: &Pick, pool: PoolIndex) -> Option<usize> {
        let (_, key) = self.replay.state.key(pick.key)?;
        key.slot(pool).map(|slot| slot.leaf as usize)
    }

    /// How many keys the session held for the pool and could go on using.
    fn held_usable(&self, pool: PoolIndex) -> usize {
        let state = &self.replay.state;
        let allocations = self.live.map_or(&[][..], |live| &live.allocations);
        let held = allocations.iter().filter(|one| one.held && one.pool == pool);
        let usable = held.filter(|one| {
            let key = &state.keys[one.key.0 as usize];
            let in_pool = key.slot(pool).map(|slot| key.state_in(slot, state.now, &state.rules));
            matches!(in_pool, Some(KeyState::Usable | KeyState::AtCap))
        });
        usable.count()
    }
}

/// What is wrong with the inputs of a draw.
fn draw_faults(pick: &Pick, pool: &Pool, leaf: usize, cuts: &Cuts) -> Vec<PickFault> {
    let mut faults = Vec::new();
    let (found, expected) = (pick.weight, pool.weights.get(leaf));
    if found != expected || found == 0 {
        faults.push(PickFault::Weight { found, expected });
    }
    let (found, expected) = (pick.total_weight, cuts.left(&pool.weights));
    if found != expected {
        faults.push(PickFault::TotalWeight { found, expected });
    }
    let expected = (pool.weights.nonzero() - cuts.len()) as u32;
    if pick.candidates != expected {
        faults.push(PickFault::Candidates { found: pick.candidates, expected });
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::event::{KeyFacts, Outcome, OwnWeight, SessionRef, Tokens};
    use crate::release_key::{Release, ReleaseScope};
    use crate::select::Select;
    use crate::session::Expire;
    use crate::state::Decide;
    use crate::sync_keys::SyncKeys;
    use crate::track_usage::TrackUsage;

    const MODELS: [&str; 2] = ["acme/large", "acme/small"];

    fn model(place: usize) -> ModelName {
        MODELS[place].parse().unwrap()
    }

    fn facts(number: u8) -> Arc<KeyFacts> {
        Arc::new(KeyFacts {
            key: KeyId::from_digest(&[number; 32]),
            models: (0..=usize::from(number % 2)).map(model).collect(),
            own_weight: OwnWeight::from_thousandths(500 + 100 * u32::from(number)).unwrap(),
            max_holders: NonZeroU32::new(u32::from(number % 4)),
            label: None,
            sources: Vec::new(),
        })
    }

    fn session(number: u64) -> SessionRef {
        SessionRef { owner: 7, id: format!("s{number}").into() }
    }

    /// A node whose events are kept.
    struct Node {
        state: State,
        now: Time,
        history: Vec<(Time, Event)>,
    }

    impl Node {
        fn new(rules: Rules) -> Self {
            Self {
                state: State::new(rules),
                now: Time::from_ms(90 * 3_600_000),
                history: Vec::new(),
            }
        }

        fn run<Command: Decide>(&mut self, command: &Command, seed: u64) {
            self.state.advance(self.now);
            let Ok(decision) = command.decide(&self.state, self.now, seed) else { return };
            for event in decision.events {
                self.state.apply(self.now, &event);
                self.history.push((self.now, event));
            }
        }

        fn select(&mut self, number: u64, models: &[usize], count: u32, seed: u64) {
            let models = models.iter().map(|place| model(*place)).collect();
            let select = Select {
                session: session(number),
                user: 1,
                models,
                count,
                reserved: None,
                owner_sessions_max: None,
            };
            self.run(&select, seed);
        }

        /// A long life: selections, reports, releases, keys that come and go.
        fn live(&mut self, steps: u64) {
            let mut draw = Draw::new(42);
            let sync = |count| SyncKeys { desired: (0..count).map(facts).collect() };
            self.run(&sync(12), 0);
            for step in 0..steps {
                let mut below = |bound| draw.below(bound);
                self.now = self.now.after(Duration::from_millis(below(60_000)));
                let number = below(20);
                self.run(&Expire { first: None, sessions_max: 5 }, 0);
                match below(10) {
                    0..5 => {
                        let count = 1 + below(4) as u32;
                        let models: &[usize] =
                            [&[0][..], &[1], &[0, 1], &[1, 0]][below(4) as usize];
                        self.select(number, models, count, step);
                    }
                    5..8 => {
                        let report = TrackUsage {
                            session: session(number),
                            key: facts(below(12) as u8).key,
                            model: model(below(2) as usize),
                            tokens: Tokens { input: below(3_000), output: 1, cached_input: 0 },
                            outcome: [Outcome::Success, Outcome::RateLimited][below(2) as usize],
                            event_id: format!("e{step}").into(),
                            occurred: self.now,
                            retry_after: None,
                        };
                        self.run(&report, 0);
                    }
                    8 => {
                        let scope = ReleaseScope::Session;
                        self.run(&Release { session: session(number), scope }, 0);
                    }
                    _ => self.run(&sync(9 + below(4) as u8), 0),
                }
            }
        }

        fn replay(&self, replay: &mut Replay) -> Review {
            let mut all = Review::default();
            for (at, event) in &self.history {
                let Some(review) = replay.take(*at, event) else { continue };
                all.violations.extend(review.violations);
                all.unjudged += review.unjudged;
                all.redrawn += review.redrawn;
                all.redrawn_other += review.redrawn_other;
            }
            all
        }
    }

    fn rules() -> Rules {
        Rules { session_ttl: Duration::from_secs(600), max_holders: 5, ..Rules::default() }
    }

    fn whole() -> Replay {
        let mut replay = Replay::new(true);
        replay.set_rules(rules(), false);
        replay
    }

    fn lived() -> Node {
        let mut node = Node::new(rules());
        node.live(4_000);
        node
    }

    #[test]
    fn what_the_rules_decided_followed_the_rules() {
        let node = lived();
        let all = node.replay(&mut whole());
        assert_eq!(all.violations, []);
        assert_eq!((all.unjudged, all.redrawn_other), (0, 0));
        assert!(all.redrawn > 1_000, "{}", all.redrawn);
    }

    #[test]
    fn what_cannot_be_known_is_no_violation() {
        let node = lived();
        let mut shares = Replay::new(true);
        shares.set_rules(rules(), true);
        let without_rules = Replay::new(true);
        for mut replay in [shares, without_rules] {
            let all = node.replay(&mut replay);
            assert_eq!(all.violations, []);
            assert!(all.unjudged > 1_000);
        }
        for begins in [1, 30, 500, 2_000] {
            let mut later = Node::new(rules());
            later.history = node.history[begins..].to_vec();
            let mut replay = Replay::new(false);
            replay.set_rules(rules(), false);
            let all = later.replay(&mut replay);
            assert_eq!(all.violations, [], "from event {begins} on");
            assert!(all.unjudged > 100);
        }
    }

    #[test]
    fn other_rules_are_taken_from_where_they_are_in_force() {
        let mut node = Node::new(rules());
        node.live(500);
        let before = node.history.len();
        let other = Rules { max_holders: 2, cooldown: Duration::from_secs(5), ..Rules::default() };
        let mut replay = whole();
        let first = node.replay(&mut replay);
        assert_eq!(first.violations, []);
        let mut changed = Replay::new(true);
        changed.set_rules(other.clone(), false);
        for (at, event) in &node.history {
            changed.state.apply(*at, event);
        }
        node.state = changed.state.clone();
        node.history.clear();
        node.live(500);
        assert!(node.history.len() * 3 > before);
        replay.set_rules(other, false);
        assert_eq!(node.replay(&mut replay).violations, []);
    }

    /// Changes the last selection that has a drawn key for which `change` finds
    /// something to do, and says what is found then.
    fn planted(change: impl Fn(&mut KeysSelected) -> bool) -> Vec<Violation> {
        let mut node = lived();
        let selections = node.history.iter_mut().rev().filter_map(|(_, event)| match event {
            Event::KeysSelected(selected) => Some(selected),
            _ => None,
        });
        let mut drawn = selections.filter(|one| one.picks.iter().any(|pick| pick.candidates > 1));
        assert!(drawn.any(change));
        node.replay(&mut whole()).violations
    }

    fn faults(violations: &[Violation]) -> Vec<&PickFault> {
        let faults = violations.iter().filter_map(|violation| match violation {
            Violation::Pick { fault, .. } => Some(fault),
            _ => None,
        });
        faults.collect()
    }

    fn drawn(selected: &mut KeysSelected) -> Option<&mut Pick> {
        selected.picks.iter_mut().find(|pick| pick.candidates > 1)
    }

    #[test]
    fn planted_violations_are_found() {
        let found = planted(|selected| {
            drawn(selected).is_some_and(|pick| {
                pick.weight += 1;
                true
            })
        });
        assert!(matches!(faults(&found)[0], PickFault::Weight { .. }), "{found:?}");
        let found = planted(|selected| {
            drawn(selected).is_some_and(|pick| {
                pick.total_weight -= 1;
                true
            })
        });
        assert!(matches!(faults(&found)[0], PickFault::TotalWeight { .. }), "{found:?}");
        let found = planted(|selected| {
            drawn(selected).is_some_and(|pick| {
                pick.candidates += 1;
                true
            })
        });
        assert!(matches!(faults(&found)[0], PickFault::Candidates { .. }), "{found:?}");
        let found = planted(|selected| {
            drawn(selected).is_some_and(|pick| {
                pick.key = KeyId::from_digest(&[99; 32]);
                true
            })
        });
        assert_eq!(faults(&found)[0], &PickFault::NotServed);
        let found = planted(|selected| {
            let pick = drawn(selected).cloned();
            selected.picks.extend(pick);
            selected.picks.sort_by(|one, other| one.model.cmp(&other.model));
            true
        });
        assert!(faults(&found).contains(&&PickFault::Twice), "{found:?}");
        let found = planted(|selected| {
            drawn(selected).is_some_and(|pick| {
                pick.already_held = true;
                true
            })
        });
        assert!(faults(&found).contains(&&PickFault::NotHeld), "{found:?}");
        let found = planted(|selected| {
            selected.deadline = selected.deadline.after(Duration::from_secs(1));
            true
        });
        assert!(matches!(found[0], Violation::Deadline { .. }), "{found:?}");
        let found = planted(|selected| {
            selected.opened = !selected.opened;
            true
        });
        assert!(matches!(found[0], Violation::Opened { .. }), "{found:?}");
    }

    /// Each state in which a key must not be given, by a key that is given all
    /// the same.
    #[test]
    fn a_key_that_cools_is_retired_or_at_its_cap_is_named() {
        let give = |node: &mut Node, number: u8| {
            let pick = Pick {
                model: model(0),
                key: facts(number).key,
                tier: crate::tier::Tier::Unused,
                already_held: false,
                candidates: 1,
                weight: 1,
                total_weight: 1,
            };
            let deadline = node.now.after(rules().session_ttl);
            let (session, picks) = (session(99), vec![pick]);
            let selected =
                KeysSelected { session, user: 1, opened: true, deadline, seed: 0, picks };
            node.history.push((node.now, Event::KeysSelected(selected)));
            node.replay(&mut whole()).violations
        };
        let fresh = || {
            let mut node = Node::new(rules());
            node.run(&SyncKeys { desired: vec![facts(1)] }, 0);
            node
        };
        let mut node = fresh();
        node.select(1, &[0], 1, 0);
        let found = give(&mut node, 1);
        assert!(faults(&found).contains(&&PickFault::AtCap), "its cap is 1: {found:?}");
        let mut node = fresh();
        node.select(1, &[0], 1, 0);
        let report = TrackUsage {
            session: session(1),
            key: facts(1).key,
            model: model(0),
            tokens: Tokens::default(),
            outcome: Outcome::RateLimited,
            event_id: "e".into(),
            occurred: node.now,
            retry_after: None,
        };
        node.run(&report, 0);
        node.run(&Release { session: session(1), scope: ReleaseScope::Session }, 0);
        let found = give(&mut node, 1);
        assert!(matches!(faults(&found)[0], PickFault::Cooling { .. }), "{found:?}");
        let mut node = fresh();
        node.run(&SyncKeys { desired: vec![facts(2)] }, 0);
        let found = give(&mut node, 1);
        assert_eq!(faults(&found)[0], &PickFault::NotServed);
    }

    #[test]
    fn held_keys_that_were_left_out_are_named() {
        let mut node = Node::new(rules());
        node.run(&SyncKeys { desired: (0..4).map(facts).collect() }, 0);
        node.select(1, &[0], 1, 1);
        node.select(1, &[0], 2, 2);
        let Some((_, Event::KeysSelected(selected))) = node.history.last_mut() else {
            panic!("it was selected")
        };
        assert!(selected.picks[0].already_held && !selected.picks[1].already_held);
        selected.picks.remove(0);
        let found = node.replay(&mut whole()).violations;
        assert!(found.contains(&Violation::HeldLeftOut { model: model(0) }), "{found:?}");
    }
}
