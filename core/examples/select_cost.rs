//! What the rules cost: time of a select, of a look at the clock, and memory of
//! a session.
//!
//! `cargo run --release -p key-server-core --example select_cost`

#![expect(clippy::print_stdout, reason = "a measurement is there to be read")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use key_server_core::{
    Decide, Event, KeyFacts, KeyId, ModelName, Outcome, OwnWeight, Release, ReleaseScope, Rules,
    Select, SelectRefusal, SessionRef, State, SyncKeys, Time, Tokens, TrackUsage,
};

const ROUNDS: usize = 300_000;
/// Sessions in use at a time; each is released after so many rounds.
const IN_USE: usize = 10_000;
const SESSIONS: usize = 1_000_000;
const START_MS: u64 = 1_000 * 3_600_000;

fn main() {
    // First, while no freed memory is there to be used again.
    measure_session_memory();
    for keys in [10, 1_000, 100_000] {
        measure_select(keys);
    }
    measure_many_keys();
    measure_unknown_models();
    measure_due_windows();
    measure_closing_an_hour();
}

/// Decide and apply, each round for a session of its own, with the release of
/// an older session (not measured) in between.
fn measure_select(keys: u32) {
    let mut node = Node::with_keys(keys, 1);
    let mut decide = Vec::with_capacity(ROUNDS);
    let mut both = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        node.pass(1);
        let select = select(round, 1, 1);
        let begin = now();
        let decision = select.decide(&node.state, node.now, round as u64).expect("a key is usable");
        let decided = now();
        decision.events.iter().for_each(|event| node.state.apply(node.now, event));
        both.push(begin.elapsed());
        decide.push(decided - begin);
        black_box(decision);
        if let Some(old) = round.checked_sub(IN_USE) {
            node.release(old);
        }
        if round % 1_000 == 0 {
            drop(node.state.take_changes());
        }
    }
    print_times(&format!("select, {keys} keys: decide"), decide);
    print_times(&format!("select, {keys} keys: decide + apply"), both);
}

/// A session that takes all it may at once, and gives it back.
fn measure_many_keys() {
    let mut node = Node::with_keys(100_000, 1);
    let (mut select_times, mut release_times) = (Vec::new(), Vec::new());
    for round in 0..200 {
        let select = select(round, 1, 1_024);
        select_times.push(timed(|| node.run(&select)));
        release_times.push(timed(|| node.release(round)));
    }
    print_times("select of 1,024 keys, 100000 keys", select_times);
    print_times("release of 1,024 keys", release_times);
}

/// Misspelled names among 10,000 models.
fn measure_unknown_models() {
    let node = Node::with_keys(10_000, 10_000);
    let mut select = select(0, 1, 1);
    select.models = vec!["acme/llama-3.1-instruct-x".parse().expect("a model")];
    let times = (0..2_000).map(|_| {
        timed(|| match select.decide(&node.state, node.now, 0) {
            Err(SelectRefusal::Short(shortages)) => drop(black_box(shortages)),
            other => drop(black_box(other)),
        })
    });
    print_times("refusal of one unknown model of 10000", times.collect());
}

/// The step of the clock in which the buckets of 100,000 keys leave at once.
fn measure_due_windows() {
    let mut node = Node::with_keys(100_000, 1);
    for round in 0..100 {
        node.run(&select(round, 1, 1_000));
    }
    let sessions: Vec<_> = node.state.sessions_from(0).map(|(_, session)| session).collect();
    let mut used = 0;
    for session in sessions {
        for allocation in session.allocations {
            let event_id = format!("{used}").into();
            node.run(&report(session.session.clone(), allocation.key, event_id));
            used += 1;
        }
    }
    node.now = Time::from_ms(START_MS + 3_600_000);
    let due = timed(|| node.state.advance(node.now));
    println!("advance: {used} keys leave their tier in one minute: {due:?}");
}

