//! The projections' contract, with one server, behind Sentinel, on a cluster.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use key_server_core::{Time, Tokens, Usage};
use key_server_projections::RedisProjection;
use key_server_projections::redis::{RedisMode, RedisSettings, RedisUrl};
use key_server_testkit::projection::{KeySum, ProjectionFixture, ProjectionSum, SessionSum};
use key_server_testkit::projection_conformance;
use key_server_testkit::redis::{
    MASTER, RedisSentinel, RedisServer, SENTINEL_PASSWORD, start_cluster, write_private,
};
use serde_json::Value;

use crate::fixture::{runtime, server, settings};

/// A node of its own on some servers.
pub(crate) struct Fixture {
    settings: RedisSettings,
    /// Sockets of all servers; one of them has the node's rows.
    sockets: Vec<String>,
    _server: Option<RedisServer>,
}

impl ProjectionFixture for Fixture {
    type Projection = RedisProjection;

    fn open(&self) -> RedisProjection {
        RedisProjection::new(self.settings.clone(), runtime().handle().clone())
    }

    fn sum(&self) -> ProjectionSum {
        let node = &self.settings.node;
        let about = self.hash(&format!("keys:node:{{{node}}}"));
        let offset = about.get("offset").map_or(0, |offset| offset.parse::<i64>().unwrap());
        let mut sum = ProjectionSum::without_usage();
        for (id, value) in self.hash(&format!("keys:keys:{{{node}}}")) {
            sum.keys.insert(id.parse().unwrap(), key_sum(&serde_json::from_str(&value).unwrap()));
        }
        for (name, value) in self.hash(&format!("keys:sessions:{{{node}}}")) {
            let (owner, id) = name.split_once('/').unwrap();
            let session =
                key_server_core::SessionRef { owner: owner.parse().unwrap(), id: id.into() };
            let value = serde_json::from_str(&value).unwrap();
            sum.sessions.insert(session, session_sum(&value, offset));
        }
        sum
    }

    fn empty_sum(&self) -> ProjectionSum {
        ProjectionSum::without_usage()
    }
}

impl Fixture {
    fn hash(&self, name: &str) -> HashMap<String, String> {
        let asked = self.sockets.iter().find_map(|socket| {
            let mut connection =
                redis::Client::open(socket.as_str()).ok()?.get_connection().ok()?;
            redis::cmd("HGETALL").arg(name).query(&mut connection).ok()
        });
        asked.expect("one server has it")
    }
}

fn key_sum(value: &Value) -> KeySum {
    let count = |name: &str| value[name].as_u64().unwrap_or(0);
    let tokens =
        Tokens { input: count("input"), output: count("output"), cached_input: count("cached") };
    let lifetime = Usage { requests: count("requests"), failures: count("failures"), tokens };
    KeySum { retired: value["retired"].as_bool().unwrap_or(false), lifetime }
}

fn session_sum(value: &Value, offset: i64) -> SessionSum {
    let empty = serde_json::Map::new();
    let holds = value["holds"].as_object().unwrap_or(&empty).iter();
    let held = holds.flat_map(|(model, keys)| {
        let keys = keys.as_array().unwrap().iter();
        keys.map(|key| (key.as_str().unwrap().parse().unwrap(), model.parse().unwrap()))
    });
    let end = value["ends"].as_u64().unwrap().checked_add_signed(-offset).unwrap();
    let user = i32::try_from(value["user"].as_i64().unwrap()).unwrap();
    SessionSum { user, end: Time::from_ms(end), held: held.collect() }
}

fn socket_url(server: &RedisServer) -> String {
    let password = key_server_testkit::redis::ADMIN_PASSWORD;
    format!("redis+unix://{}?pass={password}", server.socket().display())
}

/// A server for each test.
pub(crate) fn single() -> Fixture {
    let server = server();
    let (settings, sockets) = (settings(&server.url(), "n1"), vec![socket_url(&server)]);
    Fixture { settings, sockets, _server: Some(server) }
}

thread_local! {
    /// What [`shared`] is to use.
    static SHARED: RefCell<Option<(RedisSettings, Vec<String>)>> = const { RefCell::new(None) };
}

/// Another node for each test, on the same servers.
fn shared() -> Fixture {
    static NODES: AtomicU32 = AtomicU32::new(0);
    let (mut settings, sockets) = SHARED.with_borrow(|shared| shared.clone().unwrap());
    settings.node = format!("n{}", NODES.fetch_add(1, Ordering::Relaxed)).into();
    Fixture { settings, sockets, _server: None }
}

fn keeps_the_contract(settings: RedisSettings, servers: &[&RedisServer]) {
    let sockets = servers.iter().map(|server| socket_url(server)).collect();
    SHARED.set(Some((settings, sockets)));
    for (_, behaviour) in projection_conformance!(list shared) {
        behaviour();
    }
}

pub(crate) fn sentinel_settings(servers: &RedisSentinel, node: &str) -> RedisSettings {
    let file = servers.sentinel.path("password");
    write_private(&file, &format!("{SENTINEL_PASSWORD}\n")).unwrap();
    let mut settings = settings(&servers.sentinel.url(), node);
    settings.mode = RedisMode::Sentinel { master: MASTER.into(), password_file: Some(file) };
    settings
}

pub(crate) fn cluster_settings(servers: &[RedisServer], node: &str) -> RedisSettings {
    let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
    let mut settings = settings(&urls[0], node);
    settings.urls = RedisUrl::list(&urls.join(",")).unwrap();
    settings.mode = RedisMode::Cluster;
    settings
}

pub(crate) fn sentinel_keeps_the_contract() {
    let servers = RedisSentinel::start().unwrap();
    keeps_the_contract(sentinel_settings(&servers, "n1"), &[&servers.master]);
}

pub(crate) fn cluster_keeps_the_contract() {
    let servers = start_cluster().unwrap();
    let all: Vec<&RedisServer> = servers.iter().collect();
    keeps_the_contract(cluster_settings(&servers, "n1"), &all);
}
