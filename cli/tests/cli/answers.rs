//! What the scripted server tells.

use key_server_proto::v1;
use prost_types::Timestamp;

use crate::KEYS;

/// So many seconds from now, and a little more, so that nothing turns while a test
/// runs.
#[expect(clippy::disallowed_methods, reason = "the answers are relative to the caller's clock")]
pub(crate) fn at(seconds: i64) -> Option<Timestamp> {
    let now = jiff::Timestamp::now();
    let ms = now.as_millisecond() + seconds * 1_000 + 400;
    Some(Timestamp {
        seconds: ms.div_euclid(1_000),
        nanos: (ms.rem_euclid(1_000) * 1_000_000) as i32,
    })
}

pub(crate) fn span(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub(crate) fn usage(requests: i64, input_tokens: i64, output_tokens: i64) -> Option<v1::Usage> {
    let (cached_input_tokens, failures) = (input_tokens / 4, requests / 100);
    Some(v1::Usage { requests, input_tokens, output_tokens, cached_input_tokens, failures })
}

fn pool(provider: &str, model: &str, counts: [i64; 3]) -> v1::PoolStats {
    let [usable, cooling, at_cap] = counts;
    let (provider, model) = (provider.to_owned(), model.to_owned());
    v1::PoolStats { provider, model, keys: usable + cooling + at_cap, usable, cooling, at_cap }
}

pub(crate) fn pools() -> Vec<v1::PoolStats> {
    vec![
        pool("anthropic", "claude-3-7-sonnet-20250219", [0, 0, 1]),
        pool("deepseek", "deepseek-reasoner", [12, 0, 0]),
        pool("openai", "gpt-4o", [1_203, 31, 0]),
        pool("openai", "gpt-4o-mini", [1_233, 1, 0]),
        pool("together", "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", [1, 0, 0]),
    ]
}

fn key(place: usize, state: v1::KeyState, tier: v1::Tier, models: &[&str]) -> v1::KeyStats {
    v1::KeyStats {
        key_id: KEYS[place].to_owned(),
        provider: models[0].split('/').next().unwrap_or_default().to_owned(),
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        state: state.into(),
        tier: tier.into(),
        own_weight: 1.0,
        sources: vec!["csv@n_4kq2zv7m3c5xw6tb".to_owned()],
        ..Default::default()
    }
}

pub(crate) fn keys() -> Vec<v1::KeyStats> {
    use v1::{KeyState, Tier};
    let first = key(0, KeyState::Usable, Tier::Light, &["openai/gpt-4o", "openai/gpt-4o-mini"]);
    let second = key(1, KeyState::Cooling, Tier::Heavy, &["openai/gpt-4o"]);
    let third = key(2, KeyState::AtCap, Tier::Moderate, &["anthropic/claude-3-7-sonnet-20250219"]);
    let together = "together/meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo";
    let fourth = key(3, KeyState::Usable, Tier::Unused, &[together]);
    let fifth = key(4, KeyState::Retired, Tier::Unused, &["xai/grok-3-beta"]);
    vec![
        v1::KeyStats {
            label: "team-a".to_owned(),
            weight: 25.0,
            holders: 1,
            window_tokens: 812,
            lifetime: usage(1_432, 5_310_277, 801_144),
            last_used_at: at(-200),
            ..first
        },
        v1::KeyStats {
            window_tokens: 91_220,
            lifetime: usage(20_991, 88_120_004, 9_112_877),
            last_used_at: at(-4),
            cooling_until: at(42),
            ..second
        },
        v1::KeyStats {
            label: "dedicated".to_owned(),
            holders: 1,
            max_holders: 1,
            window_tokens: 4_100,
            lifetime: usage(7, 60_000, 9_100),
            last_used_at: at(-7_300),
            ..third
        },
        v1::KeyStats { weight: 100.0, lifetime: usage(0, 0, 0), ..fourth },
        v1::KeyStats { lifetime: usage(300, 120_000, 4_000), last_used_at: at(-90_000), ..fifth },
    ]
}

pub(crate) fn sessions() -> Vec<v1::SessionStats> {
    let allocation = |key: usize, model: &str, held, usage| v1::Allocation {
        key_id: KEYS[key].to_owned(),
        model: model.to_owned(),
        held,
        usage,
    };
    let first = vec![
        allocation(0, "openai/gpt-4o", true, usage(12, 18_400, 2_210)),
        allocation(1, "openai/gpt-4o", true, usage(0, 0, 0)),
        allocation(2, "anthropic/claude-3-7-sonnet-20250219", false, usage(200, 60_000, 9_100)),
    ];
    vec![
        v1::SessionStats {
            node_id: String::new(),
            session_id: "session_123".to_owned(),
            owner_uid: 1_000,
            user_id: 456,
            opened_at: at(-1_270),
            ended_at: None,
            expires_at: at(3_600),
            allocations: first,
        },
        v1::SessionStats {
            node_id: String::new(),
            session_id: "nightly-summaries-2025-01-31".to_owned(),
            owner_uid: 1_001,
            user_id: 7,
            opened_at: at(-40_000),
            ended_at: at(-31_000),
            expires_at: None,
            allocations: vec![allocation(
                3,
                "together/meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",
                false,
                usage(1, 10, 2),
            )],
        },
    ]
}

pub(crate) fn backend(name: &str, state: &str, since: i64, last_error: &str) -> v1::Backend {
    let (name, state, last_error) = (name.to_owned(), state.to_owned(), last_error.to_owned());
    v1::Backend { name, state, since: at(since), last_error }
}

pub(crate) fn selected(request: &v1::SelectKeysRequest) -> v1::SelectKeysResponse {
    let secrets = ["sk-fake-0123456789abcdefghij", "fake-4fw2"];
    let mut keys = Vec::new();
    for model in &request.models {
        let (provider, name) = model.split_once('/').unwrap_or(("", model));
        for place in 0..request.count_per_model.clamp(1, 2) as usize {
            keys.push(v1::SelectedKey {
                provider: provider.to_owned(),
                model: name.to_owned(),
                api_key: secrets[place].to_owned(),
                key_id: KEYS[place].to_owned(),
                tier: v1::Tier::Light.into(),
                expires_at: at(3_600),
                already_held: place == 1,
            });
        }
    }
    let shortages = (request.count_per_model > 2).then(|| v1::Shortage {
        model: request.models[0].clone(),
        reason: v1::ShortageReason::PoolTooSmall.into(),
        wanted: request.count_per_model,
        given: 2,
        keys_total: 2,
        ..Default::default()
    });
    let shortages = shortages.into_iter().collect();
    v1::SelectKeysResponse {
        success: true,
        keys,
        error: String::new(),
        expires_at: at(3_600),
        shortages,
    }
}

pub(crate) fn short(request: &v1::SelectKeysRequest) -> v1::SelectKeysResponse {
    let unknown = v1::Shortage {
        model: "openai/gpt-4x".to_owned(),
        reason: v1::ShortageReason::UnknownModel.into(),
        wanted: request.count_per_model,
        did_you_mean: vec!["openai/gpt-4o".to_owned(), "openai/gpt-4o-mini".to_owned()],
        ..Default::default()
    };
    let cooling = v1::Shortage {
        model: "xai/grok-3-beta".to_owned(),
        reason: v1::ShortageReason::AllCooling.into(),
        wanted: request.count_per_model,
        keys_total: 3,
        keys_cooling: 3,
        retry_after: span(42),
        ..Default::default()
    };
    v1::SelectKeysResponse {
        error: "openai/gpt-4x: no key serves it; xai/grok-3-beta: all 3 keys are cooling"
            .to_owned(),
        shortages: vec![unknown, cooling],
        ..Default::default()
    }
}
