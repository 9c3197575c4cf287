//! Real time, which is what a benchmark is about.

use std::time::{Duration, Instant};

/// Now.
#[expect(clippy::disallowed_methods, reason = "the one place that asks the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long a deed takes.
pub(crate) fn timed(deed: impl FnOnce()) -> Duration {
    let begin = now();
    deed();
    begin.elapsed()
}
