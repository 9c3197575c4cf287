//! The rules alone: time of a select, memory of a session.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use key_server_core::{
    Decide, Event, KeyFacts, KeyId, ModelName, OwnWeight, Release, ReleaseScope, Rules, Select,
    SessionRef, State, SyncKeys, Time,
};

use crate::clock::timed;
use crate::csv::MODEL;
use crate::figures::median_time;
use crate::process;
use crate::row::{Goal, Row, Unit};

const ROUNDS: usize = 300_000;
/// Sessions in use at a time; each is released after so many rounds.
const IN_USE: usize = 10_000;
const SESSIONS: usize = 1_000_000;
const START: Time = Time::from_ms(490_000 * 3_600_000);

pub(crate) fn measure() -> anyhow::Result<Vec<Row>> {
    let large = select_time(100_000);
    let small = select_time(10);
    Ok(vec![
        Row {
            what: "core: decide + apply of a select, 100,000 keys, p50",
            goal: Goal::AtMost(2.0),
            measured: large.as_secs_f64() * 1e6,
            unit: Unit::Microseconds,
            details: format!("{:.2} µs with 10 keys", small.as_secs_f64() * 1e6),
        },
        Row {
            what: "core: a live session with one key",
            goal: Goal::AtMost(300.0),
            measured: session_memory_elsewhere()?,
            unit: Unit::Bytes,
            details: "resident, a million of them, ids of 36 bytes".to_owned(),
        },
    ])
}

/// Each round for a session of its own, with the release of an older session
/// (not measured) in between.
fn select_time(keys: usize) -> Duration {
    let mut node = Node::with_keys(keys);
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        node.pass(1);
        let select = select(round);
        times.push(timed(|| node.run(&select, round as u64)));
        if let Some(old) = round.checked_sub(IN_USE) {
            node.run(&Release { session: session(old), scope: ReleaseScope::Session }, 0);
        }
        node.forget_changes(round);
    }
    median_time(&times)
}

/// In a process of its own: here freed memory would be used again.
fn session_memory_elsewhere() -> anyhow::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["--role", "session-memory"]).stderr(Stdio::inherit()).output()?;
    ensure!(
        output.status.success(),
        "the process that measures memory ended with {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Resident bytes that each of a million sessions takes. Changes are drained
/// as a projection would.
///
/// # Panics
/// When the kernel does not tell.
pub(crate) fn session_memory() -> f64 {
    let resident =
        || process::memory(std::process::id()).map_or(f64::NAN, |memory| memory.resident);
    let mut node = Node::with_keys(1_000);
    let before = resident();
    for number in 0..SESSIONS {
        node.run(&select(number), number as u64);
        node.forget_changes(number);
    }
    drop(node.state.take_changes());
    (resident() - before) / SESSIONS as f64
}

/// A state, and the time it is at.
struct Node {
    state: State,
    now: Time,
}

impl Node {
    fn with_keys(keys: usize) -> Self {
        let rules = Rules { ended_sessions_max: IN_USE, ..Rules::default() };
        let mut state = State::new(rules);
        state.advance(START);
        let mut node = Self { state, now: START };
        node.run(&SyncKeys { desired: (0..keys).map(facts).collect() }, 0);
        drop(node.state.take_changes());
        node
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
        self.state.advance(self.now);
    }

    /// Decides and applies; a refusal changes nothing.
    fn run<Command: Decide>(&mut self, command: &Command, seed: u64) {
        let Ok(decision) = command.decide(&self.state, self.now, seed) else { return };
        let events: &[Event] = &decision.events;
        events.iter().for_each(|event| self.state.apply(self.now, event));
        black_box(decision);
    }

    /// Every thousandth time.
    fn forget_changes(&mut self, round: usize) {
        if round.is_multiple_of(1_000) {
            drop(self.state.take_changes());
        }
    }
}

/// A key whose id is as scattered as a real one.
fn facts(number: usize) -> Arc<KeyFacts> {
    let mut digest = [0; 32];
    let scattered = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    digest[..8].copy_from_slice(&scattered.to_be_bytes());
    Arc::new(KeyFacts {
        key: KeyId::from_digest(&digest),
        models: vec![model()],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["cli".into()],
    })
}

fn model() -> ModelName {
    MODEL.parse().expect("the constant is a model's name")
}

fn session(number: usize) -> SessionRef {
    SessionRef { owner: 1_000, id: format!("session-{number:028x}").into() }
}

fn select(number: usize) -> Select {
    Select {
        session: session(number),
        user: (number % 1_000) as i32,
        models: vec![model()],
        count: 1,
        reserved: None,
        owner_sessions_max: None,
    }
}
