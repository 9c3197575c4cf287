//! What a crash leaves: torn lines and incomplete calls are cut, and only those.

mod common;

use std::path::Path;

use common::{append, ledger_of, lines, memory_dir, open, open_after, segments, write_lines};
use key_server_ledger::{Cut, CutReason, Fault, OpenError, Position, verify::verify};

const CALLS: &[&[&str]] = &[&["a"], &["b", "c", "d"], &["e"], &["f", "g"]];

/// The position after the calls that end at or before `bytes`.
fn whole_calls(positions: &[Position], bytes: u64) -> Position {
    let whole = positions.iter().rev().find(|position| position.offset <= bytes);
    whole.copied().unwrap_or(Position::START)
}

#[test]
fn every_truncation_opens_with_the_whole_calls_before_it() {
    let dir = memory_dir();
    let positions = ledger_of(dir.path(), 1 << 20, CALLS);
    let segment = segments(dir.path()).remove(0);
    let bytes = std::fs::read(&segment).unwrap();
    for length in 0..=bytes.len() {
        std::fs::write(&segment, &bytes[..length]).unwrap();
        let whole = whole_calls(&positions, length as u64);
        let torn = bytes[..length].last().is_some_and(|byte| *byte != b'\n');
        let reason = if torn { CutReason::TornLine } else { CutReason::IncompleteCall };
        let cut_bytes = length as u64 - whole.offset;
        let cut = (cut_bytes > 0).then_some(Cut {
            segment: 1,
            offset: whole.offset,
            bytes: cut_bytes,
            seq: whole.seq + 1,
            reason,
        });
        let report = verify(dir.path()).unwrap();
        assert_eq!((report.tail, report.last), (cut, whole), "{length} bytes");
        let opened = open(dir.path()).opened;
        assert_eq!((opened.cut, opened.position), (cut, whole), "{length} bytes");
        assert_eq!(segment.metadata().unwrap().len(), whole.offset, "{length} bytes");
        assert_eq!(open(dir.path()).opened.cut, None, "{length} bytes");
    }
}

#[test]
fn writing_goes_on_after_a_cut() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1 << 20, CALLS);
    cut_file(&segments(dir.path())[0], positions[3].offset - 1);
    let open_again = open(dir.path());
    assert_eq!(open_again.opened.last_at.as_ms(), 3);
    assert_eq!(append(&open_again.ledger, 3, &["h"]).seq, positions[2].seq + 1);
    drop(open_again);
    assert_eq!(open(dir.path()).sessions(), ["a", "b", "c", "d", "e", "h"]);
    assert_eq!(verify(dir.path()).unwrap().tail, None);
}

fn cut_file(path: &Path, bytes: u64) {
    let file = std::fs::File::options().write(true).open(path).expect("it can be written");
    file.set_len(bytes).expect("it can be cut");
}

#[test]
fn a_cut_never_reaches_into_the_segment_before() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1, CALLS);
    cut_file(segments(dir.path()).last().unwrap(), 10);
    let open_again = open_after(dir.path(), Some(&positions[2])).unwrap();
    let cut = open_again.opened.cut.unwrap();
    assert_eq!((cut.segment, cut.offset, cut.bytes, cut.seq), (6, 0, 10, 6));
    assert_eq!(open_again.opened.position, positions[2]);
    assert_eq!(append(&open_again.ledger, 9, &["h"]).segment, 6);
}

#[test]
fn a_position_in_what_is_cut_is_unknown_and_nothing_is_cut_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1 << 20, CALLS);
    let segment = segments(dir.path()).remove(0);
    let length = positions[3].offset - 1;
    cut_file(&segment, length);
    let error = open_after(dir.path(), Some(&positions[3])).err();
    assert!(matches!(error, Some(OpenError::PositionUnknown { seq: 7 })), "{error:?}");
    assert_eq!(segment.metadata().unwrap().len(), length);
}

#[test]
fn blocks_that_were_never_written_are_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1 << 20, CALLS);
    let segment = segments(dir.path()).remove(0);
    let whole = std::fs::read(&segment).unwrap();
    let start = positions[2].offset as usize;
    let first_line_lost = {
        let mut bytes = whole.clone();
        bytes[start + 10..].fill(0);
        bytes
    };
    let newline_kept = {
        let mut bytes = whole.clone();
        let last_line = bytes.len() - 200;
        bytes[last_line..].fill(0);
        bytes.push(b'\n');
        bytes
    };
    let zeros_after = [&whole[..start], &[0; 5_000]].concat();
    for bytes in [first_line_lost, newline_kept, zeros_after] {
        std::fs::write(&segment, &bytes).unwrap();
        let cut = open(dir.path()).opened.cut.unwrap();
        assert_eq!((cut.offset as usize, cut.reason), (start, CutReason::TornLine));
        assert_eq!(cut.bytes as usize, bytes.len() - start);
    }
}

#[test]
fn a_changed_last_line_is_damage_and_is_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1 << 20, CALLS);
    let segment = segments(dir.path()).remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    let last = bytes.len() - 30;
    bytes[last] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let Some(OpenError::Corrupt(corrupt)) = open_after(dir.path(), None).err() else {
        panic!("a changed line is found")
    };
    assert_eq!((corrupt.seq, corrupt.fault), (positions[3].seq, Fault::Checksum));
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
}

#[test]
fn a_hole_before_a_line_that_verifies_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1 << 20, CALLS);
    let segment = segments(dir.path()).remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[positions[1].offset as usize + 10..][..100].fill(0);
    std::fs::write(&segment, &bytes).unwrap();
    let Some(OpenError::Corrupt(corrupt)) = open_after(dir.path(), None).err() else {
        panic!("a hole within the ledger is found")
    };
    assert_eq!((corrupt.seq, corrupt.offset), (5, positions[1].offset));
    assert_eq!(corrupt.fault, Fault::Checksum);
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
}

#[test]
fn a_segment_that_ends_early_is_damage_when_another_follows() {
    for cut_lines in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let positions = ledger_of(dir.path(), 1_000, CALLS);
        let segment = segments(dir.path()).remove(0);
        let mut kept = lines(&segment);
        assert_eq!(positions[1].segment, 1);
        kept.pop();
        write_lines(&segment, &kept);
        if !cut_lines {
            cut_file(&segment, segment.metadata().unwrap().len() - 1);
        }
        let Some(OpenError::Corrupt(corrupt)) = open_after(dir.path(), None).err() else {
            panic!("a short segment is found")
        };
        assert_eq!(corrupt.fault, Fault::Unfinished);
        assert_eq!(corrupt.seq, if cut_lines { 4 } else { 3 });
    }
}
