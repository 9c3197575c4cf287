use std::collections::{BTreeMap, VecDeque};

/// How many one-minute buckets a window has.
pub(crate) const WINDOW_MINUTES: u32 = 60;

/// The tokens a key spent in the last 60 minutes, in one-minute buckets.
///
/// The current minute and the 59 before it are inside. Buckets without tokens
/// take no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// (minute, tokens), oldest first.
    buckets: VecDeque<(u32, u64)>,
    /// The sum over the buckets; 60 of the largest fit.
    tokens: u128,
}

impl Window {
    /// Tokens inside the window; stops at the largest number.
    pub(crate) fn tokens(&self) -> u64 {
        u64::try_from(self.tokens).unwrap_or(u64::MAX)
    }

    /// Adds tokens spent in `minute`, which must lie inside the window. A
    /// bucket stops at the largest number.
    /// Returns true when this made a new bucket, which will have to leave.
    pub(crate) fn add(&mut self, minute: u32, tokens: u64) -> bool {
        if tokens == 0 {
            return false;
        }
        let place = self.buckets.partition_point(|(bucket, _)| *bucket < minute);
        match self.buckets.get_mut(place) {
            Some((bucket, sum)) if *bucket == minute => {
                let added = tokens.min(u64::MAX - *sum);
                *sum += added;
                self.tokens += u128::from(added);
                false
            }
            _ => {
                self.buckets.insert(place, (minute, tokens));
                self.tokens += u128::from(tokens);
                true
            }
        }
    }

    /// Replaces everything by buckets that lie inside the window.
    pub(crate) fn replace(&mut self, buckets: BTreeMap<u32, u64>) {
        self.tokens = buckets.values().copied().map(u128::from).sum();
        self.buckets = buckets.into_iter().collect();
    }

    /// Drops what is no longer inside when the current minute is `now`.
    pub(crate) fn advance(&mut self, now: u32) {
        while let Some((minute, tokens)) = self.buckets.front().copied() {
            if leaves_at(minute) > now {
                break;
            }
            self.buckets.pop_front();
            self.tokens -= u128::from(tokens);
        }
    }

    /// (minute, tokens), oldest first.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.buckets.iter().copied()
    }
}

/// Some minutes of a window; those of two windows in a row never meet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Minutes(u64);

impl Minutes {
    /// Adds a minute; false when it was there already.
    pub(crate) fn insert(&mut self, minute: u32) -> bool {
        let bit = 1 << (minute % u64::BITS);
        let is_new = self.0 & bit == 0;
        self.0 |= bit;
        is_new
    }

    pub(crate) fn remove(&mut self, minute: u32) {
        self.0 &= !(1 << (minute % u64::BITS));
    }
}

/// The first minute in which the bucket of `minute` is outside the window.
pub(crate) fn leaves_at(minute: u32) -> u32 {
    minute.saturating_add(WINDOW_MINUTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn minutes_of_one_window_are_told_apart() {
        for first in [0, 5, 59, 60, 1_000_003] {
            let mut minutes = Minutes::default();
            assert!((first..first + WINDOW_MINUTES).all(|minute| minutes.insert(minute)));
            assert!(!minutes.insert(first + 7));
            minutes.remove(first + 7);
            assert!(minutes.insert(first + 7));
            assert!(!minutes.insert(first + 8));
        }
    }

    proptest! {
        /// Steps are (minutes that pass, minutes ago, tokens).
        #[test]
        fn agrees_with_a_sum_over_all_reports(
            steps in proptest::collection::vec((0u32..45, 0u32..WINDOW_MINUTES, 0u64..9_000), 1..200)
        ) {
            let mut window = Window::default();
            let mut reports = Vec::new();
            let mut now = WINDOW_MINUTES;
            for (passed, ago, tokens) in steps {
                now += passed;
                window.advance(now);
                window.add(now - ago, tokens);
                reports.push((now - ago, tokens));
                let naive: u64 = reports
                    .iter()
                    .filter(|(minute, _)| now - minute < WINDOW_MINUTES)
                    .map(|(_, tokens)| tokens)
                    .sum();
                prop_assert_eq!(window.tokens(), naive);
            }
        }
    }

    #[test]
    fn sums_stop_at_the_largest_number() {
        let mut window = Window::default();
        window.add(1, u64::MAX - 1);
        window.add(1, 7);
        window.add(2, 5);
        assert_eq!(window.tokens(), u64::MAX);
        window.advance(leaves_at(1));
        assert_eq!(window.tokens(), 5, "what came after the largest number is not lost");
        window.advance(leaves_at(2));
        assert_eq!(window.tokens(), 0);
    }
}
