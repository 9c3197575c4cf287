//! Capped keys, reserved across nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use key_server_core::{KeyId, Time};
use key_server_projections::{Fleet, Hold, RedisFleet, Reservation, ReservationForModel};
use key_server_testkit::random::Random;
use key_server_testkit::redis::RedisServer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fixture::{Node, eventually, hold, key_id, model, runtime, server, session_ref, wait};

fn wanted(session: u32, count: usize, keys: &[(u32, Option<u32>)]) -> Reservation {
    let keys = keys.iter().map(|&(n, cap)| (key_id(n), cap)).collect();
    let models = vec![ReservationForModel { model: model(), count, is_needed: true, keys }];
    Reservation { session: session_ref(session), models }
}

fn reserve(fleet: &RedisFleet, wanted: &Reservation) -> Vec<KeyId> {
    wait(fleet.reserve(wanted)).unwrap().remove(0)
}

fn calls(server: &RedisServer) -> u64 {
    let info: String = server.ask(&["INFO", "commandstats"]).unwrap();
    let names = ["cmdstat_evalsha:", "cmdstat_eval:"];
    let lines = info.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
    let calls = lines.filter_map(|line| line.split_once("calls=")?.1.split_once(','));
    calls.map(|(calls, _)| calls.parse::<u64>().unwrap()).sum()
}

pub(crate) fn the_first_keys_with_room_are_given() {
    let server = server();
    let node = Node::new(&server.url(), "one");
    let keys = [(1, Some(1)), (2, Some(2)), (3, None), (4, Some(1))];
    assert_eq!(reserve(&node.fleet, &wanted(1, 2, &keys)), [key_id(1), key_id(2)]);
    assert_eq!(reserve(&node.fleet, &wanted(2, 2, &keys)), [key_id(2), key_id(3)]);
    assert_eq!(reserve(&node.fleet, &wanted(3, 9, &keys)), [key_id(3), key_id(4)]);
    // What it has reserved already has room for it.
    assert_eq!(reserve(&node.fleet, &wanted(1, 2, &keys)), [key_id(1), key_id(2)]);
    assert_eq!(reserve(&node.fleet, &wanted(4, 1, &[(1, Some(1))])), []);
}

pub(crate) fn several_models_are_reserved_in_one_call() {
    let server = server();
    let node = Node::new(&server.url(), "one");
    let first = wanted(1, 1, &[(1, Some(1)), (2, Some(1))]).models.remove(0);
    let second = ReservationForModel { model: "openai/o1".parse().unwrap(), ..first.clone() };
    let wanted = Reservation { session: session_ref(1), models: vec![first, second] };
    wait(node.fleet.reserve(&wanted)).unwrap();
    let before = calls(&server);
    // One key in two pools has one set of holders.
    assert_eq!(wait(node.fleet.reserve(&wanted)).unwrap(), [[key_id(1)], [key_id(1)]]);
    assert_eq!(calls(&server) - before, 1, "one round trip");
}

pub(crate) fn a_call_that_is_refused_leaves_nothing_reserved() {
    let server = server();
    let one = Node::new(&server.url(), "one");
    one.announce();
    reserve(&one.fleet, &wanted(1, 1, &[(2, Some(1))]));
    let until = Some(one.now().after(Duration::from_secs(60)));
    hold(key_id(3), session_ref(2), until).told_by(&one);
    let free = wanted(2, 2, &[(1, Some(1)), (3, Some(1))]).models.remove(0);
    let full = wanted(2, 1, &[(2, Some(1))]).models.remove(0);
    let full = ReservationForModel { model: "openai/o1".parse().unwrap(), ..full };
    let ask = |is_needed| {
        let full = ReservationForModel { is_needed, ..full.clone() };
        let models = vec![free.clone(), full];
        wait(one.fleet.reserve(&Reservation { session: session_ref(2), models })).unwrap()
    };
    let before = scores(&server, 3);
    assert_eq!(ask(true), [vec![key_id(1), key_id(3)], vec![]], "who had room is said");
    assert_eq!(scores(&server, 1), []);
    assert_eq!(scores(&server, 3), before, "what it holds it goes on holding");
    assert_eq!(ask(false), [vec![key_id(1), key_id(3)], vec![]]);
    assert_eq!(scores(&server, 1).len(), 1, "what the other model needs not");
}

fn scores(server: &RedisServer, n: u32) -> Vec<(String, f64)> {
    server.ask(&["ZRANGE", &cap_of(n), "0", "-1", "WITHSCORES"]).unwrap()
}

pub(crate) fn keys_without_caps_need_no_redis() {
    let node = Node::new("redis://127.0.0.1:1", "one");
    assert_eq!(reserve(&node.fleet, &wanted(1, 1, &[(1, None), (2, None)])), [key_id(1)]);
}

