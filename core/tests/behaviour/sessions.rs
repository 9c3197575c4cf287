//! Who holds what: sessions, holders and caps.

use key_server_core::{
    ReleaseRefusal, ReleaseScope, Rules, Select, SelectRefusal, SessionRef, ShortageReason,
};

use crate::fixture::{
    MODEL, Node, OTHER_MODEL, USER, key, key_id, model, report, select, session, special_key,
};

fn holders(node: &Node, number: u32) -> u32 {
    node.state.key_stats(key_id(number)).expect("a known key").holders
}

#[test]
fn asking_again_gives_what_is_held_and_draws_only_what_is_missing() {
    let keys: Vec<_> = (0..9).map(|number| key(number, &[MODEL])).collect();
    let mut node = Node::new(Rules::default(), &keys);
    let first = node.run(&select("a", &[MODEL], 2)).unwrap();
    let again = node.run(&select("a", &[MODEL], 2)).unwrap();
    let more = node.run(&select("a", &[MODEL], 4)).unwrap();
    let keys =
        |picks: &[key_server_core::Pick]| -> Vec<_> { picks.iter().map(|pick| pick.key).collect() };
    assert_eq!(keys(&again.picks), keys(&first.picks));
    assert!(again.picks.iter().all(|pick| pick.already_held));
    assert_eq!(keys(&more.picks[..2]), keys(&first.picks));
    assert_eq!(more.picks[2].candidates, 7);
}

#[test]
fn release_twice_is_a_no_op() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    node.selected_key("a", MODEL);
    assert_eq!(node.release("a", ReleaseScope::Session), Ok(1));
    let rows = node.state.rows();
    assert_eq!(node.release("a", ReleaseScope::Session), Ok(0));
    assert_eq!(node.release("a", ReleaseScope::Key(key_id(0))), Ok(0));
    assert_eq!(node.state.rows(), rows);
    let unknown = node.release("b", ReleaseScope::Session);
    assert_eq!(unknown, Err(ReleaseRefusal::UnknownSession));
}

#[test]
fn an_ended_session_does_not_end_again() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    node.selected_key("a", MODEL);
    let release = key_server_core::Release { session: session("a"), scope: ReleaseScope::Session };
    let twice = [node.decide(&release).unwrap(), node.decide(&release).unwrap()];
    node.apply(&twice[0].events);
    let rows = node.state.rows();
    node.clock("0:10:00");
    node.apply(&twice[1].events);
    assert_eq!(node.state.rows(), rows, "it ended when it ended first");
}

#[test]
fn two_owners_sessions_of_the_same_name_never_meet() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let given = node.selected_key("a", MODEL);
    let stranger = SessionRef { owner: 1_001, id: "a".into() };
    let mut theirs = report("a", given, "id", "0:00:00", 5);
    theirs.session = stranger.clone();
    assert!(node.track(&theirs).is_err());
    let mut select = select("a", &[MODEL], 1);
    select.session = stranger;
    select.user = USER + 1;
    assert!(!node.run(&select).unwrap().picks[0].already_held);
    assert_eq!(holders(&node, 0), 2);
}

#[test]
fn an_exclusive_key_serves_one_session_with_all_its_models() {
    let mut node = Node::new(Rules::default(), &[special_key(0, &[MODEL, OTHER_MODEL], 1_000, 1)]);
    node.selected_key("a", MODEL);
    assert_eq!(node.selected_key("a", OTHER_MODEL), key_id(0), "a is its one holder already");
    assert_eq!(holders(&node, 0), 1);
    let Err(SelectRefusal::Short(shortages)) = node.select("b", OTHER_MODEL) else {
        panic!("b was given an exclusive key that a holds");
    };
    assert_eq!(shortages[0].reason, ShortageReason::AllAtCap);
    assert_eq!(node.release("a", ReleaseScope::Model(model(MODEL))), Ok(1));
    assert!(node.select("b", MODEL).is_err(), "a holds it for the other model");
    assert_eq!(node.release("a", ReleaseScope::Model(model(OTHER_MODEL))), Ok(1));
    assert_eq!(node.selected_key("b", MODEL), key_id(0));
}

#[test]
fn an_overdue_session_opened_again_holds_only_what_it_is_given_then() {
    let keys = [key(0, &[MODEL]), key(1, &[OTHER_MODEL])];
    let mut node = Node::new(Rules::default(), &keys);
    node.selected_key("a", MODEL);
    node.clock("1:00:00");
    let mut other_user = select("a", &[OTHER_MODEL], 1);
    other_user.user = USER + 1;
    assert!(node.run(&other_user).is_ok());
    assert_eq!((holders(&node, 0), holders(&node, 1)), (0, 1));
    assert_eq!(node.expire(), 0, "it is in use again");
    assert_eq!(node.state.totals().sessions_live, 1);
}

