use std::str;

use jiff::Timestamp;

/// Length of `2025-01-31T23:59:59.999Z`.
const TEXT_BYTES: usize = 24;
/// Length up to the seconds.
const SECOND_BYTES: usize = 19;

/// Turns milliseconds since 1970 into RFC 3339 and back, remembering the last
/// second: neighbouring lines mostly share it.
pub(super) struct WallText {
    second: u64,
    text: [u8; TEXT_BYTES],
}

impl Default for WallText {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl WallText {
    /// The text of `wall_ms`; times after the year 9999 show as its end.
    pub(super) fn text(&mut self, wall_ms: u64) -> &str {
        let last_ms = Timestamp::MAX.as_millisecond().unsigned_abs();
        let wall_ms = wall_ms.min(last_ms);
        self.turn_to(wall_ms / 1_000);
        let millisecond = wall_ms % 1_000;
        for (place, unit) in [(20, 100), (21, 10), (22, 1)] {
            self.text[place] = b'0' + (millisecond / unit % 10) as u8;
        }
        str::from_utf8(&self.text).expect("the text is made of ASCII characters")
    }

    /// The milliseconds that `text` stands for, if it is what
    /// [`WallText::text`] writes.
    pub(super) fn parse(&mut self, text: &str) -> Option<u64> {
        let bytes: &[u8; TEXT_BYTES] = text.as_bytes().try_into().ok()?;
        if bytes[..SECOND_BYTES] != self.text[..SECOND_BYTES] {
            let second = text.parse::<Timestamp>().ok()?.as_second();
            self.turn_to(second.try_into().ok()?);
        }
        let digits = text.get(SECOND_BYTES + 1..TEXT_BYTES - 1)?;
        let ms = self.second * 1_000 + digits.parse::<u64>().ok()?;
        (self.text(ms) == text).then_some(ms)
    }

    fn turn_to(&mut self, second: u64) {
        if second == self.second {
            return;
        }
        let shown = i64::try_from(second).ok().and_then(|s| Timestamp::from_second(s).ok());
        let shown = shown.unwrap_or(Timestamp::MAX).to_string();
        self.text[..SECOND_BYTES].copy_from_slice(&shown.as_bytes()[..SECOND_BYTES]);
        self.second = second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_one_way_and_read_back() {
        for (wall_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (1_738_367_999_999, "2025-01-31T23:59:59.999Z"),
            (1_738_368_000_000, "2025-02-01T00:00:00.000Z"),
            (951_782_400_010, "2000-02-29T00:00:00.010Z"),
        ] {
            assert_eq!(WallText::default().text(wall_ms), text);
            assert_eq!(WallText::default().parse(text), Some(wall_ms));
        }
    }

    #[test]
    fn other_spellings_of_a_time_are_refused() {
        for text in [
            "",
            "2025-01-31T23:59:59Z",
            "2025-01-31t23:59:59.999Z",
            "2025-01-31 23:59:59.999Z",
            "2025-01-31T23:59:60.999Z",
            "2025-02-30T00:00:00.000Z",
            "2025-01-31T23:59:59.+99Z",
            "1969-12-31T23:59:59.999Z",
            "2025-01-31T23:59:59,999Z",
        ] {
            assert_eq!(WallText::default().parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_refused_time_leaves_nothing_behind() {
        let mut wall = WallText::default();
        assert_eq!(wall.parse("2025-01-31t23:59:59.999Z"), None);
        assert_eq!(wall.parse("2025-01-31T23:59:59.999Z"), Some(1_738_367_999_999));
        assert_eq!(wall.text(5), "1970-01-01T00:00:00.005Z");
    }

    #[test]
    fn a_clock_beyond_all_calendars_is_still_a_line() {
        assert_eq!(WallText::default().text(u64::MAX).len(), TEXT_BYTES);
    }
}
