//! What goes wrong with servers and connections, and what comes of it.

use std::time::Duration;

use key_server_core::Changes;
use key_server_projections::{
    Fleet, Projection, ProjectionError, Reservation, ReservationForModel,
};
use key_server_testkit::proxy::{Proxy, Weather};
use key_server_testkit::redis::{PASSWORD, RedisServer, USER};
use tokio::time::{Instant, timeout};

use crate::fixture::{
    Node, eventually, hash, hold, key, key_id, model, next_rows, server, session_ref, settings,
    some_rows, wait,
};

/// Short, so that what must not take longer is seen soon.
const TIMEOUT: Duration = Duration::from_millis(400);

fn impatient(url: &str) -> Node {
    let mut settings = settings(url, "one");
    settings.timeout = TIMEOUT;
    Node::with(settings)
}

fn refused(node: &mut Node, seq: u64) -> String {
    let changes = some_rows(seq, node.now());
    let refused = node.try_write(seq, &changes).unwrap_err();
    assert!(matches!(refused, ProjectionError::Unavailable { .. }), "{refused}");
    refused.to_string()
}

fn is_lost(node: &mut Node, seq: u64) {
    let changes = some_rows(seq, node.now());
    let lost = node.try_write(seq, &changes).unwrap_err();
    assert!(matches!(lost, ProjectionError::Corrupt { .. }), "{lost}");
}

pub(crate) fn rows_that_were_flushed_are_noticed_and_written_anew() {
    let server = server();
    let (mut one, two) = (Node::new(&server.url(), "one"), Node::new(&server.url(), "two"));
    one.announce();
    two.announce();
    one.write(1, &some_rows(1, one.now()));
    server.ask::<()>(&["FLUSHALL"]).unwrap();
    // Between two announcements: the next batch alone is not the whole.
    is_lost(&mut one, 2);
    assert_eq!(two.read("one").0, None);
    assert_eq!(one.announce().mark_seq, None);
    one.projection.clear().unwrap();
    one.write(2, &some_rows(2, one.now()));
    assert_eq!(one.announce().mark_seq, Some(2));
    assert_eq!(two.read("one").0, Some(2));
    assert_eq!(wait(two.fleet.others()).unwrap().len(), 1);
}

pub(crate) fn rows_that_somebody_deleted_are_noticed() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    for name in ["keys:keys:{one}", "keys:sessions:{one}"] {
        one.projection.clear().unwrap();
        one.write(1, &some_rows(1, one.now()));
        assert_eq!(one.announce().mark_seq, Some(1));
        server.ask::<()>(&["DEL", name]).unwrap();
        is_lost(&mut one, 2);
        assert_eq!(one.announce().mark_seq, None, "{name}");
        assert_eq!(one.mark_seq(), None, "nobody takes it for the whole: {name}");
    }
}

pub(crate) fn a_restart_without_data_is_noticed() {
    let mut server = server();
    let mut one = Node::new(&server.url(), "one");
    one.write(1, &some_rows(1, one.now()));
    server.kill_and_forget().unwrap();
    refused(&mut one, 2);
    server.resume().unwrap();
    is_lost(&mut one, 2);
    assert_eq!(one.announce().mark_seq, None);
    one.projection.clear().unwrap();
    one.write(2, &some_rows(2, one.now()));
    assert_eq!(one.mark_seq(), Some(2));
}

pub(crate) fn after_twenty_kills_the_rows_are_those_of_the_books() {
    let mut server = RedisServer::start(&["appendonly yes", "appendfsync everysec"]).unwrap();
    let mut one = impatient(&server.url());
    let two = Node::new(&server.url(), "two");
    let (mut seq, mut anew) = (0, 0);
    for kill in 0..20 {
        for _ in 0..=kill % 4 {
            seq += 1;
            write_until_there(&mut one, seq, &mut anew);
        }
        server.kill().unwrap();
        seq += 1;
        refused(&mut one, seq);
        server.resume().unwrap();
        write_until_there(&mut one, seq, &mut anew);
    }
    two.announce();
    let (read, rows) = two.read("one");
    assert_eq!(read, Some(seq));
    let books: Vec<u64> = rows.keys.iter().map(|row| row.lifetime.requests).collect();
    assert_eq!(books, [seq, 2 * seq], "{anew} times anew");
    assert_eq!(rows.sessions.len() as u64, seq);
}

