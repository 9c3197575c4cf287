//! For the benchmark, and only in builds with the feature `unwritten`: a
//! ledger that writes nothing, to see what the record costs. The daemon is
//! built without it.

#[cfg(feature = "unwritten")]
mod switch {
    use std::sync::atomic::{AtomicBool, Ordering};

    static IS_UNWRITTEN: AtomicBool = AtomicBool::new(false);

    /// From now on no ledger of this process writes anything: no line is
    /// encoded, chained or brought to the disk, and every append succeeds at
    /// once. There is no way back.
    pub fn write_nothing() {
        IS_UNWRITTEN.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_unwritten() -> bool {
        IS_UNWRITTEN.load(Ordering::Relaxed)
    }
}

#[cfg(not(feature = "unwritten"))]
mod switch {
    pub(crate) const fn is_unwritten() -> bool {
        false
    }
}

pub(crate) use switch::is_unwritten;
#[cfg(feature = "unwritten")]
pub use switch::write_nothing;
