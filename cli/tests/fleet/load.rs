//! Clients with books on several nodes, and whether the nodes and Redis agree
//! with the books.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use key_server_proto::v1;
use key_server_testkit::books::{Books, Session};
use key_server_testkit::picture::Picture;
use key_server_testkit::redis::RedisServer;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::nodes::Node;
use crate::support::{ANTHROPIC, DEEPSEEK, OPENAI, ledger_text, spawn, until, within};

/// Counters are right again so soon after Redis is back: 5 s, on a machine that
/// may be four times slower than usual.
const AGREE_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// New books of so many clients.
pub(crate) fn books(count: usize) -> Vec<Books> {
    let models = [OPENAI, ANTHROPIC, DEEPSEEK];
    (0..count).map(|client| Books::new(client, &models).without_late_reports()).collect()
}

/// Clients at work.
pub(crate) struct Load {
    ends: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Books>>,
}

impl Load {
    /// Lets the clients work, the first at node `first`, the next at the next.
    pub(crate) async fn begin(books: Vec<Books>, nodes: &[Node], first: usize) -> Self {
        let mut load = Self { ends: Arc::default(), calls: Arc::default(), workers: Vec::new() };
        for (place, mut books) in books.into_iter().enumerate() {
            let mut client = nodes[(first + place) % nodes.len()].connect().await;
            let (ends, calls) = (Arc::clone(&load.ends), Arc::clone(&load.calls));
            load.workers.push(spawn(async move {
                while !ends.load(Ordering::Relaxed) && books.call(&mut client).await {
                    calls.fetch_add(1, Ordering::Relaxed);
                    // Clients think, too: the machine is for the servers.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                books
            }));
        }
        load
    }

    /// Waits for so many more answers.
    pub(crate) async fn answers(&self, count: usize) {
        let wanted = self.calls.load(Ordering::Relaxed) + count;
        until("the clients are served", async || {
            let is_gone = self.workers.iter().all(JoinHandle::is_finished);
            (is_gone || self.calls.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    /// Lets the clients end their work.
    pub(crate) async fn end(self) -> Vec<Books> {
        self.ends.store(true, Ordering::Relaxed);
        let mut books = Vec::new();
        for worker in self.workers {
            books.push(within("a client", worker).await.expect("it keeps its books"));
        }
        books
    }
}

/// (model, key)
type Held = (String, String);

/// What was spent and what is held; what is zero is left out.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Sums {
    keys: BTreeMap<String, v1::Usage>,
    holders: BTreeMap<String, i64>,
    sessions: BTreeMap<String, BTreeMap<Held, v1::Usage>>,
}

impl Sums {
    fn of_books(books: &[Books]) -> Self {
        let mut sums = Self::default();
        for report in books.iter().flat_map(|books| &books.reported) {
            let usage = sums.keys.entry(report.key_id.clone()).or_default();
            key_server_testkit::books::add(usage, report);
        }
        let sessions = books.iter().flat_map(|books| &books.sessions);
        for (id, session) in sessions.filter(|(_, session)| session.is_live) {
            let spent = |held: &Held| session.spent.get(held).copied().unwrap_or_default();
            let held = session.held.iter().map(|held| (held.clone(), spent(held)));
            sums.sessions.insert(id.clone(), held.collect());
        }
        sums.finished(books)
    }

    fn of_picture(picture: &Picture, books: &[Books]) -> Self {
        let mut sums = Self::default();
        for key in &picture.keys {
            sums.keys.insert(key.key_id.clone(), key.lifetime.unwrap_or_default());
        }
        for session in picture.sessions.iter().filter(|session| session.ended_at.is_none()) {
            let held = session.allocations.iter().filter(|allocation| allocation.held);
            let held = held.map(|one| {
                ((one.model.clone(), one.key_id.clone()), one.usage.unwrap_or_default())
            });
            sums.sessions.insert(session.session_id.clone(), held.collect());
        }
        let shown = picture.keys.iter().map(|key| (key.key_id.clone(), key.holders));
        let shown: BTreeMap<_, _> = shown.filter(|(_, holders)| *holders > 0).collect();
        Self { holders: shown, ..sums.finished(books) }
    }

    /// None while a session stands there twice.
    fn of_redis(redis: &RedisServer, books: &[Books]) -> Option<Self> {
        let mut sums = Self::default();
        let nodes: Vec<String> = redis.ask(&["SMEMBERS", "keys:nodes"]).ok()?;
        for node in nodes {
            for (key, value) in rows(redis, &format!("keys:keys:{{{node}}}"))? {
                add(sums.keys.entry(key).or_default(), usage(&value));
            }
            for (name, value) in rows(redis, &format!("keys:sessions:{{{node}}}"))? {
                let Some((_, id)) = name.split_once('/').filter(|_| value["ends"].is_u64()) else {
                    continue;
                };
                if sums.sessions.insert(id.to_owned(), held_in(&value)).is_some() {
                    return None;
                }
            }
        }
        Some(sums.finished(books))
    }

    /// Leaves out what is zero, and what cannot be compared.
    fn finished(mut self, books: &[Books]) -> Self {
        self.keys.retain(|_, usage| *usage != v1::Usage::default());
        let all: BTreeMap<&String, &Session> =
            books.iter().flat_map(|books| &books.sessions).collect();
        for (id, held) in &mut self.sessions {
            let keys: BTreeSet<_> = held.keys().map(|(_, key)| key.clone()).collect();
            keys.into_iter().for_each(|key| *self.holders.entry(key).or_default() += 1);
            if all.get(id).is_some_and(|session| session.was_split) {
                held.values_mut().for_each(|usage| *usage = v1::Usage::default());
            }
        }
        self
    }
}

fn rows(redis: &RedisServer, name: &str) -> Option<Vec<(String, Value)>> {
    let rows: BTreeMap<String, String> = redis.ask(&["HGETALL", name]).ok()?;
    let rows = rows.into_iter();
    Some(rows.map(|(name, row)| (name, serde_json::from_str(&row).unwrap())).collect())
}

fn usage(value: &Value) -> v1::Usage {
    let count = |name: &str| value[name].as_i64().unwrap_or(0);
    v1::Usage {
        requests: count("requests"),
        input_tokens: count("input"),
        output_tokens: count("output"),
        cached_input_tokens: count("cached"),
        failures: count("failures"),
    }
}

fn add(sum: &mut v1::Usage, more: v1::Usage) {
    sum.requests += more.requests;
    sum.input_tokens += more.input_tokens;
    sum.output_tokens += more.output_tokens;
    sum.cached_input_tokens += more.cached_input_tokens;
    sum.failures += more.failures;
}

fn held_in(session: &Value) -> BTreeMap<Held, v1::Usage> {
    let holds = session["holds"].as_object();
    let mut held = BTreeMap::new();
    for (model, keys) in holds.into_iter().flatten() {
        for key in keys.as_array().unwrap() {
            let key = key.as_str().unwrap().to_owned();
            let spent = usage(&session["spent"][model][&key]);
            held.insert((model.clone(), key), spent);
        }
    }
    held
}

/// Waits until every node and the rows in Redis say what the books say.
pub(crate) async fn agree(nodes: &mut [Node], redis: &RedisServer, books: &[Books]) {
    let expected = Sums::of_books(books);
    let mut wrong = String::new();
    for _ in 0..AGREE_WITHIN.as_millis() / LOOK_EVERY.as_millis() {
        match disagreement(nodes, redis, books, &expected).await {
            None => return,
            Some(what) => wrong = what,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let sessions = wrong.lines().filter_map(|line| Some(line.split_once("session ")?.1));
    let sessions = sessions.filter_map(|line| line.split_once(':'));
    let said: String = sessions.map(|(id, _)| history(id, nodes)).collect();
    panic!("not so within {AGREE_WITHIN:?}: {wrong}\n{said}");
}

/// What the ledgers say of a session.
pub(crate) fn history(id: &str, nodes: &[Node]) -> String {
    let named = format!("\"session\":\"{id}\"");
    let mut text = String::new();
    for (place, node) in nodes.iter().enumerate() {
        let ledger = ledger_text(&node.home);
        for line in ledger.lines().filter(|line| line.contains(&named)) {
            text += &format!("{place}: {line}\n");
        }
    }
    text
}

async fn disagreement(
    nodes: &mut [Node],
    redis: &RedisServer,
    books: &[Books],
    expected: &Sums,
) -> Option<String> {
    for node in nodes {
        let picture = node.picture().await;
        let shown = Sums::of_picture(&picture, books);
        let live = usize::try_from(picture.totals.sessions_live).unwrap();
        if shown != *expected || live != expected.sessions.len() {
            let differences = differences(expected, &shown);
            return Some(format!("node {}: {live} live; {differences}", node.id()));
        }
    }
    match Sums::of_redis(redis, books) {
        None => Some("Redis cannot be read, or a session lives twice".into()),
        Some(rows) if rows != *expected => Some(format!("Redis: {}", differences(expected, &rows))),
        Some(_) => None,
    }
}

fn differences(expected: &Sums, found: &Sums) -> String {
    let mut text = Vec::new();
    compare("key", &expected.keys, &found.keys, &mut text);
    compare("holders of", &expected.holders, &found.holders, &mut text);
    compare("session", &expected.sessions, &found.sessions, &mut text);
    text.join("\n")
}

fn compare<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &BTreeMap<String, T>,
    found: &BTreeMap<String, T>,
    text: &mut Vec<String>,
) {
    let names: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for name in names.into_iter().filter(|name| expected.get(*name) != found.get(*name)) {
        let (expected, found) = (expected.get(name), found.get(name));
        text.push(format!("{what} {name}: expected {expected:?}, found {found:?}"));
    }
}
