use std::fs::File;
use std::io;
use std::path::PathBuf;

use key_server_core::Time;

use crate::chain::line_hash;
use crate::file_calls::FileCalls;
use crate::line::{Encoder, Frame};
use crate::record::{Durability, Entry, Position};
use crate::scan::{Scan, Step};
use crate::segment;
use crate::unwritten::is_unwritten;

/// Encoded bytes are handed to the kernel at the latest when they are so many.
const SPILL_BYTES: usize = 1 << 20;

/// The end of the ledger that is written to: the last segment, how far it is
/// durable, and the lines after that.
///
/// Lines are first *encoded*, then *committed* (all durable) or *rolled back*
/// (none there).
pub(crate) struct Tail {
    pub(crate) files: Box<dyn FileCalls>,
    pub(crate) dir: PathBuf,
    pub(crate) encoder: Encoder,
    pub(crate) durability: Durability,
    pub(crate) segment_bytes_max: u64,
    pub(crate) file: File,
    /// The segment of `file`, by its first sequence number.
    pub(crate) segment: u64,
    /// What callers were told, or will be, is there.
    pub(crate) durable: Position,
    pub(crate) durable_at: Time,
    /// What is on the disk whatever happens; behind `durable` only with
    /// [`Durability::Process`].
    pub(crate) synced: Position,
    /// Of the lines since the last commit.
    pub(crate) batch: Batch,
}

/// Lines that are not committed yet.
pub(crate) struct Batch {
    /// The last line's number, hash and time.
    seq: u64,
    hash: [u8; 32],
    at: Time,
    /// Where the next line begins in the segment.
    end: u64,
    /// The end of the lines, as far as not written.
    bytes: Vec<u8>,
}

impl Batch {
    /// No lines after `position`, in a segment that is `end` bytes long.
    pub(crate) fn after(position: &Position, at: Time, end: u64) -> Self {
        Self { seq: position.seq, hash: position.hash, at, end, bytes: Vec::new() }
    }
}

impl Tail {
    /// Adds the lines of one call, of time `at`.
    pub(crate) fn encode(&mut self, wall_ms: u64, at: Time, entries: &[Entry]) -> io::Result<()> {
        let mut more = entries.len() as u64;
        if is_unwritten() {
            (self.batch.seq, self.batch.at) = (self.batch.seq + more, at);
            return Ok(());
        }
        for entry in entries {
            more -= 1;
            let (seq, prev) = (self.batch.seq + 1, self.batch.hash);
            self.add_line(&Frame { seq, at, wall_ms, more, prev }, entry);
            if self.batch.bytes.len() >= SPILL_BYTES {
                self.spill()?;
            }
        }
        Ok(())
    }

    fn add_line(&mut self, frame: &Frame, entry: &Entry) {
        let batch = &mut self.batch;
        let start = batch.bytes.len();
        self.encoder.encode(frame, entry, &mut batch.bytes);
        let line = &batch.bytes[start..];
        batch.end += line.len() as u64;
        batch.hash = line_hash(&line[..line.len() - 1]);
        (batch.seq, batch.at) = (frame.seq, frame.at);
    }

    fn spill(&mut self) -> io::Result<()> {
        let bytes = &mut self.batch.bytes;
        if !bytes.is_empty() {
            let offset = self.batch.end - bytes.len() as u64;
            self.files.write_at(&self.file, bytes, offset)?;
            bytes.clear();
        }
        Ok(())
    }

    /// Makes the lines of the batch as durable as asked.
    pub(crate) fn commit(&mut self, durability: Durability) -> io::Result<()> {
        self.spill()?;
        if durability == Durability::Disk {
            self.sync_to(self.position())?;
        }
        (self.durable, self.durable_at) = (self.position(), self.batch.at);
        Ok(())
    }

    /// Brings what is durable onto the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.sync_to(self.durable)
    }

    fn sync_to(&mut self, position: Position) -> io::Result<()> {
        if self.synced != position && !is_unwritten() {
            self.files.sync(&self.file)?;
            self.synced = position;
        }
        Ok(())
    }

    /// True when a kill of the machine would lose something.
    pub(crate) fn is_dirty(&self) -> bool {
        self.synced != self.durable
    }

    /// After the last line of the batch.
    pub(crate) fn position(&self) -> Position {
        let Batch { seq, hash, end, .. } = self.batch;
        if seq == self.durable.seq {
            return self.durable;
        }
        Position { seq, hash, segment: self.segment, offset: end }
    }

    /// True when the next call belongs into the next segment.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.end >= self.segment_bytes_max.max(1)
    }

    /// Begins the next segment; everything must be committed.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let first_seq = self.durable.seq + 1;
        self.file = self.files.create(&self.dir, first_seq)?;
        self.segment = first_seq;
        self.batch.end = 0;
        Ok(())
    }

    /// Takes the lines of the batch away again, from the file too if it lets
    /// itself be written; [`Tail::repair`] makes sure of it.
    pub(crate) fn roll_back(&mut self) -> io::Result<()> {
        let end = self.durable_end();
        self.batch = Batch::after(&self.durable, self.durable_at, end);
        self.files.truncate(&self.file, end)
    }

    /// Makes the file what it should be after a failure: nothing after what is
    /// durable, and all of that on the disk.
    ///
    /// After a failed fdatasync the kernel may have dropped what it could not
    /// write, or believe it written: so it is verified and written once more.
    pub(crate) fn repair(&mut self) -> io::Result<()> {
        self.roll_back()?;
        if self.is_dirty() {
            self.verify_unsynced()?;
            self.rewrite_unsynced()?;
        }
        self.files.sync(&self.file)?;
        self.synced = self.durable;
        Ok(())
    }

    fn verify_unsynced(&self) -> io::Result<()> {
        let mut scan = Scan::after(&self.dir, &self.synced).map_err(io::Error::other)?;
        while scan.position().seq < self.durable.seq {
            if let Step::End(_) = scan.step().map_err(io::Error::other)? {
                return Err(io::Error::other("acknowledged lines are missing from the segment"));
            }
        }
        match *scan.position() == self.durable {
            true => Ok(()),
            false => Err(io::Error::other("acknowledged lines were replaced in the segment")),
        }
    }

    fn rewrite_unsynced(&mut self) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let in_segment = self.synced.segment == self.segment;
        let mut offset = if in_segment { self.synced.offset } else { 0 };
        let mut bytes = vec![0; SPILL_BYTES];
        while offset < self.durable_end() {
            let left = usize::try_from(self.durable_end() - offset).unwrap_or(usize::MAX);
            let bytes = &mut bytes[..left.min(SPILL_BYTES)];
            self.file.read_exact_at(bytes, offset)?;
            self.files.write_at(&self.file, bytes, offset)?;
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    /// Where the durable lines end in the segment.
    fn durable_end(&self) -> u64 {
        if self.durable.segment == self.segment { self.durable.offset } else { 0 }
    }

    /// What failed, for people: the segment's name and the system's words.
    pub(crate) fn describe(&self, error: &io::Error) -> String {
        let path = self.dir.join(segment::file_name(self.segment));
        format!("{}: {error}", path.display())
    }
}
