//! Removing old segments, and the record of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

mod common;

use std::path::Path;

use common::{append, ledger_of, open_after, open_with, segments, segments_of};
use key_server_core::Time;
use key_server_ledger::prune::{Limits, due, remove};
use key_server_ledger::verify::{Beginning, verify};
use key_server_ledger::{Entry, Fact, OpenError, RemovalReason, SegmentRemoved};

/// Six calls at the times 1 to 6, each in a segment of its own.
const CALLS: &[&[&str]] = &[&["a"], &["b"], &["c"], &["d"], &["e"], &["f"]];

fn older_than(ms: u64) -> Limits {
    Limits { keep_after: Some(Time::from_ms(ms)), bytes_max: None }
}

/// Removes what is due, without a record.
fn prune(dir: &Path, limits: &Limits, applied_seq: u64) -> Result<Vec<SegmentRemoved>, OpenError> {
    let segments = due(dir, limits, applied_seq)?;
    remove(dir, &segments)?;
    Ok(segments)
}

fn first_seqs(removed: &[SegmentRemoved]) -> Vec<u64> {
    removed.iter().map(|segment| segment.first_seq).collect()
}

#[test]
fn segments_go_when_they_are_old_and_contained_in_the_projection() {
    for (keep_after, applied_seq, removed_count) in [
        (0, 6, 0),
        (1, 6, 0),
        (2, 6, 1),
        (4, 6, 3),
        (4, 3, 2),
        (4, 1, 0),
        (4, 0, 0),
        (100, 6, 5),
        (100, 60, 5),
    ] {
        let dir = tempfile::tempdir().unwrap();
        ledger_of(dir.path(), 1, CALLS);
        let removed = prune(dir.path(), &older_than(keep_after), applied_seq).unwrap();
        let expected: Vec<_> = (1..=removed_count).collect();
        assert_eq!(first_seqs(&removed), expected, "before {keep_after}, applied {applied_seq}");
        assert!(removed.iter().all(|segment| segment.why == RemovalReason::Age));
        assert_eq!(segments(dir.path()).len() as u64, 6 - removed_count);
        assert_eq!(verify(dir.path()).unwrap().first_seq, Some(removed_count + 1));
    }
}

#[test]
fn the_oldest_segments_go_until_the_ledger_is_short_enough() {
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path(), 1, CALLS);
    let lengths = segments(dir.path()).into_iter().map(|path| path.metadata().unwrap().len());
    let lengths: Vec<u64> = lengths.collect();
    let all: u64 = lengths.iter().sum();
    for (bytes_max, applied_seq, expected) in [
        (all, 6, vec![]),
        (all - 1, 6, vec![1]),
        (all - lengths[0] - 1, 6, vec![1, 2]),
        (0, 6, vec![1, 2, 3, 4, 5]),
        (0, 3, vec![1, 2]),
    ] {
        let limits = Limits { keep_after: None, bytes_max: Some(bytes_max) };
        let found = due(dir.path(), &limits, applied_seq).unwrap();
        assert_eq!(first_seqs(&found), expected, "{bytes_max} bytes");
        assert!(found.iter().all(|segment| segment.why == RemovalReason::Size));
    }
    assert_eq!(due(dir.path(), &Limits::default(), 6).unwrap(), []);
}

#[test]
fn too_long_and_too_old_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path(), 1, CALLS);
    let all: u64 = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    let limits = Limits { bytes_max: Some(all - 1), ..older_than(3) };
    let found = due(dir.path(), &limits, 6).unwrap();
    let why: Vec<_> = found.iter().map(|segment| segment.why).collect();
    assert_eq!(why, [RemovalReason::Size, RemovalReason::Age]);
}

/// Removes what is due, as a server does; answers the number of the record of
/// the last segment.
fn prune_with_record(dir: &Path, limits: &Limits, applied_seq: u64) -> u64 {
    let open = open_after(dir, None).or_else(|_| {
        let options = key_server_ledger::Options { pruned_allowed: true, ..segments_of(1) };
        open_with(dir, &options, None)
    });
    let open = open.unwrap();
    let segments = due(dir, limits, applied_seq).unwrap();
    let entries = segments.iter().map(|one| Entry::of_node(Fact::SegmentRemoved(one.clone())));
    let pending = open.ledger.append(Time::from_ms(1_000), entries.collect());
    let position = pending.wait().unwrap();
    remove(dir, &segments).unwrap();
    position.seq
}

