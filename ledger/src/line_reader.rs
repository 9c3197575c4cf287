use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use crate::line::LINE_BYTES_MAX;

const BUFFER_BYTES: usize = 1 << 18;

/// Reads a segment line by line, and knows where each begins.
pub(crate) struct LineReader {
    file: BufReader<File>,
    line: Vec<u8>,
    /// Where the line begins: bytes from the file's start.
    start: u64,
    /// Where the next one begins.
    next: u64,
}

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A line with its newline.
    Line,
    /// Bytes without a newline up to the file's end.
    Unfinished,
    /// More bytes without a newline than any line has; the file goes on.
    TooLong,
    /// Nothing.
    End,
}

impl LineReader {
    pub(crate) fn new(mut file: File, start: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(start))?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self { file, line: Vec::new(), start, next: start })
    }

    pub(crate) fn advance(&mut self) -> io::Result<Next> {
        self.line.clear();
        self.start = self.next;
        let mut limited = (&mut self.file).take(LINE_BYTES_MAX as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.line)?;
        self.next += read as u64;
        Ok(match self.line.last() {
            None => Next::End,
            Some(b'\n') => Next::Line,
            Some(_) if read > LINE_BYTES_MAX => Next::TooLong,
            Some(_) => Next::Unfinished,
        })
    }

    /// Goes back to the start of the line, to read it again when it has grown.
    pub(crate) fn step_back(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.start))?;
        self.next = self.start;
        Ok(())
    }

    /// The bytes of the line, without its newline.
    pub(crate) fn line(&self) -> &[u8] {
        self.line.strip_suffix(b"\n").unwrap_or(&self.line)
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The length of the file now.
    pub(crate) fn file_bytes(&self) -> io::Result<u64> {
        Ok(self.file.get_ref().metadata()?.len())
    }
}
