use std::collections::BTreeSet;

use crate::id::ModelName;
use crate::key::{KeyIndex, KeyState};
use crate::sum_tree::SumTree;
use crate::time::Time;

/// Where a pool is kept; stable while the state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolIndex(pub(crate) u32);

/// The keys that may serve one provider/model.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) model: ModelName,
    pub(crate) weights: SumTree,
    /// The key of each leaf; none where a key left.
    keys: Vec<Option<KeyIndex>>,
    free: Vec<u32>,
    counts: Counts,
    /// Keys that cool, the soonest first.
    cooling: BTreeSet<(Time, KeyIndex)>,
}

/// How many keys of a pool are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) usable: usize,
    pub(crate) cooling: usize,
    pub(crate) at_cap: usize,
}

impl Counts {
    pub(crate) fn all(&self) -> usize {
        self.usable + self.cooling + self.at_cap
    }

    /// Counts one key less.
    pub(crate) fn take(&mut self, state: KeyState) {
        if let Some(count) = self.of(state) {
            *count = count.saturating_sub(1);
        }
    }

    fn of(&mut self, state: KeyState) -> Option<&mut usize> {
        match state {
            KeyState::Usable => Some(&mut self.usable),
            KeyState::Cooling => Some(&mut self.cooling),
            KeyState::AtCap => Some(&mut self.at_cap),
            KeyState::Retired => None,
        }
    }
}

impl Pool {
    pub(crate) fn new(model: ModelName) -> Self {
        Self {
            model,
            weights: SumTree::default(),
            keys: Vec::new(),
            free: Vec::new(),
            counts: Counts::default(),
            cooling: BTreeSet::new(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether any key serves the model.
    pub(crate) fn is_served(&self) -> bool {
        self.counts.all() > 0
    }

    /// Gives `key` a leaf without weight; it counts in no state yet.
    pub(crate) fn join(&mut self, key: KeyIndex) -> u32 {
        if let Some(leaf) = self.free.pop() {
            self.keys[leaf as usize] = Some(key);
            return leaf;
        }
        self.keys.push(Some(key));
        self.weights.push() as u32
    }

    /// Takes the key of `leaf` out, which was counted as `state`.
    pub(crate) fn leave(&mut self, leaf: u32, state: KeyState) {
        self.weights.set(leaf as usize, 0);
        self.keys[leaf as usize] = None;
        self.free.push(leaf);
        self.recount(state, KeyState::Retired);
    }

    /// Moves one key from one state's count to another's.
    pub(crate) fn recount(&mut self, from: KeyState, to: KeyState) {
        if let Some(count) = self.counts.of(from) {
            *count -= 1;
        }
        if let Some(count) = self.counts.of(to) {
            *count += 1;
        }
    }

    /// Replaces the instant until which `key` cools.
    pub(crate) fn cool(&mut self, key: KeyIndex, old: Option<Time>, new: Option<Time>) {
        if let Some(old) = old {
            self.cooling.remove(&(old, key));
        }
        if let Some(new) = new {
            self.cooling.insert((new, key));
        }
    }

    /// Whether the cooldown of any key ends at `until`.
    pub(crate) fn cools_until(&self, until: Time) -> bool {
        let next = self.cooling.range((until, KeyIndex(0))..).next();
        next.is_some_and(|(other, _)| *other == until)
    }

    /// The soonest end of a cooldown.
    pub(crate) fn soonest(&self) -> Option<Time> {
        self.cooling.first().map(|(until, _)| *until)
    }

    /// A key whose cooldown is over by `now`.
    pub(crate) fn cooled(&self, now: Time) -> Option<KeyIndex> {
        self.cooling.first().filter(|(until, _)| *until <= now).map(|(_, key)| *key)
    }

    /// The key of a leaf that has a weight.
    pub(crate) fn key_at(&self, leaf: usize) -> Option<KeyIndex> {
        self.keys.get(leaf).copied().flatten()
    }
}
