//! Keys of other nodes: what they add to windows, and their cooldowns.

use std::collections::BTreeMap;

use super::{Fleet, NodeIndex, NodeKey, NodeKeyRow};
use crate::id::{KeyId, ModelName};
use crate::key::{Elsewhere, Key, KeyIndex, Usage};
use crate::pool::PoolIndex;
use crate::state::State;
use crate::time::Time;
use crate::window::{WINDOW_MINUTES, leaves_at};

/// How many keys of one node are kept; rows of more are passed over.
const KEYS_MAX: usize = 2_000_000;

/// How many models a key may cool for at another node.
const COOLING_MAX: usize = 1_000;

impl State {
    pub(super) fn learn_key(&mut self, node: NodeIndex, row: &NodeKeyRow) {
        let node = self.fleet_mut(node);
        if node.keys.len() >= KEYS_MAX && !node.keys.contains_key(&row.key) {
            return;
        }
        let known = node.keys.entry(row.key).or_default();
        replace_usage(&mut node.lifetime, known.lifetime, row.lifetime);
        known.take(row, node.round);
        self.count_elsewhere(row.key);
    }

    pub(super) fn forget_unsaid_keys(&mut self, node: NodeIndex) {
        let node = self.fleet_mut(node);
        let (round, mut gone) = (node.round, Vec::new());
        node.keys.retain(|key, row| {
            let stays = row.round == round;
            if !stays {
                gone.push((*key, row.lifetime));
            }
            stays
        });
        for (_, lifetime) in &gone {
            replace_usage(&mut node.lifetime, *lifetime, Usage::default());
        }
        for (key, _) in gone {
            self.count_elsewhere(key);
        }
    }

    /// Brings a key in line with what all other nodes say of it.
    pub(crate) fn count_elsewhere(&mut self, key: KeyId) {
        let Some(fleet) = self.fleet.as_ref() else { return };
        let Some(index) = self.key_index.get(&key).copied() else { return };
        let window = fleet.window_of(key, self.now);
        let cooling = fleet.cooling_of(key, self.now.after(self.rules.cooldown_max));
        self.replace_window_elsewhere(index, window);
        for (pool, until) in self.slots_with(index, &cooling) {
            self.change_cooldown(index, pool, |slot| slot.cooling_elsewhere = until);
        }
        self.refresh(index);
    }

    fn replace_window_elsewhere(&mut self, index: KeyIndex, buckets: BTreeMap<u32, u64>) {
        let key = &mut self.keys[index.0 as usize];
        if buckets.is_empty() && key.elsewhere.is_none() {
            return;
        }
        let Elsewhere { window, leaving, .. } = &mut **key.elsewhere.get_or_insert_default();
        for minute in buckets.keys().filter(|minute| leaving.insert(**minute)) {
            self.leaving.entry(leaves_at(*minute)).or_default().push(index);
        }
        self.window_tokens_elsewhere -= u128::from(window.tokens());
        window.replace(buckets);
        self.window_tokens_elsewhere += u128::from(window.tokens());
    }

    /// The pools of a key, and until when it cools there as others say, where
    /// that is not known yet.
    fn slots_with(
        &self,
        index: KeyIndex,
        cooling: &BTreeMap<ModelName, Time>,
    ) -> Vec<(PoolIndex, Option<Time>)> {
        let Key { slots, .. } = &self.keys[index.0 as usize];
        let slots = slots.iter().filter_map(|slot| {
            let model = &self.pools[slot.pool.0 as usize].model;
            let until = cooling.get(model).copied().filter(|until| *until > self.now);
            (slot.cooling_elsewhere != until).then_some((slot.pool, until))
        });
        slots.collect()
    }
}

impl Fleet {
    fn rows_of(&self, key: KeyId) -> impl Iterator<Item = &NodeKey> {
        self.nodes.iter().filter_map(move |node| node.keys.get(&key))
    }

    /// The sum of what the nodes say, bucket by bucket.
    fn window_of(&self, key: KeyId, now: Time) -> BTreeMap<u32, u64> {
        let mut window = BTreeMap::new();
        for (minute, tokens) in self.rows_of(key).flat_map(|row| &row.window) {
            let is_near = *minute < now.minute().saturating_add(WINDOW_MINUTES);
            // A bucket of the near future is one of a clock that goes before ours.
            let minute = (*minute).min(now.minute());
            if is_near && leaves_at(minute) > now.minute() && *tokens > 0 {
                let sum: &mut u64 = window.entry(minute).or_default();
                *sum = sum.saturating_add(*tokens);
            }
        }
        window
    }

    /// The latest instant that any node names for each model.
    fn cooling_of(&self, key: KeyId, latest: Time) -> BTreeMap<ModelName, Time> {
        let mut cooling = BTreeMap::new();
        for (model, until) in self.rows_of(key).flat_map(|row| &row.cooling) {
            let until = (*until).min(latest);
            let known = cooling.entry(model.clone()).or_insert(until);
            *known = until.max(*known);
        }
        cooling
    }
}

impl NodeKey {
    fn take(&mut self, row: &NodeKeyRow, round: bool) {
        self.lifetime = row.lifetime;
        self.last_used = row.last_used;
        self.window.clear();
        self.window.extend(row.window.iter().rev().take(WINDOW_MINUTES as usize));
        self.cooling.clear();
        self.cooling.extend(row.cooling.iter().take(COOLING_MAX).cloned());
        self.round = round;
    }

    pub(super) fn window_tokens(&self, now: Time) -> u64 {
        let inside = self.window.iter().filter(|(minute, _)| leaves_at(*minute) > now.minute());
        inside.map(|(_, tokens)| *tokens).fold(0, u64::saturating_add)
    }
}

/// Takes `old` out of a sum and adds `new`.
fn replace_usage(sum: &mut Usage, old: Usage, new: Usage) {
    let replace = |sum: &mut u64, old: u64, new: u64| {
        *sum = sum.saturating_sub(old).saturating_add(new);
    };
    replace(&mut sum.requests, old.requests, new.requests);
    replace(&mut sum.failures, old.failures, new.failures);
    replace(&mut sum.tokens.input, old.tokens.input, new.tokens.input);
    replace(&mut sum.tokens.output, old.tokens.output, new.tokens.output);
    replace(&mut sum.tokens.cached_input, old.tokens.cached_input, new.tokens.cached_input);
}
