use std::num::NonZeroU32;
use std::sync::Arc;

use crate::changes::Listed;
use crate::event::{KeyFacts, Outcome, OwnWeight, Tokens};
use crate::id::KeyId;
use crate::pool::PoolIndex;
use crate::rules::Rules;
use crate::tier::{Tier, TierTable};
use crate::time::Time;
use crate::window::{Minutes, Window};

/// Fraction bits of an effective weight, so that sharing a key among many
/// sessions does not round it to nothing. No more than these, because a pool's
/// weights are added up in 64 bits.
const WEIGHT_SCALE: u64 = 1 << 10;

/// How many keys of the largest weight a pool can add up.
const KEYS_ADDED_UP: u64 = 10_000_000;

const _: () = assert!(
    TierTable::WEIGHT_MAX as u64 * OwnWeight::MAX.thousandths() as u64 * WEIGHT_SCALE
        <= u64::MAX / KEYS_ADDED_UP,
    "the weights of ten million keys must fit 64 bits"
);

/// Where a key is kept; stable while the state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyIndex(pub(crate) u32);

/// What a key or an allocation spent, since it was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Reports.
    pub requests: u64,
    /// Reports with an outcome other than success.
    pub failures: u64,
    /// Tokens.
    pub tokens: Tokens,
}

impl Usage {
    /// Both together. Sums stop at the largest number.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        let (one, other) = (self.tokens, more.tokens);
        Self {
            requests: self.requests.saturating_add(more.requests),
            failures: self.failures.saturating_add(more.failures),
            tokens: Tokens {
                input: one.input.saturating_add(other.input),
                output: one.output.saturating_add(other.output),
                cached_input: one.cached_input.saturating_add(other.cached_input),
            },
        }
    }

    /// The larger of both in each figure.
    pub(crate) fn larger(&self, other: &Self) -> Self {
        let (one, two) = (self.tokens, other.tokens);
        Self {
            requests: self.requests.max(other.requests),
            failures: self.failures.max(other.failures),
            tokens: Tokens {
                input: one.input.max(two.input),
                output: one.output.max(two.output),
                cached_input: one.cached_input.max(two.cached_input),
            },
        }
    }

    /// Adds one report. Sums stop at the largest number.
    pub(crate) fn add(&mut self, tokens: Tokens, outcome: Outcome) {
        self.requests = self.requests.saturating_add(1);
        self.failures = self.failures.saturating_add(u64::from(outcome != Outcome::Success));
        let sum = &mut self.tokens;
        sum.input = sum.input.saturating_add(tokens.input);
        sum.output = sum.output.saturating_add(tokens.output);
        sum.cached_input = sum.cached_input.saturating_add(tokens.cached_input);
    }
}

/// Whether and why a key can be drawn from a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// It can be drawn.
    Usable,
    /// It waits for a known instant.
    Cooling,
    /// It is held by as many live sessions as it may be.
    AtCap,
    /// It was taken out of every pool.
    Retired,
}

/// A key's place in one pool.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) pool: PoolIndex,
    pub(crate) leaf: u32,
    /// As this node's own reports have it.
    pub(crate) cooling_until: Option<Time>,
    /// As other nodes have it.
    pub(crate) cooling_elsewhere: Option<Time>,
    /// As the pool's counts have it.
    pub(crate) state: KeyState,
}

impl Slot {
    /// Until when the key cools, whoever said so.
    pub(crate) fn cools_until(&self) -> Option<Time> {
        self.cooling_until.max(self.cooling_elsewhere)
    }
}

/// What other nodes add to a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Elsewhere {
    /// Live sessions of other nodes that hold it.
    pub(crate) holders: u32,
    /// What it spent through other nodes.
    pub(crate) window: Window,
    /// The minutes of which the key is on the list of what leaves windows.
    pub(crate) leaving: Minutes,
}

