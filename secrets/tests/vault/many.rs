//! Ten thousand keys.

use std::time::Duration;

use key_server_secrets::{SecretStore, VaultSettings, VaultStore};
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::vault::VaultServer;
use tokio::time::Instant;

use crate::setup::{key, put, run, settings, token};

pub(crate) const TESTS: &[Test] =
    &tests![ten_thousand_keys_load_in_seconds_and_unchanged_ones_cost_no_write];

const KEYS_COUNT: usize = 10_000;
/// The aim is 5 s; a machine that is busy with other tests gets more.
const LOAD_MAX: Duration = Duration::from_secs(30);

fn ten_thousand_keys_load_in_seconds_and_unchanged_ones_cost_no_write() {
    run(async {
        let server = VaultServer::dev().await;
        let settings = settings(&server, "many").await;
        let store = VaultStore::new(settings.clone()).unwrap();
        let all = put((0..KEYS_COUNT).map(key));
        let committing = Instant::now();
        store.commit(&all).await.unwrap();
        let committing = committing.elapsed();
        // The root token: what Vault and we need without its policies.
        let mut as_root = settings.clone();
        as_root.sign_in = token(server.root_token());
        let (_, loading_as_root) = loaded(as_root).await;
        // Another node, which has seen nothing yet.
        let (store, loading) = loaded(settings).await;
        let again = Instant::now();
        store.commit(&all).await.unwrap();
        let again = again.elapsed();
        let watching = Instant::now();
        assert!(!store.has_changed().await.unwrap());
        let watching = watching.elapsed();
        say(&format!(
            "10,000 keys: commit {committing:.1?}, load {loading:.1?} (as root \
             {loading_as_root:.1?}), commit again {again:.1?}, look for changes {watching:.1?}"
        ));
        assert!(loading < LOAD_MAX, "{loading:?}");
        assert!(again < Duration::from_secs(1), "{again:?}");
        // At most about 500 requests a second.
        assert!(watching > Duration::from_secs(15), "{watching:?}");
    });
}

/// A new store that has loaded everything, and how long that took.
async fn loaded(settings: VaultSettings) -> (VaultStore, Duration) {
    let store = VaultStore::new(settings).unwrap();
    let start = Instant::now();
    assert_eq!(store.load().await.unwrap().len(), KEYS_COUNT);
    (store, start.elapsed())
}

#[expect(clippy::print_stderr, reason = "the program is a test's, and says what it measured")]
fn say(text: &str) {
    eprintln!("{text}");
}
