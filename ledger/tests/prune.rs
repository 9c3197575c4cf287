//! Removing old segments.

mod common;

use common::{append, ledger_of, open_after, open_with, segments, segments_of};
use key_server_core::Time;
use key_server_ledger::{OpenError, prune::prune, verify::verify};

/// Six calls at the times 1 to 6, each in a segment of its own.
const CALLS: &[&[&str]] = &[&["a"], &["b"], &["c"], &["d"], &["e"], &["f"]];

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
        let removed = prune(dir.path(), Time::from_ms(keep_after), applied_seq).unwrap();
        let first_seqs: Vec<_> = removed.iter().map(|pruned| pruned.first_seq).collect();
        let expected: Vec<_> = (1..=removed_count).collect();
        assert_eq!(first_seqs, expected, "before {keep_after}, applied {applied_seq}");
        assert_eq!(segments(dir.path()).len() as u64, 6 - removed_count);
        assert_eq!(verify(dir.path()).unwrap().first_seq, Some(removed_count + 1));
    }
}

#[test]
fn the_projections_position_is_still_found() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1, CALLS);
    let removed = prune(dir.path(), Time::from_ms(100), positions[3].seq).unwrap();
    assert_eq!(removed.last().unwrap().last_hash, positions[2].hash);
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
    assert_eq!(prune(dir.path(), Time::from_ms(100), 100).unwrap().len(), 5);
    assert_eq!(open_after(dir.path(), Some(&last)).unwrap().opened.position, last);
}

#[test]
fn a_damaged_segment_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path(), 1, CALLS);
    let second = segments(dir.path()).remove(1);
    let text = std::fs::read_to_string(&second).unwrap();
    std::fs::write(&second, text.replace("456", "457")).unwrap();
    let error = prune(dir.path(), Time::from_ms(100), 6).err();
    assert!(matches!(&error, Some(OpenError::Corrupt(c)) if c.seq == 2), "{error:?}");
    assert!(second.exists());
    std::fs::write(&second, &text[..100]).unwrap();
    let error = prune(dir.path(), Time::from_ms(100), 6).err();
    assert!(matches!(&error, Some(OpenError::Corrupt(c)) if c.seq == 2), "{error:?}");
}

#[test]
fn pruning_beside_a_writer_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let open = open_with(dir.path(), &segments_of(1), None).unwrap();
    for at in 1..=5 {
        append(&open.ledger, at, &["a"]);
    }
    assert_eq!(prune(dir.path(), Time::from_ms(100), 5).unwrap().len(), 4);
    assert_eq!(append(&open.ledger, 6, &["b"]).seq, 6);
    assert_eq!(verify(dir.path()).unwrap().first_seq, Some(5));
}
