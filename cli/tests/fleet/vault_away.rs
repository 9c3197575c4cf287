//! Vault is away, sealed, stopped, or takes the token no more: what is loaded
//! is served, and everything comes back by itself.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use key_server_proto::v1;
use key_server_testkit::client::channel;
use key_server_testkit::redis::write_private;
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::vault::VaultServer;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::nodes::{Node, run};
use crate::support::{self, CSV, OPENAI, health, home, reason, select, selected, until};
use crate::vaults::{at, home_in, token};

pub(crate) const TESTS: &[Test] = &tests![
    a_server_started_without_vault_is_not_ready_until_vault_comes,
    a_waiting_server_is_ready_at_once_after_a_reload,
    what_is_loaded_is_served_while_vault_is_sealed_stopped_or_killed,
    a_revoked_token_stops_changes_only_and_another_one_is_taken_up,
    the_copy_is_served_while_vault_is_away_and_refused_when_too_old,
    a_server_with_nothing_to_sign_in_with_does_not_start,
];

/// What load balancers are told.
async fn serving(node: &Node) -> ServingStatus {
    let mut client = HealthClient::new(channel(&node.home.socket()).await.unwrap());
    let service = "keyserver.v1.KeyServer".to_owned();
    let checked = client.check(HealthCheckRequest { service }).await.unwrap();
    checked.into_inner().status()
}

/// What a service manager was told since it was looked at last.
fn told(manager: &UnixDatagram) -> String {
    let mut told = String::new();
    let mut bytes = [0; 4_096];
    while let Ok(length) = manager.recv(&mut bytes) {
        told.extend([str::from_utf8(&bytes[..length]).unwrap(), "\n"]);
    }
    told
}

async fn refusal(node: &mut Node) -> (Code, String, String) {
    let refused = node.client.select_keys_for_session(select("early", &[OPENAI], 1)).await;
    let status = refused.expect_err("there are no keys to give");
    let (code, reason) = reason(&status);
    (code, reason, status.message().to_owned())
}

/// The reason that a reload was refused for.
async fn reload_refused(node: &mut Node, wanted: &str) -> String {
    let refused = node.client.reload_keys(v1::ReloadKeysRequest::default()).await;
    let status = refused.expect_err("the store cannot be read");
    assert_eq!(reason(&status), (Code::Unavailable, wanted.into()), "{status:?}");
    status.message().to_owned()
}

async fn is_back(node: &mut Node) {
    until("the store works again", async || {
        (node.backend("secrets").await.state == "ok").then_some(())
    })
    .await;
    let reloaded = node.client.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap();
    assert!(reloaded.into_inner().success);
    assert_eq!(health(&mut node.client).await.status(), v1::HealthStatus::Ok);
}

/// Waits until Health says that the store is away; since when and why.
async fn is_away(node: &mut Node) -> String {
    until("Health says so", async || {
        let backend = node.backend("secrets").await;
        assert!(backend.since.is_some());
        (backend.state == "unavailable").then_some(backend.last_error)
    })
    .await
}

fn a_server_started_without_vault_is_not_ready_until_vault_comes() {
    run(async {
        let mut vault = VaultServer::stored().await;
        let home = home_in(&vault, "early", CSV).await;
        let dir = tempfile::tempdir().unwrap();
        let manager = dir.path().join("notify");
        let home = home.with("NOTIFY_SOCKET", manager.display());
        let manager = UnixDatagram::bind(manager).unwrap();
        manager.set_nonblocking(true).unwrap();
        vault.kill();
        let mut node = Node::start(home).await;
        assert_eq!(serving(&node).await, ServingStatus::NotServing);
        let (code, reason, message) = refusal(&mut node).await;
        assert_eq!((code, reason.as_str()), (Code::Unavailable, "KEYS_NOT_LOADED"));
        assert!(message.contains("Connection refused"), "{message}");
        let said = health(&mut node.client).await;
        assert_eq!(said.status(), v1::HealthStatus::Unavailable);
        assert!(is_away(&mut node).await.contains("Connection refused"));
        vault.start().await;
        until("it says that Vault is sealed", async || {
            refusal(&mut node).await.2.contains("sealed").then_some(())
        })
        .await;
        let so_far = told(&manager);
        assert!(so_far.contains("EXTEND_TIMEOUT_USEC=") && !so_far.contains("READY"), "{so_far}");
        vault.unseal().await;
        until("it is ready", async || {
            (serving(&node).await == ServingStatus::Serving).then_some(())
        })
        .await;
        selected(&mut node.client, select("s1", &[OPENAI], 4)).await;
        until("the service manager knows", async || {
            told(&manager).lines().any(|line| line == "READY=1").then_some(())
        })
        .await;
        is_back(&mut node).await;
    });
}

fn a_waiting_server_is_ready_at_once_after_a_reload() {
    run(async {
        let mut vault = VaultServer::stored().await;
        let home = home_in(&vault, "waiting", CSV).await;
        vault.kill();
        let mut node = Node::start(home).await;
        until("it tries seldom", async || {
            node.home.words().contains("trying again in 4s").then_some(())
        })
        .await;
        vault.start().await;
        vault.unseal().await;
        let reloaded = node.client.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap();
        assert!(reloaded.into_inner().success);
        selected(&mut node.client, select("s1", &[OPENAI], 4)).await;
    });
}