pub(crate) fn no_cap_is_exceeded_by_sixty_four_tasks_of_four_nodes() {
    let server = server();
    let nodes: Vec<Node> = (0..4).map(|n| Node::new(&server.url(), &format!("n{n}"))).collect();
    let caps: BTreeMap<u32, u32> = [(1, 1), (2, 3), (3, 7), (4, 20)].into();
    let keys: Vec<(u32, Option<u32>)> = caps.iter().map(|(n, cap)| (*n, Some(*cap))).collect();
    let mut tasks = JoinSet::new();
    for session in 0..64 {
        let fleet = Arc::clone(&nodes[session as usize % 4].fleet);
        let wanted = wanted(session, 1, &keys);
        let task = async move { (session, fleet.reserve(&wanted).await.unwrap().remove(0)) };
        tasks.spawn_on(task, runtime().handle());
    }
    let mut holders: BTreeMap<KeyId, BTreeSet<u32>> = BTreeMap::new();
    for (session, keys) in wait(tasks.join_all()) {
        for key in keys {
            holders.entry(key).or_default().insert(session);
        }
    }
    for (n, cap) in caps {
        assert_eq!(holders[&key_id(n)].len(), cap as usize, "all room of key {n} is used");
    }
}

pub(crate) fn a_reservation_goes_away_by_itself_unless_it_is_held() {
    let server = server();
    let node = Node::new(&server.url(), "one");
    node.announce();
    let keys = [(1, Some(1)), (2, Some(1))];
    assert_eq!(reserve(&node.fleet, &wanted(1, 2, &keys)).len(), 2);
    let until = Some(node.now().after(Duration::from_secs(60)));
    let hold = hold(key_id(2), session_ref(1), until);
    wait(node.fleet.hold(&[hold])).unwrap();
    assert_eq!(reserve(&node.fleet, &wanted(2, 2, &keys)), []);
    let begun = tokio::time::Instant::now();
    let given = eventually("the reservation is over", || {
        let given = reserve(&node.fleet, &wanted(2, 2, &keys));
        (!given.is_empty()).then_some(given)
    });
    assert_eq!(given, [key_id(1)]);
    assert!(begun.elapsed() > Duration::from_secs(8), "not before ten seconds are over");
}

