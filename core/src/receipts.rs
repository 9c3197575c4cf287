use std::collections::BTreeMap;

use hashbrown::HashTable;
use sha2::{Digest, Sha256};

use crate::event::{SessionRef, UsageTracked};
use crate::time::Time;

/// Full hours for which a report's id is remembered after the hour it came in.
const RECEIPT_HOURS: u32 = 24;

const CONTENT_MASK: u128 = (1 << 32) - 1;
const LATE_BIT: u128 = 1;

/// That a report was counted, in 16 bytes: 96 bits stand for whose report it
/// was (owner, session, event id), 31 for what it said, one for `late`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(u128);

impl Receipt {
    /// The receipt of a report.
    pub fn of(usage: &UsageTracked) -> Self {
        let whose = whose(&usage.session, &usage.event_id);
        let said = said(usage) & CONTENT_MASK & !LATE_BIT;
        Self(whose | said | u128::from(usage.late))
    }

    /// The 16 bytes as one number.
    pub const fn to_bits(self) -> u128 {
        self.0
    }

    /// The receipt that [`Receipt::to_bits`] gave.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Whether the report had come late.
    pub(crate) fn late(self) -> bool {
        self.0 & LATE_BIT != 0
    }

    /// Whether both reports said the same, apart from being late.
    pub(crate) fn says_the_same(self, other: Self) -> bool {
        (self.0 ^ other.0) & CONTENT_MASK & !LATE_BIT == 0
    }

    fn whose(self) -> u128 {
        self.0 & !CONTENT_MASK
    }
}

fn whose(session: &SessionRef, event_id: &str) -> u128 {
    let mut hash = Sha256::new();
    hash.update(session.owner.to_be_bytes());
    hash.update((session.id.len() as u64).to_be_bytes());
    hash.update(session.id.as_bytes());
    hash.update(event_id.as_bytes());
    first_bits(hash) & !CONTENT_MASK
}

/// Where a report is kept: its bits are a digest's, so they need no hashing.
fn spread(whose: u128) -> u64 {
    (whose >> 64) as u64
}

fn said(usage: &UsageTracked) -> u128 {
    let mut hash = Sha256::new();
    hash.update(usage.key.as_bytes());
    hash.update([usage.outcome as u8]);
    hash.update(usage.tokens.input.to_be_bytes());
    hash.update(usage.tokens.output.to_be_bytes());
    hash.update(usage.tokens.cached_input.to_be_bytes());
    hash.update(usage.model.as_str().as_bytes());
    first_bits(hash)
}

fn first_bits(hash: Sha256) -> u128 {
    let digest = hash.finalize();
    let mut bits = [0; 16];
    bits.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(bits)
}

/// The reports counted in the last 24 to 25 hours.
///
/// The current hour is a hash table; past hours are sorted lists, so that a
/// report costs 16 bytes and forgetting an hour costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receipts {
    hour: u32,
    current: HashTable<Receipt>,
    past: BTreeMap<u32, Vec<Receipt>>,
}

impl Receipts {
    /// The receipt of an earlier report with the same owner, session and id.
    pub(crate) fn find(&self, session: &SessionRef, event_id: &str) -> Option<Receipt> {
        let whose = whose(session, event_id);
        let past = || self.past.values().find_map(|hour| find_sorted(hour, whose));
        let current = self.current.find(spread(whose), |receipt| receipt.whose() == whose);
        current.copied().or_else(past)
    }

    /// Remembers a report that was counted at `at`.
    pub(crate) fn add(&mut self, receipt: Receipt, at: Time) {
        if at.hour() >= self.hour {
            self.advance(at);
            self.add_current(receipt);
        } else {
            self.add_past(receipt, at.hour());
        }
    }

    fn add_current(&mut self, receipt: Receipt) {
        let whose = receipt.whose();
        match self.current.find_mut(spread(whose), |other| other.whose() == whose) {
            Some(known) => *known = receipt,
            None => {
                let spread_of = |other: &Receipt| spread(other.whose());
                self.current.insert_unique(spread(whose), receipt, spread_of);
            }
        }
    }

    fn add_past(&mut self, receipt: Receipt, hour: u32) {
        let receipts = self.past.entry(hour).or_default();
        let place = receipts.partition_point(|other| *other < receipt);
        receipts.insert(place, receipt);
    }

    /// Takes over what was remembered for a past or the current hour, as much
    /// as is left of it; an hour may come in parts.
    pub(crate) fn restore(&mut self, hour: u32, mut receipts: Vec<Receipt>) {
        let hour = self.past.entry(hour).or_default();
        hour.append(&mut receipts);
        hour.sort();
    }

    /// Closes the current hour when it is over and forgets hours long past.
    pub(crate) fn advance(&mut self, now: Time) {
        let hour = now.hour();
        if hour <= self.hour {
            return;
        }
        let mut closed: Vec<_> = std::mem::take(&mut self.current).into_iter().collect();
        if !closed.is_empty() {
            // Joins what was restored for the same hour after a restart.
            closed.extend(self.past.remove(&self.hour).unwrap_or_default());
            closed.sort_unstable();
            self.past.insert(self.hour, closed);
        }
        self.hour = hour;
        self.past = self.past.split_off(&oldest_hour(now));
    }

    /// How many reports are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.current.len() + self.past.values().map(Vec::len).sum::<usize>()
    }
}

