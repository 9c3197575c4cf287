//! Whatever happens to Redis under load: calls go on, nothing acknowledged is
//! lost or counted twice, and soon everything is right again everywhere.

use std::time::Duration;

use key_server_testkit::books::Books;
use key_server_testkit::client::Client;
use key_server_testkit::proxy::{Proxy, Weather};
use key_server_testkit::redis::{PASSWORD, RedisServer, USER, write_private};
use key_server_testkit::suite::Test;
use key_server_testkit::tests;

use crate::load::{Load, agree, books};
use crate::nodes::{Node, home_at, nodes, run, two_nodes, wait};
use crate::support::{CSV, OPENAI, health, home, select, selected, until, verify};

pub(crate) const TESTS: &[Test] = &tests![
    twenty_kills_of_redis_lose_nothing_and_count_nothing_twice,
    everything_is_published_anew_after_flushall,
    everything_is_published_anew_after_a_restart_without_data,
    calls_go_on_while_redis_stands_still,
    calls_go_on_while_redis_is_full,
    calls_go_on_while_redis_is_a_read_only_replica,
    calls_go_on_while_connections_are_slow_and_cut,
    a_row_that_cannot_be_read_is_said_and_hides_no_other_node,
    a_wrong_password_at_the_start_is_said_and_put_right_without_a_restart,
];

const CLIENTS: usize = 8;
const KEPT: [&str; 2] = ["appendonly yes", "appendfsync everysec"];

/// Two nodes, their Redis, and clients that keep books.
struct Fleet {
    redis: RedisServer,
    nodes: Vec<Node>,
    books: Vec<Books>,
    rounds: usize,
}

impl Fleet {
    async fn start(settings: &[&str]) -> Self {
        let redis = wait(|| RedisServer::start(settings));
        let nodes = nodes(&redis, 2).await;
        Self { redis, nodes, books: books(CLIENTS), rounds: 0 }
    }

    /// Lets `fault` happen under load; then everybody agrees. In the next round
    /// every client goes on at the other node.
    async fn bears(&mut self, fault: impl AsyncFnOnce(&mut RedisServer, &Load)) {
        let books = std::mem::take(&mut self.books);
        let load = Load::begin(books, &self.nodes, self.rounds).await;
        load.answers(50).await;
        fault(&mut self.redis, &load).await;
        load.answers(50).await;
        self.books = load.end().await;
        self.rounds += 1;
        agree(&mut self.nodes, &self.redis, &self.books).await;
    }

    /// Works on after all that, and ends well.
    async fn ends_well(mut self) {
        self.bears(async |_, _| {}).await;
        for node in &mut self.nodes {
            assert!(node.server.take().unwrap().terminate().unwrap().success());
            verify(&node.home);
        }
    }
}

fn twenty_kills_of_redis_lose_nothing_and_count_nothing_twice() {
    run(async {
        let mut fleet = Fleet::start(&KEPT).await;
        for _ in 0..4 {
            fleet
                .bears(async |redis, load| {
                    for kill in 0..5 {
                        load.answers(10 * kill).await;
                        redis.kill().unwrap();
                        load.answers(20).await;
                        wait(|| redis.resume());
                    }
                })
                .await;
        }
        fleet.ends_well().await;
    });
}

fn everything_is_published_anew_after_flushall() {
    run(async {
        let mut fleet = Fleet::start(&[]).await;
        for _ in 0..2 {
            fleet.bears(async |redis, _| redis.ask(&["FLUSHALL"]).unwrap()).await;
        }
        fleet.ends_well().await;
    });
}

fn everything_is_published_anew_after_a_restart_without_data() {
    run(async {
        let mut fleet = Fleet::start(&KEPT).await;
        fleet
            .bears(async |redis, load| {
                redis.kill_and_forget().unwrap();
                load.answers(50).await;
                wait(|| redis.resume());
            })
            .await;
        fleet.ends_well().await;
    });
}

/// Longer than the timeout of a command, so that connections are given up.
fn calls_go_on_while_redis_stands_still() {
    run(async {
        let mut fleet = Fleet::start(&[]).await;
        let mut client = fleet.nodes[0].connect().await;
        fleet
            .bears(async |redis, load| {
                redis.freeze().unwrap();
                until("the node says so", async || {
                    is_fleet(&mut client, "unavailable").await.then_some(())
                })
                .await;
                load.answers(200).await;
                redis.thaw().unwrap();
            })
            .await;
        fleet.ends_well().await;
    });
}

fn calls_go_on_while_redis_is_full() {
    run(async {
        let mut fleet = Fleet::start(&["maxmemory-policy noeviction"]).await;
        let mut client = fleet.nodes[0].connect().await;
        fleet
            .bears(async |redis, load| {
                redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
                until("the node says so", async || {
                    is_fleet(&mut client, "unavailable").await.then_some(())
                })
                .await;
                load.answers(100).await;
                redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
            })
            .await;
        fleet.ends_well().await;
    });
}

