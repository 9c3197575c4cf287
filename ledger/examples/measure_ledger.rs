//! What the ledger costs on this machine: `cargo run --release -p
//! key-server-ledger --example measure_ledger -- DIR [LINES]`.
//!
//! Writes to a new directory within DIR: on a tmpfs it measures this crate, on a
//! disk the disk too.
#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use key_server_core::{Event, KeyId, KeysSelected, Pick, SessionRef, Tier, Time};
use key_server_ledger::{AppendError, Caller, Durability, Entry, Ledger, Options};

fn entry(number: u64, caller: &Arc<Caller>) -> Entry {
    let pick = Pick {
        model: "openai/gpt-4o".parse().expect("the model is valid"),
        key: KeyId::from_digest(&[number as u8; 32]),
        tier: Tier::Unused,
        already_held: false,
        candidates: 1_000,
        weight: 100_000,
        total_weight: 100_000_000,
    };
    let selected = KeysSelected {
        session: SessionRef { owner: 1_000, id: format!("session_{number}").into() },
        user: 456,
        opened: true,
        deadline: Time::from_ms(1_767_225_600_000),
        seed: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        picks: vec![pick],
    };
    Entry { caller: Some(Arc::clone(caller)), fact: Event::KeysSelected(selected).into() }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "/dev/shm".into());
    let lines = arguments.next().and_then(|lines| lines.parse().ok()).unwrap_or(1_000_000);
    let dir = Path::new(&dir).join(format!("key-server-ledger-measure-{}", std::process::id()));
    for durability in [Durability::Process, Durability::Disk] {
        write(&dir, durability, lines);
        one_at_a_time(&dir, durability);
        read(&dir);
        std::fs::remove_dir_all(&dir).expect("what was made can be removed");
    }
}

/// One caller that never waits: what the writer's thread can do.
fn write(dir: &Path, durability: Durability, lines: u64) {
    let options = Options { durability, ..Options::default() };
    let (ledger, _) = Ledger::open(dir, "n_measure", &options, None, |_, _| {}).expect("it opens");
    let exe = Some("/usr/bin/python3.12".into());
    let caller = Arc::new(Caller { uid: 1_000, gid: 1_000, pid: 4_242, started_ms: None, exe });
    let start = Instant::now();
    for number in 0..lines {
        loop {
            let pending = ledger.append(Time::from_ms(number), vec![entry(number, &caller)]);
            if !overloaded(pending) {
                break;
            }
            std::thread::yield_now();
        }
    }
    ledger.close().expect("it can be written");
    report(durability, "write, queue always full", lines, start);
}

/// True when the append was refused at once for want of room.
fn overloaded(pending: key_server_ledger::Pending) -> bool {
    let mut pending = std::pin::pin!(pending);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = Future::poll(pending.as_mut(), &mut context);
    matches!(polled, std::task::Poll::Ready(Err(AppendError::Overloaded { .. })))
}

/// One caller that waits for each: the way there and back.
fn one_at_a_time(dir: &Path, durability: Durability) {
    let options = Options { durability, ..Options::default() };
    let (ledger, opened) =
        Ledger::open(dir, "n_measure", &options, None, |_, _| {}).expect("it opens");
    let caller =
        Arc::new(Caller { uid: 1_000, gid: 1_000, pid: 4_242, started_ms: None, exe: None });
    let start = Instant::now();
    for number in 0..2_000 {
        ledger.append(opened.last_at, vec![entry(number, &caller)]).wait().expect("it is durable");
    }
    report(durability, "write, one at a time", 2_000, start);
}

fn read(dir: &Path) {
    let start = Instant::now();
    let mut lines = 0;
    let count = |_: &_, records: &[_]| lines += records.len() as u64;
    Ledger::open(dir, "n_measure", &Options::default(), None, count).expect("it opens");
    report(Durability::Disk, "read and verify", lines, start);
}

fn report(durability: Durability, what: &str, lines: u64, start: Instant) {
    let elapsed = start.elapsed();
    let per_line = elapsed.as_secs_f64() * 1e6 / lines as f64;
    let per_second = lines as f64 / elapsed.as_secs_f64();
    let durability = durability.as_str();
    println!("{durability:8} {what:26} {per_line:8.2} us a line, {per_second:9.0} lines/s");
}