/// One provider credential, without its secret.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    facts: Arc<KeyFacts>,
    /// These three stand in the facts, too; here they are near what else a draw
    /// needs.
    id: KeyId,
    own_weight: OwnWeight,
    max_holders: Option<NonZeroU32>,
    pub(crate) retired: bool,
    /// Live sessions of this node that hold it.
    pub(crate) holders: u32,
    /// What it spent through this node.
    pub(crate) window: Window,
    /// None as long as no other node speaks of it.
    pub(crate) elsewhere: Option<Box<Elsewhere>>,
    pub(crate) lifetime: Usage,
    pub(crate) last_used: Option<Time>,
    /// One for each pool it is in; none when retired.
    pub(crate) slots: Vec<Slot>,
    /// The lists of changes that it is on.
    pub(crate) listed: Listed,
}

impl Key {
    /// A key that is in no pool yet.
    pub(crate) fn new(facts: Arc<KeyFacts>) -> Self {
        Self {
            id: facts.key,
            own_weight: facts.own_weight,
            max_holders: facts.max_holders,
            facts,
            retired: true,
            holders: 0,
            window: Window::default(),
            elsewhere: None,
            lifetime: Usage::default(),
            last_used: None,
            slots: Vec::new(),
            listed: Listed::default(),
        }
    }

    pub(crate) fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn facts(&self) -> &Arc<KeyFacts> {
        &self.facts
    }

    /// Replaces the facts as a whole.
    pub(crate) fn change(&mut self, facts: &Arc<KeyFacts>) {
        self.own_weight = facts.own_weight;
        self.max_holders = facts.max_holders;
        self.facts = facts.clone();
    }

    pub(crate) fn tier(&self, rules: &Rules) -> Tier {
        rules.tiers.tier(self.window_tokens())
    }

    /// Tokens spent in the last hour, through all nodes.
    pub(crate) fn window_tokens(&self) -> u64 {
        let elsewhere = self.elsewhere.as_ref().map_or(0, |elsewhere| elsewhere.window.tokens());
        self.window.tokens().saturating_add(elsewhere)
    }

    /// Live sessions that hold it, of all nodes.
    pub(crate) fn holders_everywhere(&self) -> u32 {
        let elsewhere = self.elsewhere.as_ref().map_or(0, |elsewhere| elsewhere.holders);
        self.holders.saturating_add(elsewhere)
    }

    /// How many live sessions may hold it; none: no cap.
    pub(crate) fn holders_max(&self, rules: &Rules) -> Option<u32> {
        match self.max_holders {
            Some(cap) => Some(cap.get()),
            None => (rules.max_holders > 0).then_some(rules.max_holders),
        }
    }

    fn at_cap(&self, rules: &Rules) -> bool {
        self.holders_max(rules).is_some_and(|cap| self.holders_everywhere() >= cap)
    }

    /// Tier weight x own weight / (1 + holders), scaled; whatever the state.
    /// Not zero unless the own weight is.
    pub(crate) fn effective_weight(&self, rules: &Rules) -> u64 {
        let own = u64::from(self.own_weight.thousandths());
        let tier = u64::from(rules.tiers.weight(self.tier(rules)));
        let scaled = tier * own * WEIGHT_SCALE;
        let shared = scaled / (1 + u64::from(self.holders_everywhere()));
        if scaled == 0 { 0 } else { shared.max(1) }
    }

    /// The state of the key in the pool of `slot`.
    pub(crate) fn state_in(&self, slot: &Slot, now: Time, rules: &Rules) -> KeyState {
        if self.retired {
            KeyState::Retired
        } else if slot.cools_until().is_some_and(|until| until > now) {
            KeyState::Cooling
        } else if self.at_cap(rules) {
            KeyState::AtCap
        } else {
            KeyState::Usable
        }
    }

    pub(crate) fn slot(&self, pool: PoolIndex) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.pool == pool)
    }
}

/// What a scaled weight is in units of tier weights, for people.
pub(crate) fn weight_for_people(scaled: u64) -> f64 {
    scaled as f64 / (WEIGHT_SCALE as f64 * 1_000.0)
}