fn what_is_loaded_is_served_while_vault_is_sealed_stopped_or_killed() {
    run(async {
        let mut vault = VaultServer::stored().await;
        let mut node = Node::start(home_in(&vault, "outages", CSV).await).await;
        vault.seal().await;
        assert!(is_away(&mut node).await.contains("sealed"));
        serves_on(&mut node, "sealed").await;
        assert!(reload_refused(&mut node, "STORE_UNAVAILABLE").await.contains("sealed"));
        vault.unseal().await;
        is_back(&mut node).await;

        vault.signal(Signal::STOP);
        let said = is_away(&mut node).await;
        assert!(said.contains("no answer within"), "{said}");
        serves_on(&mut node, "stopped").await;
        assert!(reload_refused(&mut node, "STORE_UNAVAILABLE").await.contains("no answer within"));
        vault.signal(Signal::CONT);
        is_back(&mut node).await;

        vault.kill();
        let said = is_away(&mut node).await;
        assert!(said.contains("away"), "{said}");
        serves_on(&mut node, "killed").await;
        assert!(reload_refused(&mut node, "STORE_UNAVAILABLE").await.contains("refused"));
        vault.start().await;
        vault.unseal().await;
        is_back(&mut node).await;
    });
}

async fn serves_on(node: &mut Node, session: &str) {
    let keys = selected(&mut node.client, select(session, &[OPENAI], 4)).await;
    assert!(keys.iter().all(|key| key.api_key.starts_with("sk-fake-openai-")));
    let report = support::report(session, &keys[0], "e1");
    node.client.track_usage(report).await.unwrap();
    assert_eq!(serving(node).await, ServingStatus::Serving);
    assert_eq!(health(&mut node.client).await.status(), v1::HealthStatus::Degraded);
}

fn a_revoked_token_stops_changes_only_and_another_one_is_taken_up() {
    run(async {
        let vault = VaultServer::dev().await;
        let first = token(&vault, "revoked").await;
        let home = home(CSV);
        let file = home.path().join("vault-token");
        write_private(&file, &first).unwrap();
        let home = at(home, &vault, "revoked").with("VAULT_TOKEN_FILE", file.display());
        let mut node = Node::start(home).await;
        vault.admin(Method::PUT, "auth/token/revoke", json!({ "token": first })).await;
        let said = is_away(&mut node).await;
        assert!(said.contains("revoked"), "{said}");
        serves_on(&mut node, "revoked").await;
        assert!(reload_refused(&mut node, "STORE_DENIED").await.contains("revoked"));
        let second = token(&vault, "revoked").await;
        write_private(&file, &second).unwrap();
        is_back(&mut node).await;
        for token in [first, second] {
            assert!(!node.home.words().contains(&token));
        }
    });
}

fn the_copy_is_served_while_vault_is_away_and_refused_when_too_old() {
    run(async {
        let mut vault = VaultServer::stored().await;
        let home = home_in(&vault, "copied", CSV).await.with("KEY_SERVER_OFFLINE", "cache");
        let mut node = Node::start(home).await;
        assert!(health(&mut node.client).await.notes.is_empty());
        vault.kill();
        node.restart().await;
        let said = health(&mut node.client).await;
        assert_eq!(said.status(), v1::HealthStatus::Degraded);
        assert!(said.notes.iter().any(|note| note.contains("a copy of")), "{:?}", said.notes);
        serves_on(&mut node, "copied").await;
        node.kill();
        let age = Duration::from_secs(8);
        let home = node.home.with("KEY_SERVER_OFFLINE_STALE_MAX", format!("{}s", age.as_secs()));
        let mut node = Node::start(home).await;
        let (code, reason, _) = until("the copy gets too old", async || {
            let asked = node.client.select_keys_for_session(select("s2", &[OPENAI], 1)).await;
            match asked {
                Ok(_) => None,
                Err(_) => Some(refusal(&mut node).await),
            }
        })
        .await;
        assert_eq!(reason, "KEYS_STALE");
        assert_eq!(code, Code::Unavailable);
        node.restart().await;
        let (_, reason, message) = refusal(&mut node).await;
        assert_eq!(reason, "KEYS_STALE", "{message}");
        assert!(message.contains("offline_stale_max"), "{message}");
        assert_eq!(health(&mut node.client).await.status(), v1::HealthStatus::Unavailable);
        until("load balancers know", async || {
            (serving(&node).await == ServingStatus::NotServing).then_some(())
        })
        .await;
        vault.start().await;
        vault.unseal().await;
        until("it is ready", async || {
            (serving(&node).await == ServingStatus::Serving).then_some(())
        })
        .await;
        selected(&mut node.client, select("s2", &[OPENAI], 1)).await;
        assert!(health(&mut node.client).await.notes.is_empty());
    });
}

fn a_server_with_nothing_to_sign_in_with_does_not_start() {
    let home = home(CSV).with("VAULT_ADDR", "http://127.0.0.1:1");
    let ended = support::run(home.command(&["serve"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    for text in
        ["nothing to sign in with", "VAULT_TOKEN", "KEY_SERVER_VAULT_AUTH", "unset VAULT_ADDR"]
    {
        assert!(ended.error.contains(text), "{ended:?}");
    }
}
