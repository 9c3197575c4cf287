//! Random histories of several nodes that work as one.
//!
//! A history is a seed: it fixes the nodes, the calls and the times, when each
//! node tells what and who hears of it. Rows come late or are lost, the shared
//! store is lost, nodes are away and are started again. Then everything
//! settles, and all nodes must agree with each other and with what their
//! ledgers add up to.
//!
//! One thing is known to be lost, in one of some 30,000 histories: what was
//! drawn where a session was opened in the same second at two nodes that did
//! not know of each other, of which one remembers the same key from an earlier
//! period of use.
//!
//! `KEY_SERVER_SIMULATION_SEED=<seed>` repeats one history and prints it.

mod agreement;
mod history;
mod node;
#[path = "../simulation/random.rs"]
mod random;
mod store;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use history::{History, Weather};

/// Repeats the history of this seed, and prints its operations.
const SEED_VARIABLE: &str = "KEY_SERVER_SIMULATION_SEED";

/// How often something came about.
type Seen = BTreeMap<&'static str, u64>;

#[test]
fn nodes_that_hear_of_each_other_late_or_not_at_all_agree_in_the_end() {
    let seen = run_all(Weather::Rough, 10_000, 60);
    for what in [
        "moved in",
        "moved out",
        "taken back",
        "expired",
        "rows lost",
        "store lost",
        "node started again",
        "node away",
        "key given",
        "key given back",
        "report counted",
    ] {
        let times = seen.get(what).copied().unwrap_or(0);
        assert!(times >= 200, "{what}: only {times} times; {seen:#?}");
    }
}

#[test]
fn nodes_that_hear_of_each_other_at_once_work_as_one() {
    run_all(Weather::Calm, 1_500, 40);
}

fn run(weather: Weather, seed: u64, operations: usize, prints: bool) -> Seen {
    let mut history = History::new(weather, seed, prints);
    for _ in 0..operations {
        history.step();
    }
    history.settle_down();
    history.seen
}

/// Runs every history on all cores.
fn run_all(weather: Weather, histories: u64, operations: usize) -> Seen {
    if let Some(seed) = seed_to_repeat() {
        run(weather, seed, operations, true);
        return Seen::from_iter([("repeated", 1)]);
    }
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        let run_some = || run_some(weather, &next, histories, operations);
        let runners: Vec<_> = (0..threads).map(|_| scope.spawn(run_some)).collect();
        let seen = runners.into_iter().map(|runner| runner.join().expect("no history failed"));
        seen.fold(Seen::default(), join)
    })
}

/// Runs histories until none is left or one fails.
fn run_some(weather: Weather, next: &AtomicU64, histories: u64, operations: usize) -> Seen {
    let mut seen = Seen::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= histories {
            return seen;
        }
        match catch_unwind(|| run(weather, seed, operations, false)) {
            Ok(more) => seen = join(seen, more),
            Err(_) => panic!("repeat it with {SEED_VARIABLE}={seed} ({weather:?})"),
        }
    }
}

fn join(mut seen: Seen, more: Seen) -> Seen {
    more.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
    seen
}

#[expect(clippy::disallowed_methods, reason = "a test has no settings to be resolved")]
fn seed_to_repeat() -> Option<u64> {
    let seed = std::env::var(SEED_VARIABLE).ok()?;
    Some(seed.parse().expect("the seed is a number"))
}
