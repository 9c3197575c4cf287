//! The file: who may read it, whose it is, what version.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use key_server_core::{Changes, Rules};
use key_server_projections::{Projection, ProjectionError, SqliteProjection};
use rusqlite::Connection;

use crate::rows::{batch, mark, opened, place, report, session};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn no_file_is_open_to_others_whatever_the_umask() {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    let (directory, _path, mut projection) = opened();
    projection.write(&mark(1), &batch(1)).unwrap();
    rustix::process::umask(umask);
    let files: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_file_that_was_opened_to_others_is_closed_again() {
    let (_directory, path, projection) = opened();
    drop(projection);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    SqliteProjection::open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn what_is_not_our_file_is_not_touched() {
    let (directory, path) = place();
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, "somebody's").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let refused = SqliteProjection::open(&path);
    assert!(matches!(refused, Err(ProjectionError::Foreign { .. })), "{refused:?}");
    fs::remove_file(&path).unwrap();

    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let refused = SqliteProjection::open(&path);
    assert!(matches!(refused, Err(ProjectionError::Foreign { .. })), "{refused:?}");
    assert_eq!(fs::read(&elsewhere).unwrap(), b"somebody's");
}

#[test]
fn a_text_file_is_damaged_and_a_directory_foreign() {
    let (_directory, path) = place();
    fs::write(&path, "this is not a database, and long enough to look at").unwrap();
    let refused = SqliteProjection::open(&path);
    assert!(matches!(refused, Err(ProjectionError::Corrupt { .. })), "{refused:?}");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let refused = SqliteProjection::open(&path);
    assert!(matches!(refused, Err(ProjectionError::Foreign { .. })), "{refused:?}");
}

#[test]
fn a_directory_that_is_not_there_is_unavailable() {
    let (directory, _path) = place();
    let refused = SqliteProjection::open(&directory.path().join("missing/state.sqlite"));
    assert!(matches!(refused, Err(ProjectionError::Unavailable { .. })), "{refused:?}");
}

#[test]
fn a_newer_versions_file_is_refused_and_kept() {
    let (_directory, path, mut projection) = opened();
    projection.write(&mark(1), &batch(1)).unwrap();
    drop(projection);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 3).unwrap();
    let refused = SqliteProjection::open(&path).unwrap_err();
    assert!(matches!(refused, ProjectionError::Foreign { .. }), "{refused}");
    assert!(refused.to_string().contains("schema 3"), "{refused}");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    let mut projection = SqliteProjection::open(&path).unwrap();
    assert!(projection.load(Rules::default()).unwrap().is_some());
}

#[test]
fn deleting_leaves_nothing_and_twice_is_a_no_op() {
    let (directory, path, mut projection) = opened();
    projection.write(&mark(1), &batch(1)).unwrap();
    drop(projection);
    SqliteProjection::delete(&path).unwrap();
    SqliteProjection::delete(&path).unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn an_empty_file_loads_nothing() {
    let (_directory, _path, mut projection) = opened();
    assert!(projection.load(Rules::default()).unwrap().is_none());
    assert_eq!(projection.mark().unwrap(), None);
}

#[test]
fn somebody_elses_lock_is_unavailable_and_passes() {
    let (_directory, path, mut projection) = opened();
    let shell = Connection::open(&path).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = projection.write(&mark(1), &batch(1));
    assert!(matches!(refused, Err(ProjectionError::Unavailable { .. })), "{refused:?}");
    shell.execute_batch("ROLLBACK").unwrap();
    projection.write(&mark(1), &batch(1)).unwrap();
    assert_eq!(projection.mark().unwrap(), Some(mark(1)));
}

#[test]
fn a_session_that_holds_an_unknown_key_is_refused_as_a_whole() {
    let (_directory, _path, mut projection) = opened();
    projection.write(&mark(1), &batch(1)).unwrap();
    let sessions = vec![session("other", &[1]), session("another", &[77])];
    let usage = vec![report("other", 1, 5)];
    let refused = projection.write(&mark(2), &Changes { sessions, usage, ..batch(2) });
    assert!(matches!(refused, Err(ProjectionError::Corrupt { .. })), "{refused:?}");
    assert_eq!(projection.mark().unwrap(), Some(mark(1)));
    let (_, state) = projection.load(Rules::default()).unwrap().unwrap();
    assert_eq!(state.rows().1.len(), 2);
}

#[test]
fn pruned_hours_are_gone_and_others_stay() {
    let (_directory, path, mut projection) = opened();
    projection.write(&mark(1), &batch(1)).unwrap();
    let mut later = report("session_1", 1, 50);
    later.at = key_server_core::Time::from_ms(later.at.as_ms() + 2 * crate::rows::HOUR_MS);
    projection.write(&mark(2), &Changes { usage: vec![later], ..Changes::default() }).unwrap();
    assert_eq!(projection.prune_usage(490_000).unwrap(), 0);
    assert_eq!(projection.prune_usage(490_001).unwrap(), 2);
    assert_eq!(projection.prune_usage(490_001).unwrap(), 0);
    let by = key_server_projections::reports::By::Key;
    let report = key_server_projections::reports::usage(&path, by, 0, 10).unwrap();
    assert_eq!((report.total.requests, report.total.input), (1, 50));
}
