//! Measures the SQLite projection at the size the goals name:
//! `cargo run --release -p key-server-projections --example measure_sqlite [directory or file]`;
//! the file `measured.sqlite` stays there, and given itself it is only loaded.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use key_server_core::{
    AllocationRow, Changes, KeyFacts, KeyId, KeyRow, ModelName, Outcome, OwnWeight, Receipt,
    ReceiptRow, Rules, SessionRef, SessionRow, Time, Tokens, Usage, UsageRow,
};
use key_server_projections::reports::{self, By};
use key_server_projections::{Mark, Projection, SqliteProjection};

const KEYS: usize = 1_000;
const SESSIONS: usize = 1_000_000;
const RECEIPTS: usize = 10_000_000;
const BATCH: usize = 10_000;
const HOUR: u32 = 490_000;
const NOW: Time = Time::from_ms(HOUR as u64 * 3_600_000 + 1_800_000);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let directory = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    if directory.is_file() {
        return load(&directory);
    }
    let path = directory.join("measured.sqlite");
    SqliteProjection::delete(&path)?;
    measure(&path)?;
    load(&path)
}

fn load(path: &std::path::Path) -> Result<(), Failure> {
    for _ in 0..3 {
        let clock = Clock::start();
        let mut projection = SqliteProjection::open(path)?;
        let loaded = projection.load(Rules::default())?;
        let spent = clock.spent();
        let sessions = loaded.map(|(_, state)| state.totals().sessions_live);
        println!("open and load: {spent}, {sessions:?} sessions");
    }
    Ok(())
}

fn measure(path: &std::path::Path) -> Result<(), Failure> {
    let fleet = Fleet::new()?;
    let mut filling = Filling { projection: SqliteProjection::open(path)?, seq: 0 };
    let rss = resident_kib()?;
    filling.time("keys: 1,000 new", Changes { keys: fleet.keys(), ..Changes::default() })?;
    println!(
        "resident with 1,000 keys: {} KiB, of which the projection {} KiB",
        resident_kib()?,
        resident_kib()? - rss
    );
    fill(&fleet, &mut filling)?;
    for round in 0..3 {
        batches(&fleet, &mut filling, round)?;
    }
    println!("file: {} MiB", std::fs::metadata(path)?.len() >> 20);
    for by in [By::Key, By::Session] {
        let clock = Clock::start();
        let report = reports::usage(path, by, 0, 10)?;
        println!("report by {by:?} of {} rows: {}", report.rows_count, clock.spent());
    }
    Ok(())
}

fn fill(fleet: &Fleet, filling: &mut Filling) -> Result<(), Failure> {
    let clock = Clock::start();
    for batch in 0..SESSIONS / BATCH {
        let sessions = (batch * BATCH..(batch + 1) * BATCH).map(|n| fleet.session(n, 0)).collect();
        filling.write(&Changes { sessions, ..fleet.changes() })?;
    }
    println!("1,000,000 sessions in batches of 10,000: {}", clock.spent());
    let clock = Clock::start();
    for batch in 0..RECEIPTS / BATCH {
        let hour = HOUR - 24 + (batch * 25 * BATCH / RECEIPTS) as u32;
        let receipts = (0..BATCH).map(|n| ReceiptRow { hour, receipt: receipt(batch * BATCH + n) });
        filling.write(&Changes { receipts: receipts.collect(), ..fleet.changes() })?;
    }
    println!("10,000,000 receipts in batches of 10,000: {}", clock.spent());
    Ok(())
}

fn batches(fleet: &Fleet, filling: &mut Filling, round: usize) -> Result<(), Failure> {
    let first = SESSIONS + round * BATCH;
    let fresh = (first..first + BATCH).map(|n| fleet.session(n, 0)).collect();
    filling.time("10,000 new sessions", Changes { sessions: fresh, ..fleet.changes() })?;
    let recent = (first..first + BATCH).map(|n| fleet.session(n, 1)).collect();
    filling
        .time("10,000 recent sessions changed", Changes { sessions: recent, ..fleet.changes() })?;
    let any = |n: usize| (n * 7_919_317 + round * 104_729) % SESSIONS;
    let scattered = (0..BATCH).map(|n| fleet.session(any(n), round as u64 + 1)).collect();
    filling.time(
        "10,000 of 1,000,000 sessions changed",
        Changes { sessions: scattered, ..fleet.changes() },
    )?;
    let usage = (0..BATCH).map(|n| fleet.usage(any(n))).collect();
    filling.time("usage of 10,000 of 1,000,000 sessions", Changes { usage, ..fleet.changes() })?;
    let keys = fleet.keys();
    filling.time("1,000 keys changed", Changes { keys, ..fleet.changes() })?;
    let forgotten = (first..first + BATCH).map(|n| fleet.name(n)).collect();
    filling.time("10,000 sessions forgotten", Changes { forgotten, ..fleet.changes() })
}

