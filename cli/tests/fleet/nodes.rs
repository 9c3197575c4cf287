//! Nodes of a fleet, started and ended by tests.

use key_server_proto::v1;
use key_server_testkit::client::{Client, connect};
use key_server_testkit::picture::{Picture, picture};
use key_server_testkit::process::{Home, ServerProcess};
use key_server_testkit::redis::RedisServer;

use crate::support::{CSV, health, home};

/// A node and the home that it is started in.
pub(crate) struct Node {
    pub(crate) home: Home,
    /// A client of the test's own uid.
    pub(crate) client: Client,
    pub(crate) server: Option<ServerProcess>,
}

/// Runs an asynchronous test.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(test);
}

/// Does what takes a while without the runtime.
pub(crate) fn wait<T>(work: impl FnOnce() -> std::io::Result<T>) -> T {
    tokio::task::block_in_place(work).expect("servers do as they are told")
}

/// A home whose daemon meets others in this Redis.
pub(crate) fn home_at(redis: &RedisServer, csv: &str) -> Home {
    home(csv).with("KEY_SERVER_REDIS_URL", redis.url())
}

/// So many nodes with the usual keys.
pub(crate) async fn nodes(redis: &RedisServer, count: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Node::start(home_at(redis, CSV)).await);
    }
    nodes
}

/// The same two.
pub(crate) async fn two_nodes(redis: &RedisServer) -> [Node; 2] {
    let first = Node::start(home_at(redis, CSV)).await;
    [first, Node::start(home_at(redis, CSV)).await]
}

impl Node {
    pub(crate) async fn start(home: Home) -> Self {
        let (server, client) = home.start().await.expect("it starts");
        Self { home, client, server: Some(server) }
    }

    /// Starts the daemon again.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let (server, client) = self.home.start().await.expect("it starts again");
        (self.server, self.client) = (Some(server), client);
    }

    /// Ends the daemon as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill().expect("it runs");
        }
    }

    /// One more client.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.home.socket()).await.expect("it listens")
    }

    /// Its id among the nodes.
    pub(crate) fn id(&self) -> String {
        let id = std::fs::read_to_string(self.home.state().join("node_id"));
        id.expect("it has a name").trim().to_owned()
    }

    pub(crate) async fn picture(&mut self) -> Picture {
        picture(&mut self.client).await
    }

    /// What Health says of a backend whose name begins so.
    pub(crate) async fn backend(&mut self, name: &str) -> v1::Backend {
        let backends = health(&mut self.client).await.backends;
        let backend = backends.into_iter().find(|backend| backend.name.starts_with(name));
        backend.unwrap_or_else(|| panic!("there is no backend {name}"))
    }
}
