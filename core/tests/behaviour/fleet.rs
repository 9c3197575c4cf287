//! Several nodes that work as one: what each makes of the others' rows.

use std::sync::Arc;

use key_server_core::{
    AllocationRow, Decide, Event, Expire, KeyFacts, KeyId, KeyState, ModelName, NodeKeyRow,
    NodeRows, Release, ReleaseScope, Reserved, Rules, SelectRefusal, SessionRow, Settle,
    ShortageReason, State, Tier, Time, Usage,
};

use crate::fixture::{
    MODEL, Node, OTHER_MODEL, USER, at, key, key_id, model, report, select, session, slow_down,
    special_key,
};
use crate::store::{Published, node_rows};

/// Nodes called `a`, `b`, `c`, and what each published.
struct Fleet {
    nodes: Vec<Node>,
    published: Vec<Published>,
    /// What each node decided.
    events: Vec<Vec<(Time, Event)>>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Fleet {
    fn new(rules: &Rules, keys: &[Arc<KeyFacts>]) -> Self {
        let nodes = NAMES.map(|name| {
            let mut node = Node::new(rules.clone(), &[]);
            node.state.join_fleet(&name.into());
            node
        });
        let mut fleet = Self {
            nodes: nodes.into(),
            published: vec![Published::default(); NAMES.len()],
            events: vec![Vec::new(); NAMES.len()],
        };
        let sync = key_server_core::SyncKeys { desired: keys.to_vec() };
        NAMES.iter().for_each(|name| assert!(fleet.run(name, &sync).is_ok()));
        fleet
    }

    fn place(name: &str) -> usize {
        NAMES.iter().position(|other| *other == name).expect("a node")
    }

    fn node(&mut self, name: &str) -> &mut Node {
        &mut self.nodes[Self::place(name)]
    }

    fn state(&self, name: &str) -> &State {
        &self.nodes[Self::place(name)].state
    }

    fn clock(&mut self, clock: &str) {
        self.nodes.iter_mut().for_each(|node| node.clock(clock));
    }

    /// Decides and applies, nothing before it.
    fn run<Command: Decide>(
        &mut self,
        name: &str,
        command: &Command,
    ) -> Result<Command::Reply, Command::Refusal> {
        let node = &mut self.nodes[Self::place(name)];
        let decision = node.decide(command)?;
        let at = node.state.now();
        node.apply(&decision.events);
        let events = decision.events.into_iter().map(|event| (at, event));
        self.events[Self::place(name)].extend(events);
        Ok(decision.reply)
    }

    /// A verb that names a session: it comes here before.
    fn call<Command: Decide>(
        &mut self,
        name: &str,
        id: &str,
        command: &Command,
    ) -> Result<Command::Reply, Command::Refusal> {
        if self.state(name).is_elsewhere(&session(id)) {
            let Ok(_) = self.run(name, &Settle { sessions: vec![session(id)], wanted: true });
        }
        self.run(name, command)
    }

    fn select(&mut self, name: &str, id: &str, models: &[&str], count: u32) -> Vec<KeyId> {
        let selected = self.call(name, id, &select(id, models, count)).expect("keys are usable");
        selected.picks.iter().map(|pick| pick.key).collect()
    }

    fn release(&mut self, name: &str, id: &str, scope: ReleaseScope) -> usize {
        let release = Release { session: session(id), scope };
        self.call(name, id, &release).expect("a known session").allocations_count
    }

    /// What a node has not told yet.
    fn publish(&mut self, name: &str) -> NodeRows {
        let shared = self.node(name).state.take_shared(1_000);
        let rows = shared.map(node_rows).unwrap_or_default();
        self.published[Self::place(name)].write(&rows);
        rows
    }

    /// A node tells all others what is new.
    fn tell(&mut self, name: &str) {
        let rows = self.publish(name);
        NAMES.iter().for_each(|other| self.node(other).state.learn(name, &rows));
    }

    /// A node reads all that another published.
    fn read(&mut self, name: &str, from: &str) {
        let published = self.published[Self::place(from)].clone();
        let state = &mut self.node(name).state;
        state.learn_all(from);
        published.read(1).iter().for_each(|rows| state.learn(from, rows));
        let mut place = Some(0);
        while let Some(next) = place {
            place = state.learned_all(from, next, 1);
        }
    }

    /// Settles in the background; answers with how many moved.
    fn settle(&mut self, name: &str) -> usize {
        let sessions = self.node(name).state.take_displaced();
        let Ok(moved) = self.run(name, &Settle { sessions, wanted: false });
        moved
    }

    /// Everybody tells, learns and settles until nothing moves.
    fn settle_all(&mut self) {
        for _ in 0..12 {
            NAMES.iter().for_each(|name| self.tell(name));
            if NAMES.iter().map(|name| self.settle(name)).sum::<usize>() == 0 {
                return;
            }
        }
        panic!("it does not settle");
    }

    /// Nodes at which a session lives.
    fn homes(&self, id: &str) -> String {
        let lives = |name: &&&str| {
            let mut sessions = self.state(name).sessions_from(0).map(|(_, session)| session);
            sessions.any(|own| own.session == session(id) && !own.ended)
        };
        NAMES.iter().filter(lives).copied().collect()
    }

    fn holders(&self, name: &str, number: u32) -> u32 {
        self.state(name).key_stats(key_id(number)).expect("a known key").holders
    }

    /// What a session holds, as a node knows it.
    fn held(&self, name: &str, id: &str) -> Vec<KeyId> {
        let stats = self.state(name).session_stats(&session(id));
        let stats = stats.filter(|stats| !stats.ended);
        let allocations = stats.map(|stats| stats.allocations).unwrap_or_default();
        let held = allocations.iter().filter(|allocation| allocation.held);
        let mut held: Vec<KeyId> = held.map(|allocation| allocation.key).collect();
        held.sort();
        held
    }

    /// How often a node recorded that a session expired.
    fn expiries(&self, name: &str) -> usize {
        let events = self.events[Self::place(name)].iter();
        events.filter(|(_, event)| matches!(event, Event::SessionExpired(_))).count()
    }
}

fn keys(count: u32) -> Vec<Arc<KeyFacts>> {
    (0..count).map(|number| key(number, &[MODEL])).collect()
}

fn fleet(count: u32) -> Fleet {
    Fleet::new(&Rules::default(), &keys(count))
}

/// A row of a key of which nothing is known but this.
fn key_row(number: u32) -> NodeKeyRow {
    NodeKeyRow {
        key: key_id(number),
        lifetime: Usage::default(),
        last_used: None,
        window: Vec::new(),
        cooling: Vec::new(),
    }
}

fn rows_of_keys(keys: Vec<NodeKeyRow>) -> NodeRows {
    NodeRows { keys, ..NodeRows::default() }
}

fn minute(clock: &str) -> u32 {
    u32::try_from(at(clock).as_ms() / 60_000).expect("it is small")
}

// What somebody wrote who may write where nodes publish.

#[test]
fn a_forged_row_gives_nobody_a_key_that_does_not_serve_the_model() {
    let keys = [key(0, &[MODEL]), key(1, &[OTHER_MODEL])];
    let mut fleet = Fleet::new(&Rules::default(), &keys);
    fleet.clock("0:10:00");
    let forged = |number: u32, name: &str| AllocationRow {
        key: key_id(number),
        model: model(name),
        held: true,
        usage: Usage::default(),
    };
    let row = SessionRow {
        session: session("s"),
        user: USER,
        opened: at("0:10:00"),
        end: at("1000:00:00"),
        ended: false,
        term: 7,
        base: 0,
        allocations: vec![forged(1, MODEL), forged(0, OTHER_MODEL), forged(2, MODEL)],
    };
    let rows = NodeRows { sessions: vec![row], ..NodeRows::default() };
    fleet.node("b").state.learn("a", &rows);
    assert_eq!(fleet.select("b", "s", &[MODEL], 2), [key_id(0)]);
    assert_eq!(fleet.select("b", "s", &[OTHER_MODEL], 2), [key_id(1)]);
    let end = fleet.state("b").session_stats(&session("s")).unwrap().end;
    assert!(end <= at("1:10:00"), "no longer than a session lives: {end:?}");
}

// Keys.

#[test]
fn a_key_held_at_another_node_weighs_less() {
    let mut fleet = fleet(1);
    fleet.select("a", "s", &[MODEL], 1);
    assert_eq!(fleet.state("b").key_stats(key_id(0)).unwrap().weight, 100.0);
    fleet.tell("a");
    assert_eq!(fleet.state("b").key_stats(key_id(0)).unwrap().weight, 50.0);
    let pick = fleet.node("b").select("other", MODEL).unwrap().picks.remove(0);
    assert_eq!(pick.weight, 100 * 1_000 * 1_024 / 2);
    fleet.release("a", "s", ReleaseScope::Session);
    fleet.tell("a");
    assert_eq!(fleet.holders("b", 0), 1, "its own");
}

#[test]
fn tokens_of_other_nodes_count_in_the_tier_and_leave_the_window() {
    let mut fleet = fleet(1);
    let given = fleet.select("a", "s", &[MODEL], 1)[0];
    fleet.select("b", "t", &[MODEL], 1);
    #[rustfmt::skip]
    let table = [
        // clock         spent at a  spent at b  tokens   tier
        ("0:00:00",      600,        0,          600,     Tier::Light),
        ("0:10:00",      0,          500,        1_100,   Tier::Moderate),
        ("0:20:00",      4_000,      0,          5_100,   Tier::Heavy),
        ("0:59:59.999",  0,          0,          5_100,   Tier::Heavy),
        ("1:00:00",      0,          0,          4_500,   Tier::Moderate),
        ("1:10:00",      0,          0,          4_000,   Tier::Moderate),
        ("1:20:00",      0,          0,          0,       Tier::Unused),
    ];
    for (clock, at_a, at_b, tokens, tier) in table {
        fleet.clock(clock);
        for (name, id, spent) in [("a", "s", at_a), ("b", "t", at_b)] {
            if spent > 0 {
                let report = report(id, given, clock, clock, spent);
                assert!(fleet.call(name, id, &report).is_ok());
            }
            fleet.tell(name);
        }
        for name in NAMES {
            let stats = fleet.state(name).key_stats(given).unwrap();
            assert_eq!((stats.window_tokens, stats.tier), (tokens, tier), "{clock} at {name}");
            let totals = fleet.state(name).totals_everywhere();
            assert_eq!(totals.window_tokens, tokens, "{clock} at {name}");
        }
    }
    let lifetimes = NAMES.map(|name| fleet.state(name).totals_everywhere().lifetime.tokens.input);
    assert_eq!(lifetimes, [5_100; 3]);
    let nodes = fleet.state("c").key_by_node(given);
    let parts: Vec<_> = nodes.iter().map(|part| (&*part.node, part.lifetime.requests)).collect();
    assert_eq!(parts, [("a", 2), ("b", 1)]);
}

#[test]
fn tokens_of_other_nodes_come_and_go_for_hours() {
    let mut fleet = fleet(1);
    let first = minute("0:00:00");
    for now in first..first + 200 {
        fleet.clock(&format!("0:{}:00", now - first));
        let window = (first.max(now - 59)..=now).map(|minute| (minute, 7)).collect();
        let rows = rows_of_keys(vec![NodeKeyRow { window, ..key_row(0) }]);
        fleet.node("b").state.learn("a", &rows);
        let tokens = u64::from((now - first + 1).min(60)) * 7;
        assert_eq!(fleet.state("b").key_stats(key_id(0)).unwrap().window_tokens, tokens);
        fleet.node("c").state.learn("a", &rows_of_keys(rows.keys));
        if now % 3 == 0 {
            fleet.node("b").state.learn("a", &rows_of_keys(vec![key_row(0)]));
        }
    }
    fleet.clock("0:259:00");
    assert_eq!(fleet.state("c").totals_everywhere().window_tokens, 0);
}

#[test]
fn nodes_that_went_for_good_leave_their_places_to_others() {
    let mut fleet = fleet(1);
    fleet.select("a", "s", &[MODEL], 1);
    let rows = fleet.publish("a");
    let state = &mut fleet.node("b").state;
    for number in 0..3_000 {
        let name = format!("n{number}");
        state.learn(&name, &rows);
        assert_eq!(state.key_stats(key_id(0)).unwrap().holders, 1, "{name}");
        state.learn_all(&name);
        let mut place = Some(0);
        while let Some(next) = place {
            place = state.learned_all(&name, next, 9);
        }
        assert_eq!(state.node_totals(), []);
    }
}

#[test]
fn a_cooldown_of_another_node_holds_here_and_is_not_published_again() {
    use KeyState::{Cooling, Usable};
    let rules = Rules { cooldown_max: std::time::Duration::from_secs(600), ..Rules::default() };
    let mut fleet = Fleet::new(&rules, &keys(1));
    let given = fleet.select("a", "s", &[MODEL], 1)[0];
    fleet.select("b", "t", &[MODEL], 1);
    #[rustfmt::skip]
    let table = [
        // clock         who is told to wait  seconds  state at b  until
        ("0:00:00",      Some(("a", "s")),    60,      Cooling,    Some("0:01:00")),
        ("0:00:30",      Some(("b", "t")),    60,      Cooling,    Some("0:01:30")),
        ("0:01:00",      None,                0,       Cooling,    Some("0:01:30")),
        ("0:01:30",      None,                0,       Usable,     None),
        ("0:02:00",      Some(("b", "t")),    60,      Cooling,    Some("0:03:00")),
        ("0:02:10",      Some(("a", "s")),    90,      Cooling,    Some("0:03:40")),
        ("0:03:39.999",  None,                0,       Cooling,    Some("0:03:40")),
        ("0:03:40",      None,                0,       Usable,     None),
    ];
    for (clock, told, seconds, state, until) in table {
        fleet.clock(clock);
        if let Some((name, id)) = told {
            assert!(fleet.call(name, id, &slow_down(id, given, clock, seconds)).is_ok());
        }
        fleet.tell("a");
        let stats = fleet.state("b").key_stats(given).unwrap();
        assert_eq!((stats.state, stats.cooling_until), (state, until.map(at)), "{clock}");
        let own = fleet.publish("b").keys.into_iter().flat_map(|row| row.cooling);
        let own: Vec<_> = own.map(|(_, until)| until).collect();
        let is_own = told.is_some_and(|(name, _)| name == "b");
        assert_eq!(own.is_empty(), !is_own, "{clock}: {own:?}");
    }
}

#[test]
fn a_cooldown_of_another_node_is_no_longer_than_one_may_be() {
    let mut fleet = fleet(1);
    let cooling = vec![(model(MODEL), Time::from_ms(u64::MAX))];
    let rows = rows_of_keys(vec![NodeKeyRow { cooling, ..key_row(0) }]);
    fleet.node("b").state.learn("a", &rows);
    let stats = fleet.state("b").key_stats(key_id(0)).unwrap();
    assert_eq!(stats.cooling_until, Some(at("1:00:00")));
    fleet.clock("1:00:00");
    assert_eq!(fleet.state("b").key_stats(key_id(0)).unwrap().state, KeyState::Usable);
}

#[test]
fn a_cap_counts_holders_of_all_nodes() {
    let mut fleet = Fleet::new(&Rules::default(), &[special_key(0, &[MODEL], 1_000, 2)]);
    fleet.select("a", "s", &[MODEL], 1);
    fleet.select("b", "t", &[MODEL], 1);
    fleet.settle_all();
    let Err(SelectRefusal::Short(shortages)) = fleet.call("c", "u", &select("u", &[MODEL], 1))
    else {
        panic!("a third session was given a key that two may hold");
    };
    assert_eq!((shortages[0].reason, shortages[0].keys_at_cap), (ShortageReason::AllAtCap, 1));
    fleet.release("a", "s", ReleaseScope::Session);
    fleet.settle_all();
    assert_eq!(fleet.select("c", "u", &[MODEL], 1), [key_id(0)]);
}

#[test]
fn rows_of_unknown_keys_count_when_the_key_comes() {
    let mut fleet = fleet(1);
    let window = vec![(minute("0:00:00"), 1_500)];
    let cooling = vec![(model(MODEL), at("0:01:00"))];
    let rows = rows_of_keys(vec![NodeKeyRow { window, cooling, ..key_row(7) }]);
    fleet.node("b").state.learn("a", &rows);
    assert_eq!(fleet.state("b").totals_everywhere().window_tokens, 0);
    fleet.node("b").sync(&keys(8));
    let stats = fleet.state("b").key_stats(key_id(7)).unwrap();
    assert_eq!((stats.tier, stats.state), (Tier::Moderate, KeyState::Cooling));
    fleet.clock("0:01:00");
    assert_eq!(fleet.state("b").key_stats(key_id(7)).unwrap().state, KeyState::Usable);
}

#[test]
fn holders_of_unknown_keys_count_when_their_row_comes_again() {
    let mut fleet = fleet(0);
    fleet.node("a").sync(&keys(1));
    fleet.select("a", "s", &[MODEL], 1);
    fleet.tell("a");
    fleet.node("b").sync(&keys(1));
    assert_eq!(fleet.holders("b", 0), 0);
    fleet.read("b", "a");
    assert_eq!(fleet.holders("b", 0), 1);
}

#[test]
fn buckets_of_a_clock_that_goes_before_count_now_and_nonsense_does_not() {
    let mut fleet = fleet(1);
    fleet.clock("2:00:00");
    #[rustfmt::skip]
    let table = [
        // bucket of                 tokens
        (minute("0:59:00"),          0),
        (minute("1:00:00"),          0),
        (minute("1:01:00"),          5),
        (minute("2:00:00"),          5),
        (minute("2:05:00"),          5),
        (minute("3:00:00"),          0),
        (u32::MAX,                   0),
        (0,                          0),
    ];
    for (bucket, tokens) in table {
        let rows = rows_of_keys(vec![NodeKeyRow { window: vec![(bucket, 5)], ..key_row(0) }]);
        fleet.node("b").state.learn("a", &rows);
        let stats = fleet.state("b").key_stats(key_id(0)).unwrap();
        assert_eq!(stats.window_tokens, tokens, "minute {bucket}");
    }
}

#[test]
fn the_largest_numbers_of_other_nodes_do_no_harm() {
    let mut fleet = fleet(2);
    let first = minute("0:00:00");
    let lifetime = Usage { requests: u64::MAX, failures: u64::MAX, ..Usage::default() };
    for (round, tokens) in [u64::MAX, 1, u64::MAX].into_iter().enumerate() {
        let window = (0..100).rev().map(|ago| (first - ago, tokens)).collect();
        let row = NodeKeyRow { window, lifetime, ..key_row(0) };
        let other = NodeKeyRow { key: key_id(1), ..row.clone() };
        for name in ["a", "c"] {
            fleet.node("b").state.learn(name, &rows_of_keys(vec![row.clone(), other.clone()]));
        }
        let tokens = fleet.state("b").totals_everywhere().window_tokens;
        let sum = if round == 1 { 2 * 2 * 60 } else { u64::MAX };
        assert!(tokens == sum, "round {round}: {tokens}");
        assert_eq!(fleet.state("b").totals_everywhere().lifetime.requests, u64::MAX);
    }
    fleet.clock("1:00:00");
    assert_eq!(fleet.state("b").totals_everywhere().window_tokens, 0);
}

// Sessions.

#[test]
fn a_session_moves_with_its_keys_and_what_it_spent() {
    let mut fleet = fleet(3);
    let given = fleet.select("a", "s", &[MODEL], 2);
    assert!(fleet.call("a", "s", &report("s", given[0], "1", "0:00:00", 40)).is_ok());
    fleet.tell("a");
    let known = fleet.state("b").session_stats(&session("s")).unwrap();
    assert_eq!(known.node.as_deref(), Some("a"));
    fleet.clock("0:30:00");
    assert_eq!(fleet.select("b", "s", &[MODEL], 2), given, "it holds them already");
    assert!(fleet.call("b", "s", &report("s", given[0], "2", "0:30:00", 2)).is_ok());
    fleet.settle_all();
    assert_eq!(fleet.homes("s"), "b");
    for name in NAMES {
        let stats = fleet.state(name).session_stats(&session("s")).unwrap();
        let spent = stats.allocations.iter().map(|one| one.usage.tokens.input).max();
        assert_eq!((stats.end, stats.ended, spent), (at("1:30:00"), false, Some(42)), "at {name}");
        assert_eq!(fleet.state(name).key_stats(given[0]).unwrap().holders, 1, "at {name}");
        assert_eq!(fleet.state(name).key_stats(given[0]).unwrap().lifetime.tokens.input, 42);
        assert_eq!(fleet.state(name).totals_everywhere().sessions_live, 1, "at {name}");
    }
}

#[test]
fn what_a_session_spent_elsewhere_is_known_when_it_is_taken_back_before_it_moved_out() {
    let mut fleet = fleet(2);
    let given = fleet.select("a", "s", &[MODEL], 1);
    assert!(fleet.call("a", "s", &report("s", given[0], "1", "0:00:00", 40)).is_ok());
    fleet.tell("a");
    assert!(fleet.call("b", "s", &report("s", given[0], "2", "0:00:00", 2)).is_ok());
    let news = fleet.publish("b");
    fleet.node("a").state.learn("b", &news);
    // Nobody has settled it at a, where it lives as well.
    assert!(fleet.call("a", "s", &report("s", given[0], "3", "0:00:00", 100)).is_ok());
    fleet.settle_all();
    for name in &NAMES[..2] {
        let stats = fleet.state(name).session_stats(&session("s")).unwrap();
        let spent: Vec<u64> = stats.allocations.iter().map(|one| one.usage.tokens.input).collect();
        assert_eq!(spent, [142], "at {name}");
    }
}

#[test]
fn a_session_released_at_another_node_ends_where_it_came_from() {
    let mut fleet = fleet(2);
    fleet.select("a", "s", &[MODEL], 1);
    fleet.tell("a");
    assert_eq!(fleet.select("b", "s", &[MODEL], 1).len(), 1);
    fleet.settle_all();
    assert_eq!(fleet.release("b", "s", ReleaseScope::Session), 1);
    fleet.settle_all();
    assert_eq!(fleet.homes("s"), "");
    assert_eq!(NAMES.map(|name| fleet.holders(name, 0) + fleet.holders(name, 1)), [0; 3]);
    assert!(NAMES.iter().all(|name| fleet.expiries(name) == 0));
}

#[test]
fn a_session_released_before_anybody_knew_that_it_had_moved_ends_everywhere() {
    let mut fleet = fleet(2);
    fleet.select("a", "s", &[MODEL], 1);
    fleet.tell("a");
    assert_eq!(fleet.release("b", "s", ReleaseScope::Session), 1);
    assert_eq!(fleet.homes("s"), "a", "nobody has told it");
    let end = fleet.publish("b");
    (0..3).for_each(|_| fleet.node("a").state.learn("b", &end));
    assert_eq!(fleet.node("a").state.take_displaced(), [session("s")], "once");
    let Ok(moved) = fleet.run("a", &Settle { sessions: vec![session("s")], wanted: false });
    assert_eq!(moved, 1);
    assert_eq!(fleet.homes("s"), "");
    fleet.settle_all();
    assert!(!fleet.state("a").is_elsewhere(&session("s")), "its end has had its effect");
    assert_eq!(NAMES.map(|name| fleet.holders(name, 0) + fleet.holders(name, 1)), [0; 3]);
}

#[test]
fn a_session_that_is_opened_again_wins_over_its_old_end() {
    for again in ["a", "b", "c"] {
        let mut fleet = fleet(2);
        fleet.select("a", "s", &[MODEL], 1);
        fleet.tell("a");
        assert_eq!(fleet.release("b", "s", ReleaseScope::Session), 1);
        let end = fleet.publish("b");
        NAMES.iter().for_each(|name| fleet.node(name).state.learn("b", &end));
        fleet.settle("a");
        fleet.clock("0:00:01");
        let given = fleet.select(again, "s", &[MODEL], 1);
        NAMES.iter().for_each(|name| fleet.node(name).state.learn("b", &end));
        fleet.settle_all();
        assert_eq!(fleet.homes("s"), again);
        assert!(NAMES.iter().all(|name| fleet.held(name, "s") == given), "again at {again}");
    }
}

#[test]
fn two_nodes_drew_at_once_and_nothing_is_lost() {
    let mut fleet = fleet(8);
    let first = fleet.select("a", "s", &[MODEL], 1);
    let second = fleet.select("b", "s", &[MODEL], 2);
    fleet.settle_all();
    assert_eq!(fleet.homes("s").len(), 1);
    let held = fleet.held("c", "s");
    assert!(first.iter().chain(&second).all(|key| held.contains(key)), "{held:?}");
}

#[test]
fn what_was_drawn_while_the_session_moved_on_is_not_lost() {
    let mut fleet = fleet(60);
    let first = fleet.select("a", "s", &[MODEL], 1);
    fleet.tell("a");
    // At b it draws so much that its term there is above that of a.
    (2..6).for_each(|count| drop(fleet.select("b", "s", &[MODEL], count)));
    let rows = fleet.publish("b");
    fleet.node("c").state.learn("b", &rows);
    let there = fleet.select("c", "s", &[MODEL], 6);
    let here = fleet.select("a", "s", &[MODEL], 2);
    fleet.settle_all();
    assert_eq!(fleet.homes("s").len(), 1);
    let held = fleet.held("b", "s");
    let all = first.iter().chain(&there).chain(&here);
    assert!(all.into_iter().all(|key| held.contains(key)), "{here:?} are not among {held:?}");
}

#[test]
fn nodes_that_do_not_know_each_others_keys_do_not_pull_a_session_to_and_fro() {
    let mut fleet = fleet(0);
    fleet.node("a").sync(&[key(0, &[MODEL])]);
    fleet.node("b").sync(&[key(1, &[MODEL])]);
    fleet.select("a", "s", &[MODEL], 1);
    fleet.select("b", "s", &[MODEL], 1);
    fleet.settle_all();
    assert_eq!(fleet.homes("s").len(), 1);
}

#[test]
fn a_session_opened_in_the_far_future_ends_none() {
    let mut fleet = fleet(1);
    fleet.select("a", "s", &[MODEL], 1);
    let mut rows = fleet.publish("a");
    let row = &mut rows.sessions[0];
    (row.opened, row.end) = (Time::from_ms(u64::MAX), Time::from_ms(u64::MAX));
    (row.term, row.allocations) = (u32::MAX, Vec::new());
    fleet.node("a").state.learn("b", &rows);
    assert_eq!((fleet.settle("a"), fleet.expiries("a")), (1, 0));
    assert_eq!((fleet.homes("s").as_str(), fleet.held("a", "s").len()), ("a", 1));
}

#[test]
fn a_partial_release_elsewhere_is_not_undone() {
    let mut fleet = fleet(3);
    let given = fleet.select("a", "s", &[MODEL], 2);
    fleet.tell("a");
    assert_eq!(fleet.release("b", "s", ReleaseScope::Key(given[0])), 1);
    fleet.settle_all();
    assert_eq!(fleet.homes("s"), "b");
    assert!(NAMES.iter().all(|name| fleet.held(name, "s") == given[1..]));
}

#[test]
fn a_session_expires_once_and_where_it_lives() {
    let mut fleet = fleet(1);
    fleet.select("a", "s", &[MODEL], 1);
    fleet.tell("a");
    fleet.clock("0:30:00");
    fleet.select("b", "s", &[MODEL], 1);
    fleet.tell("b");
    #[rustfmt::skip]
    let table = [
        // clock         expiries at a, b, c  live as c knows it
        ("0:59:59.999",  [0, 0, 0],           true),
        // Here its old node would have ended it, had it not heard of the new.
        ("1:00:00",      [0, 0, 0],           true),
        ("1:29:59.999",  [0, 0, 0],           true),
        ("1:30:00",      [0, 1, 0],           false),
        ("9:00:00",      [0, 1, 0],           false),
    ];
    for (clock, expiries, is_live) in table {
        fleet.clock(clock);
        for name in NAMES {
            let Ok(_) = fleet.run(name, &Expire { first: None, sessions_max: 9 });
        }
        assert_eq!(NAMES.map(|name| fleet.expiries(name)), expiries, "{clock}");
        let known = fleet.state("c").session_stats(&session("s"));
        assert_eq!(known.is_some_and(|known| !known.ended), is_live, "{clock}");
        assert_eq!(fleet.holders("c", 0), u32::from(is_live), "{clock}");
    }
}

#[test]
fn a_session_opened_elsewhere_after_its_time_here_expires_here() {
    let mut fleet = fleet(2);
    fleet.select("a", "s", &[MODEL], 1);
    fleet.clock("1:00:00");
    let given = fleet.select("b", "s", &[MODEL], 1);
    fleet.tell("b");
    assert_eq!((fleet.settle("a"), fleet.expiries("a")), (1, 1));
    fleet.settle_all();
    assert_eq!((fleet.homes("s").as_str(), fleet.held("a", "s")), ("b", given));
}

#[test]
fn what_a_node_does_not_say_again_is_gone() {
    let mut fleet = fleet(1);
    let given = fleet.select("a", "s", &[MODEL], 1)[0];
    assert!(fleet.call("a", "s", &report("s", given, "1", "0:00:00", 40)).is_ok());
    fleet.select("c", "t", &[MODEL], 1);
    fleet.tell("a");
    fleet.tell("c");
    fleet.read("b", "a");
    let known = |fleet: &Fleet| {
        let totals = fleet.state("b").totals_everywhere();
        let nodes = fleet.state("b").node_totals().into_iter().map(|node| node.node.to_string());
        let nodes: String = nodes.collect();
        (nodes, totals.sessions_live, totals.lifetime.requests, totals.window_tokens)
    };
    assert_eq!(known(&fleet), ("ac".into(), 2, 1, 40), "it was said again");
    fleet.published[0] = Published::default();
    fleet.read("b", "a");
    assert_eq!(known(&fleet), ("c".into(), 1, 0, 0));
    assert_eq!(fleet.holders("b", 0), 1);
    fleet.node("a").state.share_everything();
    fleet.tell("a");
    assert_eq!(known(&fleet), ("ac".into(), 2, 1, 40));
}

#[test]
fn stale_rows_change_nothing() {
    let mut fleet = fleet(2);
    fleet.select("a", "s", &[MODEL], 1);
    let before = fleet.publish("a");
    fleet.node("b").state.learn("a", &before);
    fleet.select("b", "s", &[MODEL], 2);
    fleet.settle_all();
    let rows = NAMES.map(|name| fleet.state(name).rows());
    NAMES.iter().for_each(|name| fleet.node(name).state.learn("a", &before));
    assert_eq!(NAMES.map(|name| fleet.settle(name)), [0; 3]);
    assert_eq!(NAMES.map(|name| fleet.state(name).rows()), rows);
    assert_eq!(NAMES.map(|name| fleet.holders(name, 0) + fleet.holders(name, 1)), [2; 3]);
    assert_eq!(fleet.homes("s"), "b");
    // It was released at b, and what a said before comes once more.
    fleet.release("b", "s", ReleaseScope::Session);
    fleet.settle_all();
    fleet.node("b").state.learn("a", &before);
    assert!(!fleet.state("b").is_elsewhere(&session("s")));
}

#[test]
fn rows_of_the_node_itself_are_passed_over() {
    let mut fleet = fleet(1);
    fleet.select("a", "s", &[MODEL], 1);
    let rows = fleet.publish("a");
    let before = fleet.state("a").totals_everywhere();
    fleet.node("a").state.learn("a", &rows);
    assert_eq!(fleet.state("a").totals_everywhere(), before);
    assert_eq!((fleet.holders("a", 0), fleet.state("a").node_totals().len()), (1, 0));
}

#[test]
fn a_node_that_works_alone_passes_over_all_rows() {
    let mut fleet = fleet(1);
    fleet.select("a", "s", &[MODEL], 1);
    let rows = fleet.publish("a");
    let mut alone = Node::new(Rules::default(), &keys(1));
    alone.state.learn("a", &rows);
    alone.state.learn_all("a");
    assert_eq!(alone.state.learned_all("a", 0, 9), None);
    assert_eq!(alone.state.totals_everywhere(), alone.state.totals());
    assert_eq!((alone.state.take_shared(9), alone.state.take_displaced()), (None, vec![]));
}

#[test]
fn names_that_only_other_nodes_speak_of_do_not_become_models_here() {
    let mut fleet = fleet(1);
    fleet.select("a", "s", &[MODEL], 1);
    let mut rows = fleet.publish("a");
    let allocation = rows.sessions[0].allocations[0].clone();
    rows.sessions[0].allocations = (0..1_024)
        .map(|number| {
            let model: ModelName = format!("acme/m{number}").parse().expect("a model");
            key_server_core::AllocationRow { model, ..allocation.clone() }
        })
        .collect();
    fleet.node("b").state.learn("a", &rows);
    assert_eq!(fleet.state("b").totals().models, 1);
    assert_eq!(fleet.state("b").pools_after(None).count(), 1);
    assert_eq!(fleet.holders("b", 0), 1, "one session is one holder");
}

#[test]
fn a_session_that_comes_with_an_endless_deadline_gets_an_ordinary_one() {
    let mut fleet = fleet(1);
    fleet.select("a", "s", &[MODEL], 1);
    let mut rows = fleet.publish("a");
    (rows.sessions[0].end, rows.sessions[0].term) = (Time::from_ms(u64::MAX), u32::MAX);
    fleet.node("b").state.learn("a", &rows);
    let Ok(moved) = fleet.run("b", &Settle { sessions: vec![session("s")], wanted: true });
    assert_eq!((moved, fleet.homes("s").as_str()), (1, "ab"));
    let known = fleet.state("b").session_stats(&session("s")).unwrap();
    assert_eq!((known.end, known.node), (at("1:00:00"), None));
}

// What a node tells.

#[test]
fn everything_is_told_in_parts_and_changes_in_between() {
    let mut fleet = fleet(5);
    for id in ["s", "t", "u", "v", "w"] {
        fleet.select("a", id, &[MODEL], 1);
    }
    fleet.publish("a");
    fleet.node("a").state.share_everything();
    let mut published = Published::default();
    for part in 0.. {
        let Some(shared) = fleet.node("a").state.take_shared(2) else {
            assert!(part > 2, "it came in parts");
            break;
        };
        published.write(&node_rows(shared));
        match part {
            0 => drop(fleet.release("a", "s", ReleaseScope::Session)),
            1 => drop(fleet.select("a", "x", &[MODEL], 3)),
            _ => {}
        }
    }
    fleet.published[0] = published;
    fleet.read("b", "a");
    for id in ["s", "t", "u", "v", "w", "x"] {
        assert_eq!(fleet.held("b", id), fleet.held("a", id), "{id}");
    }
    assert_eq!(fleet.state("b").guests_from(0).count(), 5);
}

#[test]
fn holds_of_keys_with_a_cap_are_told_with_their_session() {
    let keys = [special_key(0, &[MODEL, OTHER_MODEL], 1_000, 1), key(1, &["acme/tiny"])];
    let mut fleet = Fleet::new(&Rules::default(), &keys);
    drop(fleet.node("a").state.take_shared(9));
    fleet.select("a", "s", &[MODEL, OTHER_MODEL, "acme/tiny"], 1);
    #[rustfmt::skip]
    let table = [
        // given back                                     told of the one with a cap
        (None,                                            Some("1:00:00")),
        (Some(ReleaseScope::Model(model(MODEL))),         Some("1:00:00")),
        (Some(ReleaseScope::Model(model(OTHER_MODEL))),   None),
    ];
    for (scope, until) in table {
        if let Some(scope) = scope.clone() {
            assert_eq!(fleet.release("a", "s", scope), 1);
        }
        let shared = fleet.node("a").state.take_shared(9).expect("it changed");
        let holds: Vec<_> = shared.holds.iter().map(|hold| (hold.key, hold.until)).collect();
        assert_eq!(holds, [(key_id(0), until.map(at))], "{scope:?}");
    }
    fleet.node("a").sync(&[key(0, &[MODEL])]);
}

#[test]
fn ends_of_holds_are_told_anew_though_they_have_no_row() {
    let keys: Vec<_> = (0..4).map(|number| special_key(number, &[MODEL], 1_000, 1)).collect();
    let mut fleet = Fleet::new(&Rules::default(), &keys);
    #[rustfmt::skip]
    let table = [
        // session      given back at  of which is told anew at 1:30:00
        ("long ago",    "0:20:00",     false),
        ("just ended",  "0:50:00",     true),
    ];
    let mut told = Vec::new();
    for (id, at, is_told) in table {
        fleet.clock(at);
        let given = fleet.select("a", id, &[MODEL], 1);
        assert_eq!(fleet.release("a", id, ReleaseScope::Session), 1);
        told.extend(is_told.then(|| (session(id), given[0], None)));
    }
    fleet.select("a", "elsewhere", &[MODEL], 1);
    fleet.settle_all();
    fleet.clock("1:30:00");
    fleet.select("b", "elsewhere", &[MODEL], 1);
    fleet.settle_all();
    fleet.node("a").state.share_everything();
    let (mut holds, mut parts) = (Vec::new(), 0);
    while let Some(shared) = fleet.node("a").state.take_shared(2) {
        let some = shared.holds.into_iter().map(|hold| (hold.session, hold.key, hold.until));
        holds.extend(some);
        parts += 1;
    }
    assert!(parts > 1, "they come in parts, too");
    assert_eq!(holds, told);
}

#[test]
fn a_node_is_the_fold_of_its_own_events_whatever_others_say() {
    let mut fleet = fleet(4);
    let given = fleet.select("a", "s", &[MODEL], 2);
    fleet.tell("a");
    fleet.select("b", "s", &[MODEL], 3);
    assert!(fleet.call("b", "s", &slow_down("s", given[0], "0:00:00", 60)).is_ok());
    fleet.select("a", "s", &[MODEL], 4);
    fleet.settle_all();
    fleet.clock("0:40:00");
    assert!(fleet.call("c", "s", &report("s", given[1], "1", "0:00:00", 9)).is_ok());
    fleet.settle_all();
    fleet.release("c", "s", ReleaseScope::Session);
    fleet.settle_all();
    for name in NAMES {
        let mut fold = State::new(Rules::default());
        let events = &fleet.events[Fleet::place(name)];
        events.iter().for_each(|(at, event)| fold.apply(*at, event));
        fold.advance(fleet.state(name).now());
        assert_eq!(fold.rows(), fleet.state(name).rows(), "{name}");
        assert!(events.len() > 4, "{name} had its part");
    }
}

// Keys reserved among all nodes.

fn reserved(keys: &[u32]) -> Option<Reserved> {
    let keys = keys.iter().map(|number| key_id(*number)).collect();
    Some(Reserved::from([(model(MODEL), keys)]))
}

#[test]
fn reserved_keys_are_given_in_their_order() {
    let mut fleet = fleet(6);
    for (keys, count, given) in [
        (&[4, 1, 3][..], 3, &[4, 1, 3][..]),
        (&[2, 2, 5], 2, &[2, 5]),
        (&[5, 0, 1, 2], 2, &[5, 0]),
        (&[3], 2, &[3]),
    ] {
        let mut select = select("s", &[MODEL], count);
        select.reserved = reserved(keys);
        let selected = fleet.node("a").decide(&select).unwrap().reply;
        let picks: Vec<_> = selected.picks.iter().map(|pick| pick.key).collect();
        let given: Vec<_> = given.iter().map(|number| key_id(*number)).collect();
        assert_eq!(picks, given, "of {keys:?}");
        assert_eq!(selected.shortages.len(), usize::from(picks.len() < count as usize));
    }
    let held = fleet.select("a", "s", &[MODEL], 1);
    let mut more = select("s", &[MODEL], 2);
    let free = (0..6).find(|number| key_id(*number) != held[0]).expect("five are free");
    let all = [held[0], key_id(free)];
    more.reserved = Some(Reserved::from([(model(MODEL), all.to_vec())]));
    let picks = fleet.node("a").decide(&more).unwrap().reply.picks;
    let picks: Vec<_> = picks.iter().map(|pick| (pick.key, pick.already_held)).collect();
    assert_eq!(picks, [(all[0], true), (all[1], false)], "what is held takes no place");
}

#[test]
fn a_reserved_key_that_was_retired_or_cools_meanwhile_is_not_given() {
    let mut fleet = fleet(3);
    let given = fleet.select("a", "t", &[MODEL], 3);
    assert!(fleet.call("a", "t", &slow_down("t", given[0], "0:00:00", 60)).is_ok());
    let left = keys(3).into_iter().filter(|facts| facts.key != given[1]);
    fleet.node("a").sync(&left.collect::<Vec<_>>());
    let mut select = select("s", &[MODEL], 3);
    select.reserved = Some(Reserved::from([(model(MODEL), given.clone())]));
    let picks = fleet.node("a").decide(&select).unwrap().reply.picks;
    assert_eq!(picks.iter().map(|pick| pick.key).collect::<Vec<_>>(), given[2..]);
}

#[test]
fn a_shortage_says_that_others_hold_the_keys_when_none_was_reserved() {
    let mut fleet = Fleet::new(&Rules::default(), &[special_key(0, &[MODEL], 1_000, 1)]);
    let mut select = select("s", &[MODEL], 1);
    select.reserved = reserved(&[]);
    let Err(SelectRefusal::Short(shortages)) = fleet.run("a", &select) else {
        panic!("a key was given that was not reserved");
    };
    assert_eq!((shortages[0].reason, shortages[0].given), (ShortageReason::AllAtCap, 0));
}

#[test]
fn wishes_begin_with_what_would_be_drawn() {
    let mut fleet = fleet(40);
    for seed in 0..50 {
        let select = select("s", &[MODEL], 3);
        let node = fleet.node("a");
        let drawn = select.decide(&node.state, node.now, seed).unwrap().reply.picks;
        let wishes = node.state.wishes(&select, node.now, seed);
        assert_eq!((wishes.len(), wishes[0].count, wishes[0].keys.len()), (1, 3, 19));
        let wished = wishes[0].keys[..3].iter().map(|(key, _)| *key);
        assert!(wished.eq(drawn.iter().map(|pick| pick.key)), "seed {seed}");
    }
}

#[test]
fn further_wishes_name_every_other_key_and_then_none() {
    let mut fleet = fleet(40);
    let select = select("s", &[MODEL], 3);
    let node = fleet.node("a");
    let mut named = node.state.wishes(&select, node.now, 1);
    assert!(named[0].is_needed);
    while let Some(further) = node.state.further_wishes(&select, node.now, 1, &named) {
        assert!(further[0].keys.iter().all(|key| !named[0].keys.contains(key)));
        named[0].keys.extend(&further[0].keys);
    }
    assert_eq!(named[0].keys.len(), 40);
}

#[test]
fn nothing_is_wished_where_enough_is_held() {
    let keys = [special_key(0, &[MODEL], 1_000, 1), key(1, &[OTHER_MODEL])];
    let mut fleet = Fleet::new(&Rules::default(), &keys);
    let both = select("s", &[OTHER_MODEL, MODEL], 1);
    let node = fleet.node("a");
    let selected = node.decide(&both).unwrap().reply;
    assert!(node.state.draws_capped(&session("s"), &selected));
    fleet.select("a", "s", &[MODEL], 1);
    let node = fleet.node("a");
    let selected = node.decide(&both).unwrap().reply;
    assert!(!node.state.draws_capped(&session("s"), &selected), "what is held is not drawn");
    let wishes = node.state.wishes(&both, node.now, 1);
    let models: Vec<_> = wishes.iter().map(|wish| wish.model.clone()).collect();
    assert_eq!(models, [model(OTHER_MODEL)]);
}
