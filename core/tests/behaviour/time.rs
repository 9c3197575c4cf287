//! Rules about time, as tables: when, what is done, what is seen then.

use std::time::Duration;

use key_server_core::{
    Expire, KeyState, ReleaseScope, Rules, SelectRefusal, ShortageReason, Tier, TrackUsageRefusal,
};

use crate::fixture::{
    MODEL, Node, OTHER_MODEL, at, key, key_id, model, report, select, session, slow_down,
};

#[test]
fn tiers_move_exactly_when_a_bucket_leaves() {
    use Tier::{Heavy, Light, Moderate, Unused};
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let given = node.selected_key("a", MODEL);
    #[rustfmt::skip]
    let table = [
        // clock         tokens  spent at        window  tier      weight
        ("0:00:00",      0,      "0:00:00",      0,      Unused,   50.0),
        ("0:00:30",      1,      "0:00:30",      1,      Light,    25.0),
        ("0:00:59.999",  998,    "0:00:59.999",  999,    Light,    25.0),
        ("0:01:00",      1,      "0:01:00",      1_000,  Moderate, 10.0),
        ("0:02:00",      3_999,  "0:02:00",      4_999,  Moderate, 10.0),
        ("0:02:00",      1,      "0:02:00",      5_000,  Heavy,    2.5),
        ("0:59:59.999",  0,      "0:59:59.999",  5_000,  Heavy,    2.5),
        ("1:00:00",      0,      "1:00:00",      4_001,  Moderate, 10.0),
        ("1:00:59.999",  0,      "1:00:59.999",  4_001,  Moderate, 10.0),
        ("1:01:00",      0,      "1:01:00",      4_000,  Moderate, 10.0),
        ("1:01:59.999",  0,      "1:01:59.999",  4_000,  Moderate, 10.0),
        ("1:02:00",      0,      "1:02:00",      0,      Unused,   50.0),
        // Backdated: inside, just outside, and long past.
        ("2:00:00",      10,     "1:01:00",      10,     Light,    25.0),
        ("2:00:00",      10,     "1:00:59.999",  10,     Light,    25.0),
        ("2:00:59.999",  0,      "0:00:00",      10,     Light,    25.0),
        ("2:01:00",      0,      "2:01:00",      0,      Unused,   50.0),
        // Spent in the future is spent now.
        ("2:10:00",      10,     "9:00:00",      10,     Light,    25.0),
        ("3:09:59.999",  0,      "3:09:59.999",  10,     Light,    25.0),
        ("3:10:00",      0,      "3:10:00",      0,      Unused,   50.0),
    ];
    for (line, (clock, tokens, spent, window_tokens, tier, weight)) in table.iter().enumerate() {
        node.clock(clock);
        let report = report("a", given, &line.to_string(), spent, *tokens);
        assert_eq!(node.track(&report), Ok(false), "{clock}");
        let stats = node.state.key_stats(given).unwrap();
        let seen = (stats.window_tokens, stats.tier, stats.weight);
        assert_eq!(seen, (*window_tokens, *tier, *weight), "{clock}");
        assert_eq!(node.state.totals().window_tokens, *window_tokens, "{clock}");
    }
}

#[test]
fn a_cooldown_ends_by_itself_and_the_latest_deadline_wins() {
    use KeyState::{Cooling, Usable};
    let rules = Rules { cooldown_max: Duration::from_secs(600), ..Rules::default() };
    let mut node = Node::new(rules, &[key(0, &[MODEL, OTHER_MODEL])]);
    let given = node.selected_key("a", MODEL);
    #[rustfmt::skip]
    let table = [
        // clock        slow down at, for     state    until
        ("0:00:00",     Some(("0:00:00", 60)), Cooling, Some("0:01:00")),
        ("0:00:59.999", None,                  Cooling, Some("0:01:00")),
        ("0:01:00",     None,                  Usable,  None),
        // A shorter one does not cut a longer one short.
        ("0:02:00",     Some(("0:02:00", 90)), Cooling, Some("0:03:30")),
        ("0:02:10",     Some(("0:02:10", 10)), Cooling, Some("0:03:30")),
        ("0:03:00",     Some(("0:03:00", 60)), Cooling, Some("0:04:00")),
        ("0:03:30",     None,                  Cooling, Some("0:04:00")),
        ("0:04:00",     None,                  Usable,  None),
        // It counts from when it was asked for; one that is over does nothing.
        ("0:05:00",     Some(("0:04:30", 40)), Cooling, Some("0:05:10")),
        ("0:05:20",     Some(("0:04:00", 60)), Usable,  None),
        // Nobody makes a key cool for longer than the longest cooldown.
        ("0:10:00",     Some(("0:10:00", u64::MAX)), Cooling, Some("0:20:00")),
        ("0:19:59.999", None,                  Cooling, Some("0:20:00")),
        ("0:20:00",     None,                  Usable,  None),
    ];
    for (clock, asked, state, until) in table {
        node.clock(clock);
        if let Some((spent, seconds)) = asked {
            assert_eq!(node.track(&slow_down("a", given, spent, seconds)), Ok(false));
        }
        let stats = node.state.key_stats(given).unwrap();
        assert_eq!((stats.state, stats.cooling_until), (state, until.map(at)), "{clock}");
        let counts: Vec<_> = node.state.pools_after(None).map(|pool| pool.usable).collect();
        assert_eq!(counts, [usize::from(state == Usable), 1], "{clock}: cooling is per model");
    }
}

