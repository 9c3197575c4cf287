//! The ledger of one node: its one write path, audit trail and write-ahead log.
//!
//! Segments of JSON lines, one event a line; each line carries a sequence
//! number, the SHA-256 of the line before and a checksum of its own.
//! `docs/audit.md` is the schema on one page.
//!
//! [`Ledger::append`] queues the entries of one call and answers with a
//! [`Pending`] that resolves when they are durable; one writer thread commits
//! everything queued together. [`Ledger::open`] verifies what is there, hands it
//! out call by call, and cuts a torn tail. [`read`], [`verify`] and [`prune`]
//! work on the directory, beside a running writer.
//!
//! This crate knows the form of events, not their meaning: it never folds them
//! into state, and it knows no projection.

mod chain;
pub mod checkpoint;
mod clock;
mod error;
mod file_calls;
mod ledger;
mod line;
mod line_reader;
mod open;
mod pending;
pub mod prune;
mod queue;
pub mod read;
mod record;
mod scan;
mod segment;
mod tail;
mod unwritten;
pub mod verify;
mod writer;

#[cfg(test)]
mod fault_tests;

pub use error::{AppendError, Corrupt, Cut, CutReason, Fault, OpenError};
pub use ledger::{Ledger, Options};
pub use line::SCHEMA_VERSION;
pub use open::Opened;
pub use pending::Pending;
pub use queue::Condition;
pub use record::{
    CallNoted, Caller, CallsCounted, Durability, Entry, Fact, Position, Record, RemovalReason,
    SegmentRemoved,
};
#[cfg(feature = "unwritten")]
pub use unwritten::write_nothing;
