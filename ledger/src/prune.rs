//! Removing what is old, or too much.

use std::path::Path;

use key_server_core::Time;

use crate::error::{Corrupt, Fault, OpenError};
use crate::record::{Position, RemovalReason, SegmentRemoved};
use crate::scan::{Scan, Step};
use crate::segment;

/// How many segments go at a time: each is a line of one call.
const SEGMENTS_AT_ONCE_MAX: usize = 1_000;

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Lines from then on; without it, of any age.
    pub keep_after: Option<Time>,
    /// So many bytes of all segments; without it, any number.
    pub bytes_max: Option<u64>,
}

/// The segments at the front of the ledger in `dir` that are to go, oldest
/// first, each verified: those whose lines are all too old, and those without
/// which the ledger is no longer too long. A projection must have passed them
/// (`applied_seq` is the last line that it contains).
///
/// The segment of line `applied_seq` stays, so that the projection's position is
/// still found, and so does the last one with a line in it. Changes nothing; may
/// run beside the writer.
///
/// # Errors
/// [`OpenError::Corrupt`] when a segment that is to go does not verify;
/// [`OpenError::Io`] as it says.
pub fn due(
    dir: &Path,
    limits: &Limits,
    applied_seq: u64,
) -> Result<Vec<SegmentRemoved>, OpenError> {
    let segments = segment::list(dir)?;
    let lengths: Vec<u64> =
        segments.iter().map(|seq| length(dir, *seq)).collect::<Result<_, _>>()?;
    let mut bytes: u64 = lengths.iter().sum();
    let mut removed = Vec::new();
    for (pair, lengths) in segments.windows(2).zip(lengths.windows(2)).take(SEGMENTS_AT_ONCE_MAX) {
        let (first_seq, last_seq) = (pair[0], pair[1] - 1);
        if last_seq >= applied_seq || lengths[1] == 0 {
            break;
        }
        let keep_after = match limits.bytes_max.is_some_and(|max| bytes > max) {
            true => None,
            false if limits.keep_after.is_none() => break,
            false => limits.keep_after,
        };
        let Some(segment) = verified(dir, first_seq, last_seq, keep_after)? else { break };
        bytes -= lengths[0];
        removed.push(segment);
    }
    Ok(removed)
}

/// Removes what [`due`] found, after a line for each is durable in the ledger
/// ([`crate::Fact::SegmentRemoved`]). When it fails, what was removed before
/// stays removed.
///
/// # Errors
/// [`OpenError::Io`] as it says.
pub fn remove(dir: &Path, segments: &[SegmentRemoved]) -> Result<(), OpenError> {
    for segment in segments {
        let path = dir.join(segment::file_name(segment.first_seq));
        std::fs::remove_file(&path).map_err(OpenError::io("remove", &path))?;
    }
    segment::sync_dir(dir).map_err(OpenError::io("sync", dir))
}

/// Reads the segment; none when it has lines that are to be kept.
fn verified(
    dir: &Path,
    first_seq: u64,
    last_seq: u64,
    keep_after: Option<Time>,
) -> Result<Option<SegmentRemoved>, OpenError> {
    let mut scan = Scan::from_segment(dir, vec![first_seq], first_seq)?;
    let mut first_hash = None;
    while let Step::Record(record) = scan.step()? {
        if keep_after.is_some_and(|keep_after| record.at >= keep_after) {
            return Ok(None);
        }
        first_hash.get_or_insert(scan.position().hash);
    }
    let Position { seq, hash: last_hash, offset: bytes, .. } = *scan.call_end();
    let Some(first_hash) = first_hash.filter(|_| seq == last_seq) else {
        return Err(Corrupt::new(dir, first_seq, bytes, seq + 1, Fault::Unfinished).into());
    };
    let why = keep_after.map_or(RemovalReason::Size, |_| RemovalReason::Age);
    Ok(Some(SegmentRemoved { first_seq, last_seq, first_hash, last_hash, bytes, why }))
}

fn length(dir: &Path, segment: u64) -> Result<u64, OpenError> {
    let path = dir.join(segment::file_name(segment));
    let metadata = segment::open(dir, segment)?.metadata();
    Ok(metadata.map_err(OpenError::io("look at", &path))?.len())
}
