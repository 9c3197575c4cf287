//! The largest numbers that come in do no harm.

use std::time::Duration;

use key_server_core::{
    Decide, Expire, OwnWeight, ReleaseScope, Rules, SelectRefusal, State, SyncKeys, TierTable, Time,
};

use crate::fixture::{MODEL, Node, at, key, key_id, report, select, special_key};

#[test]
fn the_largest_weights_of_many_keys_add_up() {
    const KEYS: u32 = 300_000;
    let weights = [u32::MAX; 4];
    let tiers = TierTable { weights, ..TierTable::default() };
    let largest = OwnWeight::MAX.thousandths();
    let keys: Vec<_> = (0..KEYS).map(|number| special_key(number, &[MODEL], largest, 0)).collect();
    let mut node = Node::new(Rules { tiers, ..Rules::default() }, &keys);
    let pick = node.select("a", MODEL).unwrap().picks.remove(0);
    assert_eq!(pick.total_weight, pick.weight * u64::from(KEYS));
    assert!(pick.weight.checked_mul(10_000_000).is_some(), "ten million keys add up, too");
}

#[test]
fn a_key_that_everybody_holds_keeps_a_weight() {
    let mut node = Node::new(Rules::default(), &[special_key(0, &[MODEL], 1, 0)]);
    for number in 0..110_000 {
        let decision = select(&number.to_string(), &[MODEL], 1).decide(&node.state, node.now, 0);
        node.apply(&decision.unwrap().events);
    }
    assert_eq!(node.select("one more", MODEL).unwrap().picks[0].weight, 1);
}

#[test]
fn windows_of_the_largest_numbers_neither_overflow_nor_lose_what_comes_after() {
    let keys = [key(0, &[MODEL]), key(1, &[MODEL])];
    let mut node = Node::new(Rules::default(), &keys);
    assert!(node.run(&select("a", &[MODEL], 2)).is_ok());
    for (clock, number, tokens, window, total) in [
        ("0:00:00", 0, u64::MAX, u64::MAX, u64::MAX),
        ("0:00:01", 0, u64::MAX, u64::MAX, u64::MAX),
        ("0:01:00", 1, 7, 7, u64::MAX),
        ("0:02:00", 0, 5, u64::MAX, u64::MAX),
        ("1:00:00", 0, 0, 5, 12),
        ("1:01:00", 1, 0, 0, 5),
        ("1:02:00", 0, 0, 0, 0),
    ] {
        node.clock(clock);
        assert_eq!(node.track(&report("a", key_id(number), clock, clock, tokens)), Ok(false));
        let stats = node.state.key_stats(key_id(number)).unwrap();
        assert_eq!(stats.window_tokens, window, "{clock}");
        assert_eq!(node.state.totals().window_tokens, total, "{clock}");
    }
}

#[test]
fn a_count_beyond_every_limit_is_refused_without_drawing_the_whole_pool() {
    let keys: Vec<_> = (0..50_000).map(|number| key(number, &[MODEL])).collect();
    let mut node = Node::new(Rules::default(), &keys);
    let refusal = node.run(&select("a", &[MODEL], u32::MAX)).unwrap_err();
    assert_eq!(refusal, SelectRefusal::TooManyAllocations);
    let all = node.run(&select("a", &[MODEL], 1_024)).unwrap();
    assert_eq!(all.picks.len(), 1_024);
    assert_eq!(node.release("a", ReleaseScope::Session), Ok(1_024));
    assert!(node.state.keys_from(0).all(|(_, key)| key.holders == 0));
}