/// The oldest hour whose reports are still remembered at `now`.
pub(crate) fn oldest_hour(now: Time) -> u32 {
    now.hour().saturating_sub(RECEIPT_HOURS)
}

fn find_sorted(receipts: &[Receipt], whose: u128) -> Option<Receipt> {
    let place = receipts.partition_point(|receipt| receipt.whose() < whose);
    receipts.get(place).filter(|receipt| receipt.whose() == whose).copied()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Outcome, Tokens};
    use crate::id::KeyId;

    const HOUR_MS: u64 = 3_600_000;

    fn report(event_id: &str) -> UsageTracked {
        UsageTracked {
            session: SessionRef { owner: 1, id: "a".into() },
            user: 7,
            key: KeyId::from_digest(&[0; 32]),
            model: "acme/large".parse().unwrap(),
            tokens: Tokens { input: 1, output: 2, cached_input: 0 },
            outcome: Outcome::Success,
            event_id: event_id.into(),
            occurred: Time::default(),
            late: false,
            deadline: None,
            cooling_until: None,
        }
    }

    fn hours(hours: u64) -> Time {
        Time::from_ms(hours * HOUR_MS)
    }

    fn knows(receipts: &Receipts, event_id: &str) -> bool {
        let report = report(event_id);
        receipts.find(&report.session, event_id) == Some(Receipt::of(&report))
    }

    #[test]
    fn what_was_said_makes_the_difference_and_lateness_does_not() {
        type Change = fn(&mut UsageTracked);
        let first = Receipt::of(&report("id"));
        let same: [Change; 5] = [
            |usage| usage.late = true,
            |usage| usage.occurred = Time::from_ms(9),
            |usage| usage.deadline = Some(Time::from_ms(9)),
            |usage| usage.cooling_until = Some(Time::from_ms(9)),
            |usage| usage.user = 8,
        ];
        let other: [Change; 6] = [
            |usage| usage.tokens.input = 2,
            |usage| usage.tokens.output = 1,
            |usage| usage.tokens.cached_input = 1,
            |usage| usage.outcome = Outcome::RateLimited,
            |usage| usage.key = KeyId::from_digest(&[1; 32]),
            |usage| usage.model = "acme/small".parse().unwrap(),
        ];
        let changes = same.map(|change| (change, true)).into_iter();
        for (change, is_same) in changes.chain(other.map(|change| (change, false))) {
            let mut usage = report("id");
            change(&mut usage);
            assert_eq!(first.says_the_same(Receipt::of(&usage)), is_same, "{usage:?}");
            assert_eq!(Receipt::of(&usage).whose(), first.whose());
            assert_eq!(Receipt::of(&usage).late(), usage.late);
        }
    }

    #[test]
    fn reports_of_other_owners_sessions_and_ids_never_meet() {
        let mut receipts = Receipts::default();
        receipts.add(Receipt::of(&report("id")), hours(1));
        for (owner, id, event_id, is_known) in [
            (1, "a", "id", true),
            (2, "a", "id", false),
            (1, "b", "id", false),
            (1, "a", "di", false),
            (1, "ai", "d", false),
        ] {
            let found = receipts.find(&SessionRef { owner, id: Arc::from(id) }, event_id);
            assert_eq!(found.is_some(), is_known, "{owner} {id} {event_id}");
        }
    }

    #[test]
    fn an_hour_is_forgotten_when_24_more_are_over() {
        let mut receipts = Receipts::default();
        for hour in [10, 11, 34] {
            receipts.add(Receipt::of(&report(&hour.to_string())), hours(hour));
        }
        for (now, known, count) in [
            (hours(34), [true, true, true], 3),
            (Time::from_ms(35 * HOUR_MS - 1), [true, true, true], 3),
            (hours(35), [false, true, true], 2),
            (hours(36), [false, false, true], 1),
            (hours(58), [false, false, true], 1),
            (hours(59), [false, false, false], 0),
        ] {
            receipts.advance(now);
            assert_eq!(["10", "11", "34"].map(|id| knows(&receipts, id)), known, "{now:?}");
            assert_eq!(receipts.len(), count, "{now:?}");
        }
    }

    #[test]
    fn restored_reports_join_those_of_the_same_hour() {
        let mut receipts = Receipts::default();
        receipts.advance(hours(10));
        for (hour, id) in [(10, "same"), (9, "before"), (10, "too")] {
            receipts.restore(hour, vec![Receipt::of(&report(id))]);
        }
        receipts.add(Receipt::of(&report("new")), hours(10));
        let all = ["before", "same", "too", "new"];
        for (hour, known) in [
            (10, [true, true, true, true]),
            (11, [true, true, true, true]),
            (34, [false, true, true, true]),
            (35, [false, false, false, false]),
        ] {
            receipts.advance(hours(hour));
            assert_eq!(all.map(|id| knows(&receipts, id)), known, "hour {hour}");
        }
    }

    #[test]
    fn a_report_of_an_hour_that_is_over_is_remembered_with_that_hour() {
        let mut receipts = Receipts::default();
        receipts.advance(hours(11));
        for id in ["b", "a", "c"] {
            receipts.add(Receipt::of(&report(id)), hours(10));
        }
        assert!(["a", "b", "c"].iter().all(|id| knows(&receipts, id)));
        receipts.advance(hours(10));
        receipts.advance(hours(35));
        assert_eq!(receipts.len(), 0);
    }
}
