//! Reading while the ledger is written.

mod common;

use std::io::Write;
use std::path::Path;

use common::{append, ledger_of, open_with, segments, segments_of, session};
use key_server_ledger::read::{Records, records};
use key_server_ledger::{Fault, OpenError};

fn seqs(records: &mut Records) -> Vec<u64> {
    records.map(|record| record.expect("the ledger verifies").seq).collect()
}

#[test]
fn a_reader_follows_the_writer_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut before_all = records(dir.path(), None).unwrap();
    assert_eq!(seqs(&mut before_all), [0; 0]);
    let open = open_with(dir.path(), &segments_of(1_000), None).unwrap();
    let mut reader = records(dir.path(), None).unwrap();
    assert_eq!(seqs(&mut reader), [0; 0]);
    for seq in 1..=20 {
        append(&open.ledger, seq, &[&seq.to_string()]);
        let record = reader.next().unwrap().unwrap();
        assert_eq!(session(&record.fact), Some(seq.to_string().as_str()));
        assert!(reader.next().is_none());
    }
    assert!(segments(dir.path()).len() > 3);
    assert_eq!(seqs(&mut before_all), (1..=20).collect::<Vec<_>>());
}

#[test]
fn reading_begins_at_the_number_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path(), 1_000, &[&["a"], &["b", "c"], &["d"], &["e"], &["f"]]);
    for from_seq in 0..=8 {
        let read = seqs(&mut records(dir.path(), Some(from_seq)).unwrap());
        assert_eq!(read, (from_seq.max(1)..=6).collect::<Vec<_>>());
    }
}

#[test]
fn a_line_counts_once_its_newline_is_there() {
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path(), 1 << 20, &[&["a"], &["b"]]);
    let bytes = std::fs::read(&segments(dir.path())[0]).unwrap();
    let live = tempfile::tempdir().unwrap();
    let path = live.path().join(segments(dir.path())[0].file_name().unwrap());
    let mut file = std::fs::File::create(&path).unwrap();
    let mut reader = records(live.path(), None).unwrap();
    let mut read = 0;
    for byte in &bytes {
        file.write_all(&[*byte]).unwrap();
        let count = seqs(&mut reader).len();
        assert_eq!(count, usize::from(*byte == b'\n'));
        read += count;
    }
    assert_eq!(read, 2);
}

fn damage(segment: &Path) {
    let mut bytes = std::fs::read(segment).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(segment, bytes).expect("it can be written");
}

#[test]
fn a_reader_stops_at_the_first_bad_line() {
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path(), 1, &[&["a"], &["b"], &["c"]]);
    damage(&segments(dir.path())[1]);
    let mut reader = records(dir.path(), None).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().seq, 1);
    let Some(Err(OpenError::Corrupt(corrupt))) = reader.next() else {
        panic!("the damage is found")
    };
    assert_eq!((corrupt.seq, corrupt.fault), (2, Fault::Checksum));
    assert!(reader.next().is_none());
}
