//! The gate before all services: how often and how many at once each uid may
//! call. It is asked before a request is read.
//!
//! No uid takes all places: its share is what is left when one more comes.
//! Whoever calls too often is refused, and gets the refusal after a pause, so
//! that a flood waits for itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use key_server_core::Time;

use crate::clock::Clock;
use crate::error::{ErrorKind, ServiceError};
use crate::rate::{Bucket, Rate};

/// How long a refusal waits,
const PAUSE: Duration = Duration::from_millis(100);
/// and how many of one uid may; more are sent at once.
const PAUSES_MAX: usize = 1_024;
/// When to come again for a place.
const PLACE_AFTER: Duration = Duration::from_millis(100);
/// So many rows of an answer cost as much as a call.
const ROWS_A_PLACE: u64 = 32;
/// Below so many callers nobody looks for those that can be forgotten.
const SWEEP_AT: usize = 1_024;
/// Callers that are known at once; beyond, new ones have to wait.
const CALLERS_MAX: usize = 65_536;

/// Lets calls in.
pub struct Gate {
    clock: Arc<dyn Clock>,
    /// None: as often as one likes.
    rate: Option<Rate>,
    calls_max: usize,
    callers: Mutex<Callers>,
}

#[derive(Default)]
struct Callers {
    by_uid: HashMap<u32, Caller>,
    /// Calls in progress, of all callers,
    calls: usize,
    /// and how many callers have some.
    busy: usize,
    sweep_at: usize,
}

#[derive(Default)]
struct Caller {
    /// None until it called.
    bucket: Option<Bucket>,
    calls: usize,
    pauses: usize,
}

/// A call in progress; its places are free again when this is dropped.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    uid: u32,
    places: AtomicUsize,
}

impl Pass {
    /// Takes as many more places, and counts as so many more calls, as an
    /// answer of `rows` is worth. Who has no other call in progress always may.
    ///
    /// # Errors
    /// Its uid has its share of the calls in progress.
    pub(crate) fn widen(&self, rows: u64) -> Result<(), ServiceError> {
        let more = usize::try_from(rows / ROWS_A_PLACE).unwrap_or(usize::MAX);
        if more == 0 {
            return Ok(());
        }
        let gate = &self.gate;
        let now = gate.now();
        let mut callers = gate.callers();
        let Callers { by_uid, calls, busy, .. } = &mut *callers;
        let Some(caller) = by_uid.get_mut(&self.uid) else { return Ok(()) };
        let others = caller.calls - self.places.load(Ordering::Relaxed);
        let share = gate.share(*busy);
        if others > 0 && caller.calls.saturating_add(more) > share {
            return Err(too_many(self.uid));
        }
        if let Some((rate, bucket)) = gate.rate.zip(caller.bucket.as_mut()) {
            bucket.charge(rate, now, more as u64);
        }
        caller.calls += more;
        *calls += more;
        self.places.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }
}

impl Gate {
    /// `calls_per_second` of each uid, 0: as many as one likes; `calls_max` in
    /// progress at once.
    pub fn new(clock: Arc<dyn Clock>, calls_per_second: u32, calls_max: usize) -> Self {
        let rate = (calls_per_second > 0).then(|| Rate::per_second(calls_per_second.into()));
        Self { clock, rate, calls_max, callers: Mutex::default() }
    }

    /// For buckets; of no meaning without a rate.
    fn now(&self) -> Time {
        if self.rate.is_some() { self.clock.now() } else { Time::default() }
    }

