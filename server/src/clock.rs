//! The node's timeline: forward only, across clock jumps and restarts.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use key_server_core::Time;
use rustix::time::{ClockId, clock_gettime};

/// Where the rules get their time from.
pub trait Clock: Send + Sync {
    /// Now, on the node's timeline; never before an earlier answer.
    fn now(&self) -> Time;

    /// Now, on the wall clock, in milliseconds since 1970, UTC. For display.
    fn wall_ms(&self) -> i64;
}

/// The kernel's clock since boot, moved so that it goes on where the ledger
/// ended.
#[derive(Debug)]
pub struct SystemClock {
    offset_ms: u64,
}

impl SystemClock {
    /// Continues the timeline of the last run, which ended at `last` or later.
    ///
    /// While the machine was not restarted, the time in between is known
    /// exactly; else the wall clock is believed, but never backwards. `file`
    /// keeps what the next run needs; when it cannot be read or written, the
    /// wall clock decides.
    pub fn open(file: &Path, last: Time) -> Self {
        let boot_id = boot_id();
        let since_boot = since_boot_ms();
        let kept = std::fs::read_to_string(file).ok();
        let kept = kept.as_deref().and_then(|text| text.trim().split_once(' '));
        let kept = kept.filter(|(boot, _)| *boot == boot_id && !boot.is_empty());
        let offset_ms = kept.and_then(|(_, offset)| offset.parse::<u64>().ok());
        let wall = u64::try_from(wall_ms()).unwrap_or(0);
        let offset_ms = offset_ms.unwrap_or_else(|| wall.saturating_sub(since_boot));
        let offset_ms = offset_ms.max(last.as_ms().saturating_sub(since_boot));
        if let Err(error) = std::fs::write(file, format!("{boot_id} {offset_ms}\n")) {
            tracing::warn!("cannot write {}: {error}", file.display());
        }
        Self { offset_ms }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time::from_ms(self.offset_ms.saturating_add(since_boot_ms()))
    }

    fn wall_ms(&self) -> i64 {
        wall_ms()
    }
}

/// An instant of the timeline as people write it, near enough for display.
pub fn wall_of(clock: &dyn Clock, time: Time) -> Timestamp {
    let now = clock.now();
    let wall = clock.wall_ms();
    let ahead = i64::try_from(time.since(now).as_millis()).unwrap_or(i64::MAX);
    let behind = i64::try_from(now.since(time).as_millis()).unwrap_or(i64::MAX);
    let ms = wall.saturating_add(ahead).saturating_sub(behind);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// The instant of the timeline that a wall clock's instant stands for; none
/// after now.
pub fn time_of(clock: &dyn Clock, wall_ms: i64) -> Time {
    let now = clock.now();
    let ago = u64::try_from(clock.wall_ms().saturating_sub(wall_ms)).unwrap_or(0);
    Time::from_ms(now.as_ms().saturating_sub(ago))
}

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn since_boot_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let time = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32);
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the one place that asks the wall clock")]
fn wall_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeline_goes_on_after_a_restart_whatever_the_wall_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("timeline");
        let first = SystemClock::open(&file, Time::default());
        let ahead = first.now().after(Duration::from_secs(86_400));
        let second = SystemClock::open(&file, ahead);
        assert!(second.now() >= ahead);
        // The offset that the second run chose is kept for the third.
        let third = SystemClock::open(&file, Time::default());
        assert!(third.now() >= ahead);
    }

    #[test]
    fn another_boot_starts_from_the_wall_clock_but_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("timeline");
        std::fs::write(&file, "another-boot 99999999999999\n").unwrap();
        let clock = SystemClock::open(&file, Time::default());
        let wall = u64::try_from(clock.wall_ms()).unwrap();
        assert!(clock.now().as_ms().abs_diff(wall) < 5_000);
    }
}