/// The step of the clock that closes an hour of 1,000,000 reports.
fn measure_closing_an_hour() {
    let mut node = Node::with_keys(10, 1);
    node.run(&select(0, 1, 1));
    let (_, session) = node.state.sessions_from(0).next().expect("it was opened");
    let key = session.allocations[0].key;
    let mut times = Vec::new();
    for number in 0..1_000_000 {
        let report = report(session.session.clone(), key, format!("{number}").into());
        times.push(timed(|| node.run(&report)));
        if number % 1_000 == 0 {
            drop(node.state.take_changes());
        }
    }
    print_times("track: decide + apply", times);
    node.now = Time::from_ms(START_MS + 3_600_000);
    let close = timed(|| node.state.advance(node.now));
    println!("advance: an hour of 1000000 reports is closed: {close:?}");
    let unknown = report(session.session, key, "unknown".into());
    let find =
        (0..100_000).map(|_| timed(|| drop(black_box(unknown.decide(&node.state, node.now, 0)))));
    print_times("track: decide, 1000000 reports remembered", find.collect());
}

/// Resident memory that 1,000,000 sessions of one key each take. The names are
/// as long as a UUID; the changes are drained as a projection would.
fn measure_session_memory() {
    let mut node = Node::with_keys(1_000, 1);
    let before = resident_bytes();
    for number in 0..SESSIONS {
        node.run(&select(number, 1, 1));
        if number % 1_000 == 0 {
            drop(node.state.take_changes());
        }
    }
    drop(node.state.take_changes());
    let bytes = resident_bytes() - before;
    println!("a session of one key: {} bytes", bytes / SESSIONS);
    node.now = Time::from_ms(START_MS + 10 * 3_600_000);
    let due = timed(|| node.state.advance(node.now));
    println!("advance: {SESSIONS} sessions are found overdue at once: {due:?}");
}

struct Node {
    state: State,
    now: Time,
}

impl Node {
    /// `keys` keys, spread evenly over `models` models.
    fn with_keys(keys: u32, models: u32) -> Self {
        let now = Time::from_ms(START_MS);
        let mut state = State::new(Rules { ended_sessions_max: IN_USE, ..Rules::default() });
        state.advance(now);
        let mut node = Self { state, now };
        let desired = (0..keys).map(|number| facts(number, number % models)).collect();
        node.run(&SyncKeys { desired });
        drop(node.state.take_changes());
        node
    }

    fn pass(&mut self, ms: u64) {
        self.now = Time::from_ms(self.now.as_ms() + ms);
        self.state.advance(self.now);
    }

    fn run<Command: Decide>(&mut self, command: &Command) {
        let decision = command.decide(&self.state, self.now, 1);
        let events: Vec<Event> = decision.map(|decision| decision.events).unwrap_or_default();
        events.iter().for_each(|event| self.state.apply(self.now, event));
    }

    fn release(&mut self, number: usize) {
        self.run(&Release { session: session(number), scope: ReleaseScope::Session });
    }
}

fn facts(number: u32, model_number: u32) -> Arc<KeyFacts> {
    let mut digest = [0; 32];
    // As scattered as a real digest.
    digest[..8]
        .copy_from_slice(&u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Arc::new(KeyFacts {
        key: KeyId::from_digest(&digest),
        models: vec![model(model_number)],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["cli".into()],
    })
}

fn model(number: u32) -> ModelName {
    format!("acme/llama-3.1-instruct-{number}").parse().expect("a model's name")
}

fn session(number: usize) -> SessionRef {
    SessionRef { owner: 1_000, id: format!("session-{number:028x}").into() }
}

fn select(number: usize, models: u32, count: u32) -> Select {
    let models = (0..models).map(model).collect();
    Select {
        session: session(number),
        user: (number % 1_000) as i32,
        models,
        count,
        reserved: None,
        owner_sessions_max: None,
    }
}

fn report(session: SessionRef, key: KeyId, event_id: Arc<str>) -> TrackUsage {
    TrackUsage {
        session,
        key,
        model: model(0),
        tokens: Tokens { input: 600, output: 600, cached_input: 0 },
        outcome: Outcome::Success,
        event_id,
        occurred: Time::from_ms(START_MS),
        retry_after: None,
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement is about real time")]
fn now() -> Instant {
    Instant::now()
}

fn timed(deed: impl FnOnce()) -> Duration {
    let begin = now();
    deed();
    begin.elapsed()
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_nanos();
    let max = times[times.len() - 1].as_nanos();
    println!("{what}: p50 {} ns, p99 {} ns, max {max} ns, {} rounds", at(50), at(99), times.len());
}

/// # Source
/// proc(5), `/proc/[pid]/statm`: the second number is resident pages.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux shows it");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second of several numbers") * 4_096
}