#[test]
fn a_cooling_key_is_passed_over_and_the_answer_says_when_it_is_back() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL, OTHER_MODEL])]);
    let given = node.selected_key("a", MODEL);
    assert_eq!(node.track(&slow_down("a", given, "0:00:00", 90)), Ok(false));
    node.clock("0:00:30");
    for name in ["a", "b"] {
        let Err(SelectRefusal::Short(shortages)) = node.select(name, MODEL) else {
            panic!("{name} was given a cooling key");
        };
        assert_eq!(shortages[0].reason, ShortageReason::AllCooling);
        assert_eq!(shortages[0].retry_after, Some(Duration::from_secs(60)));
        assert_eq!(node.selected_key(name, OTHER_MODEL), given, "it cools for one model only");
    }
    node.clock("0:01:30");
    let selected = node.select("a", MODEL).unwrap();
    assert!(selected.picks[0].already_held, "the session has held it all the time");
}

#[test]
fn every_verb_that_names_a_session_renews_it() {
    #[derive(Clone, Copy)]
    enum Deed {
        Select,
        Track,
        ReleaseModel,
        ReleaseUnheldKey,
        Look,
    }
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    #[rustfmt::skip]
    let table = [
        // clock         deed                    deadline
        ("0:00:00",      Deed::Select,           "1:00:00"),
        ("0:10:00",      Deed::Select,           "1:10:00"),
        ("0:20:00",      Deed::Track,            "1:20:00"),
        ("0:30:00",      Deed::ReleaseModel,     "1:30:00"),
        ("0:40:00",      Deed::ReleaseUnheldKey, "1:40:00"),
        ("1:39:59.999",  Deed::Track,            "2:39:59.999"),
        ("2:39:59.998",  Deed::Look,             "2:39:59.999"),
        ("2:39:59.998",  Deed::ReleaseModel,     "3:39:59.998"),
    ];
    for (clock, deed, deadline) in table {
        node.clock(clock);
        assert_eq!(node.expire(), 0, "{clock}");
        match deed {
            Deed::Select => assert!(node.select("a", MODEL).is_ok()),
            Deed::Track => {
                assert!(node.track(&report("a", key_id(0), clock, clock, 1)).is_ok());
            }
            Deed::ReleaseModel => {
                assert!(node.release("a", ReleaseScope::Model(model(MODEL))).is_ok());
            }
            Deed::ReleaseUnheldKey => {
                assert_eq!(node.release("a", ReleaseScope::Key(key_id(9))), Ok(0));
            }
            Deed::Look => {}
        }
        let session = node.session("a").unwrap();
        assert_eq!((session.end, session.ended), (at(deadline), false), "{clock}");
    }
}

#[test]
fn a_session_expires_once_and_late_usage_counts_until_it_is_forgotten() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    let given = node.selected_key("a", MODEL);
    const UNKNOWN: Result<bool, TrackUsageRefusal> = Err(TrackUsageRefusal::UnknownSession);
    #[rustfmt::skip]
    let table = [
        // clock          report    expired  holders  ended at
        ("0:00:00",       Ok(false), 0,      1,       None),
        ("0:59:59.999",   Ok(false), 0,      1,       None),
        // Over, but nobody has recorded it yet: the report is late.
        ("1:59:59.999",   Ok(true),  1,      0,       Some("1:59:59.999")),
        ("2:00:00",       Ok(true),  0,      0,       Some("1:59:59.999")),
        ("3:00:00",       Ok(true),  0,      0,       Some("1:59:59.999")),
        ("25:59:59.998",  Ok(true),  0,      0,       Some("1:59:59.999")),
        ("25:59:59.999",  UNKNOWN,   0,      0,       None),
    ];
    for (line, (clock, late, expired, holders, ended)) in table.iter().enumerate() {
        node.clock(clock);
        assert_eq!(node.track(&report("a", given, &line.to_string(), clock, 1)), *late, "{clock}");
        assert_eq!(node.expire(), *expired, "{clock}");
        assert_eq!(node.state.key_stats(given).unwrap().holders, *holders, "{clock}");
        let session = node.session("a").filter(|session| session.ended);
        assert_eq!(session.map(|session| session.end), ended.map(at), "{clock}");
    }
    assert_eq!(node.state.key_stats(given).unwrap().lifetime.requests, 6);
}

