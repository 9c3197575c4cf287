//! Waiting for what must happen; only a failure takes long.

use std::time::Duration;

use tokio::task::JoinHandle;

/// How long something that must happen may take.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
pub const POLL_EVERY: Duration = Duration::from_millis(5);

/// Begins work beside the test's own.
#[expect(clippy::disallowed_methods, reason = "a client of the test's own, which waits for it")]
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// Waits until `condition` gives a value; `what` is said when it never does.
///
/// # Panics
/// When it never does.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..LIMIT.as_millis() / POLL_EVERY.as_millis() {
        if let Some(value) = condition().await {
            return value;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    panic!("it never happened: {what}")
}

/// Waits for what must end by itself.
///
/// # Panics
/// When it does not.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LIMIT, work).await;
    done.unwrap_or_else(|_| panic!("it never ended: {what}"))
}
