//! Caps that hold among all nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use key_server_proto::v1;
use key_server_testkit::client::Client;
use key_server_testkit::process::Home;
use key_server_testkit::redis::RedisServer;
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use tokio::time::Instant;
use tonic::Code;

use crate::nodes::{Node, home_at, run, wait};
use crate::support::{OPENAI, reason, release, select, spawn, until, within};

pub(crate) const TESTS: &[Test] = &tests![
    sixty_four_clients_of_four_nodes_never_share_an_exclusive_key,
    a_key_given_back_at_one_node_can_be_taken_at_another,
    what_was_given_back_before_redis_forgot_it_can_be_taken,
    what_was_given_back_by_a_node_that_died_can_be_taken,
    what_a_dead_node_held_is_free_when_another_releases_it,
    a_key_that_its_session_takes_again_at_once_is_not_given_to_another,
    a_key_that_is_full_costs_one_round_trip_and_keeps_no_other,
    while_redis_hangs_no_call_waits_for_it,
    without_redis_a_node_counts_alone_or_refuses_as_it_was_told,
];

const CLIENTS: usize = 64;
const PERIODS: usize = 6;
const ASK_EVERY: Duration = Duration::from_millis(30);
const USED_FOR: Duration = Duration::from_millis(20);

fn csv(keys: usize) -> String {
    let row = |key| format!("OpenAI,gpt-4o,sk-fake-exclusive-{key},1\n");
    let rows: String = (0..keys).map(row).collect();
    format!("provider,model,api_key,max_holders\n{rows}")
}

/// Who holds which key, as the clients know it.
#[derive(Default)]
struct Holders {
    held: BTreeMap<String, String>,
    given: usize,
}

impl Holders {
    fn takes(&mut self, session: &str, key: &v1::SelectedKey) {
        let other = self.held.insert(key.key_id.clone(), session.to_owned());
        assert_eq!(other, None, "{} was given to {session}, too", key.key_id);
        self.given += 1;
    }

    fn gives_back(&mut self, key: &v1::SelectedKey) {
        self.held.remove(&key.key_id);
    }
}

async fn ask(client: &mut Client, session: &str) -> v1::SelectKeysResponse {
    let reply = client.select_keys_for_session(select(session, &[OPENAI], 1)).await;
    reply.expect("it is served").into_inner()
}

/// Asks until a key is free.
async fn take_key(client: &mut Client, session: &str) -> v1::SelectedKey {
    loop {
        let mut reply = ask(client, session).await;
        if let Some(key) = reply.keys.pop() {
            return key;
        }
        assert_eq!(reply.shortages[0].reason(), v1::ShortageReason::AllAtCap, "{reply:?}");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Takes an exclusive key and gives it back, again and again.
async fn use_keys(mut client: Client, name: usize, holders: Arc<Mutex<Holders>>) {
    for period in 0..PERIODS {
        let session = format!("{name}-{period}");
        let key = take_key(&mut client, &session).await;
        holders.lock().unwrap().takes(&session, &key);
        tokio::time::sleep(USED_FOR).await;
        holders.lock().unwrap().gives_back(&key);
        client.release_key(release(&session)).await.unwrap();
    }
}

fn sixty_four_clients_of_four_nodes_never_share_an_exclusive_key() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let mut nodes = Vec::new();
        for _ in 0..4 {
            let home = home_at(&redis, &csv(12)).with("KEY_SERVER_DURABILITY", "process");
            nodes.push(Node::start(home).await);
        }
        let holders = Arc::new(Mutex::new(Holders::default()));
        let mut workers = Vec::new();
        for name in 0..CLIENTS {
            let client = nodes[name % nodes.len()].connect().await;
            workers.push(spawn(use_keys(client, name, Arc::clone(&holders))));
        }
        for worker in workers {
            within("a client", worker).await.unwrap();
        }
        assert_eq!(holders.lock().unwrap().given, CLIENTS * PERIODS);
    });
}

fn a_key_given_back_at_one_node_can_be_taken_at_another() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let mut a = Node::start(home_at(&redis, &csv(1))).await;
        let mut b = Node::start(home_at(&redis, &csv(1))).await;
        for period in 0..5 {
            let (first, second) = (format!("a{period}"), format!("b{period}"));
            until("it is free for the first", async || {
                ask(&mut a.client, &first).await.success.then_some(())
            })
            .await;
            let reply = ask(&mut b.client, &second).await;
            assert!(!reply.success, "it is held at the other node");
            a.client.release_key(release(&first)).await.unwrap();
            until("it is free for the second", async || {
                ask(&mut b.client, &second).await.success.then_some(())
            })
            .await;
            assert!(!ask(&mut a.client, &first).await.success, "it is held at the other node");
            b.client.release_key(release(&second)).await.unwrap();
        }
    });
}

