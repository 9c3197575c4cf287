use std::time::Duration;

use jiff::Timestamp;

/// The wall clock; times are only shown by it, nothing is decided.
#[expect(clippy::disallowed_methods, reason = "the one place of the command line that asks")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A time as the server sends it; none when it is absent or out of range.
pub(crate) fn moment(sent: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let sent = sent?;
    Timestamp::new(sent.seconds, sent.nanos).ok()
}

/// A span as the server sends it; none when it is absent or negative.
pub(crate) fn span(sent: Option<&prost_types::Duration>) -> Option<Duration> {
    let sent = sent?;
    let nanos = u32::try_from(sent.nanos).ok()?;
    Some(Duration::new(u64::try_from(sent.seconds).ok()?, nanos))
}

/// `2025-01-31 23:59:59Z`: the second a time lies in.
pub(crate) fn second(time: Timestamp) -> String {
    let text = Timestamp::from_second(time.as_second()).unwrap_or(time).to_string();
    text.replacen('T', " ", 1)
}

/// `2025-01-31T23:59:59.999Z`, as the ledger writes times.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// `3m ago`, `in 42s`, or the date when it is more than 30 days away.
pub(crate) fn relative(time: Timestamp, now: Timestamp) -> String {
    // To the nearest second: an hour that was just given is an hour.
    let ms = now.as_millisecond() - time.as_millisecond();
    let seconds = (ms + 500).div_euclid(1_000);
    let away = Duration::from_secs(seconds.unsigned_abs());
    match seconds {
        0 => "now".to_owned(),
        _ if away > Duration::from_secs(30 * DAY) => second(time)[..10].to_owned(),
        1.. => format!("{} ago", short(away)),
        _ => format!("in {}", short(away)),
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// `42s`, `3m`, `2h`, `5d`: the largest unit alone.
fn short(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..MINUTE => format!("{seconds}s"),
        seconds @ MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        seconds @ HOUR..DAY => format!("{}h", seconds / HOUR),
        seconds => format!("{}d", seconds / DAY),
    }
}

/// `350ms`, `42s`, `3m 5s`, `2h 10m`, `5d 3h`: the two largest units.
pub(crate) fn long(span: Duration) -> String {
    let seconds = span.as_secs();
    let (large, small) = match seconds {
        0 => return format!("{}ms", span.as_millis()),
        1..MINUTE => return format!("{seconds}s"),
        MINUTE..HOUR => ((seconds / MINUTE, "m"), (seconds % MINUTE, "s")),
        HOUR..DAY => ((seconds / HOUR, "h"), (seconds % HOUR / MINUTE, "m")),
        _ => ((seconds / DAY, "d"), (seconds % DAY / HOUR, "h")),
    };
    match small.0 {
        0 => format!("{}{}", large.0, large.1),
        _ => format!("{}{} {}{}", large.0, large.1, small.0, small.1),
    }
}

/// `42s`, never less than the span: for those who wait.
pub(crate) fn wait(span: Duration) -> String {
    long(Duration::from_secs(span.as_secs() + u64::from(span.subsec_nanos() > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn near_times_are_relative_and_far_ones_are_dates() {
        let now = at(1_738_368_000);
        for (seconds, text) in [
            (0, "now"),
            (-1, "1s ago"),
            (-59, "59s ago"),
            (-60, "1m ago"),
            (-7_199, "1h ago"),
            (-172_800, "2d ago"),
            (42, "in 42s"),
            (3_600, "in 1h"),
            (-40 * 86_400, "2024-12-23"),
        ] {
            assert_eq!(relative(at(1_738_368_000 + seconds), now), text);
        }
    }

    #[test]
    fn an_hour_that_was_just_given_is_an_hour() {
        let now = Timestamp::from_millisecond(1_738_368_000_004).unwrap();
        assert_eq!(relative(at(1_738_371_600), now), "in 1h");
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        for (seconds, text) in
            [(1, "1s"), (61, "1m 1s"), (120, "2m"), (7_860, "2h 11m"), (90_000, "1d 1h")]
        {
            assert_eq!(long(Duration::from_secs(seconds)), text);
        }
        assert_eq!(long(Duration::from_millis(350)), "350ms");
        assert_eq!(wait(Duration::from_millis(1_350)), "2s");
    }

    #[test]
    fn moments_are_written_in_utc() {
        let time = Timestamp::from_millisecond(1_738_367_999_120).unwrap();
        assert_eq!(second(time), "2025-01-31 23:59:59Z");
        assert_eq!(rfc3339(time), "2025-01-31T23:59:59.120Z");
    }
}
