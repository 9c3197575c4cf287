//! A folder of case files for each world that the command may find itself in.

use std::path::Path;

use tempfile::tempdir;

use crate::case_file::World;
use crate::sample;
use crate::scripted::{Play, Scripted};

fn at_home(home: &Path) -> World {
    World::default().path("HOME", "[HOME]", home)
}

fn with_state(dir: &str, fill: impl FnOnce(&Path)) {
    let (home, state) = (tempdir().unwrap(), tempdir().unwrap());
    fill(state.path());
    at_home(home.path()).path("KEY_SERVER_STATE_DIR", "[STATE]", state.path()).run(dir);
}

fn with_server(dir: &str, play: Play) {
    let (home, server) = (tempdir().unwrap(), Scripted::start(play));
    at_home(home.path()).path("KEY_SERVER_SOCKET", "[SOCKET]", &server.socket()).run(dir);
}

#[test]
fn without_a_server() {
    let home = tempdir().unwrap();
    at_home(home.path()).run("offline");
}

#[test]
fn with_a_ledger() {
    with_state("ledger", sample::ledger);
}

#[test]
fn with_a_damaged_ledger() {
    with_state("damaged", |state| {
        sample::ledger(state);
        sample::damage(state);
    });
}

#[test]
fn with_a_database() {
    with_state("database", sample::database);
}

#[test]
fn with_a_server_that_is_well() {
    with_server("server", Play::Well);
}

#[test]
fn with_a_server_that_is_degraded() {
    with_server("degraded", Play::Degraded);
}

#[test]
fn with_a_server_that_is_unavailable() {
    with_server("unavailable", Play::Unavailable);
}

#[test]
fn with_a_server_that_does_not_know_the_caller() {
    with_server("stranger", Play::Stranger);
}