    /// What each of so many callers may have, and one more.
    fn share(&self, busy: usize) -> usize {
        self.calls_max / (busy + 1)
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(self: &Arc<Self>, uid: u32) -> Result<Pass, ServiceError> {
        let now = self.now();
        let mut callers = self.callers();
        if !callers.by_uid.contains_key(&uid) {
            if callers.by_uid.len() >= callers.sweep_at.clamp(SWEEP_AT, CALLERS_MAX) {
                callers.by_uid.retain(|_, caller| {
                    let bucket = caller.bucket.as_mut().zip(self.rate);
                    let is_full = bucket.is_none_or(|(bucket, rate)| bucket.is_full(rate, now));
                    caller.calls > 0 || caller.pauses > 0 || !is_full
                });
                callers.sweep_at = callers.by_uid.len() * 2;
            }
            if callers.by_uid.len() >= CALLERS_MAX {
                return Err(overloaded());
            }
        }
        let Callers { by_uid, calls, busy, .. } = &mut *callers;
        let caller = by_uid.entry(uid).or_default();
        if let Some(rate) = self.rate {
            let bucket = caller.bucket.get_or_insert_with(|| Bucket::new(rate, now));
            bucket.take(rate, now, 1).map_err(|wait| too_often(uid, rate, wait))?;
        }
        // The first call of a uid always finds a place; uids are bounded by
        // the connections.
        if caller.calls > 0 {
            let share = self.share(*busy);
            if caller.calls >= share {
                return Err(too_many(uid));
            }
            if *calls >= self.calls_max {
                return Err(overloaded());
            }
        } else {
            *busy += 1;
        }
        caller.calls += 1;
        *calls += 1;
        Ok(Pass { gate: Arc::clone(self), uid, places: AtomicUsize::new(1) })
    }

    /// Holds a refusal back for a while, unless many are held already.
    pub(crate) async fn pause(self: &Arc<Self>, uid: u32) {
        if let Some(_held) = self.held(uid) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn held(self: &Arc<Self>, uid: u32) -> Option<Held> {
        let mut callers = self.callers();
        let caller = callers.by_uid.get_mut(&uid)?;
        let has_room = caller.pauses < PAUSES_MAX;
        caller.pauses += usize::from(has_room);
        has_room.then(|| Held { gate: Arc::clone(self), uid })
    }
}

/// A refusal that is held back.
struct Held {
    gate: Arc<Gate>,
    uid: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(caller) = self.gate.callers().by_uid.get_mut(&self.uid) {
            caller.pauses -= 1;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut callers = self.gate.callers();
        let Callers { by_uid, calls, busy, .. } = &mut *callers;
        let Some(caller) = by_uid.get_mut(&self.uid) else { return };
        let places = *self.places.get_mut();
        caller.calls -= places;
        *calls -= places;
        *busy -= usize::from(caller.calls == 0);
    }
}

fn too_often(uid: u32, rate: Rate, wait: Option<Duration>) -> ServiceError {
    let count = rate.count;
    let message = format!("uid {uid} calls more than {count} times a second (calls_per_second)");
    ServiceError::new(ErrorKind::Exhausted, "RATE_LIMITED", message)
        .with("limit", "calls_per_second")
        .retry_after(wait.unwrap_or(PLACE_AFTER).max(PAUSE))
}

fn too_many(uid: u32) -> ServiceError {
    let message = format!("uid {uid} has its share of the calls in progress; wait for answers");
    ServiceError::new(ErrorKind::Exhausted, "TOO_MANY_CALLS", message)
        .with("limit", "calls_max")
        .retry_after(PLACE_AFTER)
}

fn overloaded() -> ServiceError {
    let message = "as many calls are in progress as may be (calls_max); try again";
    ServiceError::new(ErrorKind::Unavailable, "OVERLOADED", message).retry_after(PLACE_AFTER)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[derive(Default)]
    struct ManualClock(AtomicU64);

    impl ManualClock {
        fn pass(&self, ms: u64) {
            self.0.fetch_add(ms, Ordering::SeqCst);
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Time {
            Time::from_ms(self.0.load(Ordering::SeqCst))
        }

        fn wall_ms(&self) -> i64 {
            0
        }
    }

    fn gate(per_second: u32, calls_max: usize) -> (Arc<Gate>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
        (Arc::new(Gate::new(shared, per_second, calls_max)), clock)
    }

    fn reason(gate: &Arc<Gate>, uid: u32) -> &'static str {
        gate.enter(uid).err().map_or("passed", |error| error.reason)
    }

    #[test]
    fn one_uid_that_calls_too_often_waits_and_others_do_not() {
        let (gate, clock) = gate(10, 100);
        assert!((0..10).all(|_| gate.enter(1).is_ok()));
        let refusal = gate.enter(1).err().unwrap();
        assert_eq!(refusal.reason, "RATE_LIMITED");
        assert!(refusal.retry_after.unwrap() >= Duration::from_millis(100));
        assert!((0..10).all(|_| gate.enter(2).is_ok()));
        clock.pass(99);
        assert_eq!(reason(&gate, 1), "RATE_LIMITED");
        clock.pass(1);
        assert_eq!(reason(&gate, 1), "passed");
        assert_eq!(reason(&gate, 1), "RATE_LIMITED");
    }

    #[test]
    fn nobody_takes_all_places_and_one_more_always_finds_his() {
        let (gate, _clock) = gate(0, 12);
        let mut of_first: Vec<_> = (0..6).map(|_| gate.enter(1).unwrap()).collect();
        assert_eq!(reason(&gate, 1), "TOO_MANY_CALLS");
        let of_second: Vec<_> = (0..4).map(|_| gate.enter(2).unwrap()).collect();
        assert_eq!(reason(&gate, 2), "TOO_MANY_CALLS");
        // The first has more than its share by now, until it shrinks.
        of_first.pop();
        assert_eq!(reason(&gate, 1), "TOO_MANY_CALLS");
        of_first.truncate(3);
        of_first.push(gate.enter(1).unwrap());
        let _of_third: Vec<_> = (0..3).map(|_| gate.enter(3).unwrap()).collect();
        assert_eq!(reason(&gate, 3), "TOO_MANY_CALLS");
        assert_eq!(gate.callers().calls, 11);
        let many: Vec<_> = (4..10).map(|uid| gate.enter(uid).unwrap()).collect();
        assert_eq!(gate.callers().calls, 17, "one of each, whatever calls_max says");
        drop((many, of_second, of_first));
        assert_eq!(gate.callers().calls, 3);
        assert_eq!(gate.callers().busy, 1);
        let _two: Vec<_> = (0..3).map(|_| gate.enter(3).unwrap()).collect();
        assert_eq!(reason(&gate, 3), "TOO_MANY_CALLS", "half of all");
    }

    #[test]
    fn an_answer_of_many_rows_takes_the_places_of_many_calls() {
        let (gate, clock) = gate(100, 20);
        let wide = gate.enter(1).unwrap();
        wide.widen(31).unwrap();
        assert_eq!(gate.callers().calls, 1);
        wide.widen(32 * 30).unwrap();
        assert_eq!(gate.callers().calls, 31, "alone, it may take more than its share");
        assert_eq!(reason(&gate, 1), "TOO_MANY_CALLS");
        assert_eq!(reason(&gate, 2), "passed", "one of each");
        drop(wide);
        assert_eq!(gate.callers().calls, 0);
        let (one, two) = (gate.enter(1).unwrap(), gate.enter(1).unwrap());
        assert_eq!(two.widen(32 * 9).unwrap_err().reason, "TOO_MANY_CALLS");
        two.widen(32 * 8).unwrap();
        assert_eq!(gate.callers().calls, 10);
        drop((one, two));
        clock.pass(1_000);
        let rich = gate.enter(1).unwrap();
        rich.widen(u64::MAX).unwrap();
        drop(rich);
        assert_eq!(gate.callers().calls, 0);
        assert_eq!(reason(&gate, 1), "RATE_LIMITED");
    }

    #[test]
    fn callers_that_rest_are_forgotten() {
        let (gate, clock) = gate(1, 100);
        let _busy = gate.enter(u32::MAX).unwrap();
        for uid in 0..20_000 {
            drop(gate.enter(uid).unwrap());
            clock.pass(100);
            assert!(gate.callers().by_uid.len() <= SWEEP_AT);
        }
        assert!(gate.callers().by_uid.contains_key(&u32::MAX));
    }

    #[test]
    fn only_so_many_refusals_of_a_uid_are_held_back() {
        let (gate, _clock) = gate(1, 100);
        drop(gate.enter(1).unwrap());
        let held: Vec<_> = (0..PAUSES_MAX).map(|_| gate.held(1).unwrap()).collect();
        assert!(gate.held(1).is_none());
        assert!(gate.enter(2).is_ok() && gate.held(2).is_some());
        drop(held);
        assert!(gate.held(1).is_some());
    }
}
