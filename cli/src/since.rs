//! `--since`: how far back.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use key_server_server::config::SettingValue;

use crate::output::time;

/// Reads `24h` (before now), `2025-01-31` or `2025-01-31T12:00:00Z` (UTC).
pub(crate) fn read(text: &str) -> Result<Timestamp, String> {
    read_at(text, time::now())
}

fn read_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wanted = "write a span as in 24h or 7d, or a time as in 2025-01-31 or 2025-01-31T12:00:00Z";
    if let Ok(span) = std::time::Duration::read(text) {
        return Ok(now.checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let date: Date = text.parse().map_err(|_| wanted)?;
    date.to_zoned(TimeZone::UTC).map(|midnight| midnight.timestamp()).map_err(|_| wanted.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_times_are_read() {
        let now: Timestamp = "2025-02-01T00:00:00Z".parse().unwrap();
        for (text, time) in [
            ("24h", "2025-01-31T00:00:00Z"),
            ("7d", "2025-01-25T00:00:00Z"),
            ("2025-01-31", "2025-01-31T00:00:00Z"),
            ("2025-01-31T12:30:00Z", "2025-01-31T12:30:00Z"),
            ("2025-01-31T12:30:00+02:00", "2025-01-31T10:30:00Z"),
            ("99999999d", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(read_at(text, now), Ok(time.parse().unwrap()), "{text}");
        }
        for text in ["", "yesterday", "24", "2025-13-01"] {
            assert!(read_at(text, now).unwrap_err().contains("24h"), "{text}");
        }
    }
}
