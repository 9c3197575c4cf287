use std::time::Duration;

use key_server_core::Time;

const MINUTE_MS: i64 = 60_000;

/// How far the clocks may be apart before what was published is called wrong.
const APART_MAX: Duration = Duration::from_secs(1);

/// The difference between the fleet's clock (Redis's `TIME`) and the node's
/// timeline, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offset(i64);

impl Offset {
    /// The offset of a node for which it was `node` when it was `fleet_ms` for
    /// the fleet.
    pub(crate) fn between(node: Time, fleet_ms: u64) -> Self {
        let offset = i128::from(fleet_ms) - i128::from(node.as_ms());
        let limit = i64::MAX / 2;
        Self(i64::try_from(offset).unwrap_or(limit).clamp(-limit, limit))
    }

    pub(crate) const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    pub(crate) const fn as_ms(self) -> i64 {
        self.0
    }

    /// Whether the other one means that clocks moved, when this one may be
    /// wrong by `doubt`.
    pub(crate) fn is_apart(self, other: Self, doubt: Duration) -> bool {
        u128::from(self.0.abs_diff(other.0)) > (APART_MAX + doubt).as_millis()
    }

    /// An instant of the node, as the fleet's clock has it.
    pub(crate) fn to_fleet(self, time: Time) -> u64 {
        time.as_ms().saturating_add_signed(self.0)
    }

    /// An instant of the fleet's clock on the node's timeline.
    pub(crate) fn to_node(self, fleet_ms: u64) -> Time {
        Time::from_ms(fleet_ms.saturating_add_signed(-self.0))
    }

    /// A minute of the node, as the fleet's clock has it.
    pub(crate) fn minute_to_fleet(self, minute: u32) -> u32 {
        moved(minute, self.minutes())
    }

    /// A minute of the fleet's clock on the node's timeline.
    pub(crate) fn minute_to_node(self, minute: u32) -> u32 {
        moved(minute, -self.minutes())
    }

    /// Rounded to whole minutes.
    fn minutes(self) -> i64 {
        (self.0 + MINUTE_MS / 2).div_euclid(MINUTE_MS)
    }
}

fn moved(minute: u32, by: i64) -> u32 {
    u32::try_from((i64::from(minute) + by).max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_minutes_come_back_as_they_went() {
        for ms in [-7_200_123, -30_000, 0, 29_999, 30_000, 3_600_000] {
            let offset = Offset::from_ms(ms);
            let time = Time::from_ms(1_764_000_000_000);
            assert_eq!(offset.to_node(offset.to_fleet(time)), time);
            assert_eq!(offset.minute_to_node(offset.minute_to_fleet(29_400_000)), 29_400_000);
        }
        assert_eq!(Offset::from_ms(30_000).minute_to_fleet(7), 8);
        assert_eq!(Offset::from_ms(-30_001).minute_to_fleet(7), 6);
    }

    #[test]
    fn clocks_within_a_second_are_the_same() {
        let offset = Offset::between(Time::from_ms(5_000), 2_000);
        assert_eq!(offset.as_ms(), -3_000);
        assert!(!offset.is_apart(Offset::from_ms(-4_000), Duration::ZERO));
        assert!(offset.is_apart(Offset::from_ms(-4_001), Duration::ZERO));
        assert!(!offset.is_apart(Offset::from_ms(-4_500), Duration::from_millis(500)));
        assert_eq!(offset.to_fleet(Time::from_ms(1)), 0);
    }
}
