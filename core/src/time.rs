use std::time::Duration;

/// An instant on the node's own timeline, in milliseconds.
///
/// The timeline only moves forward, whatever happens to the wall clock, and
/// goes on across restarts; it is near Unix time but not the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

impl Time {
    /// The instant `ms` milliseconds after the timeline's zero.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the timeline's zero.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// This instant moved by `span`; stops at the end of the timeline.
    pub fn after(self, span: Duration) -> Self {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ms))
    }

    /// The time from `earlier` to this instant; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The second this instant lies in, counted from the timeline's zero.
    pub(crate) fn second(self) -> u32 {
        u32::try_from(self.0 / 1_000).unwrap_or(u32::MAX)
    }

    /// The minute this instant lies in, counted from the timeline's zero.
    pub(crate) fn minute(self) -> u32 {
        u32::try_from(self.0 / MINUTE_MS).unwrap_or(u32::MAX)
    }

    /// The hour this instant lies in, counted from the timeline's zero.
    pub(crate) fn hour(self) -> u32 {
        u32::try_from(self.0 / HOUR_MS).unwrap_or(u32::MAX)
    }
}
