//! Checking a ledger as a whole.

use std::path::Path;

use crate::error::{Cut, OpenError};
use crate::record::Position;
use crate::scan::{Scan, Step};

/// What a ledger that verifies consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many segments.
    pub segments: u64,
    /// How many lines, those of the tail not counted.
    pub records: u64,
    /// The first line's sequence number. Above 1, older segments were removed,
    /// and the hash in that line is taken on trust. None when there is no line.
    pub first_seq: Option<u64>,
    /// After the last line that counts: its sequence number and hash, to be
    /// compared with what was noted elsewhere.
    pub last: Position,
    /// The unfinished end; a server that is writing has one now and then.
    pub tail: Option<Cut>,
}

/// Checks every line of the ledger in `dir`: its checksum, its form, its number,
/// its time, the hash of the line before, across all segments; and that the
/// segments are complete and rightly named. Changes nothing.
///
/// It cannot see that lines are missing at the end (compare
/// [`Report::last`]), or that whoever can write all files has computed
/// all hashes anew.
///
/// # Errors
/// [`OpenError::Corrupt`] names the first line that does not verify;
/// [`OpenError::Io`] as it says.
pub fn verify(dir: &Path) -> Result<Report, OpenError> {
    let Some(mut scan) = Scan::from_first(dir)? else { return Ok(Report::empty()) };
    let tail = loop {
        if let Step::End(tail) = scan.step()? {
            break tail;
        }
    };
    let first_seq = scan.first_seq();
    let last = *scan.call_end();
    let records = last.seq + 1 - first_seq;
    let segments = scan.segment_count() as u64;
    let first_seq = (records > 0).then_some(first_seq);
    Ok(Report { segments, records, first_seq, last, tail })
}

impl Report {
    fn empty() -> Self {
        Self { segments: 0, records: 0, first_seq: None, last: Position::START, tail: None }
    }
}
