//! Everything that reads what others wrote, as functions of bytes that must
//! never panic, hang or lie. `fuzz/run.sh` lets libFuzzer look for bytes that
//! they cannot bear; the corpus is also a test.

pub mod age_store;
pub mod checkpoint;
pub mod csv;
pub mod ledger_line;
pub mod ledger_segment;
pub mod policy;
pub mod requests;
mod scratch;
pub mod sessions;
pub mod settings;
pub mod vault;

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
    ("requests", requests::run),
    ("sessions", sessions::run),
    ("settings", settings::run),
    ("vault", vault::run),
];
