//! Random histories against a plain model.
//!
//! A history is a seed: it fixes the rules, the keys, the commands and the
//! times. Three things go through it side by side: the state, a naive model
//! made of lists and full scans, and a second state that sees only the events.
//! After every operation all three must say the same. Now and then the state is
//! thrown away and made anew from the rows of a projection.
//!
//! `KEY_SERVER_SIMULATION_SEED=<seed>` repeats one history and prints it.

mod compare;
mod history;
mod naive;
mod projection;
mod random;
mod seen;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use history::History;
use seen::{EVERYTHING, Seen};

/// Repeats the history of this seed, and prints its operations.
const SEED_VARIABLE: &str = "KEY_SERVER_SIMULATION_SEED";
const HISTORIES: u64 = 40_000;
const OPERATIONS: usize = 50;

#[test]
fn state_fold_and_naive_model_agree_after_every_operation() {
    match seed_to_repeat() {
        Some(seed) => drop(run(seed, true)),
        None => run_all().assert_all(&EVERYTHING, 200),
    }
}

fn run(seed: u64, prints: bool) -> Seen {
    let mut history = History::new(seed, prints);
    for _ in 0..OPERATIONS {
        history.step();
    }
    history.seen
}

/// Runs every history on all cores.
fn run_all() -> Seen {
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        let runners: Vec<_> = (0..threads).map(|_| scope.spawn(|| run_some(&next))).collect();
        let seen = runners.into_iter().map(|runner| runner.join().expect("no history failed"));
        seen.fold(Seen::default(), Seen::join)
    })
}

/// Runs histories until none is left or one fails.
fn run_some(next: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= HISTORIES {
            return seen;
        }
        match catch_unwind(|| run(seed, false)) {
            Ok(more) => seen = seen.join(more),
            Err(_) => panic!("repeat it with {SEED_VARIABLE}={seed}"),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no settings to be resolved")]
fn seed_to_repeat() -> Option<u64> {
    let seed = std::env::var(SEED_VARIABLE).ok()?;
    Some(seed.parse().expect("the seed is a number"))
}
