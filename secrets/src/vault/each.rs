//! The same for many entries: some at a time, at a bounded rate.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tracing::info;

use crate::SecretStoreError;

const REPORT_EVERY: Duration = Duration::from_secs(2);

/// How to go through many entries.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// What is done, for people: `read`.
    pub(super) doing: &'static str,
    /// How many at a time.
    pub(super) concurrency: usize,
    /// The least time from one start to the next.
    pub(super) every: Option<Duration>,
}

/// Does `work` for each of `items`, in no order.
///
/// After the first error, or a result that `is_enough`, no more are begun;
/// those under way are waited for, so that what happened is known.
///
/// # Cancellation
/// What is under way ends where it waits.
pub(super) async fn each<T, R, Work>(
    pace: Pace,
    items: Vec<T>,
    work: impl Fn(T) -> Work,
    is_enough: impl Fn(&R) -> bool,
) -> Result<Vec<R>, SecretStoreError>
where
    R: Send + 'static,
    Work: Future<Output = Result<R, SecretStoreError>> + Send + 'static,
{
    let total = items.len();
    let mut items = items.into_iter();
    let mut tasks = JoinSet::new();
    let mut ticks = pace.every.map(ticks_of);
    let mut progress = Progress::new(pace.doing, total);
    let mut results = Vec::with_capacity(total);
    let mut first_error = None;
    let mut is_done = false;
    loop {
        while !is_done && tasks.len() < pace.concurrency {
            let Some(item) = items.next() else {
                break;
            };
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            tasks.spawn(work(item));
        }
        match tasks.join_next().await {
            None => break,
            Some(Ok(Ok(result))) => {
                is_done |= is_enough(&result);
                results.push(result);
            }
            Some(Ok(Err(error))) => {
                is_done = true;
                first_error.get_or_insert(error);
            }
            Some(Err(_)) => {
                is_done = true;
                first_error.get_or_insert(SecretStoreError::Unavailable(String::from(
                    "the work on Vault was ended from outside; try again",
                )));
            }
        }
        progress.report(results.len());
    }
    first_error.map_or(Ok(results), Err)
}

/// Ticks that are late are not made up for: that would be a burst.
fn ticks_of(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

struct Progress {
    doing: &'static str,
    total: usize,
    due: Instant,
}

impl Progress {
    fn new(doing: &'static str, total: usize) -> Self {
        Self { doing, total, due: Instant::now() + REPORT_EVERY }
    }

    fn report(&mut self, done: usize) {
        if Instant::now() >= self.due {
            self.due += REPORT_EVERY;
            info!(done, total = self.total, "entries of Vault: {}", self.doing);
        }
    }
}
