//! What takes more than one look: following a growing ledger, closed pipes.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use key_server_core::{Event, SessionExpired, SessionRef};
use key_server_ledger::{Fact, Ledger, Options};
use tempfile::tempdir;

use crate::sample;

fn key_server(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_key-server"));
    command.args(args).env_clear().env("KEY_SERVER_STATE_DIR", state);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn expired(id: &str) -> Vec<Fact> {
    let session = SessionRef { owner: 1_000, id: id.into() };
    vec![Event::SessionExpired(SessionExpired { session }).into()]
}

/// Ends the process however the test ends.
struct Followed(Child);

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_followed_ledger_is_shown_across_its_segments() {
    let state = tempdir().unwrap();
    let options = Options { segment_bytes_max: 1, ..Options::default() };
    let dir = state.path().join("ledger");
    let (ledger, _) = Ledger::open(&dir, "n_1", &options, None, |_, _| {}).unwrap();
    sample::append(&ledger, 1, expired("before"));
    let child = key_server(state.path(), &["audit", "tail", "--follow"]).spawn().unwrap();
    let mut followed = Followed(child);
    let mut lines = BufReader::new(followed.0.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().ends_with("session.expired  before (uid 1000)"));
    for (second, id) in [(2, "first"), (3, "second"), (4, "third")] {
        sample::append(&ledger, second, expired(id));
        let line = next();
        assert!(line.ends_with(&format!("session.expired  {id} (uid 1000)")), "{line}");
    }
    assert!(dir.read_dir().unwrap().count() > 3, "each call began a segment");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let state = tempdir().unwrap();
    sample::ledger(state.path());
    let mut child = key_server(state.path(), &["audit", "show"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(words, "");
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let state = tempdir().unwrap();
    sample::ledger(state.path());
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = key_server(state.path(), &["audit", "show"]).stdout(full).output().unwrap();
    let words = String::from_utf8(ended.stderr).unwrap();
    assert!(words.starts_with("error: standard output cannot be written"), "{words}");
    assert_eq!(ended.status.code(), Some(1));
}
