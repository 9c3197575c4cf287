//! So much in a span of time, and no more: for one bucket, and for each uid
//! under each rule of the policy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use key_server_core::Time;

use crate::policy::Limits;

/// The debt of a bucket is forgotten beyond so many spans: a report of
/// nonsense does not shut its sender out for ever.
const DEBT_SPANS_MAX: i128 = 60;
/// Below so many callers nobody looks for those that can be forgotten.
const SWEEP_AT: usize = 1_024;
/// Callers that are known at once; beyond, new ones have to wait.
const CALLERS_MAX: usize = 65_536;
const MINUTE_MS: u64 = 60_000;

/// How much may pass in a span of time; as much at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So much
    pub count: u64,
    /// in so long.
    pub span_ms: u64,
}

impl Rate {
    /// In each second.
    pub const fn per_second(count: u64) -> Self {
        Self { count, span_ms: 1_000 }
    }

    /// In each minute.
    pub const fn per_minute(count: u64) -> Self {
        Self { count, span_ms: MINUTE_MS }
    }

    fn full(self) -> i128 {
        self.of(self.count)
    }

    /// A count in the unit of levels: a millisecond brings `count` of them.
    fn of(self, count: u64) -> i128 {
        i128::from(count) * i128::from(self.span_ms)
    }

    fn wait(self, missing: i128) -> Duration {
        let ms = missing.unsigned_abs().div_ceil(u128::from(self.count.max(1)));
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

/// What is left of a rate. Time that goes back brings nothing, and a jump
/// ahead brings no more than a rest would.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    level: i128,
    at: Time,
}

impl Bucket {
    /// As after a long rest.
    pub fn new(rate: Rate, now: Time) -> Self {
        Self { level: rate.full(), at: now }
    }

    fn refill(&mut self, rate: Rate, now: Time) {
        let passed_ms = i128::try_from(now.since(self.at).as_millis()).unwrap_or(i128::MAX);
        let gained = passed_ms.saturating_mul(i128::from(rate.count));
        self.level = self.level.saturating_add(gained).min(rate.full());
        self.at = self.at.max(now);
    }

    /// Takes `count`, all or nothing.
    ///
    /// # Errors
    /// How long to wait until there is enough; none when there never is.
    pub fn take(&mut self, rate: Rate, now: Time, count: u64) -> Result<(), Option<Duration>> {
        self.refill(rate, now);
        let wanted = rate.of(count);
        if wanted > rate.full() {
            return Err(None);
        }
        if wanted > self.level {
            return Err(Some(rate.wait(wanted - self.level)));
        }
        self.level -= wanted;
        Ok(())
    }

    /// Takes `count` whatever is left: the rest is a debt.
    pub fn charge(&mut self, rate: Rate, now: Time, count: u64) {
        self.refill(rate, now);
        self.level = self.level.saturating_sub(rate.of(count)).max(-DEBT_SPANS_MAX * rate.full());
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, rate: Rate, count: u64) {
        self.level = self.level.saturating_add(rate.of(count)).min(rate.full());
    }

    /// How long to wait until something is left; none: something is.
    pub fn wait(&mut self, rate: Rate, now: Time) -> Option<Duration> {
        self.refill(rate, now);
        (self.level <= 0).then(|| rate.wait(1 - self.level))
    }

    /// Whether it is as if it had never been used.
    pub fn is_full(&mut self, rate: Rate, now: Time) -> bool {
        self.refill(rate, now);
        self.level >= rate.full()
    }
}

/// What each uid has left under each rule, by the rule's name: a reload of the
/// policy gives nobody a fresh start.
#[derive(Debug, Default)]
pub struct Rates(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    left: HashMap<(u32, Arc<str>), Left>,
    /// When to look next for those that can be forgotten.
    sweep_at: usize,
}

/// What is left of each limit that was in force.
#[derive(Debug, Default)]
struct Left {
    keys: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// Why a select has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The limit, by its name in the policy.
    pub limit: &'static str,
    /// When to come again; none: the call asks for more than ever passes.
    pub retry_after: Option<Duration>,
}

impl Rates {
    /// Takes `keys` for a select, unless tokens or keys are used up.
    ///
    /// # Errors
    /// What is used up.
    pub fn take_keys(
        &self,
        uid: u32,
        rule: &Arc<str>,
        limits: &Limits,
        now: Time,
        keys: u64,
    ) -> Result<(), Spent> {
        let (keys_rate, tokens_rate) = (keys_rate(limits), tokens_rate(limits));
        if keys_rate.is_none() && tokens_rate.is_none() {
            return Ok(());
        }
        let spent = |limit, retry_after| Spent { limit, retry_after };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = known.entry(uid, rule, now) else {
            return Err(spent("callers", Some(Duration::from_millis(MINUTE_MS))));
        };
        if let Some(rate) = tokens_rate
            && let Some(wait) = bucket(&mut left.tokens, rate, now).wait(rate, now)
        {
            return Err(spent("tokens_per_minute", Some(wait)));
        }
        let Some(rate) = keys_rate else { return Ok(()) };
        let taken = bucket(&mut left.keys, rate, now).take(rate, now, keys);
        taken.map_err(|wait| spent("keys_per_minute", wait))
    }