pub(crate) fn room_that_is_given_back_is_given_again() {
    let server = server();
    let (one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    one.announce();
    let keys = [(1, Some(1))];
    let until = Some(one.now().after(Duration::from_secs(60)));
    let hold = |until| hold(key_id(1), session_ref(1), until);
    wait(one.fleet.hold(&[hold(until)])).unwrap();
    assert_eq!(reserve(&two.fleet, &wanted(2, 1, &keys)), []);
    wait(one.fleet.hold(&[hold(None), hold(None)])).unwrap();
    assert_eq!(reserve(&two.fleet, &wanted(2, 1, &keys)), [key_id(1)]);
}

/// What a node decided, and tells a moment later; absolute, and only the last.
async fn publish(fleet: Arc<RedisFleet>, mut decided: UnboundedReceiver<Hold>, mut random: Random) {
    while let Some(first) = decided.recv().await {
        let mut batch = BTreeMap::from([(first.session.clone(), first)]);
        tokio::time::sleep(Duration::from_millis(random.below(25) as u64)).await;
        while let Ok(later) = decided.try_recv() {
            batch.insert(later.session.clone(), later);
        }
        // A delay between the look and the telling, as a slow disk makes it.
        tokio::time::sleep(Duration::from_millis(random.below(8) as u64)).await;
        if fleet.hold(&batch.into_values().collect::<Vec<_>>()).await.is_err() {
            // The server ends with the test.
            return;
        }
    }
}

/// Nobody.
const NONE: u32 = u32::MAX;

/// Uses the one exclusive key through one node after the other, again and
/// again, in one session.
async fn use_key(
    nodes: [(Arc<RedisFleet>, UnboundedSender<Hold>); 2],
    (name, until): (u32, Time),
    holder: Arc<AtomicU32>,
    mut random: Random,
) -> u32 {
    let (begun, mut times) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(4) {
        let (fleet, decided) = &nodes[times as usize % 2];
        let given = fleet.reserve(&wanted(name, 1, &[(1, Some(1))])).await.unwrap();
        if given[0].is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let before = holder.swap(name, Ordering::SeqCst);
        assert_eq!(before, NONE, "{name} was given what {before} holds, time {times}");
        decided.send(hold(key_id(1), session_ref(name), Some(until))).unwrap();
        tokio::time::sleep(Duration::from_millis(random.below(40) as u64)).await;
        holder.store(NONE, Ordering::SeqCst);
        decided.send(hold(key_id(1), session_ref(name), None)).unwrap();
        times += 1;
        // At once at the other node; a node itself keeps its own in order.
        if times % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    times
}

pub(crate) fn a_session_that_moves_between_nodes_never_loses_its_reservation() {
    let server = server();
    let nodes = ["one", "two"].map(|name| Node::new(&server.url(), name));
    let until = nodes[0].now().after(Duration::from_secs(600));
    let holder = Arc::new(AtomicU32::new(NONE));
    let ends = [0, 1].map(|place: usize| {
        nodes[place].announce();
        let (sender, receiver) = unbounded_channel();
        let fleet = Arc::clone(&nodes[place].fleet);
        runtime().spawn(publish(Arc::clone(&fleet), receiver, Random::new(place as u64)));
        (fleet, sender)
    });
    let mut users = JoinSet::new();
    for name in 0..3 {
        let random = Random::new(10 + u64::from(name));
        let user = use_key(ends.clone(), (name, until), Arc::clone(&holder), random);
        users.spawn_on(user, runtime().handle());
    }
    let times = wait(users.join_all());
    assert!(times.iter().sum::<u32>() > 20, "the key went round: {times:?}");
}

pub(crate) fn no_node_ends_what_another_holds_of_the_same_session() {
    let server = server();
    let [one, two, other] = ["one", "two", "other"].map(|name| Node::new(&server.url(), name));
    one.announce();
    two.announce();
    let until = Some(one.now().after(Duration::from_secs(60)));
    let tell = |node: &Node, until| hold(key_id(1), session_ref(1), until).told_by(node);
    let is_free = || !reserve(&other.fleet, &wanted(2, 1, &[(1, Some(1))])).is_empty();
    let takes = |node: &Node| reserve(&node.fleet, &wanted(1, 1, &[(1, Some(1))])) == [key_id(1)];
    tell(&one, until);
    assert!(takes(&two), "the session moved");
    tell(&one, until);
    tell(&one, None);
    assert!(!is_free(), "it is reserved by the other node");
    tell(&two, until);
    tell(&one, None);
    assert!(!is_free(), "it is held at the other node");
    tell(&two, None);
    assert!(is_free(), "who holds it gave it back");
}

pub(crate) fn who_took_over_from_a_node_that_died_gives_back_for_it() {
    let server = server();
    let [one, two] = ["one", "two"].map(|name| Node::new(&server.url(), name));
    one.announce();
    two.announce();
    let until = Some(one.now().after(Duration::from_secs(60)));
    hold(key_id(1), session_ref(1), until).told_by(&one);
    let came = Hold { came_from: Some("one".into()), ..hold(key_id(1), session_ref(1), None) };
    came.told_by(&two);
    assert_eq!(reserve(&two.fleet, &wanted(2, 1, &[(1, Some(1))])), [key_id(1)]);
}

pub(crate) fn what_is_given_back_while_it_is_reserved_again_stays_reserved() {
    let server = server();
    let one = Node::new(&server.url(), "one");
    one.announce();
    let until = Some(one.now().after(Duration::from_secs(60)));
    let keys = [(1, Some(1))];
    hold(key_id(1), session_ref(1), until).told_by(&one);
    let given_back = hold(key_id(1), session_ref(1), None);
    Hold { is_reserving: true, ..given_back.clone() }.told_by(&one);
    assert_eq!(reserve(&one.fleet, &wanted(2, 1, &keys)), []);
    let scores = scores(&server, 1);
    let now: (u64, u64) = server.ask(&["TIME"]).unwrap();
    assert!(scores[0].1 / 1e6 < now.0 as f64 + 11.0, "for a moment: {scores:?}");
    given_back.told_by(&one);
    assert_eq!(reserve(&one.fleet, &wanted(2, 1, &keys)), [key_id(1)]);
}

fn cap_of(n: u32) -> String {
    format!("keys:cap:{{caps}}:{}", key_id(n))
}

trait Told {
    fn told_by(self, node: &Node);
}

impl Told for Hold {
    fn told_by(self, node: &Node) {
        wait(node.fleet.hold(&[self])).unwrap();
    }
}

pub(crate) fn a_hold_beyond_its_cap_is_kept() {
    let server = server();
    let node = Node::new(&server.url(), "one");
    node.announce();
    let until = Some(node.now().after(Duration::from_secs(60)));
    let holds: Vec<_> = (0..3).map(|n| hold(key_id(1), session_ref(n), until)).collect();
    wait(node.fleet.hold(&holds)).unwrap();
    wait(node.fleet.hold(&holds)).unwrap();
    assert_eq!(reserve(&node.fleet, &wanted(9, 1, &[(1, Some(2))])), []);
    assert_eq!(reserve(&node.fleet, &wanted(1, 1, &[(1, Some(2))])), [key_id(1)]);
}
