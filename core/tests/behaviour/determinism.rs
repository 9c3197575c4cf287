use std::fmt::Debug;

use key_server_core::{Decide, Expire, Release, ReleaseScope, Rules, SyncKeys};

use crate::fixture::{MODEL, Node, OTHER_MODEL, at, key, key_id, report, select, session};

const KEYS: u32 = 50;

/// A node with some history: some keys are held, some are used.
fn busy_node() -> Node {
    let keys: Vec<_> = (0..KEYS).map(|number| key(number, &[MODEL, OTHER_MODEL])).collect();
    let mut node = Node::new(Rules::default(), &keys);
    for name in ["a", "b", "c", "d"] {
        let given = node.selected_key(name, MODEL);
        assert_eq!(node.track(&report(name, given, "first", "0:00:00", 600)), Ok(false));
    }
    node.clock("0:59:00");
    assert_eq!(node.release("b", ReleaseScope::Session), Ok(1));
    node.clock("1:00:00");
    node
}

/// A clone decides the same, twice, and nothing has changed by that.
fn assert_decides_the_same<Command>(command: &Command)
where
    Command: Decide<Reply: PartialEq + Debug, Refusal: PartialEq + Debug>,
{
    let (node, clone) = (busy_node(), busy_node());
    let (rows, totals) = (node.state.rows(), node.state.totals());
    for seed in 0..100 {
        let decision = command.decide(&node.state, node.now, seed);
        assert_eq!(command.decide(&node.state, node.now, seed), decision);
        assert_eq!(command.decide(&node.state.clone(), node.now, seed), decision);
        assert_eq!(command.decide(&clone.state, clone.now, seed), decision);
    }
    assert_eq!((node.state.rows(), node.state.totals()), (rows, totals));
}

#[test]
fn the_same_state_command_time_and_seed_decide_the_same() {
    assert_decides_the_same(&select("a", &[MODEL, OTHER_MODEL], 5));
    assert_decides_the_same(&select("e", &[MODEL, OTHER_MODEL], 5));
    assert_decides_the_same(&select("e", &["acme/unheard-of"], 1));
    assert_decides_the_same(&report("a", key_id(0), "second", "0:59:00", 5));
    assert_decides_the_same(&Release { session: session("a"), scope: ReleaseScope::Session });
    assert_decides_the_same(&Expire { first: Some(session("d")), sessions_max: 2 });
    assert_decides_the_same(&SyncKeys { desired: vec![key(1, &[MODEL]), key(99, &[MODEL])] });
}

#[test]
fn another_seed_draws_other_keys() {
    let node = busy_node();
    let drawn = |seed| {
        let decision = select("e", &[MODEL], 1).decide(&node.state, node.now, seed);
        decision.expect("keys are usable").reply.picks[0].key
    };
    assert!((1..20).any(|seed| drawn(seed) != drawn(0)));
}

#[test]
fn an_event_means_the_same_when_time_passed_before_it_was_applied() {
    let mut prompt = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let given = prompt.selected_key("a", MODEL);
    prompt.clock("0:59:59.500");
    let report = prompt.decide(&report("a", given, "first", "0:59:59", 9)).expect("a is in use");
    let mut tardy = prompt.clone();
    tardy.clock("1:30:00");
    assert!(tardy.state.has_overdue(), "nobody has heard of the report yet");
    for node in [&mut prompt, &mut tardy] {
        node.state.apply(at("0:59:59.500"), &report.events[0]);
        node.clock("1:30:00");
        assert_eq!(node.expire(), 0, "the report has renewed the session");
    }
    assert_eq!(prompt.state.rows(), tardy.state.rows());
    for node in [&mut prompt, &mut tardy] {
        node.clock("2:00:00");
        assert_eq!(node.expire(), 1, "the new deadline holds");
    }
}

#[test]
fn a_receipt_counted_in_the_hour_before_is_remembered_from_that_hour() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let given = node.selected_key("a", MODEL);
    node.clock("0:59:59");
    let report = report("a", given, "first", "0:59:59", 9);
    let decision = node.decide(&report).expect("a is in use");
    node.clock("1:00:00");
    node.state.apply(at("0:59:59"), &decision.events[0]);
    assert_eq!(node.state.take_changes().receipts[0].hour, 1_000);
    node.clock("24:59:59");
    assert!(node.decide(&report).is_ok_and(|again| again.events.is_empty()));
    node.clock("25:00:00");
    assert!(node.decide(&report).is_ok_and(|again| !again.events.is_empty()));
}
