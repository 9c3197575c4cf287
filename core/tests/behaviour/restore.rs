use key_server_core::{
    AllocationRow, KeyRow, ReleaseScope, Restore, RestoreError, Rules, SessionRow, State, Usage,
};

use crate::fixture::{MODEL, Node, USER, at, key, key_id, model, report, session};

fn key_row(number: u32) -> KeyRow {
    KeyRow {
        facts: key(number, &[MODEL]),
        retired: false,
        lifetime: Usage::default(),
        last_used: None,
        window: Vec::new(),
        cooling: Vec::new(),
    }
}

fn ended_session(name: &str, ended: &str) -> SessionRow {
    SessionRow {
        session: session(name),
        user: USER,
        opened: at("0:00:00"),
        end: at(ended),
        ended: true,
        term: 0,
        base: 0,
        allocations: Vec::new(),
    }
}

/// The state at `clock` of one key and these sessions.
fn restored(rules: Rules, clock: &str, sessions: &[SessionRow]) -> State {
    let mut restore = Restore::new(rules, at(clock));
    restore.key(&key_row(0)).expect("the first key");
    for session in sessions {
        restore.session(session).expect("each session stands once");
    }
    restore.finish()
}

#[test]
fn ended_sessions_are_forgotten_in_order_whatever_the_order_of_their_rows() {
    let sessions = [("c", "0:03:00"), ("a", "0:01:00"), ("b", "0:02:00")];
    let sessions = sessions.map(|(name, ended)| ended_session(name, ended));
    let mut state = restored(Rules::default(), "0:05:00", &sessions);
    for (clock, known) in [
        ("24:00:59.999", [true, true, true]),
        ("24:01:00", [false, true, true]),
        ("24:02:00", [false, false, true]),
        ("24:03:00", [false, false, false]),
    ] {
        state.advance(at(clock));
        let is_known = |name| state.session_stats(&session(name)).is_some();
        assert_eq!(["a", "b", "c"].map(is_known), known, "{clock}");
    }
}

#[test]
fn a_session_whose_deadline_passed_while_the_node_was_down_waits_for_its_expiry() {
    let mut row = ended_session("a", "1:00:00");
    row.ended = false;
    let state = restored(Rules::default(), "1:00:00", &[row]);
    assert!(state.has_overdue());
}

#[test]
fn a_session_that_ended_holds_nothing_even_if_its_row_says_so() {
    let mut row = ended_session("a", "0:01:00");
    let (key, model, usage) = (key_id(0), model(MODEL), Usage::default());
    row.allocations.push(AllocationRow { key, model, held: true, usage });
    let state = restored(Rules::default(), "0:05:00", &[row]);
    assert_eq!(state.key_stats(key_id(0)).unwrap().holders, 0);
}

#[test]
fn a_shorter_ttl_after_a_restart_counts_from_the_next_call() {
    let mut row = ended_session("a", "24:00:00");
    row.ended = false;
    let mut node = Node::new(Rules::default(), &[]);
    node.state = restored(Rules::default(), "0:05:00", &[row]);
    node.clock("0:10:00");
    node.selected_key("a", MODEL);
    node.clock("1:10:00");
    assert_eq!(node.expire(), 1);
}

#[test]
fn rows_that_contradict_each_other_are_refused() {
    let mut restore = Restore::new(Rules::default(), at("0:00:00"));
    restore.key(&key_row(0)).unwrap();
    assert_eq!(restore.key(&key_row(0)), Err(RestoreError::Twice));
    restore.session(&ended_session("a", "0:00:00")).unwrap();
    let twice = restore.session(&ended_session("a", "0:00:00"));
    assert_eq!(twice, Err(RestoreError::Twice));
    let mut unknown = ended_session("b", "0:00:00");
    let (key, model, usage) = (key_id(9), model(MODEL), Usage::default());
    unknown.allocations.push(AllocationRow { key, model, held: false, usage });
    assert_eq!(restore.session(&unknown), Err(RestoreError::UnknownKey));
}

#[test]
fn sums_of_damaged_rows_stop_at_the_largest_number() {
    let mut restore = Restore::new(Rules::default(), at("0:00:00"));
    for number in [0, 1] {
        let mut row = key_row(number);
        row.lifetime.requests = u64::MAX;
        row.lifetime.failures = u64::MAX;
        restore.key(&row).unwrap();
    }
    assert_eq!(restore.finish().totals().lifetime.requests, u64::MAX);
}

#[test]
fn receipts_of_one_hour_may_come_in_parts() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let given = node.selected_key("a", MODEL);
    let reports = ["first", "second"].map(|id| report("a", given, id, "0:00:00", 5));
    reports.iter().for_each(|report| assert_eq!(node.track(report), Ok(false)));
    let receipts = node.state.take_changes().receipts;
    let (keys, sessions) = node.state.rows();
    let mut restore = Restore::new(Rules::default(), node.now);
    keys.iter().for_each(|key| restore.key(key).unwrap());
    sessions.iter().for_each(|session| restore.session(session).unwrap());
    for row in receipts {
        restore.receipts(row.hour, vec![row.receipt]);
    }
    node.state = restore.finish();
    for report in &reports {
        assert!(node.decide(report).is_ok_and(|again| again.events.is_empty()));
    }
}

#[test]
fn changes_are_given_once_and_follow_a_session_that_comes_again() {
    let rules = Rules { ended_sessions_max: 0, ..Rules::default() };
    let mut node = Node::new(rules, &[key(0, &[MODEL])]);
    node.selected_key("a", MODEL);
    assert_eq!(node.release("a", ReleaseScope::Session), Ok(1));
    node.selected_key("a", MODEL);
    let changes = node.state.take_changes();
    assert_eq!(changes.forgotten, [session("a")]);
    assert_eq!(changes.sessions.len(), 1, "the one that came after it");
    assert_eq!(changes.keys.len(), 1);
    assert!(node.state.take_changes().is_empty());
}
