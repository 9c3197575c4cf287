//! The files of a ledger: `{first sequence number, 20 digits}.jsonl`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use crate::error::OpenError;
use crate::line::LINE_BYTES_MAX;

const NAME_DIGITS: usize = 20;
const NAME_EXTENSION: &str = ".jsonl";
/// No ledger gets near its end; numbers after it can still be counted on.
const SEQ_RANGE: std::ops::Range<u64> = 1..1 << 63;
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// The name of the segment whose first line has this sequence number.
pub(crate) fn file_name(first_seq: u64) -> String {
    format!("{first_seq:0NAME_DIGITS$}{NAME_EXTENSION}")
}

fn first_seq(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(NAME_EXTENSION)?;
    let exact = digits.len() == NAME_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    exact.then(|| digits.parse().ok()).flatten().filter(|first_seq| SEQ_RANGE.contains(first_seq))
}

/// The first sequence numbers of the segments in `dir`, in order; files with
/// other names are not the ledger's.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>, OpenError> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(OpenError::io("list", dir))? {
        let entry = entry.map_err(OpenError::io("list", dir))?;
        segments.extend(entry.file_name().to_str().and_then(first_seq));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Makes the ledger's directory, for its owner alone, unless it is there.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    match dir.parent() {
        Some(parent) if parent != Path::new("") => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Makes new and removed files of `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a segment's file, for its owner alone.
///
/// An empty file of that name counts as made: a crash or a failure just after
/// making it leaves one.
pub(crate) fn create(dir: &Path, first_seq: u64) -> io::Result<File> {
    let path = dir.join(file_name(first_seq));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let file = options.open(path)?;
    if file.metadata()?.len() > 0 {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the next segment has lines"));
    }
    sync_dir(dir)?;
    Ok(file)
}

/// Opens a segment to read it.
pub(crate) fn open(dir: &Path, first_seq: u64) -> Result<File, OpenError> {
    let path = dir.join(file_name(first_seq));
    File::open(&path).map_err(OpenError::io("open", &path))
}

/// Opens a segment to write it.
pub(crate) fn open_to_write(dir: &Path, first_seq: u64) -> Result<File, OpenError> {
    let path = dir.join(file_name(first_seq));
    let file = OpenOptions::new().read(true).write(true).open(&path);
    file.map_err(OpenError::io("open for writing", &path))
}

const BLOCK_BYTES: u64 = 4_096;

/// The line whose newline is the last byte before `end`; none when no line ends
/// there.
pub(crate) fn line_before(file: &File, end: u64) -> io::Result<Option<Vec<u8>>> {
    let mut tail = Vec::new();
    let mut start = end;
    while start > 0 && tail.len() <= LINE_BYTES_MAX {
        let block = BLOCK_BYTES.min(start);
        start -= block;
        prepend(file, start, block as usize, &mut tail)?;
        let Some((b'\n', line)) = tail.split_last() else { return Ok(None) };
        if let Some(newline) = line.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(line[newline + 1..].to_vec()));
        }
        if start == 0 {
            return Ok(Some(line.to_vec()));
        }
    }
    Ok(None)
}

fn prepend(file: &File, start: u64, length: usize, tail: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)?;
    bytes.append(tail);
    *tail = bytes;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_their_numbers() {
        assert_eq!(file_name(1), "00000000000000000001.jsonl");
        assert_eq!(first_seq(&file_name(12_345)), Some(12_345));
        assert_eq!(first_seq(&file_name(u64::MAX)), None);
        for other in ["", "1.jsonl", "00000000000000000000.jsonl", "+0000000000000000001.jsonl"] {
            assert_eq!(first_seq(other), None, "{other}");
        }
        assert_eq!(first_seq("00000000000000000001.jsonl.bak"), None);
    }

    #[test]
    fn the_line_before_a_place_is_found_across_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        let long = "x".repeat(10_000);
        std::fs::write(&path, format!("one\n{long}\nthree")).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(line_before(&file, 0).unwrap(), None);
        assert_eq!(line_before(&file, 3).unwrap(), None);
        assert_eq!(line_before(&file, 4).unwrap(), Some(b"one".to_vec()));
        assert_eq!(line_before(&file, 10_005).unwrap(), Some(long.into_bytes()));
        assert_eq!(line_before(&file, 10_010).unwrap(), None);
    }

    #[test]
    fn a_segment_with_lines_is_never_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), 7).unwrap();
        create(dir.path(), 7).unwrap();
        std::fs::write(dir.path().join(file_name(7)), "line\n").unwrap();
        assert_eq!(create(dir.path(), 7).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
