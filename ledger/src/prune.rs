//! Removing what is old.

use std::path::Path;

use key_server_core::Time;

use crate::error::{Corrupt, Fault, OpenError};
use crate::record::Position;
use crate::scan::{Scan, Step};
use crate::segment;

/// A segment that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Its first line's sequence number.
    pub first_seq: u64,
    /// Its last line's.
    pub last_seq: u64,
    /// The hash of its last line, which the next segment's first line repeats.
    pub last_hash: [u8; 32],
    /// Its length.
    pub bytes: u64,
}

/// Removes whole segments from the front of the ledger in `dir`, oldest first:
/// those whose lines are all of before `keep_after`, and which a projection has
/// passed (`applied_seq` is the last line that it contains).
///
/// Each is verified before it goes. The segment of line `applied_seq` stays, so
/// that the projection's position is still found, and so does the last one with
/// a line in it. May run beside the writer. When it fails, what was removed
/// before stays removed.
///
/// # Errors
/// [`OpenError::Corrupt`] when a segment does not verify: it stays;
/// [`OpenError::Io`] as it says.
pub fn prune(dir: &Path, keep_after: Time, applied_seq: u64) -> Result<Vec<Pruned>, OpenError> {
    let segments = segment::list(dir)?;
    let mut removed = Vec::new();
    for pair in segments.windows(2) {
        let (first_seq, last_seq) = (pair[0], pair[1] - 1);
        if last_seq >= applied_seq || is_empty(dir, pair[1])? {
            break;
        }
        let Some(pruned) = verified(dir, first_seq, last_seq, keep_after)? else { break };
        let path = dir.join(segment::file_name(first_seq));
        std::fs::remove_file(&path).map_err(OpenError::io("remove", &path))?;
        removed.push(pruned);
    }
    segment::sync_dir(dir).map_err(OpenError::io("sync", dir))?;
    Ok(removed)
}

/// Reads the segment; none when it has lines that are to be kept.
fn verified(
    dir: &Path,
    first_seq: u64,
    last_seq: u64,
    keep_after: Time,
) -> Result<Option<Pruned>, OpenError> {
    let mut scan = Scan::from_segment(dir, vec![first_seq], first_seq)?;
    while let Step::Record(record) = scan.step()? {
        if record.at >= keep_after {
            return Ok(None);
        }
    }
    let Position { seq, hash, offset, .. } = *scan.call_end();
    if seq != last_seq {
        return Err(Corrupt::new(dir, first_seq, offset, seq + 1, Fault::Unfinished).into());
    }
    Ok(Some(Pruned { first_seq, last_seq, last_hash: hash, bytes: offset }))
}

fn is_empty(dir: &Path, segment: u64) -> Result<bool, OpenError> {
    let path = dir.join(segment::file_name(segment));
    let metadata = segment::open(dir, segment)?.metadata();
    Ok(metadata.map_err(OpenError::io("look at", &path))?.len() == 0)
}
