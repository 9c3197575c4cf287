//! Another age identity, while the daemon works, and with kills in between.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use key_server_proto::v1;
use key_server_secrets::{AgeFileStore, IdentitySource, SecretStore, SecretStoreError};
use key_server_testkit::client::{Client, connect};

use crate::support::{OPENAI, figure, home, release, run, select, spawn};

const KEYS_COUNT: usize = 10_000;
/// Of each client: together 500 a second.
const SELECT_EVERY: Duration = Duration::from_millis(8);
const CLIENTS: usize = 4;
const ROTATIONS: usize = 5;
const KILLS: u32 = 40;
const ROTATE: [&str; 3] = ["store", "rotate-identity", "--yes"];

fn csv(count: usize) -> String {
    let mut csv = String::from("provider,model,api_key\n");
    for number in 0..count {
        writeln!(csv, "openai,gpt-4o,sk-fake-to-be-rotated-{number:06}").unwrap();
    }
    csv
}

fn identity(state: &Path) -> Vec<u8> {
    fs::read(state.join("identity.age.txt")).unwrap()
}

/// What a store of these files holds, or why it does not open.
async fn stored(state: &Path, identity: &[u8]) -> Result<usize, SecretStoreError> {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(state.join("secrets.age"), copy.path().join("secrets.age")).unwrap();
    let file = copy.path().join("identity.age.txt");
    fs::write(&file, identity).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&file, mode).unwrap();
    let store = AgeFileStore::open(copy.path(), &IdentitySource::StateDirectory)?;
    Ok(store.load().await?.len())
}

/// Selects and releases at a steady pace; answers how many of how many failed.
async fn select_steadily(
    number: usize,
    mut client: Client,
    ends: Arc<AtomicBool>,
) -> (usize, usize) {
    let (mut failed, mut made) = (0, 0);
    let mut pace = tokio::time::interval(SELECT_EVERY);
    while !ends.load(Ordering::SeqCst) {
        pace.tick().await;
        let session = format!("s-{number}-{made}");
        made += 1;
        let answer = client.select_keys_for_session(select(&session, &[OPENAI], 1)).await;
        let is_good = answer.is_ok_and(|answer| answer.into_inner().keys.len() == 1);
        failed += usize::from(!is_good);
        let _ = client.release_key(release(&session)).await;
    }
    (failed, made)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_identities_are_replaced_and_old_ones_open_nothing() {
    let home = home(&csv(KEYS_COUNT)).with("KEY_SERVER_DURABILITY", "process");
    let (server, mut client) = home.start().await.unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for number in 0..CLIENTS {
        let client = connect(&home.socket()).await.unwrap();
        load.push(spawn(select_steadily(number, client, Arc::clone(&ends))));
    }
    let mut old = Vec::new();
    for round in 1..=ROTATIONS {
        old.push(identity(&home.state()));
        let rotate = home.command(&ROTATE);
        let ended = tokio::task::block_in_place(|| run(rotate));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.output.contains("encrypted for age1"), "{ended:?}");
        // The daemon reads with the new identity, and writes for it.
        home.write_csv(&csv(KEYS_COUNT + round)).unwrap();
        let reply = client.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap();
        assert_eq!(reply.into_inner().added, 1);
        let now = identity(&home.state());
        assert_eq!(stored(&home.state(), &now).await, Ok(KEYS_COUNT + round));
        for old in &old {
            let refused = stored(&home.state(), old).await;
            assert!(matches!(refused, Err(SecretStoreError::Denied(_))), "{refused:?}");
        }
    }
    ends.store(true, Ordering::SeqCst);
    let (mut failed, mut made) = (0, 0);
    for client in load {
        let (more_failed, more_made) = client.await.unwrap();
        failed += more_failed;
        made += more_made;
    }
    figure(&format!(
        "{ROTATIONS} rotations of {KEYS_COUNT} keys: {failed} of {made} selects failed"
    ));
    assert_eq!(failed, 0);
    assert!(made > 0);
    assert!(server.terminate().unwrap().success());
    let (server, mut client) = home.start().await.unwrap();
    let health = client.health(v1::HealthRequest {}).await.unwrap().into_inner();
    assert_eq!(usize::try_from(health.keys), Ok(KEYS_COUNT + ROTATIONS));
    server.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_leaves_a_store_that_opens() {
    let home = home(&csv(1_000));
    let (server, _client) = home.start().await.unwrap();
    assert!(server.terminate().unwrap().success());
    // How long one takes; the kills fall all over that time.
    let rotate = |kill_after: Option<Duration>| {
        let mut child = home.command(&ROTATE).spawn().unwrap();
        if let Some(time) = kill_after {
            std::thread::sleep(time);
            let _ = child.kill();
        }
        child.wait().unwrap()
    };
    fs::write(home.path().join("begin"), "").unwrap();
    assert!(rotate(None).success());
    fs::write(home.path().join("end"), "").unwrap();
    let begin = modified(&home.path().join("begin"));
    let whole = modified(&home.path().join("end")).duration_since(begin).unwrap();
    let mut killed = 0;
    for number in 0..KILLS {
        let ended = tokio::task::block_in_place(|| rotate(Some(whole * number / KILLS)));
        killed += usize::from(!ended.success());
        assert_eq!(stored(&home.state(), &identity(&home.state())).await, Ok(1_000), "{number}");
    }
    assert!(killed > 0);
    // What kills left behind does not stay, and one identity does.
    assert!(rotate(None).success());
    let names = fs::read_dir(home.state()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    let left = names.iter().filter(|name| name.to_string_lossy().ends_with(".tmp"));
    assert_eq!(left.count(), 0, "{names:?}");
    let text = String::from_utf8(identity(&home.state())).unwrap();
    assert_eq!(text.matches("AGE-SECRET-KEY-1").count(), 1);
    assert_eq!(stored(&home.state(), text.as_bytes()).await, Ok(1_000));
    let (server, _client) = home.start().await.unwrap();
    server.kill().unwrap();
    figure(&format!("{killed} of {KILLS} rotations were killed"));
}

fn modified(file: &Path) -> SystemTime {
    file.metadata().unwrap().modified().unwrap()
}