    /// Gives back keys that were taken and not given.
    pub fn give_back_keys(&self, uid: u32, rule: &Arc<str>, limits: &Limits, keys: u64) {
        let Some(rate) = keys_rate(limits) else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = known.left.get_mut(&(uid, Arc::clone(rule)));
        if let Some(bucket) = left.and_then(|left| left.keys.as_mut()) {
            bucket.give_back(rate, keys);
        }
    }

    /// Counts tokens that were reported; never refused, for they were spent.
    pub fn charge_tokens(
        &self,
        uid: u32,
        rule: &Arc<str>,
        limits: &Limits,
        now: Time,
        tokens: u64,
    ) {
        let Some(rate) = tokens_rate(limits) else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = known.entry(uid, rule, now) {
            bucket(&mut left.tokens, rate, now).charge(rate, now, tokens);
        }
    }
}

fn keys_rate(limits: &Limits) -> Option<Rate> {
    limits.keys_per_minute.map(Rate::per_minute)
}

fn tokens_rate(limits: &Limits) -> Option<Rate> {
    limits.tokens_per_minute.map(Rate::per_minute)
}

fn bucket(bucket: &mut Option<Bucket>, rate: Rate, now: Time) -> &mut Bucket {
    bucket.get_or_insert_with(|| Bucket::new(rate, now))
}

impl Known {
    /// None when too many others are known.
    fn entry(&mut self, uid: u32, rule: &Arc<str>, now: Time) -> Option<&mut Left> {
        let name = (uid, Arc::clone(rule));
        if !self.left.contains_key(&name) {
            if self.left.len() >= self.sweep_at.clamp(SWEEP_AT, CALLERS_MAX) {
                self.left.retain(|_, left| left.is_in_use(now));
                self.sweep_at = self.left.len() * 2;
            }
            if self.left.len() >= CALLERS_MAX {
                return None;
            }
        }
        Some(self.left.entry(name).or_default())
    }
}

impl Left {
    /// Whether it is known that it is not as good as new: a minute fills every
    /// rate from nothing.
    fn is_in_use(&self, now: Time) -> bool {
        let buckets = self.keys.iter().chain(&self.tokens);
        buckets.into_iter().any(|bucket| {
            bucket.level < 0 || now.since(bucket.at) < Duration::from_millis(MINUTE_MS)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::per_minute(60);

    fn at(ms: u64) -> Time {
        Time::from_ms(ms)
    }

    fn wait_ms(ms: u64) -> Result<(), Option<Duration>> {
        Err(Some(Duration::from_millis(ms)))
    }

    #[test]
    fn a_minutes_worth_passes_at_once_and_then_one_a_second() {
        let mut bucket = Bucket::new(RATE, at(5_000));
        assert_eq!(bucket.take(RATE, at(5_000), 61), Err(None), "never so many at once");
        assert_eq!(bucket.take(RATE, at(5_000), 60), Ok(()));
        assert_eq!(bucket.take(RATE, at(5_000), 1), wait_ms(1_000));
        assert_eq!(bucket.take(RATE, at(5_999), 1), wait_ms(1));
        assert_eq!(bucket.take(RATE, at(6_000), 1), Ok(()));
        assert_eq!(bucket.take(RATE, at(8_000), 3), wait_ms(1_000));
        assert_eq!(bucket.take(RATE, at(9_000), 3), Ok(()));
        bucket.give_back(RATE, 2);
        assert_eq!(bucket.take(RATE, at(9_000), 2), Ok(()));
        assert_eq!(bucket.take(RATE, at(9_000), 1), wait_ms(1_000));
    }

    #[test]
    fn a_clock_that_jumps_gives_no_more_than_a_rest_and_going_back_gives_nothing() {
        let mut bucket = Bucket::new(RATE, at(1_000_000));
        assert_eq!(bucket.take(RATE, at(1_000_000), 60), Ok(()));
        assert_eq!(bucket.take(RATE, at(0), 1), wait_ms(1_000), "back");
        assert_eq!(bucket.take(RATE, at(1_000_999), 1), wait_ms(1), "as if it had not");
        assert_eq!(bucket.take(RATE, at(u64::MAX), 60), Ok(()), "far ahead");
        assert_eq!(bucket.take(RATE, at(u64::MAX), 1), wait_ms(1_000));
    }

    #[test]
    fn a_debt_is_waited_for_and_has_an_end() {
        let mut bucket = Bucket::new(RATE, at(0));
        bucket.charge(RATE, at(0), 59);
        assert_eq!(bucket.wait(RATE, at(0)), None);
        bucket.charge(RATE, at(0), 61);
        assert!(bucket.wait(RATE, at(60_000)).is_some(), "exactly nothing is left");
        assert_eq!(bucket.wait(RATE, at(60_001)), None);
        bucket.charge(RATE, at(60_001), u64::MAX);
        assert!(bucket.wait(RATE, at(60_001 + 60 * MINUTE_MS)).is_some());
        assert_eq!(bucket.wait(RATE, at(60_002 + 60 * MINUTE_MS)), None);
    }

    #[test]
    fn each_uid_has_its_own_under_each_rule() {
        let rates = Rates::default();
        let limits = Limits { keys_per_minute: Some(2), ..Limits::default() };
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let take = |uid, rule, keys| rates.take_keys(uid, rule, &limits, at(0), keys);
        assert_eq!(take(1, &one, 2), Ok(()));
        assert_eq!(take(1, &one, 1).unwrap_err().limit, "keys_per_minute");
        assert_eq!(take(2, &one, 2), Ok(()));
        assert_eq!(take(1, &other, 2), Ok(()));
        // More at once than ever passes.
        assert_eq!(take(3, &one, 3).unwrap_err().retry_after, None);
    }

    #[test]
    fn tokens_that_are_spent_stop_selects_and_never_reports() {
        let rates = Rates::default();
        let limits = Limits { tokens_per_minute: Some(100), ..Limits::default() };
        let rule: Arc<str> = "one".into();
        let take = |ms| rates.take_keys(1, &rule, &limits, at(ms), 64);
        assert_eq!(take(0), Ok(()));
        rates.charge_tokens(1, &rule, &limits, at(0), 99);
        assert_eq!(take(0), Ok(()));
        rates.charge_tokens(1, &rule, &limits, at(0), 101);
        let spent = take(0).unwrap_err();
        assert_eq!(spent.limit, "tokens_per_minute");
        let wait = spent.retry_after.unwrap().as_millis();
        assert!((60_000..60_100).contains(&wait), "{wait}");
        assert_eq!(take(60_001), Ok(()));
    }

    #[test]
    fn callers_that_rest_are_forgotten_and_never_too_many_known() {
        let rates = Rates::default();
        let limits = Limits { keys_per_minute: Some(1), ..Limits::default() };
        let rule: Arc<str> = "everyone".into();
        let callers = || rates.0.lock().unwrap().left.len();
        for uid in 0..100_000 {
            let now = at(u64::from(uid) * 1_000);
            assert_eq!(rates.take_keys(uid, &rule, &limits, now, 1), Ok(()));
            assert!(callers() <= SWEEP_AT, "{}", callers());
        }
        let now = at(1_000_000_000);
        for uid in 0..u32::try_from(CALLERS_MAX).unwrap() + 20 {
            let taken = rates.take_keys(uid, &rule, &limits, now, 1);
            assert_eq!(taken.is_ok(), (uid as usize) < CALLERS_MAX, "{uid}");
        }
        assert!(callers() <= CALLERS_MAX);
        assert_eq!(rates.take_keys(99_999, &rule, &limits, at(1_000_060_000), 1), Ok(()));
    }
}
