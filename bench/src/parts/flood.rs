//! One uid calls far more often than it may; what does another one get?

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use key_server_testkit::client::{Client, connect_as};
use key_server_testkit::requests::EVERYONE;
use tokio::task::JoinSet;

use crate::clock::now;
use crate::figures::compare;
use crate::load::at_rate;
use crate::row::{Goal, Row, Unit};
use crate::{Place, calls, daemon, output};

const FLOODER: u32 = 60_001;
const OTHER: u32 = 60_002;
/// What each uid may.
const CALLS_PER_SECOND: f64 = 500.0;
/// What the flooder does,
const TIMES: f64 = 20.0;
/// and the other one, as long as nobody keeps it from it.
const OTHER_PER_SECOND: f64 = 400.0;
const CONNECTIONS: usize = 8;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
const KEYS: usize = 1_000;

pub(crate) async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let home = daemon::open_home(place, KEYS)?
        .with("KEY_SERVER_CALLS_PER_SECOND", CALLS_PER_SECOND)
        .with_policy(EVERYONE)?;
    let daemon = daemon::start(&home).await?;
    let mut other = Vec::new();
    for _ in 0..CONNECTIONS {
        other.push(connect_as(OTHER, &home.socket()).await);
    }
    let (mut pairs, mut offered) = (Vec::new(), Vec::new());
    output::progress(&format!("  {ROUNDS} rounds"));
    for _ in 0..ROUNDS {
        let alone = per_second(&other, place.time(ROUND)).await?;
        let flood = Flood::begin(home.socket());
        let beside = per_second(&other, place.time(ROUND)).await?;
        offered.push(flood.end()?);
        pairs.push((beside, alone));
    }
    drop(other);
    daemon.stop()?;
    let compared = compare(&pairs);
    let offered = crate::figures::median(&offered);
    Ok(vec![Row {
        what: "a second uid beside one at 20 × its rate: throughput ÷ alone",
        goal: Goal::AtLeast(0.9),
        measured: compared.ratio,
        unit: Unit::Ratio,
        details: format!(
            "{:.0}/s, alone {:.0}/s, of {OTHER_PER_SECOND}/s wished for; the flood was answered {offered:.0}/s of {:.0}/s",
            compared.first,
            compared.second,
            CALLS_PER_SECOND * TIMES
        ),
    }])
}

/// Selects that were answered in a second; none may be refused.
async fn per_second(clients: &[Client], time: Duration) -> anyhow::Result<f64> {
    let begin = now();
    let answers = at_rate(OTHER_PER_SECOND, time, |number| {
        let mut client = clients[number % clients.len()].clone();
        async move { calls::select(&mut client, &calls::new_session()).await }
    });
    let answers = answers.await?;
    Ok(answers.len() as f64 / begin.elapsed().as_secs_f64())
}

/// Calls of a thread of its own, so that they do not wait for the other ones.
struct Flood {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<anyhow::Result<f64>>,
}

impl Flood {
    fn begin(socket: PathBuf) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(flood(socket, &until))
        });
        Self { is_over, thread }
    }

    /// Calls that were answered in a second.
    fn end(self) -> anyhow::Result<f64> {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow::anyhow!("the flood broke off"))?
    }
}

async fn flood(socket: PathBuf, is_over: &AtomicBool) -> anyhow::Result<f64> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(connect_as(FLOODER, &socket).await);
    }
    let (begin, answered) = (now(), Arc::new(AtomicU64::new(0)));
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut calls = JoinSet::new();
    let (mut sent, mut refused) = (0_u64, 0_u64);
    while !is_over.load(Ordering::SeqCst) {
        ticks.tick().await;
        let due = (begin.elapsed().as_secs_f64() * CALLS_PER_SECOND * TIMES) as u64;
        for number in sent..due {
            let mut client = clients[number as usize % CONNECTIONS].clone();
            let answered = Arc::clone(&answered);
            calls.spawn(async move {
                let call = calls::select(&mut client, &calls::new_session()).await;
                answered.fetch_add(1, Ordering::Relaxed);
                call.is_err()
            });
        }
        sent = due.max(sent);
        while let Some(call) = calls.try_join_next() {
            refused += u64::from(call?);
        }
    }
    let per_second = answered.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    ensure!(refused > 0, "the flood was not refused");
    Ok(per_second)
}
