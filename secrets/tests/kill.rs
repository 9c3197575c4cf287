//! SIGKILL at any instant leaves the old or the new content.

#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{KeyFacts, OwnWeight};
use key_server_secrets::{
    AgeFileStore, Change, IdentitySource, SecretKey, SecretStore, StoredKey, key_id,
};

const CHILD_DIRECTORY: &str = "KEY_SERVER_SECRETS_KILL_TEST_DIRECTORY";
const TEST: &str = "store_killed_at_any_instant_opens_with_the_old_or_the_new_content";
const KEYS_COUNT: usize = 300;
const ROUNDS: u32 = 40;
const FIRST_STARTS: u32 = 20;

/// All keys, each labelled with the same generation.
fn generation(number: u64) -> Change {
    let label: Arc<str> = number.to_string().into();
    let key = |index: usize| {
        let secret = SecretKey::copy_of(&format!("sk-fake-{index:06}"));
        let facts = KeyFacts {
            key: key_id("openai", &secret),
            models: vec!["openai/gpt-4o".parse().unwrap()],
            own_weight: OwnWeight::DEFAULT,
            max_holders: None,
            label: Some(Arc::clone(&label)),
            sources: vec!["csv@node-1".into()],
        };
        StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) }
    };
    Change { put: (0..KEYS_COUNT).map(key).collect(), remove: Vec::new() }
}

fn open(dir: &Path) -> AgeFileStore {
    AgeFileStore::open(dir, &IdentitySource::StateDirectory).unwrap()
}

/// The one generation that all keys have; 0 when there are none.
async fn stored_generation(dir: &Path) -> u64 {
    let keys = open(dir).load().await.unwrap();
    let Some(first) = keys.first() else {
        return 0;
    };
    assert_eq!(keys.len(), KEYS_COUNT);
    assert!(keys.iter().all(|key| key.facts.label == first.facts.label));
    first.facts.label.as_deref().unwrap().parse().unwrap()
}

/// Commits generation after generation and tells each on standard output.
async fn commit_for_ever(dir: &Path) {
    let from = stored_generation(dir).await + 1;
    let store = open(dir);
    let mut output = std::io::stdout();
    for number in from.. {
        store.commit(&generation(number)).await.unwrap();
        writeln!(output, "done {number}").unwrap();
    }
}

/// Where to commit, when this process is a child that is to be killed.
#[expect(
    clippy::disallowed_methods,
    reason = "the test starts itself and has no other way to tell its child"
)]
fn child_directory() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIRECTORY).map(PathBuf::from)
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD_DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn random_pause(max: Duration) {
    let part = f64::from(getrandom::u32().unwrap()) / f64::from(u32::MAX);
    std::thread::sleep(max.mul_f64(part));
}

/// The last generation that the child said was done.
fn acknowledged(child: Child) -> u64 {
    let lines = BufReader::new(child.stdout.unwrap()).lines();
    let numbers = lines.filter_map(|line| line.unwrap().strip_prefix("done ")?.parse().ok());
    numbers.last().unwrap_or(0)
}

fn kill_after(mut child: Child, max: Duration) -> u64 {
    random_pause(max);
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged(child)
}

#[tokio::test]
async fn store_killed_at_any_instant_opens_with_the_old_or_the_new_content() {
    if let Some(dir) = child_directory() {
        return commit_for_ever(&dir).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..ROUNDS {
        let child = start_child(dir.path());
        let acknowledged = kill_after(child, Duration::from_millis(150)).max(before);
        let after = stored_generation(dir.path()).await;
        let either = acknowledged == after || acknowledged + 1 == after;
        assert!(either, "round {round}: {acknowledged} was done, {after} is there");
        let count = fs::read_dir(dir.path()).unwrap().count();
        assert!(count <= 2, "round {round}: something was left behind");
        before = after;
    }
    assert!(before > u64::from(ROUNDS), "the children hardly committed: {before}");
}

#[tokio::test]
async fn first_start_killed_at_any_instant_is_followed_by_a_good_one() {
    for _ in 0..FIRST_STARTS {
        let dir = tempfile::tempdir().unwrap();
        kill_after(start_child(dir.path()), Duration::from_millis(15));
        stored_generation(dir.path()).await;
        open(dir.path()).commit(&generation(1)).await.unwrap();
        assert!(stored_generation(dir.path()).await >= 1);
    }
}
