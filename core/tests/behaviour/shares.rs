//! Keys come as often as their weights say. Seeds are fixed, so a test here
//! fails always or never.

use std::collections::HashMap;

use key_server_core::{KeyId, Outcome, ReleaseScope, Rules};

use crate::fixture::{MODEL, Node, key, key_id, report, select, special_key};

const DRAWS: u32 = 100_000;

/// Chi-square values that a fair draw exceeds in one of 1,000 cases, by degrees
/// of freedom.
///
/// # Source
/// NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4, upper-tail
/// critical values, column 0.001. For 999 degrees, beyond that table: Wilson
/// and Hilferty, "The distribution of chi-square", PNAS 17 (1931), with the
/// normal quantile 3.0902.
const CRITICAL: [(usize, f64); 5] =
    [(2, 13.816), (3, 16.266), (11, 31.264), (16, 39.252), (999, 1_142.9)];

/// The counts are what draws with these weights give.
#[track_caller]
fn assert_shares(counts: &[u32], weights: &[f64]) {
    let draws: u32 = counts.iter().sum();
    let total: f64 = weights.iter().sum();
    let terms = counts.iter().zip(weights).map(|(count, weight)| {
        let expected = f64::from(draws) * weight / total;
        (f64::from(*count) - expected).powi(2) / expected
    });
    let chi_square: f64 = terms.sum();
    let critical = CRITICAL.iter().find(|(degrees, _)| *degrees == weights.len() - 1);
    let (_, critical) = critical.expect("a critical value is in the table");
    assert!(chi_square < *critical, "{chi_square} is above {critical}; {counts:?}");
}

/// How often each sequence of keys is drawn by sessions that hold nothing.
fn draws(node: &mut Node, count: u32) -> HashMap<Vec<KeyId>, u32> {
    let select = select("somebody new", &[MODEL], count);
    let mut draws = HashMap::new();
    for _ in 0..DRAWS {
        let decision = node.decide(&select).expect("keys are usable");
        let keys = decision.reply.picks.iter().map(|pick| pick.key).collect();
        *draws.entry(keys).or_default() += 1;
    }
    draws
}

/// How often each of the keys 0, 1, 2 and so on is drawn alone.
fn counts(node: &mut Node, keys: u32) -> Vec<u32> {
    let draws = draws(node, 1);
    (0..keys).map(|number| draws.get(&vec![key_id(number)]).copied().unwrap_or(0)).collect()
}

/// Four keys without holders, one of each tier: unused, light, moderate, heavy.
fn one_of_each_tier() -> Node {
    let keys = [0, 1, 2, 3].map(|number| key(number, &[MODEL]));
    let mut node = Node::new(Rules::default(), &keys);
    let _ = node.run(&select("a", &[MODEL], 4));
    for (number, tokens) in [(1, 999), (2, 1_000), (3, 5_000)] {
        let report = report("a", key_id(number), &tokens.to_string(), "0:00:00", tokens);
        assert_eq!(node.track(&report), Ok(false));
    }
    assert_eq!(node.release("a", ReleaseScope::Session), Ok(4));
    node
}

#[test]
fn tiers_are_drawn_100_to_50_to_20_to_5() {
    let mut node = one_of_each_tier();
    assert_shares(&counts(&mut node, 4), &[100.0, 50.0, 20.0, 5.0]);
}

#[test]
fn own_weights_count_within_a_tier() {
    let keys = [(0, 1_000), (1, 2_500), (2, 500)];
    let keys = keys.map(|(number, thousandths)| special_key(number, &[MODEL], thousandths, 0));
    let mut node = Node::new(Rules::default(), &keys);
    assert_shares(&counts(&mut node, 3), &[1.0, 2.5, 0.5]);
}

#[test]
fn holders_share_a_key_out() {
    let keys = [0, 1, 2].map(|number| key(number, &["acme/other"]));
    let mut node = Node::new(Rules::default(), &keys);
    for (name, held) in [("a", 1), ("b", 2), ("c", 2), ("d", 2)] {
        node.sync(&[key(held, &["acme/other"])]);
        assert_eq!(node.selected_key(name, "acme/other"), key_id(held));
    }
    node.sync(&[0, 1, 2].map(|number| key(number, &[MODEL])));
    assert_shares(&counts(&mut node, 3), &[1.0, 1.0 / 2.0, 1.0 / 4.0]);
}

#[test]
fn two_keys_are_drawn_without_putting_the_first_back() {
    let mut node = one_of_each_tier();
    let draws = draws(&mut node, 2);
    let weights = [100.0, 50.0, 20.0, 5.0];
    let total: f64 = weights.iter().sum();
    let pairs = (0..4).flat_map(|first| (0..4).map(move |second| (first, second)));
    let (mut counts, mut chances) = (Vec::new(), Vec::new());
    for (first, second) in pairs.filter(|(first, second)| first != second) {
        let pair = vec![key_id(first), key_id(second)];
        counts.push(draws.get(&pair).copied().unwrap_or(0));
        let (first, second) = (weights[first as usize], weights[second as usize]);
        chances.push(first / total * second / (total - first));
    }
    assert_eq!(counts.iter().sum::<u32>(), DRAWS, "no key comes twice");
    assert_shares(&counts, &chances);
}

#[test]
fn equal_keys_are_drawn_equally_in_pools_of_every_size() {
    for size in [3, 17, 1_000] {
        let keys: Vec<_> = (0..size).map(|number| key(number, &[MODEL])).collect();
        let mut node = Node::new(Rules::default(), &keys);
        assert_shares(&counts(&mut node, size), &vec![1.0; size as usize]);
    }
}

#[test]
fn a_key_without_weight_is_never_drawn() {
    let mut keys: Vec<_> = (0..17).map(|number| key(number, &[MODEL])).collect();
    keys.insert(0, special_key(100, &[MODEL], 0, 0));
    keys.insert(9, special_key(101, &[MODEL], 0, 0));
    keys.push(special_key(102, &[MODEL], 0, 0));
    let mut node = Node::new(Rules::default(), &keys);
    assert_shares(&counts(&mut node, 17), &[1.0; 17]);
}

#[test]
fn a_cooling_key_is_never_drawn() {
    let mut node = one_of_each_tier();
    let _ = node.run(&select("a", &[MODEL], 4));
    let mut report = report("a", key_id(0), "slow down", "0:00:00", 0);
    report.outcome = Outcome::RateLimited;
    assert_eq!(node.track(&report), Ok(false));
    let counts = counts(&mut node, 4);
    assert_eq!(counts[0], 0);
    assert_shares(&counts[1..], &[50.0, 20.0, 5.0]);
}
