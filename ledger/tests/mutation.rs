//! Tampering and damage: each is found, with the first number that is wrong.

mod common;

use std::path::{Path, PathBuf};

use common::{copy_dir, ledger_of, lines, memory_dir, segments, write_lines};
use key_server_ledger::{Corrupt, Fault, OpenError, verify::verify};

const CALLS: &[&[&str]] = &[&["a"], &["b", "c"], &["d"], &["e \u{e9}\""], &["f"], &["g"]];

/// The first number that does not verify; for a torn tail, its number.
fn first_bad(dir: &Path) -> Option<u64> {
    match verify(dir) {
        Ok(report) => report.tail.map(|tail| tail.seq),
        Err(OpenError::Corrupt(corrupt)) => Some(corrupt.seq),
        Err(error) => panic!("the ledger can be read: {error}"),
    }
}

fn corrupt(dir: &Path) -> Corrupt {
    match verify(dir) {
        Err(OpenError::Corrupt(corrupt)) => corrupt,
        other => panic!("the damage is found: {other:?}"),
    }
}

/// A fresh ledger in segments of about `bytes`, and its segments.
fn fresh(bytes: u64) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = memory_dir();
    ledger_of(dir.path(), bytes, CALLS);
    let segments = segments(dir.path());
    (dir, segments)
}

#[test]
fn a_flipped_bit_in_any_byte_is_found_in_its_line() {
    let (dir, segments) = fresh(1_500);
    assert!(segments.len() > 2);
    let mut seq = 1;
    for segment in &segments {
        let whole = std::fs::read(segment).unwrap();
        for place in 0..whole.len() {
            // Neighbouring bytes are alike: each bit gets its turn.
            let bit = place % 8;
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << bit;
            std::fs::write(segment, bytes).unwrap();
            let found = first_bad(dir.path());
            assert_eq!(found, Some(seq), "{segment:?}, byte {place}, bit {bit}");
            seq += u64::from(whole[place] == b'\n');
        }
        std::fs::write(segment, whole).unwrap();
    }
    assert_eq!(first_bad(dir.path()), None);
}

#[test]
fn removed_repeated_and_swapped_lines_are_found() {
    for line in 0..6 {
        let (dir, segments) = fresh(1 << 20);
        let whole = lines(&segments[0]);
        let first_bad_of = |lines: &[String]| {
            write_lines(&segments[0], lines);
            first_bad(dir.path())
        };
        let seq = line as u64 + 1;
        let mut removed = whole.clone();
        removed.remove(line);
        assert_eq!(first_bad_of(&removed), Some(seq), "line {line} removed");
        let mut repeated = whole.clone();
        repeated.insert(line, whole[line].clone());
        assert_eq!(first_bad_of(&repeated), Some(seq + 1), "line {line} repeated");
        let mut swapped = whole.clone();
        swapped.swap(line, line + 1);
        assert_eq!(first_bad_of(&swapped), Some(seq), "line {line} swapped");
    }
}

/// Gives a changed line a checksum that fits.
fn resealed(line: &str) -> String {
    let (body, _) = line.rsplit_once(",\"crc\":").expect("a line has a checksum");
    format!("{body},\"crc\":\"{:08x}\"}}", crc32fast::hash(body.as_bytes()))
}

#[test]
fn a_forged_line_with_a_fitting_checksum_breaks_the_chain_after_it() {
    let (dir, segments) = fresh(1 << 20);
    let mut forged = lines(&segments[0]);
    forged[3] = resealed(&forged[3].replace("\"user\":456", "\"user\":457"));
    write_lines(&segments[0], &forged);
    let corrupt = corrupt(dir.path());
    assert_eq!((corrupt.seq, corrupt.fault), (5, Fault::Chain));
}

#[test]
fn lines_that_contradict_their_neighbours_are_found() {
    for (line, from, to, fault) in [
        (3, "\"seq\":4", "\"seq\":9", Fault::Sequence { found: 9 }),
        (3, "\"at\":3", "\"at\":1", Fault::TimeWentBack { at: 1 }),
        (2, ",\"prev\"", ",\"more\":3,\"prev\"", Fault::More { found: 3, expected: 0 }),
        (3, "{\"v\":1", "{\"v\":3", Fault::Version { found: 3 }),
    ] {
        let (dir, segments) = fresh(1 << 20);
        let mut forged = lines(&segments[0]);
        forged[line] = resealed(&forged[line].replacen(from, to, 1));
        write_lines(&segments[0], &forged);
        let corrupt = corrupt(dir.path());
        assert_eq!((corrupt.seq, corrupt.fault), (line as u64 + 1, fault));
    }
}

#[test]
fn the_error_says_where_what_and_what_to_do() {
    let (dir, segments) = fresh(1 << 20);
    let mut forged = lines(&segments[0]);
    let offset = forged[0].len() + 1;
    forged[1] = forged[1].replace('9', "8");
    write_lines(&segments[0], &forged);
    let text = corrupt(dir.path()).to_string();
    for part in [
        "00000000000000000001.jsonl",
        &format!("byte {offset}"),
        "sequence number 2",
        "checksum",
        "audit verify",
        "backup",
    ] {
        assert!(text.contains(part), "{part} in: {text}");
    }
}

#[test]
fn missing_renamed_and_repeated_segments_are_found() {
    let name = |seq: u64| format!("{seq:020}.jsonl");
    let (dir, segments) = fresh(1);
    let count = segments.len();
    let broken = |change: &dyn Fn(&Path)| {
        let copy = tempfile::tempdir().expect("a directory can be made");
        copy_dir(dir.path(), copy.path());
        change(copy.path());
        first_bad(copy.path())
    };
    assert_eq!(count, 6);
    let remove = |dir: &Path| std::fs::remove_file(dir.join(name(4))).expect("it is there");
    assert_eq!(broken(&remove), Some(4));
    let rename = |dir: &Path| {
        std::fs::rename(dir.join(name(4)), dir.join(name(3))).expect("it is there");
    };
    assert_eq!(broken(&rename), Some(4));
    let repeat = |dir: &Path| {
        std::fs::copy(dir.join(name(4)), dir.join(name(8))).expect("it is there");
    };
    assert_eq!(broken(&repeat), Some(8));
    let empty = |dir: &Path| std::fs::write(dir.join(name(4)), "").expect("it can be written");
    assert_eq!(broken(&empty), Some(4));
    let strange = |dir: &Path| std::fs::write(dir.join("notes.txt"), "x").expect("it can be");
    assert_eq!(broken(&strange), None);
}

#[test]
fn a_removed_beginning_is_stated() {
    let (dir, segments) = fresh(1);
    std::fs::remove_file(&segments[0]).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.first_seq, report.records, report.last.seq), (Some(2), 6, 7));
    let error = common::open_after(dir.path(), None).err();
    assert!(matches!(error, Some(OpenError::Pruned { first_seq: 2 })), "{error:?}");
    let options = key_server_ledger::Options { pruned_allowed: true, ..Default::default() };
    let open = common::open_with(dir.path(), &options, None).unwrap();
    assert_eq!(open.records().len(), 6);
}

#[test]
fn an_empty_directory_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.segments, report.records, report.first_seq), (0, 0, None));
    drop(common::open(dir.path()));
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.segments, report.records, report.first_seq), (1, 0, None));
}
