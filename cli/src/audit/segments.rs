//! The ledger's lines as they stand in its files, unverified: also those of a
//! newer version, and of a ledger that is damaged.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::line::Line;
use crate::failure::Failure;

const EXTENSION: &str = "jsonl";
const BLOCK_BYTES: usize = 64 << 10;

/// A segment's file; its name is the number of its first line, in fixed width.
pub(super) type Segment = PathBuf;

/// The segments in `dir`, oldest first.
///
/// # Errors
/// When there is no ledger, or it may not be read; exit code 2.
pub(super) fn list(dir: &Path) -> Result<Vec<Segment>, Failure> {
    let entries = std::fs::read_dir(dir).map_err(|error| no_ledger(dir, &error))?;
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        if is_segment(&path) {
            segments.push(path);
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

fn is_segment(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    path.extension().is_some_and(|extension| extension == EXTENSION)
        && !stem.is_empty()
        && stem.bytes().all(|byte| byte.is_ascii_digit())
}

fn no_ledger(dir: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::usage(format!("there is no ledger in {}", dir.display()))
            .hint("name the state directory of a server that has run with --state-dir or KEY_SERVER_STATE_DIR"),
        _ => unreadable(dir, error),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::usage(format!("{} cannot be read: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.hint("run this as the server's user or as root"),
        _ => failure,
    }
}

/// Whole lines, one after the other, across segments; at the end it can be
/// asked again, for a server may be writing.
pub(super) struct Lines {
    dir: PathBuf,
    segment: Option<(Segment, BufReader<File>)>,
    /// Where the next line begins in the segment.
    offset: u64,
    line: Vec<u8>,
}

impl Lines {
    /// From the first line of the segment in which `since` lies.
    pub(super) fn since(dir: &Path, since: Option<Timestamp>) -> Result<Self, Failure> {
        let segments = list(dir)?;
        let mut first = 0;
        for (index, segment) in segments.iter().enumerate() {
            let begins = first_line(segment)?.and_then(|line| Line::read(&line)?.time());
            if since.is_some_and(|since| begins.is_some_and(|begins| begins < since)) {
                first = index;
            }
        }
        Self::at(dir, segments.get(first), 0)
    }

    /// The last `count` lines.
    pub(super) fn last(dir: &Path, count: usize) -> Result<Self, Failure> {
        let segments = list(dir)?;
        let (mut wanted, mut place) = (count, (segments.len().saturating_sub(1), 0));
        for (index, segment) in segments.iter().enumerate().rev() {
            let (found, offset) =
                tail(segment, wanted).map_err(|error| unreadable(segment, &error))?;
            place = (index, offset);
            wanted -= found;
            if wanted == 0 {
                break;
            }
        }
        Self::at(dir, segments.get(place.0), place.1)
    }

    fn at(dir: &Path, segment: Option<&Segment>, offset: u64) -> Result<Self, Failure> {
        let mut lines = Self { dir: dir.to_owned(), segment: None, offset: 0, line: Vec::new() };
        if let Some(segment) = segment {
            lines.open(segment, offset)?;
        }
        Ok(lines)
    }

    fn open(&mut self, segment: &Path, offset: u64) -> Result<(), Failure> {
        let file = File::open(segment).map_err(|error| unreadable(segment, &error))?;
        self.segment = Some((segment.to_owned(), BufReader::with_capacity(BLOCK_BYTES, file)));
        self.seek(offset)
    }

    fn seek(&mut self, offset: u64) -> Result<(), Failure> {
        let Some((path, reader)) = &mut self.segment else { return Ok(()) };
        reader.seek(SeekFrom::Start(offset)).map_err(|error| unreadable(path, &error))?;
        self.offset = offset;
        Ok(())
    }

    /// The next line without its newline; none when no whole line is there yet.
    pub(super) fn advance(&mut self) -> Result<Option<&[u8]>, Failure> {
        while !self.read_line()? {
            if !self.next_segment()? {
                return Ok(None);
            }
        }
        Ok(Some(&self.line))
    }

    /// Whether a whole line was there.
    fn read_line(&mut self) -> Result<bool, Failure> {
        let Some((path, reader)) = &mut self.segment else { return Ok(false) };
        self.line.clear();
        let read =
            reader.read_until(b'\n', &mut self.line).map_err(|error| unreadable(path, &error))?;
        if self.line.pop_if(|byte| *byte == b'\n').is_some() {
            self.offset += read as u64;
            return Ok(true);
        }
        // A server takes back what it could not write: then the end comes nearer.
        let length = reader.get_ref().metadata().map_err(|error| unreadable(path, &error))?.len();
        self.seek(self.offset.min(length))?;
        Ok(false)
    }

    /// Goes on in the next segment, if there is one.
    fn next_segment(&mut self) -> Result<bool, Failure> {
        let current = self.segment.as_ref().map(|(path, _)| path.clone());
        let next = list(&self.dir)?.into_iter().find(|path| Some(path) > current.as_ref());
        match next {
            Some(next) => self.open(&next, 0).map(|()| true),
            None => Ok(false),
        }
    }
}

fn first_line(segment: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let file = File::open(segment).map_err(|error| unreadable(segment, &error))?;
    let mut line = Vec::new();
    let read = BufReader::new(file).read_until(b'\n', &mut line);
    read.map_err(|error| unreadable(segment, &error))?;
    Ok(line.pop_if(|byte| *byte == b'\n').map(|_| line))
}

/// How many of the last `count` lines are in this file, and where they begin.
fn tail(segment: &Path, count: usize) -> io::Result<(usize, u64)> {
    let file = File::open(segment)?;
    let mut end = file.metadata()?.len();
    let (mut newlines, mut block) = (0, vec![0; BLOCK_BYTES]);
    while end > 0 {
        let length = BLOCK_BYTES.min(usize::try_from(end).unwrap_or(BLOCK_BYTES));
        let start = end - length as u64;
        file.read_exact_at(&mut block[..length], start)?;
        for (index, byte) in block[..length].iter().enumerate().rev() {
            newlines += usize::from(*byte == b'\n');
            if newlines > count {
                return Ok((count, start + index as u64 + 1));
            }
        }
        end = start;
    }
    Ok((newlines, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(segments: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in segments {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn rest(lines: &mut Lines) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.advance().unwrap() {
            all.push(String::from_utf8(line.to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn last_lines_are_found_across_segments() {
        let long = "x".repeat(3 * BLOCK_BYTES);
        let dir = ledger(&[
            ("01.jsonl", "a\nb\n"),
            ("03.jsonl", &format!("c\n{long}\n")),
            ("05.jsonl", "torn"),
            ("notes.txt", "no\n"),
        ]);
        let last = |count| rest(&mut Lines::last(dir.path(), count).unwrap());
        assert_eq!(last(3), ["b", "c", &long]);
        assert_eq!(last(1), [long.as_str()]);
        assert_eq!(last(9).len(), 4);
        assert!(last(0).is_empty());
    }

    #[test]
    fn a_reader_at_the_end_goes_on_when_there_is_more() {
        let dir = ledger(&[("1.jsonl", "a\nhal")]);
        let mut lines = Lines::last(dir.path(), 10).unwrap();
        assert_eq!(rest(&mut lines), ["a"]);
        std::fs::write(dir.path().join("1.jsonl"), "a\nhalf\n").unwrap();
        std::fs::write(dir.path().join("3.jsonl"), "c\n").unwrap();
        assert_eq!(rest(&mut lines), ["half", "c"]);
        std::fs::write(dir.path().join("3.jsonl"), "").unwrap();
        assert!(rest(&mut lines).is_empty());
        std::fs::write(dir.path().join("3.jsonl"), "again\n").unwrap();
        assert_eq!(rest(&mut lines), ["again"]);
    }

    #[test]
    fn a_reader_of_an_empty_ledger_waits_for_its_first_segment() {
        let dir = ledger(&[]);
        let mut lines = Lines::last(dir.path(), 10).unwrap();
        assert!(rest(&mut lines).is_empty());
        std::fs::write(dir.path().join("1.jsonl"), "a\n").unwrap();
        assert_eq!(rest(&mut lines), ["a"]);
    }
}