fn calls_go_on_while_redis_is_a_read_only_replica() {
    run(async {
        let mut fleet = Fleet::start(&[]).await;
        let mut client = fleet.nodes[0].connect().await;
        fleet
            .bears(async |redis, load| {
                // Its master is away, so it keeps what it has.
                redis.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
                until("the node says so", async || {
                    is_fleet(&mut client, "unavailable").await.then_some(())
                })
                .await;
                load.answers(100).await;
                redis.ask::<()>(&["REPLICAOF", "NO", "ONE"]).unwrap();
            })
            .await;
        fleet.ends_well().await;
    });
}

fn calls_go_on_while_connections_are_slow_and_cut() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let proxy = Proxy::to(redis.port()).unwrap();
        let url = redis.url_at(proxy.port());
        let mut nodes = Vec::new();
        for _ in 0..2 {
            nodes.push(Node::start(home(CSV).with("KEY_SERVER_REDIS_URL", &url)).await);
        }
        let mut fleet = Fleet { redis, nodes, books: books(CLIENTS), rounds: 0 };
        fleet
            .bears(async |_, load| {
                for weather in [
                    Weather::Slow(Duration::from_millis(40)),
                    Weather::CutAfter(2_000),
                    Weather::RepliesLost,
                    Weather::Refusing,
                ] {
                    proxy.set(weather);
                    for _ in 0..3 {
                        load.answers(30).await;
                        proxy.cut();
                    }
                }
                load.answers(30).await;
                proxy.set(Weather::Fine);
                proxy.cut();
            })
            .await;
        fleet.ends_well().await;
    });
}

fn a_wrong_password_at_the_start_is_said_and_put_right_without_a_restart() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let mut right = Node::start(home_at(&redis, CSV)).await;
        let alone = home(CSV);
        let password = alone.path().join("redis-password");
        write_private(&password, "fake-wrong-password\n").unwrap();
        let url = format!("redis://{USER}@127.0.0.1:{}", redis.port());
        let alone = alone
            .with("KEY_SERVER_REDIS_URL", url)
            .with("KEY_SERVER_REDIS_PASSWORD_FILE", password.display());
        let mut alone = Node::start(alone).await;
        let said = until("the node says so", async || {
            let backend = alone.backend("fleet").await;
            (backend.state == "unavailable").then_some(backend.last_error)
        })
        .await;
        assert!(said.contains("password"), "{said}");
        selected(&mut alone.client, select("s1", &[OPENAI], 1)).await;
        write_private(&password, PASSWORD).unwrap();
        until("both know each other", async || {
            let knows = health(&mut alone.client).await.nodes;
            let is_known = health(&mut right.client).await.nodes;
            (knows.len() == 1 && is_known.len() == 1).then_some(())
        })
        .await;
        until("its session is known", async || {
            (right.picture().await.totals.sessions_live == 1).then_some(())
        })
        .await;
        assert_eq!(alone.backend("fleet").await.state, "ok");
        for words in [alone.home.words(), said] {
            assert!(!words.contains("fake-wrong-password") && !words.contains(PASSWORD), "{words}");
        }
    });
}

fn a_row_that_cannot_be_read_is_said_and_hides_no_other_node() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let [mut a, mut b] = two_nodes(&redis).await;
        let mut others = nodes(&redis, 2).await;
        let taken = selected(&mut a.client, select("of-a", &[OPENAI], 1)).await;
        for (place, other) in others.iter_mut().enumerate() {
            selected(&mut other.client, select(&format!("s{place}"), &[OPENAI], 1)).await;
        }
        let live = async |node: &mut Node, count: i64| {
            until("it knows the sessions", async || {
                (node.picture().await.totals.sessions_live == count).then_some(())
            })
            .await;
        };
        live(&mut b, 3).await;
        let name = format!("keys:keys:{{{}}}", a.id());
        redis.ask::<()>(&["HSET", &name, &taken[0].key_id, "nonsense"]).unwrap();
        b.restart().await;
        let notes = until("it says so", async || {
            let notes = health(&mut b.client).await.notes;
            (!notes.is_empty()).then_some(notes)
        })
        .await;
        let cure = format!("del '{name}'");
        assert!(notes.len() == 1 && notes[0].contains(&cure), "{notes:?}");
        live(&mut b, 2).await;
        redis.ask::<()>(&["DEL", &name]).unwrap();
        live(&mut b, 3).await;
        until("nothing is to be said any more", async || {
            health(&mut b.client).await.notes.is_empty().then_some(())
        })
        .await;
        assert_eq!(b.home.words().matches(&cure).count(), 1, "{}", b.home.words());
    });
}

/// Whether Health says this of the fleet's Redis.
async fn is_fleet(client: &mut Client, state: &str) -> bool {
    let backends = health(client).await.backends;
    backends.iter().any(|backend| backend.name.starts_with("fleet") && backend.state == state)
}