/// As the server does it: the same batch again, and everything when some of it
/// is lost. Batch `n` opens session `n`; none ends.
fn write_until_there(node: &mut Node, seq: u64, anew: &mut u32) {
    eventually("the batch is there", || {
        let changes = some_rows(seq, node.now());
        match node.try_write(seq, &changes) {
            Ok(()) => Some(()),
            Err(ProjectionError::Corrupt { .. }) => {
                *anew += 1;
                let mut all = some_rows(seq, node.now());
                let earlier = (1..seq).flat_map(|seq| some_rows(seq, node.now()).sessions);
                all.sessions.extend(earlier);
                node.projection.clear().ok()?;
                node.try_write(seq, &all).ok()
            }
            Err(_) => None,
        }
    });
}

pub(crate) fn calls_end_in_time_when_the_server_hangs() {
    let server = server();
    let mut one = impatient(&server.url());
    one.announce();
    one.write(1, &some_rows(1, one.now()));
    let capped = capped(1);
    wait(one.fleet.reserve(&capped)).unwrap();
    server.freeze().unwrap();
    let in_time = |what: &str, call: &mut dyn FnMut() -> bool| {
        let begun = Instant::now();
        assert!(call(), "{what} fails");
        assert!(begun.elapsed() < 3 * TIMEOUT, "{what} took {:?}", begun.elapsed());
    };
    for _ in 0..2 {
        in_time("a write", &mut || !refused(&mut one, 2).is_empty());
        in_time("a mark", &mut || one.projection.mark().is_err());
        in_time("an announcement", &mut || one.try_announce().is_err());
        in_time("a look at others", &mut || wait(one.fleet.others()).is_err());
        in_time("a reservation", &mut || wait(one.fleet.reserve(&capped)).is_err());
        in_time("a subscription", &mut || wait(one.fleet.listen()).is_err());
    }
    server.thaw().unwrap();
    eventually("it goes on", || one.try_announce().ok());
    one.write(2, &some_rows(2, one.now()));
    assert_eq!(one.mark_seq(), Some(2));
}

pub(crate) fn a_full_server_is_named_with_its_cure() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    one.write(1, &some_rows(1, one.now()));
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let text = refused(&mut one, 2);
    assert!(text.contains("maxmemory"), "{text}");
    assert_eq!(one.mark_seq(), Some(1));
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    one.write(2, &some_rows(2, one.now()));
}

pub(crate) fn keys_of_something_else_are_named_with_their_cure() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    server.ask::<()>(&["SET", "keys:keys:{one}", "of something else"]).unwrap();
    let text = refused(&mut one, 1);
    assert!(text.contains("another database"), "{text}");
    server.ask::<()>(&["DEL", "keys:keys:{one}"]).unwrap();
    one.write(1, &some_rows(1, one.now()));
}

pub(crate) fn a_read_only_replica_is_named_with_its_cure() {
    let master = server();
    let replica = RedisServer::start(&[&format!("replicaof 127.0.0.1 {}", master.port())]).unwrap();
    let mut one = Node::new(&replica.url(), "one");
    let text = refused(&mut one, 1);
    assert!(text.contains("replica") && text.contains("name its master"), "{text}");
    let text = one.try_announce().unwrap_err().to_string();
    assert!(text.contains("name its master"), "{text}");
}

