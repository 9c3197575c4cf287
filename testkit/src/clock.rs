//! Time that only a test moves.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use key_server_core::Time;
use key_server_server::clock::Clock;

/// Somewhere in November 2026, so that dates look like dates.
const START_MS: u64 = 1_795_000_000_000;

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock {
    ms: AtomicU64,
    /// The [`Look`] that is to panic, or nothing.
    panics_at: AtomicU8,
}

/// Who looks at a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The rules, for the node's timeline; under the engine's lock.
    Timeline = 1,
    /// Answers, for the wall clock.
    Wall = 2,
}

impl Look {
    /// What a panic says.
    pub const MESSAGE: &str = "the clock has a secret";
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { ms: AtomicU64::new(START_MS), panics_at: AtomicU8::new(0) }
    }
}

impl ManualClock {
    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Makes the next look of this kind panic.
    pub fn panic_at(&self, look: Look) {
        self.panics_at.store(look as u8, Ordering::SeqCst);
    }

    /// Whether it still will.
    pub fn will_panic(&self) -> bool {
        self.panics_at.load(Ordering::SeqCst) != 0
    }

    fn look(&self, look: Look) -> u64 {
        let swapped =
            self.panics_at.compare_exchange(look as u8, 0, Ordering::SeqCst, Ordering::SeqCst);
        // A text that is made here, as one with a secret would be.
        assert!(swapped.is_err(), "{} {look:?}", Look::MESSAGE);
        self.ms.load(Ordering::SeqCst)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time::from_ms(self.look(Look::Timeline))
    }

    fn wall_ms(&self) -> i64 {
        i64::try_from(self.look(Look::Wall)).unwrap_or(i64::MAX)
    }
}
