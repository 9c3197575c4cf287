//! Vault sealed, away, hanging, back again; and what it keeps of a
//! credential in clear.

use std::time::Duration;

use key_server_secrets::{SecretStore, SignIn, VaultSettings, VaultStore};
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::vault::{VaultServer, free_port};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;

use crate::setup::{
    CANARY, key, put, remove, run, secrets, secrets_of, settings, store, unavailable,
};

pub(crate) const TESTS: &[Test] = &tests![
    sealed_killed_and_restarted_vault_is_away_and_then_serves_again,
    stopped_vault_times_out_and_serves_again,
    nobody_at_the_address_is_said_so,
    quota_is_waited_for,
    quota_that_lets_nothing_through_is_said_so,
    audit_log_holds_no_credential_in_clear,
];

fn sealed_killed_and_restarted_vault_is_away_and_then_serves_again() {
    run(async {
        let mut server = VaultServer::stored().await;
        let store = store(&server, "outage").await;
        store.commit(&put([key(1)])).await.unwrap();
        server.seal().await;
        for text in [
            unavailable(store.load().await),
            unavailable(store.commit(&put([key(2)])).await),
            unavailable(store.has_changed().await),
        ] {
            assert!(text.contains("it is sealed (503); run: vault operator unseal"), "{text}");
            assert!(text.contains(&server.address()), "{text}");
        }
        let health = store.check().await.unwrap();
        assert_eq!((health.state, health.is_ready), ("sealed", false));
        server.unseal().await;
        assert_eq!(secrets(&store).await, secrets_of([1]));
        server.kill();
        let text = unavailable(store.load().await);
        assert!(text.contains("see whether it runs and VAULT_ADDR is right"), "{text}");
        server.start().await;
        assert!(unavailable(store.load().await).contains("sealed"));
        server.unseal().await;
        // What could not be committed is committed by the same call again.
        store.commit(&put([key(2)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([1, 2]));
        assert!(!store.has_changed().await.unwrap());
    });
}

fn stopped_vault_times_out_and_serves_again() {
    run(async {
        let server = VaultServer::dev().await;
        let mut settings = settings(&server, "stopped").await;
        settings.request_timeout = Duration::from_millis(500);
        let store = VaultStore::new(settings).unwrap();
        store.commit(&put([key(1)])).await.unwrap();
        server.signal(Signal::STOP);
        let before = tokio::time::Instant::now();
        let text = unavailable(store.load().await);
        assert!(text.contains("no answer within 500 ms"), "{text}");
        assert!(before.elapsed() < Duration::from_secs(3));
        let lost = unavailable(store.commit(&put([key(2)])).await);
        assert!(lost.contains("no answer within 500 ms"), "{lost}");
        server.signal(Signal::CONT);
        // The write may have arrived after all: the same again is no conflict.
        store.commit(&put([key(2)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([1, 2]));
    });
}

fn nobody_at_the_address_is_said_so() {
    run(async {
        let address = format!("http://127.0.0.1:{}", free_port());
        let store = VaultStore::new(VaultSettings::new(address.clone(), SignIn::Agent)).unwrap();
        for text in [unavailable(store.load().await), unavailable(store.check().await)] {
            assert!(text.contains(&address) && text.contains("refused"), "{text}");
        }
    });
}

async fn limit(server: &VaultServer, rate: f64) {
    let quota = json!({ "rate": rate, "path": "secret/" });
    server.admin(Method::POST, "sys/quotas/rate-limit/few", quota).await;
}

fn quota_is_waited_for() {
    run(async {
        let server = VaultServer::dev().await;
        let store = store(&server, "quota").await;
        store.commit(&put((0..60).map(key))).await.unwrap();
        limit(&server, 20.0).await;
        assert_eq!(secrets(&store).await, secrets_of(0..60));
        assert!(!store.has_changed().await.unwrap());
        store.commit(&remove((0..60).map(key))).await.unwrap();
        assert!(secrets(&store).await.is_empty());
    });
}

fn quota_that_lets_nothing_through_is_said_so() {
    run(async {
        let server = VaultServer::dev().await;
        let mut settings = settings(&server, "quota").await;
        settings.request_timeout = Duration::from_millis(500);
        let store = VaultStore::new(settings).unwrap();
        store.commit(&put((0..30).map(key))).await.unwrap();
        limit(&server, 0.5).await;
        let text = unavailable(store.load().await);
        assert!(text.contains("asked too often (429"), "{text}");
    });
}

fn audit_log_holds_no_credential_in_clear() {
    run(async {
        let server = VaultServer::dev().await;
        let log = server.path().join("audit.log");
        let options = json!({ "type": "file", "options": { "file_path": log } });
        server.admin(Method::PUT, "sys/audit/file", options).await;
        let store = store(&server, "audit").await;
        store.commit(&put([key(1), key(2)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([1, 2]));
        store.has_changed().await.unwrap();
        store.commit(&remove([key(2)])).await.unwrap();
        let words = std::fs::read_to_string(&log).unwrap();
        assert!(words.contains(&key(1).id().to_string()), "every access is in it, by id");
        assert!(!words.contains(CANARY), "and no credential");
        assert!(!server.words().contains(CANARY));
    });
}