/// How many hold the exclusive key, as Redis has it.
fn holders(redis: &RedisServer) -> usize {
    let sets: Vec<String> = redis.ask(&["KEYS", "keys:cap:*"]).unwrap();
    sets.iter().map(|set| redis.ask::<usize>(&["ZCARD", set]).unwrap()).sum()
}

async fn until_held_by(redis: &RedisServer, count: usize) {
    until("Redis has it", async || (holders(redis) == count).then_some(())).await;
}

async fn until_taken(node: &mut Node, session: &str) {
    let what = format!("{session} takes the key");
    until(&what, async || ask(&mut node.client, session).await.success.then_some(())).await;
}

fn what_was_given_back_before_redis_forgot_it_can_be_taken() {
    run(async {
        let mut redis = wait(|| RedisServer::start(&[]));
        let mut a = Node::start(home_at(&redis, &csv(1))).await;
        let mut b = Node::start(home_at(&redis, &csv(1))).await;
        assert!(ask(&mut a.client, "s").await.success);
        until_held_by(&redis, 1).await;
        redis.ask::<()>(&["SAVE"]).unwrap();
        a.client.release_key(release("s")).await.unwrap();
        until_held_by(&redis, 0).await;
        redis.kill().unwrap();
        wait(|| redis.resume());
        assert_eq!(holders(&redis), 1, "it came back from the dump");
        until_held_by(&redis, 0).await;
        until_taken(&mut b, "t").await;
        // Session names are used again; what is held now stays.
        b.client.release_key(release("t")).await.unwrap();
        until_taken(&mut b, "s").await;
        a.restart().await;
        until("a is there", async || (a.backend("fleet").await.state == "ok").then_some(())).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(holders(&redis), 1, "s lives at the other node now");
    });
}

fn what_was_given_back_by_a_node_that_died_can_be_taken() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let mut a = Node::start(home_at(&redis, &csv(1))).await;
        let mut b = Node::start(home_at(&redis, &csv(1))).await;
        for (first, second) in [("a0", "b0"), ("a1", "b1")] {
            until_taken(&mut a, first).await;
            until_held_by(&redis, 1).await;
            a.client.release_key(release(first)).await.unwrap();
            a.restart().await;
            until_taken(&mut b, second).await;
            b.client.release_key(release(second)).await.unwrap();
        }
    });
}

fn what_a_dead_node_held_is_free_when_another_releases_it() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let mut a = Node::start(home_at(&redis, &csv(1))).await;
        let mut b = Node::start(home_at(&redis, &csv(1))).await;
        until_taken(&mut a, "s").await;
        let rows = format!("keys:sessions:{{{}}}", a.id());
        until("a told of it", async || {
            (redis.ask::<usize>(&["HLEN", &rows]).unwrap() == 1).then_some(())
        })
        .await;
        a.kill();
        until("b has heard of it", async || {
            b.client.release_key(release("s")).await.is_ok().then_some(())
        })
        .await;
        until_taken(&mut b, "t").await;
    });
}

/// Takes and gives back in one session, without a pause, or in one after the
/// other, with one.
async fn take_again(mut client: Client, name: &str, again: bool, holders: Arc<Mutex<Holders>>) {
    let begun = Instant::now();
    for period in 0.. {
        let session = if again { name.to_owned() } else { format!("{name}-{period}") };
        if begun.elapsed() > Duration::from_secs(6) {
            return;
        }
        let Some(key) = ask(&mut client, &session).await.keys.pop() else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        holders.lock().unwrap().takes(&session, &key);
        tokio::time::sleep(Duration::from_millis(20 + period * 7 % 40)).await;
        holders.lock().unwrap().gives_back(&key);
        client.release_key(release(&session)).await.unwrap();
        tokio::time::sleep(if again { Duration::ZERO } else { USED_FOR }).await;
    }
}

