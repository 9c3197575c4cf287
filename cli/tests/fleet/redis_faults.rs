//! Whatever happens to Redis under load: calls go on, nothing acknowledged is
//! lost or counted twice, and soon everything is right again everywhere.

use key_server_testkit::books::Books;
use key_server_testkit::redis::{ADMIN_PASSWORD, RedisServer, write_private};
use key_server_testkit::suite::Test;
use key_server_testkit::tests;

use crate::load::{Load, agree, books};
use crate::nodes::{Node, home_at, nodes, run, wait};
use crate::support::{CSV, OPENAI, health, home, select, selected, until, verify};

pub(crate) const TESTS: &[Test] =
    &tests![twenty_kills_of_redis_lose_nothing_and_count_nothing_twice,];

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
