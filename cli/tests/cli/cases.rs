//! The contract of the command line: a folder of case files for each world that
//! the command may find itself in. Standard output and standard error are
//! compared apart, so that data and words do not mix.
//!
//! `TRYCMD=overwrite cargo test -p key-server --test cli` takes what is there.

use std::path::Path;

use tempfile::tempdir;

use crate::scripted::{Play, Scripted};
use crate::{case_files, sample, with_path};

#[test]
fn without_a_server() {
    let home = tempdir().unwrap();
    case_files("offline", home.path()).run();
}

#[test]
fn with_a_ledger() {
    let (home, state) = (tempdir().unwrap(), tempdir().unwrap());
    sample::ledger(state.path());
    let cases = case_files("ledger", home.path());
    with_path(&cases, "KEY_SERVER_STATE_DIR", "[STATE]", state.path());
    cases.run();
}

#[test]
fn with_a_damaged_ledger() {
    let (home, state) = (tempdir().unwrap(), tempdir().unwrap());
    sample::ledger(state.path());
    sample::damage(state.path());
    let cases = case_files("damaged", home.path());
    with_path(&cases, "KEY_SERVER_STATE_DIR", "[STATE]", state.path());
    cases.run();
}

#[test]
fn with_a_database() {
    let (home, state) = (tempdir().unwrap(), tempdir().unwrap());
    sample::database(state.path());
    let cases = case_files("database", home.path());
    with_path(&cases, "KEY_SERVER_STATE_DIR", "[STATE]", state.path());
    cases.run();
}

#[test]
fn with_a_server_that_is_well() {
    with_a_server(Play::Well, "server");
}

#[test]
fn with_a_server_that_is_degraded() {
    with_a_server(Play::Degraded, "degraded");
}

#[test]
fn with_a_server_that_is_unavailable() {
    with_a_server(Play::Unavailable, "unavailable");
}

#[test]
fn with_a_server_that_does_not_know_the_caller() {
    with_a_server(Play::Stranger, "stranger");
}

fn with_a_server(play: Play, dir: &str) {
    let (home, server) = (tempdir().unwrap(), Scripted::start(play));
    let cases = case_files(dir, home.path());
    with_path(&cases, "KEY_SERVER_SOCKET", "[SOCKET]", &server.socket());
    cases.run();
}

#[test]
fn every_case_stands_for_itself() {
    for dir in Path::new("tests/cmd").read_dir().unwrap() {
        for case in dir.unwrap().path().read_dir().unwrap() {
            let case = case.unwrap().path();
            let text = std::fs::read_to_string(&case).unwrap();
            assert!(text.contains("env.inherit = false"), "{} inherits", case.display());
        }
    }
}
