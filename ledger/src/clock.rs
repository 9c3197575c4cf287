//! The one place of the crate that asks what time it is. Nothing is decided by
//! it: lines show the wall clock, and the writer spaces its syncs.

use std::time::Instant;

use jiff::Timestamp;

/// The wall clock in milliseconds since 1970, UTC; 0 before that.
#[expect(clippy::disallowed_methods, reason = "only shown in lines, when they are written")]
pub(crate) fn wall_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// The clock that measures how long something was not on the disk.
#[expect(clippy::disallowed_methods, reason = "a promise about real time, of the writer's thread")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
