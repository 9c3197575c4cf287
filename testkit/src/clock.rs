//! Time that only a test moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use key_server_core::Time;
use key_server_server::clock::Clock;

/// Somewhere in November 2026, so that dates look like dates.
const START_MS: u64 = 1_795_000_000_000;

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl Default for ManualClock {
    fn default() -> Self {
        Self(AtomicU64::new(START_MS))
    }
}

impl ManualClock {
    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time::from_ms(self.0.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> i64 {
        i64::try_from(self.0.load(Ordering::SeqCst)).unwrap_or(i64::MAX)
    }
}
