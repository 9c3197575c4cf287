//! Capped keys, reserved across nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use key_server_core::KeyId;
use key_server_projections::{Fleet, Hold, RedisFleet, Reservation, ReservationForModel};
use key_server_testkit::redis::RedisServer;

use crate::fixture::{Node, eventually, key_id, model, runtime, server, session_ref, wait};

fn wanted(session: u32, count: usize, keys: &[(u32, Option<u32>)]) -> Reservation {
    let keys = keys.iter().map(|&(n, cap)| (key_id(n), cap)).collect();
    let models = vec![ReservationForModel { model: model(), count, keys }];
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

pub(crate) fn keys_without_caps_need_no_redis() {
    let node = Node::new("redis://127.0.0.1:1", "one");
    assert_eq!(reserve(&node.fleet, &wanted(1, 1, &[(1, None), (2, None)])), [key_id(1)]);
}

pub(crate) fn no_cap_is_exceeded_by_sixty_four_tasks_of_four_nodes() {
    let server = server();
    let nodes: Vec<Node> = (0..4).map(|n| Node::new(&server.url(), &format!("n{n}"))).collect();
    let caps: BTreeMap<u32, u32> = [(1, 1), (2, 3), (3, 7), (4, 20)].into();
    let keys: Vec<(u32, Option<u32>)> = caps.iter().map(|(n, cap)| (*n, Some(*cap))).collect();
    let mut tasks = tokio::task::JoinSet::new();
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
    let hold = Hold { key: key_id(2), session: session_ref(1), until };
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
    let hold = |until| Hold { key: key_id(1), session: session_ref(1), until };
    wait(one.fleet.hold(&[hold(until)])).unwrap();
    assert_eq!(reserve(&two.fleet, &wanted(2, 1, &keys)), []);
    wait(one.fleet.hold(&[hold(None), hold(None)])).unwrap();
    assert_eq!(reserve(&two.fleet, &wanted(2, 1, &keys)), [key_id(1)]);
}

pub(crate) fn a_hold_beyond_its_cap_is_kept() {
    let server = server();
    let node = Node::new(&server.url(), "one");
    node.announce();
    let until = Some(node.now().after(Duration::from_secs(60)));
    let holds: Vec<Hold> =
        (0..3).map(|n| Hold { key: key_id(1), session: session_ref(n), until }).collect();
    wait(node.fleet.hold(&holds)).unwrap();
    wait(node.fleet.hold(&holds)).unwrap();
    assert_eq!(reserve(&node.fleet, &wanted(9, 1, &[(1, Some(2))])), []);
    assert_eq!(reserve(&node.fleet, &wanted(1, 1, &[(1, Some(2))])), [key_id(1)]);
}
