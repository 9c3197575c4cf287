//! Keys, their pools, weights and windows.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use crate::event::KeyFacts;
use crate::id::{KeyId, ModelName};
use crate::key::{Key, KeyIndex, KeyState, Slot};
use crate::pool::{Pool, PoolIndex};
use crate::time::Time;
use crate::window::{WINDOW_MINUTES, leaves_at};

impl State {
    pub(crate) fn put_key(&mut self, facts: &Arc<KeyFacts>) {
        let index = self.key_place(facts);
        let Self { keys, rules, keys_capped, .. } = self;
        let key = &mut keys[index.0 as usize];
        *keys_capped -= usize::from(key.is_capped(rules));
        key.change(facts);
        self.keys_served += usize::from(std::mem::replace(&mut key.retired, false));
        *keys_capped += usize::from(key.is_capped(rules));
        self.leave_pools(index, |model| !facts.models.contains(model));
        for model in &facts.models {
            let pool = self.pool_place(model);
            self.join_pool(index, pool);
        }
        self.refresh(index);
        self.key_changed(index);
        self.count_elsewhere(facts.key);
    }

    pub(super) fn key_place(&mut self, facts: &Arc<KeyFacts>) -> KeyIndex {
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

    pub(super) fn join_pool(&mut self, index: KeyIndex, pool: PoolIndex) {
        let key = &mut self.keys[index.0 as usize];
        if key.slot(pool).is_some() {
            return;
        }
        let leaf = self.pools[pool.0 as usize].join(index);
        let state = KeyState::Retired;
        key.slots.push(Slot { pool, leaf, cooling_until: None, cooling_elsewhere: None, state });
    }

    pub(super) fn leave_pools(&mut self, index: KeyIndex, leaves: impl Fn(&ModelName) -> bool) {
        let Self { keys, pools, cooling, .. } = self;
        keys[index.0 as usize].slots.retain(|slot| {
            let pool = &mut pools[slot.pool.0 as usize];
            let stays = !leaves(&pool.model);
            if !stays {
                recool(pool, cooling, index, (slot.pool, slot.cools_until()), None);
                pool.leave(slot.leaf, slot.state);
            }
            stays
        });
    }

    pub(crate) fn retire_key(&mut self, key: KeyId) {
        let Some(index) = self.key_index.get(&key).copied() else { return };
        self.leave_pools(index, |_| true);
        let Self { keys, rules, keys_capped, .. } = self;
        let key = &mut keys[index.0 as usize];
        *keys_capped -= usize::from(key.is_capped(rules));
        self.keys_served -= usize::from(!std::mem::replace(&mut key.retired, true));
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
        self.change_cooldown(index, pool, |slot| slot.cooling_until = Some(until));
    }

    pub(crate) fn change_cooldown(
        &mut self,
        index: KeyIndex,
        pool: PoolIndex,
        change: impl FnOnce(&mut Slot),
    ) {
        let Self { keys, pools, cooling, .. } = self;
        let slots = &mut keys[index.0 as usize].slots;
        let Some(slot) = slots.iter_mut().find(|slot| slot.pool == pool) else { return };
        let old = slot.cools_until();
        change(slot);
        recool(&mut pools[pool.0 as usize], cooling, index, (pool, old), slot.cools_until());
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

    pub(super) fn end_cooldown(&mut self, index: KeyIndex, pool: PoolIndex) {
        let key = &mut self.keys[index.0 as usize];
        if let Some(slot) = key.slots.iter_mut().find(|slot| slot.pool == pool) {
            let old = slot.cools_until();
            (slot.cooling_until, slot.cooling_elsewhere) = (None, None);
            self.pools[pool.0 as usize].cool(index, old, None);
        }
        self.refresh(index);
        self.key_changed(index);
    }

    pub(super) fn advance_windows(&mut self) {
        let minute = self.now.minute();
        while let Some(entry) = self.leaving.first_entry() {
            let due = *entry.key();
            if due > minute {
                break;
            }
            for index in entry.remove() {
                let key = &mut self.keys[index.0 as usize];
                let before = key.window.tokens();
                key.window.advance(minute);
                self.window_tokens -= u128::from(before - key.window.tokens());
                if let Some(elsewhere) = &mut key.elsewhere {
                    let before = elsewhere.window.tokens();
                    elsewhere.window.advance(minute);
                    elsewhere.leaving.remove(due.saturating_sub(WINDOW_MINUTES));
                    let gone = before - elsewhere.window.tokens();
                    self.window_tokens_elsewhere -= u128::from(gone);
                }
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
}

/// Replaces the instant until which a key cools in one pool, and keeps the
/// pool on the list of due cooldowns as long as any of its keys cools until
/// then.
fn recool(
    pool: &mut Pool,
    cooling: &mut BTreeSet<(Time, PoolIndex)>,
    index: KeyIndex,
    (place, old): (PoolIndex, Option<Time>),
    until: Option<Time>,
) {
    pool.cool(index, old, until);
    if let Some(old) = old
        && !pool.cools_until(old)
    {
        cooling.remove(&(old, place));
    }
    if let Some(until) = until {
        cooling.insert((until, place));
    }
}
