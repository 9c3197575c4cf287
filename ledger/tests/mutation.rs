//! Tampering and damage: each is found, with the first number that is wrong.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]
#![expect(clippy::print_stdout, reason = "the figures of a test, for who asks for them")]

mod common;

use std::path::{Path, PathBuf};

use common::{copy_dir, ledger_of, lines, memory_dir, segments, write_lines};
use key_server_ledger::checkpoint::{CHECKPOINTS_FILE_NAME, Checkpoints, Signer};
use key_server_ledger::verify::{Beginning, VerifyError, verify, verify_against};
use key_server_ledger::{Corrupt, Fault, OpenError};

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
fn a_beginning_that_was_removed_without_a_record_is_named() {
    let (dir, segments) = fresh(1);
    std::fs::remove_file(&segments[0]).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.first_seq, report.records, report.last.seq), (Some(2), 6, 7));
    assert_eq!(report.beginning, Beginning::Unvouched { first_missing_seq: 1 });
    let error = common::open_after(dir.path(), None).err();
    assert!(matches!(error, Some(OpenError::Pruned { first_seq: 2 })), "{error:?}");
    let options = key_server_ledger::Options { pruned_allowed: true, ..Default::default() };
    let open = common::open_with(dir.path(), &options, None).unwrap();
    assert_eq!(open.records().len(), 6);
}

#[test]
fn a_checkpoint_does_not_vouch_for_a_beginning_that_is_gone() {
    let (dir, notes) = (memory_dir(), memory_dir());
    let positions = ledger_of(dir.path(), 1, CALLS);
    let signer = Signer::open(notes.path(), common::NODE).unwrap();
    positions.iter().for_each(|position| drop(signer.write(position).unwrap()));
    let path = notes.path().join(CHECKPOINTS_FILE_NAME);
    for segment in &segments(dir.path())[..4] {
        std::fs::remove_file(segment).unwrap();
        let checkpoints = Checkpoints::open(&path, signer.public_key()).unwrap();
        let report = verify_against(dir.path(), checkpoints).unwrap();
        assert_eq!(report.beginning, Beginning::Unvouched { first_missing_seq: 1 });
    }
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

/// A ledger with a checkpoint of its last line, beside it.
struct Signed {
    dir: tempfile::TempDir,
    notes: tempfile::TempDir,
    signer: Signer,
    segments: Vec<PathBuf>,
    /// All lines with their newlines, the first line of the call of each, and
    /// the segment of each.
    lines: Vec<(Vec<u8>, u64, usize)>,
}

impl Signed {
    fn new() -> Self {
        let (dir, notes) = (memory_dir(), memory_dir());
        let calls: Vec<Vec<String>> = (0..30_usize)
            .map(|call| (0..=call % 3).map(|line| format!("session {call} {line}")).collect())
            .collect();
        let calls: Vec<Vec<&str>> =
            calls.iter().map(|call| call.iter().map(String::as_str).collect()).collect();
        let calls: Vec<&[&str]> = calls.iter().map(Vec::as_slice).collect();
        let positions = ledger_of(dir.path(), 4_000, &calls);
        let signer = Signer::open(notes.path(), common::NODE).unwrap();
        let last = positions.last().unwrap();
        signer.write(last).unwrap();
        let segments = segments(dir.path());
        let (mut lines, mut seq) = (Vec::new(), 0_u64);
        let ends: Vec<u64> = positions.iter().map(|position| position.seq).collect();
        for (place, segment) in segments.iter().enumerate() {
            for line in std::fs::read(segment).unwrap().split_inclusive(|byte| *byte == b'\n') {
                seq += 1;
                let before = ends.iter().rev().find(|end| **end < seq).copied().unwrap_or(0);
                lines.push((line.to_vec(), before + 1, place));
            }
        }
        assert_eq!(seq, last.seq);
        Self { dir, notes, signer, segments, lines }
    }

    /// The first number that is wrong or missing.
    fn first_bad(&self) -> Option<u64> {
        let path = self.notes.path().join(CHECKPOINTS_FILE_NAME);
        let checkpoints = Checkpoints::open(&path, self.signer.public_key()).unwrap();
        match verify_against(self.dir.path(), checkpoints) {
            Ok(_) => None,
            Err(VerifyError::Ledger(OpenError::Corrupt(corrupt))) => Some(corrupt.seq),
            Err(VerifyError::CutOff { first_missing_seq, .. }) => Some(first_missing_seq),
            Err(VerifyError::Replaced { first_seq, .. }) => Some(first_seq),
            Err(error) => panic!("the ledger can be read: {error}"),
        }
    }

    /// Writes the lines back as given, each into its segment.
    fn write(&self, lines: &[(Vec<u8>, u64, usize)], touched: &[usize]) {
        for place in touched {
            let of_segment = lines.iter().filter(|(_, _, segment)| segment == place);
            let bytes: Vec<u8> = of_segment.flat_map(|(line, ..)| line.clone()).collect();
            std::fs::write(&self.segments[*place], bytes).unwrap();
        }
    }
}

/// SplitMix64: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(bits ^ (bits >> 31)) * bound as u128) >> 64) as usize
    }
}