#[test]
fn a_session_that_changes_keys_all_day_is_never_refused() {
    let rules = Rules { session_allocations_max: 4, ..Rules::default() };
    let keys: Vec<_> = (0..50).map(|number| key(number, &[MODEL])).collect();
    let mut node = Node::new(rules, &keys);
    for _ in 0..50 {
        let given = node.selected_key("a", MODEL);
        assert_eq!(node.release("a", ReleaseScope::Key(given)), Ok(1));
        assert!(node.session("a").unwrap().allocations.len() <= 4);
    }
    let refusal = node.run(&select("a", &[MODEL], 5));
    assert_eq!(refusal.unwrap_err(), SelectRefusal::TooManyAllocations);
    assert_eq!(node.run(&select("a", &[MODEL], 4)).unwrap().picks.len(), 4);
    assert_eq!(node.session("a").unwrap().allocations.len(), 4);
    let again = node.run(&select("a", &[MODEL], 4));
    assert!(again.is_ok(), "what is held needs no room");
}

#[test]
fn a_weightless_key_at_its_cap_is_not_shared_with_another_model() {
    let models = [MODEL, OTHER_MODEL];
    let mut node = Node::new(Rules::default(), &[special_key(0, &models, 1_000, 1)]);
    node.selected_key("a", MODEL);
    node.sync(&[special_key(0, &models, 0, 1)]);
    assert!(node.select("a", OTHER_MODEL).is_err(), "it takes no part in draws any more");
    assert_eq!(node.selected_key("a", MODEL), key_id(0), "what is held stays");
}

#[test]
fn a_shortage_says_why_the_keys_that_were_not_given_were_not() {
    let keys = [key(0, &[MODEL]), key(1, &[MODEL])];
    let mut node = Node::new(Rules::default(), &keys);
    let given = node.selected_key("a", MODEL);
    let report = crate::fixture::slow_down("a", given, "0:00:00", 60);
    assert_eq!(node.track(&report), Ok(false));
    let selected = node.run(&select("b", &[MODEL], 2)).unwrap();
    assert_eq!(selected.picks.len(), 1);
    let shortage = &selected.shortages[0];
    assert_eq!(shortage.reason, ShortageReason::AllCooling, "one was given, the other cools");
    assert_eq!((shortage.wanted, shortage.given, shortage.keys_total), (2, 1, 2));
}

#[test]
fn nothing_is_given_when_one_model_has_nothing() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let Err(SelectRefusal::Short(shortages)) =
        node.run(&select("a", &[MODEL, "acme/lagre", "zzz/unlike"], 1))
    else {
        panic!("an unknown model was served");
    };
    let reasons: Vec<_> = shortages.iter().map(|shortage| shortage.reason).collect();
    assert_eq!(reasons, [ShortageReason::UnknownModel, ShortageReason::UnknownModel]);
    assert_eq!(shortages[0].did_you_mean, [model(MODEL)]);
    assert_eq!(shortages[1].did_you_mean, []);
    assert_eq!((holders(&node, 0), node.state.totals().sessions_live), (0, 0));
}

#[test]
fn a_retired_key_is_not_given_any_more_and_keeps_its_holders_and_usage() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let given = node.selected_key("a", MODEL);
    node.sync(&[]);
    assert!(node.select("a", MODEL).is_err());
    assert_eq!(node.track(&report("a", given, "id", "0:00:00", 7)), Ok(false));
    node.sync(&[key(0, &[MODEL])]);
    let stats = node.state.key_stats(given).unwrap();
    assert_eq!((stats.holders, stats.window_tokens, stats.weight), (1, 7, 25.0));
}

#[test]
fn an_owner_has_only_so_many_live_sessions_whatever_others_have() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let of = |owner: u32, name: &str| Select {
        session: SessionRef { owner, id: name.into() },
        owner_sessions_max: Some(2),
        ..select(name, &[MODEL], 1)
    };
    for (owner, name) in [(1, "a"), (1, "b"), (2, "a"), (2, "b")] {
        node.run(&of(owner, name)).unwrap();
    }
    for owner in [1, 2] {
        assert_eq!(node.run(&of(owner, "c")), Err(SelectRefusal::TooManyOfOwner));
        assert!(node.run(&of(owner, "a")).is_ok(), "what is live goes on");
    }
    let release = |owner| key_server_core::Release {
        session: SessionRef { owner, id: "b".into() },
        scope: ReleaseScope::Session,
    };
    assert!(node.run(&release(1)).is_ok() && node.run(&release(1)).is_ok());
    assert!(node.run(&of(1, "c")).is_ok(), "one place is free");
    assert_eq!(node.run(&of(1, "d")), Err(SelectRefusal::TooManyOfOwner));
    assert_eq!(node.run(&of(2, "c")), Err(SelectRefusal::TooManyOfOwner));
    // Renewed and moved among the deadlines, a session counts once.
    node.clock("0:50:00");
    node.run(&of(2, "a")).unwrap();
    node.clock("1:40:00");
    assert_eq!(node.expire(), 3, "b of the second, a and c of the first");
    for name in ["d", "e"] {
        node.run(&of(1, name)).unwrap();
    }
    assert_eq!(node.run(&of(1, "f")), Err(SelectRefusal::TooManyOfOwner));
    node.run(&of(2, "d")).unwrap();
    assert_eq!(node.run(&of(2, "e")), Err(SelectRefusal::TooManyOfOwner));
}
