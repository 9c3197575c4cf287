//! Everything that reads what others wrote, as functions of bytes that must
//! never panic, hang or lie. `fuzz/run.sh` lets libFuzzer look for bytes that
//! they cannot bear; the corpus is also a test.

pub mod age_store;
pub mod checkpoint;
pub mod csv;
pub mod ledger_line;
pub mod ledger_segment;
mod node;
pub mod policy;
pub mod redis;
pub mod requests;
mod scratch;
pub mod sessions;
pub mod settings;
pub mod vault;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Rust's own entry ignores SIGPIPE; libFuzzer's dies of it, in silence, when
/// one end of a connection goes before the other.
fn bear_broken_pipes(runtime: &Runtime) {
    let _inside = runtime.enter();
    let _handled = signal(SignalKind::pipe()).expect("a signal can be handled");
}

/// A target: what it is called, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by the names of their folders in `corpus/`.
pub const TARGETS: &[Target] = &[
    ("age_store", age_store::run),
    ("checkpoint", checkpoint::run),
    ("csv", csv::run),
    ("ledger_line", ledger_line::run),
    ("ledger_segment", ledger_segment::run),
    ("policy", policy::run),
    ("redis", redis::run),
    ("requests", requests::run),
    ("sessions", sessions::run),
    ("settings", settings::run),
    ("vault", vault::run),
];