/// One random mutation of the lines: what it is, the lines after it, the
/// segments it touches, and the first number that is wrong then.
type Mutated = (&'static str, Vec<(Vec<u8>, u64, usize)>, Vec<usize>, u64);

fn mutated(signed: &Signed, random: &mut Random) -> Mutated {
    let whole = &signed.lines;
    let mut lines = whole.clone();
    let line = random.below(lines.len());
    let (seq, segment) = (line as u64 + 1, lines[line].2);
    // What is left of a last call that is not whole counts as torn.
    let is_last = |line: usize| line + 1 == whole.len();
    match random.below(6) {
        0 => {
            let (byte, bit) = (random.below(lines[line].0.len()), random.below(8));
            lines[line].0[byte] ^= 1 << bit;
            let is_torn =
                is_last(line) && (byte + 1 == lines[line].0.len() || lines[line].0[byte] == 0);
            let seq = if is_torn { lines[line].1 } else { seq };
            ("flip", lines, vec![segment], seq)
        }
        1 => {
            lines.remove(line);
            let seq = if is_last(line) { whole[line].1 } else { seq };
            ("delete", lines, vec![segment], seq)
        }
        2 => {
            let other = (line + 1 + random.below(lines.len() - 1)) % lines.len();
            let text = lines[line].0.clone();
            lines[line].0 = std::mem::replace(&mut lines[other].0, text);
            let first = line.min(other) as u64 + 1;
            ("swap", lines, vec![segment, whole[other].2], first)
        }
        3 => {
            let text = match random.below(2) {
                0 => lines[random.below(lines.len())].0.clone(),
                _ => format!("{{\"v\":1,\"seq\":{}}}\n", random.below(100)).into_bytes(),
            };
            let seq = seq + u64::from(text == lines[line].0);
            lines.insert(line, (text, 0, segment));
            ("insert", lines, vec![segment], seq)
        }
        4 => {
            lines.insert(line, lines[line].clone());
            ("duplicate", lines, vec![segment], seq + 1)
        }
        _ => {
            let bytes = random.below(lines[line].0.len());
            lines[line].0.truncate(bytes);
            let after = lines.split_off(line + 1);
            lines.extend(after.into_iter().filter(|(_, _, other)| *other != segment));
            let is_in_last = segment + 1 == signed.segments.len();
            let seq = if is_in_last { whole[line].1 } else { seq };
            ("cut", lines, vec![segment], seq)
        }
    }
}

/// The figure of the audit trail: each of 10,000 single changes is found, with
/// the first number that is wrong.
#[test]
fn ten_thousand_random_mutations_are_each_found_with_the_first_wrong_number() {
    const SEED: u64 = 20_261_123;
    println!("seed {SEED}");
    let signed = Signed::new();
    assert!(signed.segments.len() > 3);
    assert_eq!(signed.first_bad(), None);
    let mut random = Random(SEED);
    let mut counts = std::collections::BTreeMap::new();
    for number in 0..10_000 {
        let (what, lines, touched, seq) = mutated(&signed, &mut random);
        signed.write(&lines, &touched);
        assert_eq!(signed.first_bad(), Some(seq), "mutation {number}: {what}");
        signed.write(&signed.lines, &touched);
        *counts.entry(what).or_insert(0) += 1;
    }
    assert_eq!(signed.first_bad(), None);
    println!("{counts:?}");
    assert!(counts.values().all(|count| *count > 1_000), "{counts:?}");
}

/// Computes hashes and checksums anew from `line` on, as whoever can write the
/// files could.
fn rechained(lines: &mut [String], line: usize) {
    for place in line.max(1)..lines.len() {
        let hash: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&lines[place - 1]).into();
        let prev: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let (body, rest) = lines[place].split_once(",\"prev\":\"").unwrap();
        lines[place] = resealed(&format!("{body},\"prev\":\"{prev}{}", &rest[64..]));
    }
}

