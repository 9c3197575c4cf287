//! A folder of case files for each world that the command may find itself in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
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

/// Whoever runs the tests owns the policy, and no socket says otherwise.
fn with_policy(dir: &str, policy: &str) {
    let home = tempdir().unwrap();
    let path = home.path().join("policy.toml");
    fs::write(&path, policy).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    at_home(home.path())
        .path("KEY_SERVER_POLICY_FILE", "[POLICY]", &path)
        .path("KEY_SERVER_SOCKET", "[SOCKET]", &home.path().join("none.sock"))
        .run(dir);
}

const POLICY: &str = "\
[[rule]]
name = \"billing\"
uid = 70001
providers = [\"openai\"]
count_max = 2
sessions_max = 20
keys_per_minute = 6000

[[rule]]
name = \"watchers\"
gid = 70002
executable = \"/usr/bin/watch\"
verbs = [\"stats-all\"]
";

const SHADOWED_POLICY: &str = "\
[[rule]]
name = \"team\"
uid = [70001, 70002]
providers = [\"openai\"]

[[rule]]
name = \"billing\"
uid = 70001
gid = 70003
verbs = []
";

const WRONG_POLICY: &str = "\
[[rule]]
name = \"billing\"
usr = \"billing\"
verbs = [\"selekt\"]
";

#[test]
fn with_a_policy() {
    with_policy("policy", POLICY);
}

#[test]
fn with_a_policy_that_has_a_rule_to_which_nobody_comes() {
    with_policy("policy_shadowed", SHADOWED_POLICY);
}

#[test]
fn with_a_policy_that_is_wrong() {
    with_policy("policy_wrong", WRONG_POLICY);
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
