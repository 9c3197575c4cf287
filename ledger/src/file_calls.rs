use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::segment;

/// What the writer asks of the system; a seam, so that tests can make calls
/// fail that no real disk fails on demand.
pub(crate) trait FileCalls: Send {
    /// Makes the segment that begins with `first_seq`, durably.
    fn create(&mut self, dir: &Path, first_seq: u64) -> io::Result<File> {
        segment::create(dir, first_seq)
    }

    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Makes what was written durable (fdatasync).
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Shortens the file to `bytes`.
    fn truncate(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }
}

/// The system itself.
pub(crate) struct SystemCalls;

impl FileCalls for SystemCalls {}
