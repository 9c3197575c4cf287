//! Brings what the ledger adds up to into the local database, in batches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use key_server_ledger::{Fact, prune};
use key_server_projections::LocalProjection;

use crate::backend::{Backend, BackendState};
use crate::config::{Retention, Settings};
use crate::engine::{Engine, Extract};

/// How long changes are collected.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_millis(250);
/// How often old rows and segments are looked for.
pub(crate) const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

const HOUR_MS: u64 = 3_600_000;
/// Changes that may wait while the projection cannot be written, some 200 bytes
/// each. Beyond that they are let go, and read from the ledger later.
const WAITING_MAX: usize = 500_000;

/// Writes to the local projection; the only one who does.
pub struct Projector {
    engine: Arc<Engine>,
    projection: Mutex<Box<dyn LocalProjection>>,
    /// A batch that could not be written yet; later ones wait behind it.
    stuck: Mutex<Option<Extract>>,
    /// Whether changes were let go since the stuck batch.
    has_gap: AtomicBool,
    /// How the projection is.
    pub backend: Backend,
}

impl Projector {
    /// Writes what `engine` knows into `projection`.
    pub fn new(engine: Arc<Engine>, projection: Box<dyn LocalProjection>) -> Self {
        let name = format!("projection ({})", projection.name());
        let backend = Backend::new(name, Arc::clone(&engine.clock));
        Self {
            engine,
            projection: Mutex::new(projection),
            stuck: Mutex::new(None),
            has_gap: AtomicBool::new(false),
            backend,
        }
    }

    /// Writes what changed since the last time. A failed batch is kept and
    /// written first the next time; what changes meanwhile waits in the state,
    /// each key and session once.
    pub async fn flush(&self) {
        let stuck = self.stuck().take();
        let Some(mut extract) = stuck.or_else(|| self.engine.extract()) else { return };
        // Not durable: memory will be made anew from what is, changes included.
        let Ok(mark) = extract.mark().await else { return };
        let written = tokio::task::block_in_place(|| self.lock().write(&mark, &extract.changes));
        match written {
            Ok(()) => self.wrote(),
            Err(error) => {
                self.backend.fails(BackendState::Degraded, error);
                *self.stuck() = Some(extract.durable(mark));
                self.bound_waiting();
            }
        }
    }

    fn wrote(&self) {
        self.backend.works();
        if self.has_gap.swap(false, Ordering::Relaxed) {
            // What is missing is in the ledger: memory and what has changed are
            // made anew from there.
            self.engine.ask_for_rebuild();
        }
    }

    fn bound_waiting(&self) {
        if self.engine.let_changes_go_beyond(WAITING_MAX) {
            self.has_gap.store(true, Ordering::Relaxed);
        }
    }

    /// Makes memory equal to the ledger again.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn rebuild(&self) -> Result<(), key_server_ledger::OpenError> {
        *self.stuck() = None;
        self.engine.rebuild(&mut **self.lock())
    }

    /// Removes what is older than the settings keep.
    pub async fn prune(&self, settings: &Settings, ledger_dir: &std::path::Path) {
        let now = self.engine.clock.now();
        let before = |retention| match retention {
            Retention::Forever => None,
            Retention::For(time) => {
                let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                Some(key_server_core::Time::from_ms(now.as_ms().saturating_sub(ms)))
            }
        };
        if let Some(before) = before(settings.usage_retention) {
            let hour = u32::try_from(before.as_ms() / HOUR_MS).unwrap_or(u32::MAX);
            if let Err(error) = tokio::task::block_in_place(|| self.lock().prune_usage(hour)) {
                tracing::warn!("old usage cannot be removed: {error}");
            }
        }
        let limits = prune::Limits {
            keep_after: before(settings.ledger_retention),
            bytes_max: (settings.ledger_bytes_max > 0).then_some(settings.ledger_bytes_max),
        };
        if limits != prune::Limits::default() {
            self.prune_ledger(&limits, ledger_dir).await;
        }
    }

    /// A segment goes after the line that says so is durable; should the server
    /// be killed in between, it is found again and said again.
    async fn prune_ledger(&self, limits: &prune::Limits, dir: &std::path::Path) {
        let due = tokio::task::block_in_place(|| {
            let applied = self.lock().mark().ok().flatten().map_or(0, |mark| mark.seq);
            prune::due(dir, limits, applied)
        });
        let segments = match due {
            Ok(segments) if segments.is_empty() => return,
            Ok(segments) => segments,
            Err(error) => {
                tracing::warn!("old segments cannot be removed: {error}");
                return;
            }
        };
        let facts = segments.iter().cloned().map(Fact::SegmentRemoved).collect();
        if let Err(error) = self.engine.note(facts).await {
            tracing::warn!("old segments stay, as it cannot be recorded that they go: {error}");
            return;
        }
        if let Err(error) = tokio::task::block_in_place(|| prune::remove(dir, &segments)) {
            tracing::warn!("old segments cannot be removed: {error}");
            return;
        }
        for segment in segments {
            tracing::info!(
                "removed an old segment of the ledger: {} to {} ({})",
                segment.first_seq,
                segment.last_seq,
                segment.why.as_str()
            );
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Box<dyn LocalProjection>> {
        self.projection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stuck(&self) -> std::sync::MutexGuard<'_, Option<Extract>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