pub(crate) fn a_wrong_password_is_said_without_it() {
    let server = server();
    let wrong = "fake-wrong-password";
    let url = format!("redis://{USER}:{wrong}@127.0.0.1:{}", server.port());
    let mut one = Node::new(&url, "one");
    let text = refused(&mut one, 1);
    assert!(text.contains("KEY_SERVER_REDIS_PASSWORD_FILE"), "{text}");
    let listening = wait(one.fleet.listen()).err().unwrap().to_string();
    let texts = format!("{text} {listening} {:?}", settings(&url, "one"));
    assert!(!texts.contains(wrong), "{texts}");
    let mut nobody = Node::new(&format!("redis://127.0.0.1:{}", server.port()), "one");
    let text = refused(&mut nobody, 1);
    assert!(text.contains("KEY_SERVER_REDIS_PASSWORD_FILE"), "{text}");
    assert!(!PASSWORD.is_empty());
}

pub(crate) fn missing_rights_are_named_with_their_cure() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    one.write(1, &some_rows(1, one.now()));
    for right in ["publish", "hset", "evalsha"] {
        server.ask::<()>(&["ACL", "SETUSER", USER, &format!("-{right}")]).unwrap();
        let text = refused(&mut one, 2);
        assert!(text.contains("docs/redis.md"), "-{right}: {text}");
        assert_eq!(one.mark_seq(), Some(1), "-{right}");
        server.ask::<()>(&["ACL", "SETUSER", USER, &format!("+{right}")]).unwrap();
    }
    // What is only for warnings is not needed.
    server.ask::<()>(&["ACL", "SETUSER", USER, "-info", "-config|get"]).unwrap();
    assert_eq!(Node::new(&server.url(), "two").announce().warnings, [""; 0]);
    one.write(2, &some_rows(2, one.now()));
}

/// Services that run a Redis for others take some away.
pub(crate) fn commands_that_the_server_does_not_have_are_not_needed() {
    let server = RedisServer::start(&["rename-command CONFIG \"\""]).unwrap();
    let mut one = Node::new(&server.url(), "one");
    assert_eq!(one.announce().warnings, [""; 0]);
    one.write(1, &some_rows(1, one.now()));
    let settings = ["rename-command CONFIG \"\"", "rename-command INFO \"\""];
    let server = RedisServer::start(&settings).unwrap();
    assert_eq!(Node::new(&server.url(), "one").announce().warnings, [""; 0]);
}

pub(crate) fn operators_are_told_what_they_should_change() {
    let settings = ["maxmemory 100mb", "maxmemory-policy allkeys-lru"];
    let server = RedisServer::start(&settings).unwrap();
    let one = Node::new(&server.url(), "one");
    let warnings = one.announce().warnings.join("\n");
    assert!(warnings.contains("maxmemory-policy noeviction"), "{warnings}");
    assert_eq!(one.announce().warnings.join("\n"), warnings, "as long as it is so");
    let server = RedisServer::start(&["appendonly yes"]).unwrap();
    assert_eq!(Node::new(&server.url(), "one").announce().warnings, [""; 0]);
}

pub(crate) fn what_an_operator_changes_at_the_server_is_noticed_within_a_minute() {
    let server = RedisServer::start(&["maxmemory 100mb"]).unwrap();
    let one = Node::new(&server.url(), "one");
    // One a second.
    let a_minute_later = || (0..60).map(|_| one.announce().warnings.join("\n")).last().unwrap();
    assert_eq!(one.announce().warnings, [""; 0]);
    for (policy, expected) in [("allkeys-lru", true), ("noeviction", false)] {
        server.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", policy]).unwrap();
        let warnings = a_minute_later();
        assert_eq!(warnings.contains("maxmemory-policy allkeys-lru"), expected, "{warnings}");
    }
}

pub(crate) fn two_processes_of_one_node_are_noticed() {
    let server = server();
    let before = Node::new(&server.url(), "one");
    assert_eq!(before.announce().warnings, [""; 0]);
    // A restart is none of that.
    let one = Node::new(&server.url(), "one");
    for _ in 0..2 {
        assert_eq!(one.announce().warnings, [""; 0]);
    }
    let copy = Node::new(&server.url(), "one");
    assert_eq!(copy.announce().warnings, [""; 0]);
    for node in [&one, &copy] {
        let warnings = node.announce().warnings.join("\n");
        assert!(warnings.contains("another server announces itself as this node"), "{warnings}");
    }
    copy.announce();
    assert_eq!(copy.announce().warnings, [""; 0], "the other is gone");
}

