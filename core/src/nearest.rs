use std::ops::Bound;

use crate::id::ModelName;
use crate::state::State;

/// How many known names on either side of an unknown one are compared.
const NEIGHBOURS: usize = 256;
/// Longer names are neither compared nor suggested.
const NAME_BYTES_MAX: usize = 256;
/// How many near names an answer has at most.
const SUGGESTIONS_MAX: usize = 3;
/// How alike a name must be to be suggested (Jaro-Winkler, 0 to 1).
const LIKENESS_MIN: f64 = 0.8;

/// Known names like `model`, looked for among its neighbours in the alphabet,
/// so that the cost has a bound.
pub(crate) fn nearest(state: &State, model: &ModelName) -> Vec<ModelName> {
    if model.as_str().len() > NAME_BYTES_MAX {
        return Vec::new();
    }
    let likeness = |name: &ModelName| strsim::jaro_winkler(model.as_str(), name.as_str());
    let mut near: Vec<(f64, &ModelName)> = neighbours(state, model)
        .filter(|name| name.as_str().len() <= NAME_BYTES_MAX)
        .map(|name| (likeness(name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .collect();
    near.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then_with(|| a_name.cmp(b_name)));
    near.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| name.clone()).collect()
}

/// The served names next to `model` in the alphabet.
fn neighbours<'state>(
    state: &'state State,
    model: &ModelName,
) -> impl Iterator<Item = &'state ModelName> {
    let below = (Bound::Unbounded, Bound::Excluded(model.as_str()));
    let above = (Bound::Excluded(model.as_str()), Bound::Unbounded);
    let before = state.pool_index.range::<str, _>(below).rev().take(NEIGHBOURS);
    let after = state.pool_index.range::<str, _>(above).take(NEIGHBOURS);
    let served = before.chain(after).filter(|(_, pool)| state.pools[pool.0 as usize].is_served());
    served.map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{KeyFacts, OwnWeight};
    use crate::id::KeyId;
    use crate::rules::Rules;

    /// A state with one key for each of these models.
    fn state(names: &[&str]) -> State {
        let mut state = State::new(Rules::default());
        for (number, name) in names.iter().enumerate() {
            state.put_key(&key(number, &[name]));
        }
        state
    }

    fn key(number: usize, names: &[&str]) -> Arc<KeyFacts> {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        Arc::new(KeyFacts {
            key: KeyId::from_digest(&digest),
            models: names.iter().map(|name| name.parse().unwrap()).collect(),
            own_weight: OwnWeight::DEFAULT,
            max_holders: None,
            label: None,
            sources: Vec::new(),
        })
    }

    fn near(state: &State, name: &str) -> Vec<String> {
        let near = nearest(state, &name.parse().unwrap());
        near.iter().map(ModelName::to_string).collect()
    }

    #[test]
    fn the_nearest_comes_first_and_the_unlike_not_at_all() {
        let state = state(&[
            "openai/gpt-4o",
            "openai/gpt-4o-mini",
            "openai/gpt-4.1",
            "openai/gpt-4o-audio",
            "anthropic/claude-3-7-sonnet-20250219",
            "xai/grok-3-beta",
        ]);
        for (asked, first) in [
            ("openai/gpt4o", Some("openai/gpt-4o")),
            ("opnai/gpt-4o", Some("openai/gpt-4o")),
            ("openai/gpt-4o-mnii", Some("openai/gpt-4o-mini")),
            ("anthropic/claude-3-7-sonnet", Some("anthropic/claude-3-7-sonnet-20250219")),
            ("xai/grok-3-bata", Some("xai/grok-3-beta")),
            ("zzz/qqq", None),
        ] {
            let near = near(&state, asked);
            assert_eq!(near.first().map(String::as_str), first, "{asked}");
            assert!(near.len() <= SUGGESTIONS_MAX, "{asked}");
        }
    }

    #[test]
    fn a_model_that_nothing_serves_any_more_is_not_suggested() {
        let mut state = state(&["acme/large", "acme/larger"]);
        state.put_key(&key(0, &["acme/tiny"]));
        state.retire_key(key(1, &[]).key);
        assert_eq!(near(&state, "acme/large"), Vec::<String>::new());
    }

    #[test]
    fn no_more_than_the_neighbours_are_compared() {
        let names: Vec<String> = (0..2_000).map(|number| format!("acme/m{number:04}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let state = state(&names);
        let model: ModelName = "acme/m1000x".parse().unwrap();
        let compared: Vec<&str> = neighbours(&state, &model).map(ModelName::as_str).collect();
        assert_eq!(compared.len(), 2 * NEIGHBOURS);
        assert!(compared.contains(&"acme/m1000") && compared.contains(&"acme/m1001"));
    }

    #[test]
    fn overlong_names_are_neither_compared_nor_suggested() {
        let long = format!("acme/{}", "m".repeat(NAME_BYTES_MAX));
        let state = state(&[&long, "acme/mmmmmm"]);
        assert_eq!(near(&state, &format!("{long}m")), Vec::<String>::new());
        assert_eq!(near(&state, "acme/mmmmmmm"), ["acme/mmmmmm"]);
    }
}
