//! A writer that is killed at any instant leaves a file whose content and mark
//! agree.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use key_server_core::{Changes, Rules};
use key_server_projections::reports::{self, By};
use key_server_projections::{Projection, SqliteProjection};

use crate::rows::{key, mark, place, receipt, report, session};

/// Where the child writes; only the child has it.
const CHILD: &str = "KEY_SERVER_PROJECTIONS_KILL_FILE";

const ROUNDS: u64 = 40;

/// Batch `seq`: everything in it says `seq`, as a value or as a sum. Most are
/// small, so that a kill meets each part of a transaction, its end too.
fn counted(seq: u64) -> Changes {
    let many = if seq.is_multiple_of(50) { 500 } else { 1 };
    let many = (0..many).map(|n| session(&format!("session_{n}_{}", seq % 3), &[1]));
    Changes {
        keys: vec![key(1, seq)],
        sessions: many.chain([session(&format!("batch_{seq}"), &[1])]).collect(),
        usage: vec![report("session_0", 1, 3)],
        receipts: vec![receipt(u128::from(seq))],
        ..Changes::default()
    }
}

/// The child's part; nothing when the suite runs it.
#[test]
#[expect(clippy::disallowed_methods, reason = "the parent tells it so that it is the child")]
fn writer_that_is_killed() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let mut projection = SqliteProjection::open(&path).unwrap();
    let last = projection.mark().unwrap().map_or(0, |mark| mark.seq);
    for seq in last + 1.. {
        projection.write(&mark(seq), &counted(seq)).unwrap();
        if seq == last + 1 {
            std::io::stderr().write_all(b"wrote\n").unwrap();
        }
    }
}

#[test]
fn mark_and_content_agree_after_a_kill() {
    let (_directory, path) = place();
    let mut before = 0;
    for round in 0..ROUNDS {
        write_until_killed(&path, Duration::from_micros(500 + round * 700));
        let seq = check(&path);
        assert!(seq > before, "round {round}: what was acknowledged before is still there");
        before = seq;
    }
}

fn write_until_killed(path: &Path, span: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::writer_that_is_killed", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "wrote\n");
    std::thread::sleep(span);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Checks that everything in the file says the number of its mark.
fn check(path: &Path) -> u64 {
    let mut projection = SqliteProjection::open(path).unwrap();
    let (mark, state) = projection.load(Rules::default()).unwrap().unwrap();
    let seq = mark.seq;
    let (keys, sessions) = state.rows();
    assert_eq!(keys[0].lifetime.requests, seq);
    let batches = sessions.iter().filter(|row| row.session.id.starts_with("batch_")).count();
    assert_eq!(batches as u64, seq);
    let report = reports::usage(path, By::Key, 0, 10).unwrap();
    assert_eq!((report.total.requests, report.total.input), (seq, 3 * seq));
    seq
}
