use std::collections::BTreeMap;

use key_server_core::{
    AllocationStats, KeyRow, KeyState, KeyStats, ModelName, PoolStats, SessionRow, SessionStats,
    State, Totals, Usage,
};

use crate::naive::{Naive, NaiveKey, NaiveSession, WEIGHT_SCALE};

/// Everything that the state shows is as the naive model has it.
pub(crate) fn assert_state_is(state: &State, naive: &Naive) {
    assert_eq!(state.keys_from(0).count(), naive.keys.len(), "keys");
    for key in &naive.keys {
        assert_eq!(state.key_stats(key.facts.key), Some(key_stats(naive, key)));
    }
    let pools = pools(naive);
    assert_eq!(state.pools_after(None).collect::<Vec<_>>(), pools);
    assert_eq!(state.sessions_from(0).count(), naive.sessions.len(), "sessions");
    for session in &naive.sessions {
        assert_eq!(state.session_stats(&session.name), Some(session_stats(session)));
    }
    assert_eq!(state.totals(), totals(naive, pools.len()));
    let has_overdue = state.has_overdue();
    assert!(!has_overdue || !naive.overdue(false).is_empty(), "nobody is overdue");
    assert!(has_overdue || naive.overdue(true).is_empty(), "somebody is overdue");
}

/// Both states know the same. Where things are kept does not matter.
pub(crate) fn assert_same(state: &State, fold: &State) {
    assert_eq!(sorted(state.rows()), sorted(fold.rows()), "rows");
    assert_eq!(keys_by_id(state), keys_by_id(fold), "keys");
    assert!(state.pools_after(None).eq(fold.pools_after(None)), "pools");
    assert_eq!(state.totals(), fold.totals(), "totals");
}

/// Rows in an order of their own.
pub(crate) fn sorted(
    (mut keys, mut sessions): (Vec<KeyRow>, Vec<SessionRow>),
) -> (Vec<KeyRow>, Vec<SessionRow>) {
    keys.sort_by_key(|key| key.facts.key);
    keys.iter_mut().for_each(|key| key.cooling.sort());
    sessions.sort_by(|a, b| a.session.cmp(&b.session));
    (keys, sessions)
}

fn keys_by_id(state: &State) -> Vec<KeyStats> {
    let mut keys: Vec<KeyStats> = state.keys_from(0).map(|(_, stats)| stats).collect();
    keys.sort_by_key(|key| key.facts.key);
    keys
}

fn key_stats(naive: &Naive, key: &NaiveKey) -> KeyStats {
    let states: Vec<KeyState> =
        key.facts.models.iter().filter_map(|model| naive.state_in(key, model)).collect();
    let is_usable = states.contains(&KeyState::Usable);
    let weight = if is_usable { naive.weight(key) } else { 0 };
    KeyStats {
        facts: key.facts.clone(),
        state: match states.first() {
            None => KeyState::Retired,
            Some(_) if states.contains(&KeyState::Cooling) => KeyState::Cooling,
            Some(state) => *state,
        },
        tier: naive.tier(key),
        weight: weight as f64 / (WEIGHT_SCALE * 1_000) as f64,
        holders: naive.holders(key.facts.key),
        holders_max: naive.holders_max(key),
        window_tokens: naive.window_tokens(key),
        lifetime: key.lifetime,
        last_used: key.last_used,
        cooling_until: key.cooling.iter().map(|(_, until)| *until).min(),
    }
}

fn pools(naive: &Naive) -> Vec<PoolStats> {
    let served = naive.keys.iter().filter(|key| !key.retired);
    let mut pools: BTreeMap<ModelName, PoolStats> = BTreeMap::new();
    for (key, model) in
        served.flat_map(|key| key.facts.models.iter().map(move |model| (key, model)))
    {
        let empty = PoolStats { model: model.clone(), usable: 0, cooling: 0, at_cap: 0 };
        let pool = pools.entry(model.clone()).or_insert(empty);
        match naive.state_in(key, model) {
            Some(KeyState::Usable) => pool.usable += 1,
            Some(KeyState::Cooling) => pool.cooling += 1,
            Some(KeyState::AtCap) => pool.at_cap += 1,
            Some(KeyState::Retired) | None => {}
        }
    }
    pools.into_values().collect()
}

fn session_stats(session: &NaiveSession) -> SessionStats {
    let allocations = session.allocations.iter().map(|allocation| AllocationStats {
        key: allocation.key,
        model: allocation.model.clone(),
        held: allocation.held,
        usage: allocation.usage,
    });
    SessionStats {
        session: session.name.clone(),
        user: session.user,
        opened: session.opened,
        end: session.end,
        ended: session.ended.is_some(),
        allocations: allocations.collect(),
        node: None,
    }
}

fn totals(naive: &Naive, models: usize) -> Totals {
    let window = naive.keys.iter().map(|key| naive.window_tokens(key));
    let lifetime: Usage = naive.lifetime;
    Totals {
        keys: naive.keys.iter().filter(|key| !key.retired).count(),
        models,
        sessions_live: naive.sessions_live(),
        window_tokens: window.fold(0, u64::saturating_add),
        lifetime,
    }
}
