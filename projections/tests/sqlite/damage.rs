//! A damaged file is an error or a correct answer, never another answer and
//! never a panic.

use std::fs;
use std::path::Path;

use key_server_core::{KeyRow, Rules, SessionRow};
use key_server_projections::reports::{self, By};
use key_server_projections::{Mark, Projection, ProjectionError, SqliteProjection};
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::rows::{batch, mark, opened};

type Answer = (Mark, Vec<KeyRow>, Vec<SessionRow>);

const BATCHES: u64 = 40;

/// A whole file without a log beside it, and what it loads.
fn sound_file() -> (TempDir, Vec<u8>, Answer) {
    let (directory, path, mut projection) = opened();
    for seq in 1..=BATCHES {
        projection.write(&mark(seq), &batch(seq)).unwrap();
    }
    drop(projection);
    let answer = answer(&path).unwrap().unwrap();
    (directory, fs::read(&path).unwrap(), answer)
}

fn answer(path: &Path) -> Result<Option<Answer>, ProjectionError> {
    let loaded = SqliteProjection::open(path)?.load(Rules::default())?;
    Ok(loaded.map(|(mark, state)| {
        let (keys, sessions) = state.rows();
        (mark, keys, sessions)
    }))
}

/// Puts `bytes` where the sound file was, and asks.
fn check(directory: &TempDir, bytes: &[u8], sound: &Answer) -> Result<(), TestCaseError> {
    let path = directory.path().join("state.sqlite");
    SqliteProjection::delete(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    match answer(&path) {
        Ok(Some(answer)) => prop_assert_eq!(&answer, sound),
        Ok(None) => prop_assert!(bytes.is_empty(), "all of it was lost without an error"),
        Err(error) => {
            let is_classed =
                matches!(error, ProjectionError::Corrupt { .. } | ProjectionError::Foreign { .. });
            prop_assert!(is_classed, "{}", error);
        }
    }
    // Whatever they answer, they do not panic.
    let _ = reports::usage(&path, By::Session, 0, 10);
    if let Ok(mut projection) = SqliteProjection::open(&path) {
        let _ = projection.write(&mark(BATCHES + 1), &batch(BATCHES + 1));
        let _ = projection.prune_usage(u32::MAX);
        let _ = projection.clear();
    }
    Ok(())
}

#[test]
fn a_flipped_byte_is_an_error_or_changes_nothing() {
    let (directory, sound_bytes, sound) = sound_file();
    proptest!(ProptestConfig::with_cases(600), |(
        place in any::<prop::sample::Index>(),
        flip in 1u8..,
    )| {
        let mut bytes = sound_bytes.clone();
        bytes[place.index(sound_bytes.len())] ^= flip;
        check(&directory, &bytes, &sound)?;
    });
}

#[test]
fn a_page_that_is_zero_or_another_is_an_error_or_changes_nothing() {
    let (directory, sound_bytes, sound) = sound_file();
    let pages = sound_bytes.len() / 4_096;
    for page in 0..pages {
        let mut bytes = sound_bytes.clone();
        bytes[page * 4_096..(page + 1) * 4_096].fill(0);
        check(&directory, &bytes, &sound).unwrap();
        let other = (page + 1) % pages * 4_096;
        bytes.copy_within(other..other + 4_096, page * 4_096);
        check(&directory, &bytes, &sound).unwrap();
    }
}

#[test]
fn a_cut_file_is_an_error() {
    let (directory, sound_bytes, sound) = sound_file();
    for eighth in 0..8 {
        let bytes = &sound_bytes[..sound_bytes.len() * eighth / 8];
        check(&directory, bytes, &sound).unwrap();
        check(&directory, &bytes[..bytes.len().saturating_sub(1)], &sound).unwrap();
    }
}

/// What keeps its shape and says something else, or says it no more.
#[test]
fn a_row_that_is_missing_or_was_edited_is_an_error() {
    let (directory, sound_bytes, _) = sound_file();
    let path = directory.path().join("state.sqlite");
    for statement in [
        "DELETE FROM mark",
        "UPDATE mark SET seq = seq - 1",
        "DELETE FROM model WHERE model = 1",
        "UPDATE model SET name = 'openai/other'",
        "DELETE FROM key WHERE key = 1",
        "DELETE FROM key WHERE key = 2",
        "UPDATE key SET requests = 1 WHERE key = 1",
        "UPDATE key SET cooling = '{}' WHERE key = 1",
        "DELETE FROM session WHERE session = 7; DELETE FROM allocation WHERE session = 7",
        "DELETE FROM session WHERE session = 7",
        "DELETE FROM allocation WHERE session = 7",
        "UPDATE session SET owner = 0 WHERE session = 7",
        "UPDATE allocation SET requests = 7 WHERE session = 7",
        "UPDATE allocation SET session = 700 WHERE session = 7",
        "DELETE FROM receipt WHERE part = 3",
        "UPDATE receipt SET hour = hour - 1 WHERE part = 3",
        "UPDATE receipt SET receipts = substr(receipts, 2) WHERE part = 3",
    ] {
        SqliteProjection::delete(&path).unwrap();
        fs::write(&path, &sound_bytes).unwrap();
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!("PRAGMA foreign_keys = OFF; {statement}"))
            .unwrap();
        let error = answer(&path).expect_err(statement);
        assert!(matches!(error, ProjectionError::Corrupt { .. }), "{statement}: {error}");
    }
}

/// The log beside the file has checksums of its own: what does not match is
/// cut, from there on, and the ledger has it.
#[test]
fn a_damaged_log_goes_back_to_an_earlier_mark() {
    let (directory, path, mut projection) = opened();
    let mut answers = vec![None];
    for seq in 1..=12 {
        projection.write(&mark(seq), &batch(seq)).unwrap();
        answers.push(answer(&path).unwrap());
    }
    let log = directory.path().join("state.sqlite-wal");
    let (file, sound_log) = (fs::read(&path).unwrap(), fs::read(&log).unwrap());
    drop(projection);
    proptest!(ProptestConfig::with_cases(150), |(
        place in any::<prop::sample::Index>(),
        flip in 1u8..,
        is_cut in any::<bool>(),
    )| {
        SqliteProjection::delete(&path).unwrap();
        let mut bytes = sound_log.clone();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        bytes.truncate(if is_cut { place } else { bytes.len() });
        fs::write(&path, &file).unwrap();
        fs::write(&log, &bytes).unwrap();
        if let Ok(answer) = answer(&path) {
            prop_assert!(answers.contains(&answer));
        }
    });
}