fn a_key_that_its_session_takes_again_at_once_is_not_given_to_another() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let a = Node::start(home_at(&redis, &csv(1))).await;
        let b = Node::start(home_at(&redis, &csv(1))).await;
        let holders = Arc::new(Mutex::new(Holders::default()));
        let first = spawn(take_again(a.connect().await, "s", true, Arc::clone(&holders)));
        let second = spawn(take_again(b.connect().await, "t", false, Arc::clone(&holders)));
        within("the first", first).await.unwrap();
        within("the second", second).await.unwrap();
        assert!(holders.lock().unwrap().given > 20, "it went round");
    });
}

/// Scripts that were run.
fn scripts(redis: &RedisServer) -> u64 {
    let info: String = redis.ask(&["INFO", "commandstats"]).unwrap();
    let line = info.lines().find(|line| line.starts_with("cmdstat_zremrangebyscore:"));
    let calls = line.and_then(|line| line.split_once("calls=")?.1.split_once(','));
    calls.map_or(0, |(calls, _)| calls.parse().unwrap())
}

fn a_key_that_is_full_costs_one_round_trip_and_keeps_no_other() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let csv = format!("{}OpenAI,o1,sk-fake-exclusive-o1,1\n", csv(1));
        let mut a = Node::start(home_at(&redis, &csv)).await;
        let mut b = Node::start(home_at(&redis, &csv)).await;
        let key = ask(&mut a.client, "s").await.keys.remove(0);
        a.client.release_key(release("s")).await.unwrap();
        until_held_by(&redis, 0).await;
        // Somebody whom the nodes have not heard of yet.
        let set = format!("keys:cap:{{caps}}:{}", key.key_id);
        redis.ask::<i64>(&["ZADD", &set, "9000000000000501", "9/other"]).unwrap();
        let before = scripts(&redis);
        let both = select("s", &["openai/o1", OPENAI], 1);
        let reply = a.client.select_keys_for_session(both).await.unwrap().into_inner();
        assert!(!reply.success);
        let models: Vec<_> = reply.shortages.iter().map(|one| one.model.as_str()).collect();
        assert_eq!(models, [OPENAI], "{reply:?}");
        assert_eq!(reply.shortages[0].reason(), v1::ShortageReason::AllAtCap);
        // Of two sets, each once.
        assert_eq!(scripts(&redis) - before, 2);
        let other = select("t", &["openai/o1"], 1);
        let reply = b.client.select_keys_for_session(other).await.unwrap().into_inner();
        assert!(reply.success, "what was refused keeps nothing: {reply:?}");
    });
}

fn while_redis_hangs_no_call_waits_for_it() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let mut a = Node::start(home_at(&redis, &csv(1))).await;
        until_taken(&mut a, "s").await;
        a.client.release_key(release("s")).await.unwrap();
        wait(|| redis.freeze());
        until("it is noticed", async || (a.backend("fleet").await.state != "ok").then_some(()))
            .await;
        let (begun, mut waited) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            assert!(ask(&mut a.client, "s").await.success, "by its own count");
            waited += usize::from(asked.elapsed() > Duration::from_millis(240));
            a.client.release_key(release("s")).await.unwrap();
        }
        assert!(waited <= 1, "{waited} calls waited");
        wait(|| redis.thaw());
        until("it is back", async || (a.backend("fleet").await.state == "ok").then_some(())).await;
    });
}

fn without_redis_a_node_counts_alone_or_refuses_as_it_was_told() {
    run(async {
        let mut redis = wait(|| RedisServer::start(&[]));
        let start = async |caps: &str| {
            let home: Home = home_at(&redis, &csv(1)).with("KEY_SERVER_CAPS_ALONE", caps);
            Node::start(home).await
        };
        let (mut counts, mut refuses) = (start("own-count").await, start("refuse").await);
        redis.kill().unwrap();
        assert!(ask(&mut counts.client, "s1").await.success);
        let reply = ask(&mut counts.client, "s2").await;
        assert_eq!(reply.shortages[0].reason(), v1::ShortageReason::AllAtCap);
        let request = select("s3", &[OPENAI], 1);
        let error = refuses.client.select_keys_for_session(request).await.unwrap_err();
        assert_eq!(reason(&error), (Code::Unavailable, "CAPS_UNKNOWN".into()));
        counts.client.release_key(release("s1")).await.unwrap();
        wait(|| redis.resume());
        until("it is asked for again", async || {
            let request = select("s3", &[OPENAI], 1);
            let reply = refuses.client.select_keys_for_session(request).await;
            reply.is_ok_and(|reply| reply.into_inner().success).then_some(())
        })
        .await;
    });
}
