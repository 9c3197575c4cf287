//! A minute without Redis while sessions are opened, used and released.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use key_server_testkit::client::Client;
use key_server_testkit::redis::RedisServer;

use crate::clock::now;
use crate::fleet::{Fleet, Node};
use crate::load::at_rate;
use crate::row::{Goal, Row, Unit};
use crate::{Place, calls, output};

const KEYS: usize = 100;
/// Sessions a second, over both nodes.
const RATE: f64 = 200.0;
/// With Redis, before and after.
const WITH: Duration = Duration::from_secs(10);
const WITHOUT: Duration = Duration::from_secs(60);
/// How long it may take until all is told again.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What callers were told, or somebody else says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    /// Sessions that live.
    sessions: i64,
    reports: i64,
    input_tokens: i64,
}

/// What callers were told.
#[derive(Default)]
struct Books {
    account: Account,
    calls: u64,
    refused: u64,
    last_refusal: String,
}

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut fleet = Fleet::start(place, 2, KEYS).await?;
    let books = Arc::new(Mutex::new(Books::default()));
    let (with, without) = (place.time(WITH), place.time(WITHOUT));
    output::progress(&format!(
        "  {:?} of load, {without:?} of it without Redis",
        with * 2 + without
    ));
    let clients = fleet.clients();
    let mut load = tokio::task::JoinSet::new();
    load.spawn(work(clients, with * 2 + without, Arc::clone(&books)));
    tokio::time::sleep(with).await;
    fleet.redis.kill()?;
    tokio::time::sleep(without).await;
    fleet.redis = resumed(fleet.redis).await?;
    let caught_up_in = catch_up(&fleet).await?;
    while let Some(ended) = load.join_next().await {
        ended??;
    }
    let account = lock(&books).account;
    let lost = lost(&fleet, account).await?;
    fleet.stop()?;
    Ok(vec![row(&lock(&books), lost, caught_up_in)])
}

fn row(books: &Books, lost: i64, caught_up_in: Duration) -> Row {
    let Account { sessions, reports, .. } = books.account;
    let refusal = match books.last_refusal.as_str() {
        "" => String::new(),
        words => format!("; refused with: {words}"),
    };
    Row {
        what: "60 s without Redis under load: calls refused, sessions and reports lost",
        goal: Goal::AtMost(0.0),
        measured: books.refused as f64 + lost as f64,
        unit: Unit::Count,
        details: format!(
            "{} calls, {reports} reports, {sessions} sessions live at the end; all told {:.1} s after Redis was back{refusal}",
            books.calls,
            caught_up_in.as_secs_f64()
        ),
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn work(
    clients: Vec<Client>,
    time: Duration,
    books: Arc<Mutex<Books>>,
) -> anyhow::Result<()> {
    let session = |number: usize| {
        use_one(clients[number % clients.len()].clone(), number, Arc::clone(&books))
    };
    at_rate(RATE, time, session).await?;
    Ok(())
}

/// A session with one report; every other one is released.
async fn use_one(
    mut client: Client,
    number: usize,
    books: Arc<Mutex<Books>>,
) -> anyhow::Result<()> {
    let session = calls::new_session();
    let key = calls::select(&mut client, &session).await;
    let Some(key) = lock(&books).note(key, |account| account.sessions += 1) else { return Ok(()) };
    let reported = calls::report(&mut client, &session, &key).await;
    lock(&books).note(reported, |account| {
        account.reports += 1;
        account.input_tokens += calls::INPUT_TOKENS;
    });
    if (number / 2).is_multiple_of(2) {
        let released = calls::release(&mut client, &session).await;
        lock(&books).note(released, |account| account.sessions -= 1);
    }
    Ok(())
}

impl Books {
    fn note<T>(&mut self, answer: anyhow::Result<T>, deed: impl FnOnce(&mut Account)) -> Option<T> {
        self.calls += 1;
        match answer {
            Ok(answer) => {
                deed(&mut self.account);
                Some(answer)
            }
            Err(error) => {
                self.refused += 1;
                self.last_refusal = error.to_string();
                None
            }
        }
    }
}

/// In a thread of its own: it waits for the process.
async fn resumed(mut redis: RedisServer) -> anyhow::Result<RedisServer> {
    let resume = move || redis.resume().map(|()| redis);
    Ok(tokio::task::spawn_blocking(resume).await??)
}

/// How long until all that happened before this moment has been told.
async fn catch_up(fleet: &Fleet) -> anyhow::Result<Duration> {
    let begin = now();
    for node in &fleet.nodes {
        let position = node.position().await?;
        while node.told(&fleet.redis)? < position {
            ensure!(begin.elapsed() < CATCH_UP_MAX, "a node does not tell what happened");
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
    Ok(begin.elapsed())
}

/// How many sessions and reports are missing, or too many, in what each node
/// and Redis say.
async fn lost(fleet: &Fleet, expected: Account) -> anyhow::Result<i64> {
    let mut lost = 0;
    for node in &fleet.nodes {
        node.settle(&fleet.redis).await?;
    }
    for node in &fleet.nodes {
        lost += difference(expected, stats(node).await?, "GetStats");
    }
    Ok(lost + difference(expected, rows(fleet)?, "Redis"))
}

fn difference(expected: Account, found: Account, place: &str) -> i64 {
    if expected != found {
        output::progress(&format!("  expected {expected:?}, {place} has {found:?}"));
    }
    let tokens = (expected.input_tokens - found.input_tokens) / calls::INPUT_TOKENS;
    let reports = expected.reports - found.reports;
    (expected.sessions - found.sessions).abs() + reports.abs().max(tokens.abs())
}

async fn stats(node: &Node) -> anyhow::Result<Account> {
    let totals = node.totals().await?;
    let lifetime = totals.lifetime.unwrap_or_default();
    Ok(Account {
        sessions: totals.sessions_live,
        reports: lifetime.requests,
        input_tokens: lifetime.input_tokens,
    })
}

/// What all nodes published.
fn rows(fleet: &Fleet) -> anyhow::Result<Account> {
    let mut account = Account::default();
    for node in &fleet.nodes {
        let name = |what: &str| format!("keys:{what}:{{{}}}", node.id);
        account.sessions += fleet.redis.ask::<i64>(&["HLEN", &name("sessions")])?;
        let keys: Vec<String> = fleet.redis.ask(&["HVALS", &name("keys")])?;
        for key in keys {
            let key: serde_json::Value = serde_json::from_str(&key)?;
            account.reports += key["requests"].as_i64().unwrap_or(0);
            account.input_tokens += key["input"].as_i64().unwrap_or(0);
        }
    }
    Ok(account)
}
