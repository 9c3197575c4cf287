//! What is left of a panic: the call fails, the log has the place, nothing
//! else.

use std::cell::RefCell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use crate::error::ServiceError;

thread_local! {
    /// Where this thread last panicked.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Counts panics, and keeps each to the work it happened in.
#[derive(Debug, Default)]
pub struct Panics {
    count: AtomicU64,
}

impl Panics {
    /// How many there were since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// What Health is to say of them.
    pub(crate) fn note(&self) -> Option<String> {
        let times = match self.count() {
            0 => return None,
            1 => "once".to_owned(),
            count => format!("{count} times"),
        };
        Some(format!(
            "the server panicked {times} since it started; each cost one call: please report \
             the lines of its log with \"broken invariant\""
        ))
    }

    /// Does `work`; what the log is to call it is asked only when it panics.
    ///
    /// # Errors
    /// When it panics: a bug, with an id that is also in the log.
    pub(crate) async fn caught<T>(
        &self,
        what: impl FnOnce() -> String,
        work: impl Future<Output = T>,
    ) -> Result<T, ServiceError> {
        let mut work = pin!(work);
        // Whatever is shared with other calls expects it: locks are looked at
        // when they are taken, memory is made anew after a panic under the
        // engine's.
        let done = poll_fn(|context| {
            match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
                Ok(polled) => polled.map(Some),
                Err(_) => Poll::Ready(None),
            }
        });
        done.await.ok_or_else(|| self.one_in(&what()))
    }

    fn one_in(&self, what: &str) -> ServiceError {
        self.count.fetch_add(1, Ordering::Relaxed);
        let place = PLACE.take().unwrap_or_else(|| "an unknown place".to_owned());
        ServiceError::bug(&format_args!("{what} panicked at {place}"))
    }
}

/// Has panics go to the log: where, and what the program's own text says of
/// it. A text that was made for the occasion may hold anything, and is left
/// out.
pub fn log_panics() {
    set_hook(Box::new(|panic| {
        let place = place(panic);
        tracing::error!("panicked at {place}: {}", fixed_text(panic));
        PLACE.set(Some(place));
    }));
}

fn place(panic: &PanicHookInfo<'_>) -> String {
    panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string)
}

fn fixed_text<'panic>(panic: &PanicHookInfo<'panic>) -> &'panic str {
    panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(text left out)")
}
