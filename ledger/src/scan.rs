use std::path::{Path, PathBuf};

use key_server_core::Time;

use crate::chain::Chain;
use crate::error::{Corrupt, Cut, CutReason, Fault, OpenError};
use crate::line::checked_body;
use crate::line_reader::{LineReader, Next};
use crate::record::{Position, Record};
use crate::segment;

/// Reads and verifies the segments of a ledger, line after line.
pub(crate) struct Scan {
    dir: PathBuf,
    /// The segments, by their first sequence numbers; never empty.
    segments: Vec<u64>,
    /// The one that is being read.
    index: usize,
    lines: LineReader,
    chain: Chain,
    position: Position,
    /// After the last whole call.
    call_end: Position,
}

/// What a scan came to.
pub(crate) enum Step {
    /// The next line, verified.
    Record(Record),
    /// The end of the last segment, after a whole call or before a tail.
    End(Option<Cut>),
}

impl Scan {
    /// A scan of everything there is; none when there is no segment.
    pub(crate) fn from_first(dir: &Path) -> Result<Option<Self>, OpenError> {
        let segments = segment::list(dir)?;
        let Some(first_seq) = segments.first() else { return Ok(None) };
        Self::from_segment(dir, segments.clone(), *first_seq).map(Some)
    }

    /// A scan of `segments` from the one that begins with `first_seq` on.
    pub(crate) fn from_segment(
        dir: &Path,
        segments: Vec<u64>,
        first_seq: u64,
    ) -> Result<Self, OpenError> {
        let seq = first_seq - 1;
        let position = Position { seq, segment: first_seq, ..Position::START };
        Self::new(dir, segments, Chain::from_first(first_seq), position)
    }

    /// A scan of what comes after `position`.
    ///
    /// # Errors
    /// [`OpenError::PositionUnknown`] when the files do not contain it.
    pub(crate) fn after(dir: &Path, position: &Position) -> Result<Self, OpenError> {
        let unknown = || OpenError::PositionUnknown { seq: position.seq };
        let segments = segment::list(dir)?;
        if *position == Position::START && segments.first() == Some(&1) {
            return Self::from_segment(dir, segments, 1);
        }
        segments.binary_search(&position.segment).map_err(|_| unknown())?;
        let path = dir.join(segment::file_name(position.segment));
        let file = segment::open(dir, position.segment)?;
        let bytes = file.metadata().map_err(OpenError::io("look at", &path))?.len();
        if position.offset > bytes {
            return Err(unknown());
        }
        let line = segment::line_before(&file, position.offset);
        let line = line.map_err(OpenError::io("read", &path))?.ok_or_else(unknown)?;
        let chain = Chain::after(position, &line).ok_or_else(unknown)?;
        Self::new(dir, segments, chain, *position)
    }

    fn new(
        dir: &Path,
        segments: Vec<u64>,
        chain: Chain,
        position: Position,
    ) -> Result<Self, OpenError> {
        let index = segments.binary_search(&position.segment).unwrap_or_default();
        let path = dir.join(segment::file_name(position.segment));
        let file = segment::open(dir, position.segment)?;
        let lines = LineReader::new(file, position.offset).map_err(OpenError::io("read", &path))?;
        let dir = dir.to_owned();
        Ok(Self { dir, segments, index, lines, chain, position, call_end: position })
    }

    /// Takes the next step; after [`Step::End`] or an error the scan is over.
    pub(crate) fn step(&mut self) -> Result<Step, OpenError> {
        loop {
            match self.advance()? {
                Next::Line => return self.line(),
                Next::TooLong => return self.bad_line(Fault::TooLong),
                Next::Unfinished if self.is_last() => return self.tail(CutReason::TornLine),
                Next::End if self.is_last() && self.chain.within_call() => {
                    return self.tail(CutReason::IncompleteCall);
                }
                Next::End if self.is_last() => return Ok(Step::End(None)),
                Next::Unfinished => return Err(self.corrupt(Fault::Unfinished)),
                Next::End if self.chain.within_call() => {
                    return Err(self.corrupt(Fault::Unfinished));
                }
                Next::End => self.next_segment()?,
            }
        }
    }