#[test]
fn a_beginning_that_was_removed_on_record_is_vouched_for() {
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path(), 1, CALLS);
    assert_eq!(verify(dir.path()).unwrap().beginning, Beginning::Whole);
    let seq = prune_with_record(dir.path(), &older_than(4), 6);
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.first_seq, report.beginning), (Some(4), Beginning::Recorded { seq }));
    let seq = prune_with_record(dir.path(), &older_than(5), 6);
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.first_seq, report.beginning), (Some(5), Beginning::Recorded { seq }));
    // Whoever takes one more away has no record of it.
    std::fs::remove_file(&segments(dir.path())[0]).unwrap();
    let report = verify(dir.path()).unwrap();
    let beginning = Beginning::Unvouched { first_missing_seq: 5 };
    assert_eq!((report.first_seq, report.beginning), (Some(6), beginning));
}

#[test]
fn a_record_of_other_lines_vouches_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let open = open_with(dir.path(), &segments_of(1), None).unwrap();
    append(&open.ledger, 1, &["a"]);
    append(&open.ledger, 2, &["b"]);
    let other = SegmentRemoved {
        first_seq: 1,
        last_seq: 1,
        first_hash: [1; 32],
        last_hash: [1; 32],
        bytes: 1,
        why: RemovalReason::Age,
    };
    let entry = Entry::of_node(Fact::SegmentRemoved(other));
    open.ledger.append(Time::from_ms(3), vec![entry]).wait().unwrap();
    std::fs::remove_file(&segments(dir.path())[0]).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!(report.beginning, Beginning::Unvouched { first_missing_seq: 1 });
}

#[test]
fn the_projections_position_is_still_found() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1, CALLS);
    let removed = prune(dir.path(), &older_than(100), positions[3].seq).unwrap();
    let last = removed.last().unwrap();
    assert_eq!((last.first_hash, last.last_hash), (positions[2].hash, positions[2].hash));
    let open = open_after(dir.path(), Some(&positions[3])).unwrap();
    assert_eq!(open.sessions(), ["e", "f"]);
    drop(open);
    let gone = open_after(dir.path(), Some(&positions[1])).err();
    assert!(matches!(gone, Some(OpenError::PositionUnknown { seq: 2 })), "{gone:?}");
    let all = open_after(dir.path(), None).err();
    assert!(matches!(all, Some(OpenError::Pruned { first_seq: 4 })), "{all:?}");
}

#[test]
fn the_last_line_stays_though_an_empty_segment_follows() {
    let dir = tempfile::tempdir().unwrap();
    let last = ledger_of(dir.path(), 1, CALLS)[5];
    std::fs::write(dir.path().join(format!("{:020}.jsonl", 7)), "").unwrap();
    assert_eq!(prune(dir.path(), &older_than(100), 100).unwrap().len(), 5);
    assert_eq!(open_after(dir.path(), Some(&last)).unwrap().opened.position, last);
}

#[test]
fn a_damaged_segment_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path(), 1, CALLS);
    let second = segments(dir.path()).remove(1);
    let text = std::fs::read_to_string(&second).unwrap();
    std::fs::write(&second, text.replace("456", "457")).unwrap();
    for limits in [older_than(100), Limits { keep_after: None, bytes_max: Some(0) }] {
        let error = prune(dir.path(), &limits, 6).err();
        assert!(matches!(&error, Some(OpenError::Corrupt(c)) if c.seq == 2), "{error:?}");
        assert!(second.exists());
    }
    std::fs::write(&second, &text[..100]).unwrap();
    let error = prune(dir.path(), &older_than(100), 6).err();
    assert!(matches!(&error, Some(OpenError::Corrupt(c)) if c.seq == 2), "{error:?}");
}

#[test]
fn pruning_beside_a_writer_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let open = open_with(dir.path(), &segments_of(1), None).unwrap();
    for at in 1..=5 {
        append(&open.ledger, at, &["a"]);
    }
    assert_eq!(prune(dir.path(), &older_than(100), 5).unwrap().len(), 4);
    assert_eq!(append(&open.ledger, 6, &["b"]).seq, 6);
    assert_eq!(verify(dir.path()).unwrap().first_seq, Some(5));
}
