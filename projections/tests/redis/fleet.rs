//! Nodes that learn of each other.

use std::time::Duration;

use key_server_core::{Changes, NodeRows, PoolStats};
use key_server_projections::{Fleet, News, ProjectionError};

use crate::fixture::{
    Node, eventually, hash, key, key_id, model, next_rows, server, session, session_ref, some_rows,
    wait,
};

pub(crate) fn what_one_node_writes_another_hears_and_reads() {
    let server = server();
    let (mut one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    one.announce();
    two.announce();
    let mut listen = two.listen("one");
    let changes = some_rows(1, one.now());
    one.write(1, &changes);
    let (from, to, heard) = next_rows(&mut listen);
    assert_eq!((from, to), (None, 1));
    assert_eq!(heard.keys.len(), 2);
    assert_eq!(heard.sessions[0].session, session_ref(1));
    assert_eq!(two.read("one"), (Some(1), heard));
    let mut ended = session(1, &[], one.now());
    ended.ended = true;
    one.write(3, &Changes { sessions: vec![ended], ..Changes::default() });
    let (from, to, heard) = next_rows(&mut listen);
    assert_eq!((from, to), (Some(1), 3));
    let ended = NodeRows { ended: vec![session_ref(1)], ..NodeRows::default() };
    assert_eq!(heard, ended);
    let (seq, rows) = two.read("one");
    assert_eq!((seq, rows.sessions), (Some(3), vec![]));
}

pub(crate) fn news_that_were_missed_leave_a_gap() {
    let server = server();
    let (mut one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    two.announce();
    one.write(1, &some_rows(1, one.now()));
    one.write(2, &some_rows(2, one.now()));
    let mut listen = two.listen("one");
    one.write(5, &some_rows(5, one.now()));
    let (from, to, _) = next_rows(&mut listen);
    assert_eq!((from, to), (Some(2), 5));
    assert_eq!(two.read("one").0, Some(5));
}

pub(crate) fn a_node_that_joins_is_heard_of() {
    let server = server();
    let (one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    two.announce();
    let mut listen = wait(two.fleet.listen()).unwrap();
    one.announce();
    one.announce();
    assert_eq!(wait(listen.next()).unwrap(), News::Joined { node: "one".into() });
    server.ask::<()>(&["FLUSHALL"]).unwrap();
    one.announce();
    assert_eq!(wait(listen.next()).unwrap(), News::Joined { node: "one".into() });
}

pub(crate) fn a_list_of_nodes_that_was_lost_is_there_with_the_next_announcement() {
    let server = server();
    let (one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    two.announce();
    one.announce();
    one.announce();
    let mut listen = wait(two.fleet.listen()).unwrap();
    server.ask::<()>(&["DEL", "keys:nodes"]).unwrap();
    one.announce();
    assert_eq!(wait(listen.next()).unwrap(), News::Joined { node: "one".into() });
    assert_eq!(wait(two.fleet.others()).unwrap().len(), 1);
    let ms: i64 = server.ask(&["PTTL", "keys:nodes"]).unwrap();
    assert!(ms > 0, "it does not expire");
    // As when another node took it for gone while it announced itself.
    server.ask::<()>(&["SREM", "keys:nodes", "one"]).unwrap();
    one.announce();
    assert_eq!(wait(listen.next()).unwrap(), News::Joined { node: "one".into() });
}

pub(crate) fn others_are_named_with_mark_and_silence() {
    let server = server();
    let (mut one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    one.announce();
    assert_eq!(wait(one.fleet.others()).unwrap(), []);
    two.announce();
    one.write(4, &Changes::default());
    let others = wait(two.fleet.others()).unwrap();
    assert_eq!(others.len(), 1);
    assert_eq!((&*others[0].node, others[0].mark_seq), ("one", Some(4)));
    assert_eq!(others[0].version, "0.1.0");
    let silent = eventually("it is silent for a while", || {
        let others = wait(two.fleet.others()).unwrap();
        Some(others[0].silent_for).filter(|silent| *silent > Duration::from_millis(50))
    });
    assert!(silent < Duration::from_secs(10));
}

pub(crate) fn a_node_that_left_is_not_missed_until_it_comes_again() {
    let server = server();
    let (one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    one.announce();
    two.announce();
    let has_left = || wait(two.fleet.others()).unwrap()[0].has_left;
    assert!(!has_left());
    wait(one.fleet.leave()).unwrap();
    assert!(has_left());
    one.announce();
    assert!(!has_left());
}

pub(crate) fn a_node_that_is_gone_is_forgotten() {
    let server = server();
    let (one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    let pool = |model| PoolStats { model, usable: 2, cooling: 1, at_cap: 0 };
    let mut status = one.status();
    status.pools = Some(vec![pool(model()), pool("openai/o1".parse().unwrap())]);
    wait(one.fleet.announce(&status)).unwrap();
    status.now = two.now();
    status.pools = Some(vec![pool(model())]);
    wait(two.fleet.announce(&status)).unwrap();
    let of_pool = hash(&server, "keys:pool:openai/gpt-4o");
    assert_eq!(of_pool["one"], "keys=3 usable=2 cooling=1 at_cap=0");
    // As when nobody renewed it for seven days, or an operator typed it.
    assert_eq!(two.fleet.how_to_forget("one"), "redis-cli del 'keys:node:{one}'");
    server.ask::<()>(&["DEL", "keys:node:{one}"]).unwrap();
    assert_eq!(wait(two.fleet.others()).unwrap(), []);
    let nodes: Vec<String> = server.ask(&["SMEMBERS", "keys:nodes"]).unwrap();
    assert_eq!(nodes, ["two"]);
    assert_eq!(hash(&server, "keys:pool:openai/gpt-4o").len(), 1);
    assert_eq!(hash(&server, "keys:pool:openai/o1").len(), 0);
}

pub(crate) fn a_pool_that_is_gone_is_taken_out() {
    let server = server();
    let one = Node::new(&server.url(), "one");
    let mut status = one.status();
    let pool = PoolStats { model: model(), usable: 1, cooling: 0, at_cap: 0 };
    status.pools = Some(vec![pool]);
    wait(one.fleet.announce(&status)).unwrap();
    for node in [&one, &Node::new(&server.url(), "one")] {
        wait(one.fleet.announce(&status)).unwrap();
        assert_eq!(hash(&server, "keys:pool:openai/gpt-4o").len(), 1);
        // The second one was started again, and does not remember.
        let mut without = node.status();
        without.pools = Some(Vec::new());
        wait(node.fleet.announce(&without)).unwrap();
        assert_eq!(hash(&server, "keys:pool:openai/gpt-4o").len(), 0);
    }
}

pub(crate) fn a_node_that_is_an_hour_ahead_publishes_instants_that_others_read_right() {
    let server = server();
    let hour = Duration::from_secs(3_600);
    let mut one = Node::new(&server.url(), "one").ahead(hour);
    let two = Node::new(&server.url(), "two");
    one.announce();
    two.announce();
    let mut listen = two.listen("one");
    let (there, here) = (one.now(), two.now());
    assert!(there.since(here) > Duration::from_secs(3_590));
    let mut cooling = key(1, 3, there);
    cooling.cooling = vec![(model(), there.after(Duration::from_secs(60)))];
    one.write(1, &Changes { keys: vec![cooling], ..Changes::default() });
    let (_, rows) = two.read("one");
    let row = &rows.keys[0];
    let near = |time: key_server_core::Time, expected: key_server_core::Time| {
        let apart = time.as_ms().abs_diff(expected.as_ms());
        assert!(apart < 500, "{apart} ms apart");
    };
    near(row.last_used.unwrap(), here);
    near(row.cooling[0].1, here.after(Duration::from_secs(60)));
    assert!(row.window[0].0.abs_diff((here.as_ms() / 60_000) as u32) <= 1);
    assert_eq!(next_rows(&mut listen).2.keys[0], *row);
}

pub(crate) fn a_clock_that_moved_is_noticed_and_rows_are_published_anew() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    assert!(!one.announce().clock_moved);
    one.write(1, &some_rows(1, one.now()));
    let mut one = one.ahead(Duration::from_secs(5));
    let announced = one.announce();
    assert!(announced.clock_moved);
    assert_eq!(announced.mark_seq, None, "nobody takes what is wrong for the whole");
    assert_eq!(one.mark_seq(), None);
    one.write(1, &some_rows(1, one.now()));
    assert!(!one.announce().clock_moved);
    assert_eq!(one.mark_seq(), Some(1));
    // The same when it happened while the node was down.
    let one = Node::new(&server.url(), "one").ahead(Duration::from_secs(3_600));
    assert!(one.announce().clock_moved);
}

pub(crate) fn batches_of_many_rows_are_written_in_pieces() {
    let server = server();
    let (mut one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    one.announce();
    two.announce();
    let keys = (0..2_500).map(|n| key(n, 1, one.now())).collect();
    let sessions = (0..2_500).map(|n| session(n, &[n], one.now())).collect();
    one.write(1, &Changes { keys, sessions, ..Changes::default() });
    let (seq, rows) = two.read("one");
    assert_eq!((seq, rows.keys.len(), rows.sessions.len()), (Some(1), 2_500, 2_500));
    let mut listen = two.listen("one");
    let keys = (0..2_500).map(|n| key(n, 2, one.now())).collect();
    let forgotten = (0..2_500).map(session_ref).collect();
    one.write(2, &Changes { keys, forgotten, ..Changes::default() });
    let (mut seqs, mut heard) = (Vec::new(), 0);
    while seqs.last() != Some(&(Some(1), 2)) {
        let (from, to, rows) = next_rows(&mut listen);
        seqs.push((from, to));
        heard += rows.keys.len() + rows.ended.len();
    }
    assert_eq!(heard, 5_000);
    assert!(seqs[..seqs.len() - 1].iter().all(|seq| *seq == (Some(1), 1)), "{seqs:?}");
    assert_eq!(two.read("one").1.sessions, []);
}

pub(crate) fn a_row_that_cannot_be_read_is_named() {
    let server = server();
    let (mut one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    two.announce();
    one.write(1, &some_rows(1, one.now()));
    let id = key_id(1).to_string();
    server.ask::<()>(&["HSET", "keys:keys:{one}", &id, "{\"used\":\"x\"}"]).unwrap();
    let refused = two.try_read("one").unwrap_err();
    assert!(matches!(refused, ProjectionError::Corrupt { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("keys:keys:{one}") && text.contains(&id), "{text}");
    assert!(text.contains("redis-cli del 'keys:keys:{one}'"), "{text}");
    server.ask::<()>(&["DEL", "keys:keys:{one}"]).unwrap();
    assert_eq!(one.announce().mark_seq, None, "it writes them again");
    server.ask::<()>(&["SET", "keys:keys:{one}", "something else"]).unwrap();
    server.ask::<()>(&["HSET", "keys:node:{one}", "seq", "1"]).unwrap();
    let refused = two.try_read("one").unwrap_err();
    assert!(matches!(refused, ProjectionError::Corrupt { .. }), "{refused}");
}

pub(crate) fn a_node_that_says_nonsense_of_itself_hides_no_other() {
    let server = server();
    let (one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    let three = Node::new(&server.url(), "three");
    [&one, &two, &three].into_iter().for_each(|node| drop(node.announce()));
    server.ask::<()>(&["HSET", "keys:node:{one}", "seq", "x", "heartbeat", "y"]).unwrap();
    let others = wait(two.fleet.others()).unwrap();
    let mut others: Vec<_> = others.iter().map(|one| (&*one.node, one.mark_seq)).collect();
    others.sort_unstable();
    assert_eq!(others, [("one", None), ("three", None)]);
}

pub(crate) fn a_node_that_published_nothing_is_read_as_none() {
    let server = server();
    let (mut one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    two.announce();
    assert_eq!(two.read("one"), (None, NodeRows::default()));
    one.write(1, &some_rows(1, one.now()));
    key_server_projections::Projection::clear(&mut one.projection).unwrap();
    assert_eq!(two.read("one"), (None, NodeRows::default()));
}