pub(crate) fn scripts_that_the_server_forgot_are_sent_again() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    one.write(1, &some_rows(1, one.now()));
    server.ask::<()>(&["SCRIPT", "FLUSH"]).unwrap();
    one.write(2, &some_rows(2, one.now()));
    assert_eq!(one.mark_seq(), Some(2));
}

pub(crate) fn a_connection_that_was_cut_is_made_anew() {
    let server = server();
    let proxy = Proxy::to(server.port()).unwrap();
    let mut one = impatient(&server.url_at(proxy.port()));
    one.announce();
    for seq in 1..4 {
        proxy.cut();
        eventually("it is written", || {
            let changes = some_rows(seq, one.now());
            one.try_write(seq, &changes).ok()
        });
    }
    proxy.set(Weather::Refusing);
    proxy.cut();
    refused(&mut one, 4);
    proxy.set(Weather::Fine);
    one.write(4, &some_rows(4, one.now()));
    assert_eq!(one.mark_seq(), Some(4));
}

fn capped(session: u32) -> Reservation {
    let keys = vec![(key_id(1), Some(1))];
    let models = vec![ReservationForModel { model: model(), count: 1, is_needed: true, keys }];
    Reservation { session: session_ref(session), models }
}

/// Redis's `timeout`, a restart, an operator: the node hears of none of them.
pub(crate) fn a_connection_that_was_closed_while_idle_costs_no_reservation() {
    let mut server = server();
    let one = Node::new(&server.url(), "one");
    one.announce();
    let reserve = || wait(one.fleet.reserve(&capped(1))).unwrap();
    reserve();
    server.ask::<i64>(&["CLIENT", "KILL", "USER", USER]).unwrap();
    assert_eq!(reserve(), [[key_id(1)]]);
    server.ask::<i64>(&["CLIENT", "KILL", "USER", USER]).unwrap();
    let until = Some(one.now().after(Duration::from_secs(60)));
    let hold = hold(key_id(1), session_ref(1), until);
    wait(one.fleet.hold(&[hold])).unwrap();
    server.kill().unwrap();
    server.resume().unwrap();
    assert_eq!(reserve(), [[key_id(1)]]);
    server.kill().unwrap();
    assert!(wait(one.fleet.reserve(&capped(1))).is_err(), "once more is enough");
}

/// What is no reservation may have been done: only its position tells.
pub(crate) fn a_write_on_a_connection_that_was_closed_is_not_sent_again() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    one.write(1, &some_rows(1, one.now()));
    server.ask::<i64>(&["CLIENT", "KILL", "USER", USER]).unwrap();
    refused(&mut one, 2);
    one.write(2, &some_rows(2, one.now()));
}

/// A connection that leads nowhere says nothing, and its callers do not wait.
pub(crate) fn a_connection_that_was_not_waited_for_is_made_anew() {
    let server = server();
    let proxy = Proxy::to(server.port()).unwrap();
    let one = Node::new(&server.url_at(proxy.port()), "one");
    wait(one.fleet.reserve(&capped(1))).unwrap();
    let connections = || proxy.connections();
    assert_eq!(connections(), 1);
    proxy.set(Weather::RepliesLost);
    let wanted = capped(1);
    let impatient = async { timeout(TIMEOUT, one.fleet.reserve(&wanted)).await };
    assert!(wait(impatient).is_err(), "it has not answered");
    proxy.set(Weather::Fine);
    assert_eq!(wait(one.fleet.reserve(&capped(1))).unwrap(), [[key_id(1)]]);
    assert_eq!(connections(), 2);
}

