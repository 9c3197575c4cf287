//! Reading a ledger's directory, also while a server writes to it.

use std::path::{Path, PathBuf};

use key_server_core::Time;

use crate::chain::Chain;
use crate::error::{Corrupt, Cut, Fault, OpenError};
use crate::line_reader::{LineReader, Next};
use crate::open::start;
use crate::record::{Position, Record};
use crate::scan::{Scan, Step};
use crate::segment;

/// Hands out the calls after `from` (or all) up to `until`, verified.
///
/// # Errors
/// As [`Ledger::open`](crate::Ledger::open).
pub(crate) fn replay(
    dir: &Path,
    from: Option<&Position>,
    until: &Position,
    on_call: impl FnMut(&Position, &[Record]),
) -> Result<(), OpenError> {
    if let Some(from) = from.filter(|from| from.seq > until.seq) {
        return Err(OpenError::PositionUnknown { seq: from.seq });
    }
    if let Some(mut scan) = start(dir, false, from)? {
        read_calls(&mut scan, Some(until.seq), on_call)?;
    }
    Ok(())
}

/// Hands out whole calls up to the line `until`, or the end; answers the tail,
/// and the time of the last line that was handed out.
pub(crate) fn read_calls(
    scan: &mut Scan,
    until: Option<u64>,
    mut on_call: impl FnMut(&Position, &[Record]),
) -> Result<(Option<Cut>, Time), OpenError> {
    let mut records = Vec::new();
    let mut last_at = scan.at();
    while until.is_none_or(|until| scan.position().seq < until) {
        match scan.step()? {
            Step::End(cut) => return Ok((cut, last_at)),
            Step::Record(record) => records.push(record),
        }
        if scan.call_end() == scan.position() {
            last_at = scan.at();
            on_call(scan.position(), &records);
            records.clear();
        }
    }
    Ok((None, last_at))
}

/// The records of the ledger in `dir` from number `from_seq` on (from the first
/// that is there, without it), verified, in order.
///
/// # Errors
/// [`OpenError::Io`] when the directory cannot be read.
pub fn records(dir: &Path, from_seq: Option<u64>) -> Result<Records, OpenError> {
    let segments = segment::list(dir)?;
    let before = segments.iter().rev().find(|segment| from_seq.is_some_and(|seq| **segment <= seq));
    let first = before.or(segments.first()).copied();
    let reading = first.map(|segment| Reading::open(dir, segment)).transpose()?;
    Ok(Records { dir: dir.to_owned(), from_seq: from_seq.unwrap_or(0), reading, over: false })
}

/// An iterator that can be asked again: it answers none at the end of what is
/// written, and goes on when there is more, into the next segment too.
///
/// A line that is not finished yet counts as not written. After an error it
/// answers none for ever. A server that takes back lines after a failed write
/// can make a reader that was ahead of it fail: start again from the last
/// number seen.
pub struct Records {
    dir: PathBuf,
    from_seq: u64,
    reading: Option<Reading>,
    over: bool,
}

struct Reading {
    segment: u64,
    lines: LineReader,
    chain: Chain,
}

impl Reading {
    fn open(dir: &Path, segment: u64) -> Result<Self, OpenError> {
        let lines = open_lines(dir, segment)?;
        Ok(Self { segment, lines, chain: Chain::from_first(segment) })
    }
}

fn open_lines(dir: &Path, segment: u64) -> Result<LineReader, OpenError> {
    let path = dir.join(segment::file_name(segment));
    LineReader::new(segment::open(dir, segment)?, 0).map_err(OpenError::io("read", &path))
}

impl Records {
    fn next_record(&mut self) -> Result<Option<Record>, OpenError> {
        if self.reading.is_none() {
            let first = segment::list(&self.dir)?.first().copied();
            self.reading = first.map(|segment| Reading::open(&self.dir, segment)).transpose()?;
        }
        let Some(reading) = &mut self.reading else { return Ok(None) };
        loop {
            match reading.next(&self.dir)? {
                Some(record) if record.seq < self.from_seq => {}
                other => return Ok(other),
            }
        }
    }
}

impl Reading {
    /// The next line; none when there is none yet.
    fn next(&mut self, dir: &Path) -> Result<Option<Record>, OpenError> {
        let path = dir.join(segment::file_name(self.segment));
        let next = self.lines.advance().map_err(OpenError::io("read", &path))?;
        match next {
            Next::Line => self.accept(dir).map(Some),
            Next::TooLong => Err(self.corrupt(dir, Fault::TooLong)),
            Next::Unfinished => {
                self.lines.step_back().map_err(OpenError::io("read", &path))?;
                Ok(None)
            }
            Next::End => self.next_segment(dir),
        }
    }

    fn accept(&mut self, dir: &Path) -> Result<Record, OpenError> {
        let accepted = self.chain.accept(self.lines.line());
        accepted.map_err(|fault| self.corrupt(dir, fault))
    }

    /// Goes on in the segment that continues this one; it exists only once this
    /// one is complete.
    fn next_segment(&mut self, dir: &Path) -> Result<Option<Record>, OpenError> {
        let segment = self.chain.next_seq();
        let exists = dir.join(segment::file_name(segment)).exists();
        if segment == self.segment || !exists {
            return Ok(None);
        }
        self.lines = open_lines(dir, segment)?;
        self.segment = segment;
        self.next(dir)
    }

    fn corrupt(&self, dir: &Path, fault: Fault) -> OpenError {
        let seq = self.chain.next_seq();
        Corrupt::new(dir, self.segment, self.lines.start(), seq, fault).into()
    }
}

impl Iterator for Records {
    type Item = Result<Record, OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.next_record();
        self.over = next.is_err();
        next.transpose()
    }
}
