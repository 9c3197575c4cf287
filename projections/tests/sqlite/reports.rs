//! Reports for people, beside a running server and without one.

use key_server_core::{Changes, Outcome, Time};
use key_server_projections::reports::{By, UsageReport, usage};
use key_server_projections::{Projection, ProjectionError};

use crate::rows::{HOUR_MS, NOW, batch, key_id, mark, opened, place, report};

fn names(report: &UsageReport) -> Vec<(&str, u64)> {
    report.rows.iter().map(|row| (row.name.as_str(), row.input)).collect()
}

#[test]
fn the_most_expensive_comes_first_and_the_total_counts_all() {
    let (_directory, path, mut projection) = opened();
    let mut other = report("session_9", 2, 500);
    other.user = 7;
    other.model = "anthropic/claude".parse().unwrap();
    other.outcome = Outcome::RateLimited;
    other.late = true;
    let changes = Changes { usage: vec![other, report("session_1", 1, 30)], ..batch(1) };
    projection.write(&mark(1), &changes).unwrap();

    let by_key = usage(&path, By::Key, 0, 10).unwrap();
    let (first, second) = (key_id(2).to_string(), key_id(1).to_string());
    assert_eq!(names(&by_key), [(first.as_str(), 500), (second.as_str(), 30)]);
    assert_eq!(by_key.rows[0].label.as_deref(), Some("team 2"));
    assert_eq!((by_key.rows[0].failures, by_key.rows[0].late), (1, 1));
    assert_eq!(by_key.mark, Some(mark(1)));

    let by_model = usage(&path, By::Model, 0, 10).unwrap();
    assert_eq!(names(&by_model), [("anthropic/claude", 500), ("openai/gpt-4o", 30)]);
    let by_user = usage(&path, By::User, 0, 10).unwrap();
    assert_eq!(names(&by_user), [("7", 500), ("456", 30)]);
    let by_session = usage(&path, By::Session, 0, 1).unwrap();
    assert_eq!(names(&by_session), [("session_9", 500)]);
    assert_eq!(by_session.rows[0].owner, Some(1_000));
    for report in [by_key, by_model, by_user, by_session] {
        assert_eq!(report.rows_count, 2);
        let total = &report.total;
        assert_eq!((total.name.as_str(), total.requests, total.input), ("total", 2, 530));
    }
}

#[test]
fn sessions_of_two_owners_with_one_id_are_two_rows() {
    let (_directory, path, mut projection) = opened();
    let mut theirs = report("session_1", 1, 3);
    theirs.session.owner = 2_000;
    let usage_rows = vec![theirs, report("session_1", 1, 5)];
    projection.write(&mark(1), &Changes { usage: usage_rows, ..batch(1) }).unwrap();
    let report = usage(&path, By::Session, 0, 10).unwrap();
    let rows: Vec<_> = report.rows.iter().map(|row| (row.owner, row.input)).collect();
    assert_eq!(rows, [(Some(1_000), 5), (Some(2_000), 3)]);
}

#[test]
fn an_hour_counts_as_a_whole_from_the_hour_asked_for() {
    let (_directory, path, mut projection) = opened();
    let mut earlier = report("session_1", 1, 1_000);
    earlier.at = Time::from_ms(NOW.as_ms() - HOUR_MS);
    let rows = vec![earlier, report("session_1", 1, 30)];
    projection.write(&mark(1), &Changes { usage: rows, ..batch(1) }).unwrap();
    for (since_ms, input) in [
        (0, 1_030),
        (NOW.as_ms() - HOUR_MS, 1_030),
        (NOW.as_ms(), 30),
        (NOW.as_ms() + 1, 30),
        (NOW.as_ms() + HOUR_MS, 0),
        (u64::MAX, 0),
    ] {
        let report = usage(&path, By::Key, since_ms, 10).unwrap();
        assert_eq!(report.total.input, input, "since {since_ms}");
    }
}

#[test]
fn sums_stop_at_the_largest_number() {
    let (_directory, path, mut projection) = opened();
    for seq in 1..=3 {
        let rows = ["a", "b", "c"].map(|id| report(id, 1, u64::MAX)).to_vec();
        projection.write(&mark(seq), &Changes { usage: rows, ..batch(seq) }).unwrap();
    }
    let report = usage(&path, By::Session, 0, 10).unwrap();
    assert_eq!(report.rows.iter().map(|row| row.input).max(), Some(i64::MAX as u64));
    assert_eq!(report.total.input, u64::MAX);
    assert_eq!(report.total.requests, 9);
}

#[test]
fn a_report_reads_what_is_written_meanwhile_and_after_the_end() {
    let (directory, path, mut projection) = opened();
    projection.write(&mark(1), &batch(1)).unwrap();
    assert_eq!(usage(&path, By::User, 0, 10).unwrap().total.requests, 2);
    projection.write(&mark(2), &batch(2)).unwrap();
    assert_eq!(usage(&path, By::User, 0, 10).unwrap().total.requests, 4);
    drop(projection);
    assert_eq!(usage(&path, By::User, 0, 10).unwrap().total.requests, 4);
    let files = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap());
    for file in files {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
    }
}

#[test]
fn a_missing_file_says_what_to_do() {
    let (_directory, path) = place();
    let error = usage(&path, By::Key, 0, 10).unwrap_err();
    assert!(matches!(error, ProjectionError::Missing { .. }));
    assert!(error.to_string().contains("KEY_SERVER_STATE_DIR"), "{error}");
    assert!(!path.exists());
}

#[test]
fn usage_of_an_unknown_key_is_counted_under_a_name_that_says_so() {
    let (_directory, path, mut projection) = opened();
    let rows = vec![report("session_1", 99, 5)];
    projection.write(&mark(1), &Changes { usage: rows, ..batch(1) }).unwrap();
    assert_eq!(names(&usage(&path, By::Key, 0, 10).unwrap()), [("(unknown)", 5)]);
}