#[test]
fn an_expiry_can_be_asked_for_by_name_before_its_second_is_full() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL])]);
    node.clock("0:00:00.500");
    node.selected_key("a", MODEL);
    for (clock, by_name, expired) in [
        ("1:00:00.499", true, 0),
        ("1:00:00.500", false, 0),
        ("1:00:00.500", true, 1),
        ("1:00:01", true, 0),
        ("1:00:01", false, 0),
    ] {
        node.clock(clock);
        let first = by_name.then(|| session("a"));
        assert_eq!(node.run(&Expire { first, sessions_max: 9 }), Ok(expired), "{clock}");
    }
}

#[test]
fn a_report_is_remembered_for_at_least_24_and_at_most_25_hours() {
    let rules = Rules {
        session_ttl: Duration::from_secs(100 * 3_600),
        ended_session_ttl: Duration::from_secs(100 * 3_600),
        ..Rules::default()
    };
    #[rustfmt::skip]
    let table = [
        // counted at    asked at        is it a repeat?
        ("0:00:00",      "0:00:00",      true),
        ("0:00:00",      "24:00:00",     true),
        ("0:00:00",      "24:59:59.999", true),
        ("0:00:00",      "25:00:00",     false),
        ("0:59:59.999",  "24:59:59.999", true),
        ("0:59:59.999",  "25:00:00",     false),
        ("1:00:00",      "25:00:00",     true),
        ("1:00:00",      "25:59:59.999", true),
        ("1:00:00",      "26:00:00",     false),
    ];
    for (counted, asked, is_repeat) in table {
        let mut node = Node::new(rules.clone(), &[key(0, &[MODEL])]);
        let given = node.selected_key("a", MODEL);
        node.clock(counted);
        assert_eq!(node.track(&report("a", given, "id", counted, 5)), Ok(false));
        node.clock(asked);
        let again = report("a", given, "id", asked, 5);
        let decision = node.decide(&again).unwrap();
        assert_eq!(decision.events.is_empty(), is_repeat, "{counted} and {asked}");
        let other = node.track(&report("a", given, "id", asked, 6));
        let expected = if is_repeat { Err(TrackUsageRefusal::Conflict) } else { Ok(false) };
        assert_eq!(other, expected, "{counted} and {asked}");
    }
}

#[test]
fn the_oldest_ended_session_is_forgotten_first() {
    let rules = Rules { ended_sessions_max: 2, ..Rules::default() };
    let keys: Vec<_> = (0..4).map(|number| key(number, &[MODEL])).collect();
    let mut node = Node::new(rules, &keys);
    for name in ["a", "b", "c", "d"] {
        node.selected_key(name, MODEL);
    }
    #[rustfmt::skip]
    let table = [
        // clock    ends  still known
        ("0:01:00", "c",  "a b c d"),
        ("0:02:00", "a",  "a b c d"),
        ("0:03:00", "d",  "a b d"),
        ("0:04:00", "b",  "b d"),
    ];
    for (clock, ends, known) in table {
        node.clock(clock);
        assert_eq!(node.release(ends, ReleaseScope::Session), Ok(1));
        let names = ["a", "b", "c", "d"].into_iter();
        let names: Vec<_> = names.filter(|name| node.session(name).is_some()).collect();
        assert_eq!(names.join(" "), known, "{clock}");
    }
    let forgotten = node.state.take_changes().forgotten;
    assert_eq!(forgotten, [session("c"), session("a")]);
}

#[test]
fn a_clock_that_steps_back_changes_nothing() {
    let mut node = Node::new(Rules::default(), &[key(0, &[MODEL]), key(1, &[OTHER_MODEL])]);
    let given = node.selected_key("a", MODEL);
    node.selected_key("b", OTHER_MODEL);
    assert_eq!(node.track(&slow_down("a", given, "0:00:00", 60)), Ok(false));
    assert_eq!(node.track(&report("a", given, "id", "0:00:00", 700)), Ok(false));
    node.clock("0:59:59");
    node.selected_key("b", OTHER_MODEL);
    node.clock("1:00:00");
    let (rows, totals) = (node.state.rows(), node.state.totals());
    for clock in ["0:59:59.999", "0:30:00", "0:00:00"] {
        node.clock(clock);
        assert_eq!(node.state.now(), at("1:00:00"), "{clock}");
        assert_eq!((node.state.rows(), node.state.totals()), (rows.clone(), totals), "{clock}");
        let late = node.decide(&report("a", given, "new", clock, 1)).unwrap().reply.late;
        assert!(late, "{clock}: what has ended is not in use again");
        let selected = node.decide(&select("a", &[MODEL], 1)).unwrap().reply;
        assert!(!selected.picks[0].already_held, "{clock}");
        assert_eq!(selected.deadline, at("2:00:00"), "{clock}: time has not stepped back");
        let expire = Expire { first: Some(session("b")), sessions_max: 9 };
        let Ok(expired) = node.decide(&expire);
        assert_eq!(expired.reply, 1, "{clock}: a is over and b is not");
    }
}