    fn line(&mut self) -> Result<Step, OpenError> {
        match self.chain.accept(self.lines.line()) {
            Ok(record) => {
                let (seq, hash) = (record.seq, self.chain.hash());
                let (segment, offset) = (self.segment(), self.lines.next());
                self.position = Position { seq, hash, segment, offset };
                if !self.chain.within_call() {
                    self.call_end = self.position;
                }
                Ok(Step::Record(record))
            }
            Err(fault) => self.bad_line(fault),
        }
    }

    /// A bad line is a torn one when a power cut can have made it so: it lies in
    /// the last segment, blocks of it were never written (they read as zeros,
    /// which no line contains), and nothing after it verifies.
    fn bad_line(&mut self, fault: Fault) -> Result<Step, OpenError> {
        let corrupt = self.corrupt(fault);
        if self.is_last() && self.lines.line().contains(&0) && self.nothing_follows()? {
            return self.tail(CutReason::TornLine);
        }
        Err(corrupt)
    }

    fn nothing_follows(&mut self) -> Result<bool, OpenError> {
        loop {
            match self.advance()? {
                Next::Line if checked_body(self.lines.line()).is_ok() => return Ok(false),
                Next::Line | Next::TooLong => {}
                Next::Unfinished | Next::End => return Ok(true),
            }
        }
    }

    /// The tail begins after the last whole call.
    fn tail(&self, reason: CutReason) -> Result<Step, OpenError> {
        let path = self.path();
        let bytes = self.lines.file_bytes().map_err(OpenError::io("look at", &path))?;
        let in_segment = self.call_end.segment == self.segment();
        let offset = if in_segment { self.call_end.offset } else { 0 };
        let bytes = bytes.saturating_sub(offset);
        let (segment, seq) = (self.segment(), self.call_end.seq + 1);
        Ok(Step::End(Some(Cut { segment, offset, bytes, seq, reason })))
    }

    fn next_segment(&mut self) -> Result<(), OpenError> {
        let named = self.segments[self.index + 1];
        self.index += 1;
        if named != self.chain.next_seq() {
            let (segment, seq) = (named, self.chain.next_seq());
            let fault = Fault::SegmentName { named };
            return Err(Corrupt::new(&self.dir, segment, 0, seq, fault).into());
        }
        let file = segment::open(&self.dir, named)?;
        let path = self.path();
        self.lines = LineReader::new(file, 0).map_err(OpenError::io("read", &path))?;
        Ok(())
    }

    fn advance(&mut self) -> Result<Next, OpenError> {
        let next = self.lines.advance();
        next.map_err(|source| OpenError::io("read", &self.path())(source))
    }

    fn corrupt(&self, fault: Fault) -> OpenError {
        let (segment, seq) = (self.segment(), self.chain.next_seq());
        Corrupt::new(&self.dir, segment, self.lines.start(), seq, fault).into()
    }

    fn path(&self) -> PathBuf {
        self.dir.join(segment::file_name(self.segment()))
    }

    fn is_last(&self) -> bool {
        self.index + 1 == self.segments.len()
    }

    /// The segment that is being read.
    pub(crate) fn segment(&self) -> u64 {
        self.segments[self.index]
    }

    /// After the last line.
    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// After the last whole call.
    pub(crate) fn call_end(&self) -> &Position {
        &self.call_end
    }

    /// The time of the last line.
    pub(crate) fn at(&self) -> Time {
        self.chain.at()
    }

    /// The hash of the line before the first one, if that was removed.
    pub(crate) fn before(&self) -> Option<[u8; 32]> {
        self.chain.before()
    }

    /// The first sequence number of the first segment.
    pub(crate) fn first_seq(&self) -> u64 {
        self.segments[0]
    }

    /// How many segments there are.
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
    }
}