/// Wall time, and CPU time of all threads: the latter says what a quiet machine
/// would need at most.
struct Clock {
    wall: Instant,
    cpu: Duration,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    fn spent(&self) -> String {
        format!("{:.1?} ({:.1?} CPU)", self.wall.elapsed(), cpu().saturating_sub(self.cpu))
    }
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

struct Filling {
    projection: SqliteProjection,
    seq: u64,
}

impl Filling {
    fn write(&mut self, changes: &Changes) -> Result<(), Failure> {
        self.seq += 1;
        let mark = Mark { seq: self.seq, at: NOW, resume: format!("segment 1 byte {}", self.seq) };
        Ok(self.projection.write(&mark, changes)?)
    }

    fn time(&mut self, what: &str, changes: Changes) -> Result<(), Failure> {
        let clock = Clock::start();
        self.write(&changes)?;
        println!("{what}: {}", clock.spent());
        Ok(())
    }
}

struct Fleet {
    keys: Vec<KeyId>,
    models: Vec<ModelName>,
}

impl Fleet {
    fn new() -> Result<Self, Failure> {
        let models = (0..10).map(|n| ModelName::new("openai", &format!("gpt-{n}")));
        Ok(Self {
            keys: (0..KEYS).map(key_id).collect(),
            models: models.collect::<Result<_, _>>()?,
        })
    }

    fn changes(&self) -> Changes {
        Changes { oldest_receipt_hour: HOUR - 24, ..Changes::default() }
    }

    fn keys(&self) -> Vec<KeyRow> {
        let models = self.models.iter().cycle();
        self.keys.iter().zip(models).map(|(key, model)| key_row(*key, model)).collect()
    }

    fn name(&self, n: usize) -> SessionRef {
        SessionRef { owner: 1_000, id: Arc::from(format!("session_{n}")) }
    }

    fn session(&self, n: usize, requests: u64) -> SessionRow {
        let usage = Usage { requests, failures: 0, tokens: tokens(requests) };
        let key = self.keys[n % KEYS];
        let model = self.models[n % KEYS % 10].clone();
        SessionRow {
            session: self.name(n),
            user: (n % 5_000) as i32,
            opened: NOW,
            end: Time::from_ms(NOW.as_ms() + 1 + n as u64 * 3_600 / 1_000),
            ended: false,
            term: 0,
            base: 0,
            allocations: vec![AllocationRow { key, model, held: true, usage }],
        }
    }

    fn usage(&self, n: usize) -> UsageRow {
        let SessionRow { session, user, allocations, .. } = self.session(n, 0);
        let AllocationRow { key, model, .. } = allocations[0].clone();
        let (tokens, outcome) = (tokens(1), Outcome::Success);
        UsageRow { at: NOW, session, user, key, model, tokens, outcome, late: false }
    }
}

fn key_row(key: KeyId, model: &ModelName) -> KeyRow {
    let facts = KeyFacts {
        key,
        models: vec![model.clone()],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["csv@node".into()],
    };
    let minute = (NOW.as_ms() / 60_000) as u32;
    KeyRow {
        facts: Arc::new(facts),
        retired: false,
        lifetime: Usage::default(),
        last_used: Some(NOW),
        window: (minute - 59..=minute).map(|minute| (minute, 12_345)).collect(),
        cooling: Vec::new(),
    }
}

fn key_id(n: usize) -> KeyId {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    KeyId::from_digest(&digest)
}

fn tokens(requests: u64) -> Tokens {
    Tokens { input: 1_200 * requests, output: 300 * requests, cached_input: 0 }
}

/// Spread as hashes are.
fn receipt(n: usize) -> Receipt {
    let mixed = (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    Receipt::from_bits(mixed ^ (mixed >> 61))
}

fn resident_kib() -> Result<usize, Failure> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).unwrap_or("0").parse()?;
    Ok(pages * 4)
}
