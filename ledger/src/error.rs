use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use key_server_core::Time;

use crate::segment;

/// What does not verify in a line, or between two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The line's own checksum.
    #[error("the checksum does not match: the line was changed or damaged")]
    Checksum,
    /// No newline within the largest line.
    #[error("the line is longer than any this program writes")]
    TooLong,
    /// A schema this program does not know.
    #[error(
        "the line has schema version {found}, this program reads up to version 1: use the version that wrote it"
    )]
    Version {
        /// What the line says.
        found: u64,
    },
    /// Not the form of `docs/audit.md`.
    #[error("byte {byte} of the line: expected {expected}")]
    Malformed {
        /// Where, in bytes from the line's start.
        byte: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// A line is missing, repeated or out of place.
    #[error("the line has sequence number {found}: lines are missing, repeated or out of place")]
    Sequence {
        /// What the line says.
        found: u64,
    },
    /// The hash of the line before.
    #[error("the hash of the line before does not match: that line or this one was replaced")]
    Chain,
    /// Time ran backwards.
    #[error("the line is of {at} ms, before the line above it")]
    TimeWentBack {
        /// What the line says, in ms of the timeline.
        at: u64,
    },
    /// The lines of one call are not together.
    #[error("{found} more lines should follow in this call, but {expected} are left of it")]
    More {
        /// What the line says.
        found: u64,
        /// What the line above leaves.
        expected: u64,
    },
    /// A segment's name is not the number of its first line.
    #[error("the segment is named {named}: a segment is missing, renamed or repeated")]
    SegmentName {
        /// The number in the name.
        named: u64,
    },
    /// A segment that is not the last ends within a line or a call.
    #[error("the segment ends within a line or a call, though another follows")]
    Unfinished,
}

/// The first place of a ledger that does not verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "ledger segment {}, byte {offset}, sequence number {seq}: {fault}; \
     change nothing, copy the ledger's directory, run `key-server audit verify`, \
     then restore the segment from a backup",
    path.display()
)]
pub struct Corrupt {
    /// The segment's file.
    pub path: PathBuf,
    /// The segment, by the number its first line should have.
    pub segment: u64,
    /// Where the bad line begins: bytes from the segment's start.
    pub offset: u64,
    /// The sequence number that should be here.
    pub seq: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// Why a tail does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReason {
    /// The last line was not written to its end.
    TornLine,
    /// The last call's lines are not all there.
    IncompleteCall,
}

/// The unfinished end of the last segment: nobody was told that it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment, by the number of its first line.
    pub segment: u64,
    /// Where the tail begins: bytes from the segment's start.
    pub offset: u64,
    /// The length of the tail.
    pub bytes: u64,
    /// The first sequence number that is not there any more.
    pub seq: u64,
    /// Why.
    pub reason: CutReason,
}

/// Why a ledger was not opened, or not read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another ledger of this process, has it open.
    #[error("the ledger in {} is in use by another process: stop it first", dir.display())]
    InUse {
        /// The ledger's directory.
        dir: PathBuf,
    },
    /// It does not verify.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The files do not contain the position: start again without it.
    #[error(
        "the ledger does not contain the position asked for (sequence number {seq}): read it from its start"
    )]
    PositionUnknown {
        /// The position's sequence number.
        seq: u64,
    },
    /// The first segments were removed, so the start of history cannot be read.
    #[error(
        "the ledger begins at sequence number {first_seq}, older segments were removed: restore the projection that contains them, or allow a ledger without its beginning"
    )]
    Pruned {
        /// The first line that is there.
        first_seq: u64,
    },
}

impl OpenError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Why an append did not happen. Nothing of the call is in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The disk did not take it; it will be refused until the ledger resumes.
    #[error("the ledger cannot be written ({error}): make room or repair the disk, then try again")]
    Unwritable {
        /// What the system said.
        error: Arc<str>,
    },
    /// More is queued than allowed: try again later.
    #[error("the ledger has {entries} entries waiting to be written: try again later")]
    Overloaded {
        /// How many are queued.
        entries: usize,
    },
    /// One entry is larger than a line may be.
    #[error(
        "an entry of about {bytes} bytes is too large for the ledger: ask for less in one call"
    )]
    TooLarge {
        /// Its estimated size.
        bytes: usize,
    },
    /// The caller's time lies before what was already appended: a bug.
    #[error("an entry of {} ms cannot follow one of {} ms", at.as_ms(), last.as_ms())]
    TimeWentBack {
        /// The time given.
        at: Time,
        /// The time of the entry before.
        last: Time,
    },
    /// The ledger was closed.
    #[error("the ledger is closed")]
    Closed,
}

impl Corrupt {
    pub(crate) fn new(dir: &Path, segment: u64, offset: u64, seq: u64, fault: Fault) -> Self {
        let path = dir.join(segment::file_name(segment));
        Self { path, segment, offset, seq, fault }
    }
}
