use std::collections::BTreeMap;

use key_server_core::{SelectRefusal, ShortageReason, TrackUsageRefusal};

/// How often something came about, so that a simulation that only looks as if
/// it tried everything is noticed.
#[derive(Default)]
pub(crate) struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub(crate) fn count(&mut self, what: &'static str, times: usize) {
        *self.0.entry(what).or_default() += times as u64;
    }

    pub(crate) fn join(mut self, other: Self) -> Self {
        for (what, times) in other.0 {
            *self.0.entry(what).or_default() += times;
        }
        self
    }

    /// Everything in `expected` came about at least `times_min` times.
    pub(crate) fn assert_all(&self, expected: &[&'static str], times_min: u64) {
        for what in expected {
            let times = self.0.get(what).copied().unwrap_or(0);
            assert!(times >= times_min, "{what}: only {times} times; {:#?}", self.0);
        }
        assert_eq!(self.0.len(), expected.len(), "not in the list: {:#?}", self.0);
    }
}

/// Everything that a simulation must have met.
pub(crate) const EVERYTHING: [&str; 31] = [
    "clock stepped back",
    "event id conflicts",
    "expired",
    "forgotten",
    "key added",
    "key changed",
    "key drawn",
    "key drawn against others",
    "key held already",
    "key retired",
    "key shared at its cap",
    "not allocated",
    "other user",
    "overdue session opened again",
    "released",
    "released again",
    "released nothing",
    "repeated report",
    "report made a key cool",
    "report counted",
    "report counted late",
    "restored from changes",
    "restored from rows",
    "short: all at cap",
    "short: all cooling",
    "short: none usable",
    "short: pool too small",
    "short: unknown model",
    "too many allocations",
    "too many sessions",
    "unknown session",
];

pub(crate) fn shortage_name(reason: ShortageReason) -> &'static str {
    match reason {
        ShortageReason::UnknownModel => "short: unknown model",
        ShortageReason::PoolTooSmall => "short: pool too small",
        ShortageReason::AllCooling => "short: all cooling",
        ShortageReason::AllAtCap => "short: all at cap",
        ShortageReason::NoneUsable => "short: none usable",
    }
}

pub(crate) fn select_refusal_name(refusal: &SelectRefusal) -> &'static str {
    match refusal {
        SelectRefusal::Short(shortages) => shortage_name(shortages[0].reason),
        SelectRefusal::OtherUser => "other user",
        SelectRefusal::TooManySessions => "too many sessions",
        SelectRefusal::TooManyAllocations => "too many allocations",
        SelectRefusal::TooManyOfOwner => "too many of one owner",
    }
}

pub(crate) fn track_refusal_name(refusal: TrackUsageRefusal) -> &'static str {
    match refusal {
        TrackUsageRefusal::UnknownSession => "unknown session",
        TrackUsageRefusal::NotAllocated => "not allocated",
        TrackUsageRefusal::Conflict => "event id conflicts",
    }
}
