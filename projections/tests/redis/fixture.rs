//! What the tests of this program share: nodes, rows, a clock.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use key_server_core::{
    AllocationRow, Changes, KeyFacts, KeyId, KeyRow, ModelName, NodeRows, OwnWeight, SessionRef,
    SessionRow, Time, Tokens, Usage,
};
use key_server_projections::redis::RedisSettings;
use key_server_projections::{
    Announced, Fleet, Hold, Listen, Mark, News, NodeStatus, Projection, ProjectionError,
    RedisFleet, RedisProjection,
};
use key_server_testkit::redis::RedisServer;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout};

/// How long anything may take that is awaited.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Where the nodes' timelines begin.
pub(crate) const BEGIN: Time = Time::from_ms(490_000 * 3_600_000);

pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// The outcome of `future`; fails when it takes too long.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(async { timeout(PATIENCE, future).await.expect("it comes in time") })
}

/// What `look` finds, once it finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn server() -> RedisServer {
    RedisServer::start(&[]).unwrap()
}

pub(crate) fn settings(url: &str, node: &str) -> RedisSettings {
    RedisSettings::single(url.parse().unwrap(), node)
}

/// A node with a timeline of its own.
pub(crate) struct Node {
    pub(crate) projection: RedisProjection,
    pub(crate) fleet: Arc<RedisFleet>,
    begun: Instant,
    /// What its timeline is ahead of the others'.
    ahead: Duration,
}

impl Node {
    pub(crate) fn new(url: &str, name: &str) -> Self {
        Self::with(settings(url, name))
    }

    pub(crate) fn with(settings: RedisSettings) -> Self {
        let projection = RedisProjection::new(settings, runtime().handle().clone());
        let fleet = projection.fleet();
        Self { projection, fleet, begun: Instant::now(), ahead: Duration::ZERO }
    }

    /// Moves its timeline.
    pub(crate) fn ahead(mut self, by: Duration) -> Self {
        self.ahead = by;
        self
    }

    pub(crate) fn now(&self) -> Time {
        BEGIN.after(self.ahead).after(self.begun.elapsed())
    }

    pub(crate) fn status(&self) -> NodeStatus {
        NodeStatus {
            version: "0.1.0",
            started: BEGIN,
            now: self.now(),
            keys: 2,
            sessions_live: 1,
            pools: None,
        }
    }

    pub(crate) fn announce(&self) -> Announced {
        self.try_announce().unwrap()
    }

    pub(crate) fn try_announce(&self) -> Result<Announced, ProjectionError> {
        wait(self.fleet.announce(&self.status()))
    }

    pub(crate) fn mark(&self, seq: u64) -> Mark {
        Mark { seq, at: self.now(), resume: format!("byte {seq}") }
    }

    pub(crate) fn write(&mut self, seq: u64, changes: &Changes) {
        self.try_write(seq, changes).unwrap();
    }

    pub(crate) fn try_write(&mut self, seq: u64, changes: &Changes) -> Result<(), ProjectionError> {
        let mark = self.mark(seq);
        self.projection.write(&mark, changes)
    }

    pub(crate) fn mark_seq(&self) -> Option<u64> {
        self.projection.mark().unwrap().map(|mark| mark.seq)
    }

    /// Everything that another node has published.
    pub(crate) fn read(&self, node: &str) -> (Option<u64>, NodeRows) {
        self.try_read(node).unwrap()
    }

    pub(crate) fn try_read(&self, node: &str) -> Result<(Option<u64>, NodeRows), ProjectionError> {
        let mut rows = NodeRows::default();
        let mut page = |mut page: NodeRows| {
            rows.keys.append(&mut page.keys);
            rows.sessions.append(&mut page.sessions);
        };
        let seq = wait(self.fleet.read(node, &mut page))?;
        rows.keys.sort_by_key(|row| row.key);
        rows.sessions.sort_by(|a, b| a.session.cmp(&b.session));
        Ok((seq, rows))
    }

    pub(crate) fn listen(&self, node: &str) -> Box<dyn Listen> {
        let mut listen = wait(self.fleet.listen()).unwrap();
        wait(listen.follow(node)).unwrap();
        listen
    }
}

/// The next piece of news about rows.
pub(crate) fn next_rows(listen: &mut Box<dyn Listen>) -> (Option<u64>, u64, NodeRows) {
    loop {
        if let News::Rows { from, to, rows, .. } = wait(listen.next()).unwrap() {
            return (from, to, rows);
        }
    }
}

pub(crate) fn model() -> ModelName {
    "openai/gpt-4o".parse().unwrap()
}

pub(crate) fn key_id(n: u32) -> KeyId {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&n.to_be_bytes());
    KeyId::from_digest(&digest)
}

pub(crate) fn key(n: u32, requests: u64, now: Time) -> KeyRow {
    let facts = KeyFacts {
        key: key_id(n),
        models: vec![model()],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["cli".into()],
    };
    let tokens = Tokens { input: 1_000 * requests, output: 200 * requests, cached_input: 0 };
    KeyRow {
        facts: Arc::new(facts),
        retired: false,
        lifetime: Usage { requests, failures: 0, tokens },
        last_used: Some(now),
        window: vec![(u32::try_from(now.as_ms() / 60_000).unwrap(), 1_200 * requests)],
        cooling: Vec::new(),
    }
}

pub(crate) fn session_ref(n: u32) -> SessionRef {
    SessionRef { owner: 1_000, id: format!("session-of-tests-{n:04}").into() }
}

pub(crate) fn hold(key: KeyId, session: SessionRef, until: Option<Time>) -> Hold {
    Hold { key, session, until, came_from: None, is_reserving: false }
}

pub(crate) fn session(n: u32, keys: &[u32], now: Time) -> SessionRow {
    let allocation = |n: &u32| AllocationRow {
        key: key_id(*n),
        model: model(),
        held: true,
        usage: Usage::default(),
    };
    SessionRow {
        session: session_ref(n),
        user: 7,
        opened: now,
        end: now.after(Duration::from_secs(3_600)),
        ended: false,
        term: 0,
        base: 0,
        allocations: keys.iter().map(allocation).collect(),
    }
}

pub(crate) fn some_rows(seq: u64, now: Time) -> Changes {
    let n = u32::try_from(seq).unwrap();
    Changes {
        keys: vec![key(1, seq, now), key(2, 2 * seq, now)],
        sessions: vec![session(n, &[1], now)],
        ..Changes::default()
    }
}

/// A hash of the server, whole.
pub(crate) fn hash(server: &RedisServer, name: &str) -> HashMap<String, String> {
    server.ask(&["HGETALL", name]).unwrap()
}
