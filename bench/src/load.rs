//! Calls, one or many at a time, each for a session of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use key_server_testkit::client::{Client, connect};
use tokio::task::JoinSet;

use crate::clock::now;
use crate::figures::{median_time, percentile};
use crate::{calls, process};

/// Connections that the calls in flight are spread over: as many applications.
const CONNECTIONS: usize = 8;

/// What a caller does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A select for a new session.
    Select,
    /// The same, and a release of the session after it: two calls.
    SelectAndRelease,
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Of each select, in milliseconds.
    pub(crate) p50_ms: f64,
    /// Calls of any kind.
    pub(crate) calls_per_second: f64,
    /// What the server's threads spent for one call.
    pub(crate) cpu_us_per_call: f64,
}

/// A server under load.
pub(crate) struct Target {
    clients: Vec<Client>,
    pid: u32,
}

impl Target {
    /// The server of process `pid` that listens at `socket`.
    pub(crate) async fn connect(socket: &Path, pid: u32) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(connect(socket).await?);
        }
        Ok(Self { clients, pid })
    }

    /// Keeps `in_flight` calls going for `time`, after a tenth of it to warm
    /// up.
    pub(crate) async fn load(
        &self,
        deed: Deed,
        in_flight: usize,
        time: Duration,
    ) -> anyhow::Result<Load> {
        self.run(deed, in_flight, time / 10).await?;
        let (cpu, begin) = (process::cpu(self.pid)?, now());
        let times = self.run(deed, in_flight, time).await?;
        let elapsed = begin.elapsed().as_secs_f64();
        let cpu = process::cpu(self.pid)?.saturating_sub(cpu).as_secs_f64();
        ensure!(!times.is_empty(), "no call was answered");
        let calls = times.len() as f64 * deed.calls();
        Ok(Load {
            p50_ms: median_time(&times).as_secs_f64() * 1e3,
            calls_per_second: calls / elapsed,
            cpu_us_per_call: cpu / calls * 1e6,
        })
    }

    async fn run(
        &self,
        deed: Deed,
        in_flight: usize,
        time: Duration,
    ) -> anyhow::Result<Vec<Duration>> {
        let end = now() + time;
        let mut callers = JoinSet::new();
        for client in self.clients.iter().cycle().take(in_flight) {
            callers.spawn(call_until(end, deed, client.clone()));
        }
        let mut times = Vec::new();
        while let Some(caller) = callers.join_next().await {
            times.extend(caller??);
        }
        Ok(times)
    }
}

impl Deed {
    const fn calls(self) -> f64 {
        match self {
            Self::Select => 1.0,
            Self::SelectAndRelease => 2.0,
        }
    }

    /// Does it once; answers how long the select took.
    async fn run(self, client: &mut Client) -> anyhow::Result<Duration> {
        let session = calls::new_session();
        let begin = now();
        calls::select(client, &session).await?;
        let time = begin.elapsed();
        if self == Self::SelectAndRelease {
            calls::release(client, &session).await?;
        }
        Ok(time)
    }
}

async fn call_until(end: Instant, deed: Deed, mut client: Client) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    while now() < end {
        times.push(deed.run(&mut client).await?);
    }
    Ok(times)
}

/// Begins a call `per_second` times a second for `time`, however long those
/// before take; the answers, in the order in which they came.
pub(crate) async fn at_rate<Call, Answer>(
    per_second: f64,
    time: Duration,
    mut call: impl FnMut(usize) -> Call,
) -> anyhow::Result<Vec<Answer>>
where
    Call: Future<Output = anyhow::Result<Answer>> + Send + 'static,
    Answer: Send + 'static,
{
    let count = (per_second * time.as_secs_f64()) as usize;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    let mut calls = JoinSet::new();
    for number in 0..count {
        ticks.tick().await;
        calls.spawn(call(number));
    }
    let mut answers = Vec::with_capacity(count);
    while let Some(answer) = calls.join_next().await {
        answers.push(answer??);
    }
    Ok(answers)
}

/// The p99 of selects at fixed times, in milliseconds.
pub(crate) async fn select_p99_ms(
    client: &Client,
    per_second: f64,
    time: Duration,
) -> anyhow::Result<f64> {
    let select = |_| {
        let mut client = client.clone();
        async move {
            let begin = now();
            calls::select(&mut client, &calls::new_session()).await?;
            Ok(begin.elapsed())
        }
    };
    Ok(percentile(&at_rate(per_second, time, select).await?, 99.0).as_secs_f64() * 1e3)
}