#[test]
fn a_history_that_was_written_anew_does_not_fit_its_checkpoints() {
    let (dir, notes) = (memory_dir(), memory_dir());
    let positions = ledger_of(dir.path(), 1 << 20, CALLS);
    let signer = Signer::open(notes.path(), common::NODE).unwrap();
    signer.write(&positions[0]).unwrap();
    signer.write(&positions[5]).unwrap();
    let path = notes.path().join(CHECKPOINTS_FILE_NAME);
    let against = || {
        let checkpoints = Checkpoints::open(&path, signer.public_key()).unwrap();
        verify_against(dir.path(), checkpoints)
    };
    let report = against().unwrap();
    assert_eq!((report.checkpoints, report.checkpointed_seq), (2, Some(7)));
    let segment = &segments(dir.path())[0];
    let whole = lines(segment);
    for (line, first_seq) in [(0, 1), (3, 2)] {
        let mut forged = whole.clone();
        forged[line] = resealed(&forged[line].replace("\"user\":456", "\"user\":457"));
        rechained(&mut forged, line + 1);
        write_lines(segment, &forged);
        verify(dir.path()).expect("without checkpoints nothing is seen");
        let error = against().unwrap_err();
        assert!(
            matches!(&error, VerifyError::Replaced { first_seq: seq, .. } if *seq == first_seq),
            "{error}"
        );
    }
}

#[test]
fn a_cut_end_is_named_up_to_the_last_checkpoint() {
    let (dir, notes) = (memory_dir(), memory_dir());
    let positions = ledger_of(dir.path(), 1 << 20, CALLS);
    let signer = Signer::open(notes.path(), common::NODE).unwrap();
    signer.write(&positions[3]).unwrap();
    let path = notes.path().join(CHECKPOINTS_FILE_NAME);
    let segment = &segments(dir.path())[0];
    let whole = lines(segment);
    for left in 0..=whole.len() {
        write_lines(segment, &whole[..left]);
        let checkpoints = Checkpoints::open(&path, signer.public_key()).unwrap();
        let missing = match verify_against(dir.path(), checkpoints) {
            Ok(_) => None,
            Err(VerifyError::CutOff { first_missing_seq, checkpoint }) => {
                assert_eq!(checkpoint.seq, positions[3].seq);
                Some(first_missing_seq)
            }
            Err(error) => panic!("{error}"),
        };
        // Lines 2 and 3 are one call.
        let expected = [Some(1), Some(2), Some(2), Some(4), Some(5)];
        assert_eq!(missing, expected.get(left).copied().flatten(), "{left} lines left");
    }
}
