//! What must hold once everything has settled.

use std::collections::{BTreeMap, BTreeSet};

use key_server_core::{Event, KeyId, ModelName, SessionRef, UsageTracked};

use crate::node::{Node, held};

pub(crate) type Holds = BTreeSet<(ModelName, KeyId)>;

const MINUTE_MS: u64 = 60_000;

/// All nodes agree with each other and with their ledgers.
pub(crate) fn assert_agreement(nodes: &[Node], given: &BTreeMap<SessionRef, Holds>) {
    let homes = homes(nodes);
    nodes.iter().for_each(|node| assert_knows(node, &homes));
    nodes.iter().for_each(|node| assert_holders(node, &homes));
    nodes.iter().for_each(|node| assert_spent(node, nodes));
    for (session, keys) in given {
        let held = homes.get(session).map(|(_, held, _)| held.clone()).unwrap_or_default();
        assert!(keys.is_subset(&held), "{session:?} was given {keys:?} and holds {held:?}");
    }
}

type Homes<'nodes> = BTreeMap<SessionRef, (&'nodes str, Holds, u64)>;

/// Where each session lives: at one node.
fn homes(nodes: &[Node]) -> Homes<'_> {
    let mut homes = Homes::new();
    for node in nodes {
        for session in node.own_sessions() {
            let home = (&*node.name, held(&session), session.end.as_ms());
            let other = homes.insert(session.session.clone(), home);
            assert_eq!(other, None, "{:?} lives at {}, too", session.session, node.name);
        }
    }
    homes
}

/// The node knows every session of the others, and where it lives.
fn assert_knows(node: &Node, homes: &Homes<'_>) {
    let guests = node.state.guests_from(0).map(|(_, session)| session);
    let guests: Homes<'_> = guests
        .map(|session| {
            let home = homes.get(&session.session).map_or("nowhere", |(home, ..)| home);
            assert_eq!(session.node.as_deref(), Some(home), "{} as {session:?}", node.name);
            (session.session.clone(), (home, held(&session), session.end.as_ms()))
        })
        .collect();
    let expected = homes.iter().filter(|(_, (home, ..))| *home != &*node.name);
    let expected: Homes<'_> = expected.map(|(name, home)| (name.clone(), home.clone())).collect();
    assert_eq!(guests, expected, "sessions of other nodes as {} knows them", node.name);
    assert_eq!(node.state.totals_everywhere().sessions_live, homes.len());
}

/// Holders as the node counts them are sessions that hold the key.
fn assert_holders(node: &Node, homes: &Homes<'_>) {
    for (_, key) in node.state.keys_from(0) {
        let holds = |holds: &Holds| holds.iter().any(|(_, held)| *held == key.facts.key);
        let holders = homes.values().filter(|(_, held, _)| holds(held)).count();
        assert_eq!(key.holders as usize, holders, "{:?} at {}", key.facts.key, node.name);
    }
}

/// Windows and lifetimes are the sums over all ledgers.
fn assert_spent(node: &Node, nodes: &[Node]) {
    let now = node.state.now().as_ms() / MINUTE_MS;
    let is_inside = |usage: &&UsageTracked| usage.occurred.as_ms() / MINUTE_MS + 60 > now;
    for (_, key) in node.state.keys_from(0) {
        let of_key = reports(nodes).filter(|usage| usage.key == key.facts.key);
        let window: u64 = of_key.clone().filter(is_inside).map(|usage| usage.tokens.spent()).sum();
        let input: u64 = of_key.clone().map(|usage| usage.tokens.input).sum();
        let spent = (key.lifetime.requests as usize, key.lifetime.tokens.input, key.window_tokens);
        assert_eq!(spent, (of_key.count(), input, window), "{:?} at {}", key, node.name);
    }
    let totals = node.state.totals_everywhere();
    assert_eq!(totals.lifetime.requests as usize, reports(nodes).count(), "at {}", node.name);
    let window: u64 = reports(nodes).filter(is_inside).map(|usage| usage.tokens.spent()).sum();
    assert_eq!(totals.window_tokens, window, "at {}", node.name);
}

fn reports(nodes: &[Node]) -> impl Iterator<Item = &UsageTracked> + Clone {
    let events = nodes.iter().flat_map(|node| &node.ledger);
    events.filter_map(|(_, event)| match event {
        Event::UsageTracked(usage) => Some(usage),
        _ => None,
    })
}