#[test]
fn the_end_of_the_timeline_is_reached_without_harm() {
    let rules = Rules {
        session_ttl: Duration::MAX,
        ended_session_ttl: Duration::MAX,
        cooldown: Duration::MAX,
        cooldown_max: Duration::MAX,
        ..Rules::default()
    };
    let mut node = Node::new(rules, &[key(0, &[MODEL])]);
    let given = node.selected_key("a", MODEL);
    let mut slow_down = report("a", given, "id", "0:00:00", 1);
    slow_down.outcome = key_server_core::Outcome::RateLimited;
    assert_eq!(node.track(&slow_down), Ok(false));
    node.state.advance(at("1:00:00"));
    assert!(node.state.key_stats(given).unwrap().cooling_until.is_some());
    node.state.advance(Time::from_ms(u64::MAX));
    assert!(node.state.key_stats(given).unwrap().cooling_until.is_none());
    assert_eq!(node.expire(), 1);
}

#[test]
fn rules_of_nothing_are_no_harm() {
    let rules = Rules {
        session_ttl: Duration::ZERO,
        ended_session_ttl: Duration::ZERO,
        ended_sessions_max: 0,
        session_allocations_max: 0,
        ..Rules::default()
    };
    let mut node = Node::new(rules.clone(), &[key(0, &[MODEL])]);
    let refusal = node.select("a", MODEL).unwrap_err();
    assert_eq!(refusal, SelectRefusal::TooManyAllocations);
    let mut node = Node::new(Rules { session_allocations_max: 1, ..rules }, &[key(0, &[MODEL])]);
    assert!(node.select("a", MODEL).is_ok());
    assert!(node.select("a", MODEL).is_ok(), "it was over at once");
    assert_eq!(node.run(&Expire { first: None, sessions_max: 0 }), Ok(0));
    node.clock("0:00:01");
    assert_eq!(node.expire(), 1);
    assert!(node.session("a").is_none());
}

#[test]
fn sessions_of_many_keys_leave_room_for_fewer() {
    let keys: Vec<_> = (0..20).map(|number| key(number, &[MODEL])).collect();
    let rules = Rules { sessions_max: 3, ended_sessions_max: 2, ..Rules::default() };
    let mut node = Node::new(rules, &keys);
    let take = |node: &mut Node, name, count| node.run(&select(name, &[MODEL], count)).map(drop);
    assert_eq!(take(&mut node, "a", 20), Ok(()));
    assert_eq!(take(&mut node, "b", 5), Err(SelectRefusal::TooManyAllocations), "3 * 8 of all");
    assert_eq!(take(&mut node, "b", 4), Ok(()));
    assert_eq!(take(&mut node, "a", 20), Ok(()), "what it holds already");
    node.release("b", ReleaseScope::Session).unwrap();
    assert_eq!(take(&mut node, "c", 4), Ok(()), "what ended is counted by itself");
    for name in ["c", "a"] {
        assert!(node.session("b").is_some());
        node.release(name, ReleaseScope::Session).unwrap();
    }
    let is_known = ["a", "b", "c"].map(|name| node.session(name).is_some());
    assert_eq!(is_known, [false; 3], "2 * 8 of all; the oldest goes first, and so on");
    assert_eq!(take(&mut node, "a", 10), Ok(()));
    assert_eq!(take(&mut node, "b", 7), Ok(()));
    node.release("a", ReleaseScope::Session).unwrap();
    node.release("b", ReleaseScope::Session).unwrap();
    assert!(node.session("a").is_none() && node.session("b").is_some(), "17 are one too many");
}

#[test]
fn commands_about_nothing_are_no_harm() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let nothing = [select("a", &[], 1), select("b", &[MODEL], 0), select("c", &[], u32::MAX)];
    for select in nothing {
        assert_eq!(node.run(&select).unwrap().picks, []);
    }
    let twice = vec![key(1, &[MODEL, MODEL]), key(1, &[MODEL]), key(2, &[])];
    let decided = SyncKeys { desired: twice }.decide(&node.state, node.now, 0);
    node.apply(&decided.unwrap().events);
    assert_eq!(node.state.pools_after(None).next().unwrap().usable, 1);
    let mut empty = State::new(Rules::default());
    empty.advance(Time::from_ms(u64::MAX));
    assert!(empty.take_changes().is_empty());
}