pub(crate) fn lost_replies_never_lead_to_wrong_values() {
    let server = server();
    let proxy = Proxy::to(server.port()).unwrap();
    let mut one = impatient(&server.url_at(proxy.port()));
    let mut two = Node::new(&server.url(), "two");
    two.announce();
    one.announce();
    let weathers = [
        Weather::RepliesLost,
        Weather::Fine,
        Weather::CutAfter(3),
        Weather::Slow(Duration::from_millis(30)),
        Weather::RepliesLost,
        Weather::Slow(2 * TIMEOUT),
        Weather::Refusing,
    ];
    for seq in 1..15 {
        proxy.set(weathers[seq as usize % weathers.len()]);
        let changes = some_rows(seq, one.now());
        if one.try_write(seq, &changes).is_err() {
            proxy.set(Weather::Fine);
            proxy.cut();
            // The same batch again, or with what came since: both are right.
            eventually("it is written", || {
                let changes = some_rows(seq, one.now());
                one.try_write(seq, &changes).ok()
            });
        }
        let (read, rows) = two.read("one");
        assert_eq!(read, Some(seq));
        assert_eq!(rows.keys[0].lifetime.requests, seq);
        assert_eq!(rows.sessions.len() as u64, seq);
    }
    two.write(1, &Changes::default());
}

pub(crate) fn a_reply_that_was_lost_is_not_taken_for_a_loss_of_rows() {
    let server = server();
    let proxy = Proxy::to(server.port()).unwrap();
    let mut one = impatient(&server.url_at(proxy.port()));
    one.write(1, &some_rows(1, one.now()));
    proxy.set(Weather::RepliesLost);
    refused(&mut one, 2);
    assert_eq!(hash(&server, "keys:node:{one}")["seq"], "2", "it was written");
    proxy.set(Weather::Fine);
    // The batch has grown meanwhile.
    one.write(3, &some_rows(3, one.now()));
    assert_eq!(one.mark_seq(), Some(3));
}

pub(crate) fn a_broken_subscription_says_so() {
    let mut server = server();
    let proxy = Proxy::to(server.port()).unwrap();
    let two = impatient(&server.url_at(proxy.port()));
    two.announce();
    let mut listen = two.listen("three");
    proxy.cut();
    assert!(wait(listen.next()).is_err());
    assert!(wait(listen.next()).is_err(), "and says so again");
    let mut listen = two.listen("three");
    let mut three = Node::new(&server.url(), "three");
    three.write(1, &some_rows(1, three.now()));
    assert_eq!(next_rows(&mut listen).1, 1);
    server.kill().unwrap();
    assert!(wait(listen.next()).is_err());
    server.resume().unwrap();
    let mut listen = two.listen("three");
    // No word comes over the connection any more, and it is not closed.
    server.freeze().unwrap();
    assert!(wait(listen.next()).is_err());
    server.thaw().unwrap();
}

pub(crate) fn news_that_nobody_takes_do_not_pile_up_without_end() {
    let server = server();
    let two = Node::new(&server.url(), "two");
    two.announce();
    let mut listen = two.listen("one");
    let text = format!(r#"{{"from":1,"to":2,"more":"{}"}}"#, "x".repeat(1 << 20));
    let mut connection = server.connect().unwrap();
    for _ in 0..60 {
        let mut command = redis::cmd("PUBLISH");
        command.arg("keys:changes:one").arg(&text);
        command.exec(&mut connection).unwrap();
    }
    eventually("nothing waits at the server", || {
        let list: String = server.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).unwrap();
        (list.is_empty() || list.contains("omem=0 ")).then_some(())
    });
    let mut heard = 0;
    let broken = loop {
        match wait(listen.next()) {
            Ok(_) => heard += 1,
            Err(broken) => break broken.to_string(),
        }
    };
    assert!(heard < 60, "{heard} pieces of news: {broken}");
}

pub(crate) fn a_long_read_does_not_delay_what_is_published() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    one.announce();
    let keys = (0..1_000).map(|n| key(n, 1, one.now())).collect();
    one.write(1, &Changes { keys, ..Changes::default() });
    let clients = || {
        let list: String = server.ask(&["CLIENT", "LIST"]).unwrap();
        list.lines().filter(|line| line.contains(&format!("user={USER}"))).count()
    };
    assert_eq!(clients(), 1);
    assert_eq!(one.read("one").1.keys.len(), 1_000);
    assert_eq!(clients(), 2, "reading has a connection of its own");
}
