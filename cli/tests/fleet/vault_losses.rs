//! Vault lost its keys, or most of them: nobody loses what is served by that.

use key_server_proto::v1;
use key_server_testkit::process::Home;
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::vault::VaultServer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::nodes::{Node, run};
use crate::support::{CSV, OPENAI, health, select, selected, until};
use crate::vaults::{delete, entries, home_in, put};

pub(crate) const TESTS: &[Test] = &tests![
    a_vault_that_came_back_empty_takes_no_key_away_and_the_csv_fills_it_again,
    an_empty_vault_without_a_csv_is_believed_by_force_only,
    keys_that_are_there_again_are_served_without_a_word,
    keys_that_are_replaced_are_not_lost,
    a_copy_that_could_not_be_written_is_not_dated_anew_but_written_later,
];

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A node without a CSV, whose keys a person entered in Vault.
async fn by_hand(vault: &VaultServer, folder: &str) -> Node {
    for name in NAMES {
        put(vault, folder, name, &format!("sk-fake-by-hand-{name}")).await;
    }
    Node::start(without_csv(home_in(vault, folder, CSV).await)).await
}

fn without_csv(home: Home) -> Home {
    std::fs::remove_file(home.path().join("api_keys.csv")).unwrap();
    home.with("KEY_SERVER_OFFLINE", "cache")
}

/// An engine without entries, as after the start of a Vault in memory.
async fn empty(vault: &VaultServer) {
    vault.admin(Method::DELETE, "sys/mounts/secret", Value::Null).await;
    vault.mount("secret", 2).await;
}

/// Waits until Health says what is the matter and what to do.
async fn is_withheld(node: &mut Node) -> String {
    let note = until("Health says so", async || {
        let said = health(&mut node.client).await;
        let is_degraded = said.status() == v1::HealthStatus::Degraded;
        said.notes.into_iter().find(|note| is_degraded && note.contains("more than half"))
    })
    .await;
    assert!(note.contains("key-server reload --force") && note.contains("restore"), "{note}");
    note
}

async fn is_well(node: &mut Node) {
    until("all is well", async || {
        let said = health(&mut node.client).await;
        (said.status() == v1::HealthStatus::Ok && said.notes.is_empty()).then_some(())
    })
    .await;
}

async fn reload(node: &mut Node, force: bool, dry_run: bool) -> v1::ReloadKeysResponse {
    let request = v1::ReloadKeysRequest { force, dry_run, ..Default::default() };
    node.client.reload_keys(request).await.unwrap().into_inner()
}

fn copy(node: &Node) -> Vec<u8> {
    std::fs::read(node.home.state().join("secrets-copy.age")).unwrap()
}

fn a_vault_that_came_back_empty_takes_no_key_away_and_the_csv_fills_it_again() {
    run(async {
        let vault = VaultServer::dev().await;
        let mut node = Node::start(home_in(&vault, "emptied", CSV).await).await;
        let before = entries(&vault, "emptied").await.len();
        empty(&vault).await;
        let note = is_withheld(&mut node).await;
        assert!(note.contains(&format!("0 of {before}")), "{note}");
        selected(&mut node.client, select("s1", &[OPENAI], 4)).await;
        assert!(reload(&mut node, false, false).await.success);
        assert_eq!(entries(&vault, "emptied").await.len(), before);
        is_well(&mut node).await;
    });
}

fn an_empty_vault_without_a_csv_is_believed_by_force_only() {
    run(async {
        let vault = VaultServer::dev().await;
        let mut node = by_hand(&vault, "believed").await;
        let copied = copy(&node);
        empty(&vault).await;
        let note = is_withheld(&mut node).await;
        for dry_run in [false, true] {
            let refused = reload(&mut node, false, dry_run).await;
            assert_eq!((refused.success, &refused.error), (false, &note));
        }
        selected(&mut node.client, select("s1", &[OPENAI], 5)).await;
        assert_eq!(is_withheld(&mut node).await, note);
        assert!(copied == copy(&node), "the copy is as it was");
        let forced = reload(&mut node, true, false).await;
        assert_eq!((forced.success, forced.withdrawn), (true, 5));
        is_well(&mut node).await;
    });
}

fn keys_that_are_there_again_are_served_without_a_word() {
    run(async {
        let vault = VaultServer::dev().await;
        let mut node = by_hand(&vault, "again").await;
        for name in &NAMES[..3] {
            delete(&vault, "again", name).await;
        }
        let note = is_withheld(&mut node).await;
        assert!(note.contains("2 of 5"), "{note}");
        for name in &NAMES[..2] {
            let path = format!("secret/undelete/again/{name}");
            vault.admin(Method::POST, &path, json!({ "versions": [1] })).await;
        }
        is_well(&mut node).await;
        selected(&mut node.client, select("s1", &[OPENAI], 4)).await;
        let keys = node.picture().await.keys.into_iter();
        assert_eq!(keys.filter(|key| key.state() != v1::KeyState::Retired).count(), 4);
    });
}

fn keys_that_are_replaced_are_not_lost() {
    run(async {
        let vault = VaultServer::dev().await;
        let mut node = by_hand(&vault, "replaced").await;
        for name in NAMES {
            put(&vault, "replaced", name, &format!("sk-fake-replaced-{name}")).await;
        }
        until("the new ones are served", async || {
            let session = format!("s-{}", node.picture().await.keys.len());
            let keys = selected(&mut node.client, select(&session, &[OPENAI], 5)).await;
            keys.iter().all(|key| key.api_key.contains("replaced")).then_some(())
        })
        .await;
        is_well(&mut node).await;
    });
}

fn a_copy_that_could_not_be_written_is_not_dated_anew_but_written_later() {
    run(async {
        let vault = VaultServer::dev().await;
        let mut node = by_hand(&vault, "copied").await;
        let state = std::fs::File::open(node.home.state()).unwrap();
        state.lock().unwrap();
        let (copied, dated) = (copy(&node), copy_date(&node));
        put(&vault, "copied", "f", "sk-fake-by-hand-f").await;
        until("it was tried more than once", async || {
            (node.home.words().matches("the copy of the keys cannot be kept").count() > 1)
                .then_some(())
        })
        .await;
        assert!(selected(&mut node.client, select("s1", &[OPENAI], 6)).await.len() == 6);
        assert!(copied == copy(&node) && dated == copy_date(&node));
        drop(state);
        until("the copy is written", async || (copied != copy(&node)).then_some(())).await;
        is_well(&mut node).await;
    });
}

fn copy_date(node: &Node) -> std::time::SystemTime {
    let file = std::fs::metadata(node.home.state().join("secrets-copy.age"));
    file.unwrap().modified().unwrap()
}
