//! What people and other nodes change in Vault is in force, and nothing is
//! lost or written for nothing.

use std::collections::BTreeSet;

use key_server_proto::v1;
use key_server_testkit::process::Home;
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::vault::VaultServer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::nodes::{Node, run};
use crate::support::{self, CSV, until};
use crate::vaults::{at, delete, entries, home_in, listed_count, put};

pub(crate) const TESTS: &[Test] = &tests![
    a_key_changed_by_hand_is_in_force_by_itself,
    a_key_changed_by_hand_is_in_force_at_once_by_a_reload,
    two_nodes_that_import_at_the_same_moment_lose_nothing,
    an_unchanged_csv_writes_nothing_to_vault,
    keys_are_copied_from_one_store_to_another_and_back,
    nodes_that_migrate_to_one_vault_unite_their_sources_and_models,
    a_migration_from_nothing_is_refused_and_what_is_only_asked_makes_nothing,
    what_a_dry_run_saw_comes_in_force_by_itself,
    what_a_refused_reload_saw_comes_in_force_by_itself,
    what_an_import_wrote_before_vault_was_sealed_comes_in_force,
];

/// `key-server store migrate …`; what it said.
fn migrate(home: &Home, arguments: &[&str]) -> String {
    let arguments: Vec<&str> = ["store", "migrate"].iter().chain(arguments).copied().collect();
    let ended = support::run(home.command(&arguments));
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    assert!(!format!("{ended:?}").contains("sk-fake"), "{ended:?}");
    ended.output.trim_end().to_owned()
}

fn keys_are_copied_from_one_store_to_another_and_back() {
    run(async {
        let vault = VaultServer::dev().await;
        let home = at(support::home(CSV), &vault, "first").with("VAULT_TOKEN", vault.root_token());
        let mut node = Node::start(home).await;
        let keys = served(&mut node).await;
        let all = keys.len();
        node.kill();
        let home = &node.home;
        let to_age = ["--from", "vault", "--to", "age"];
        let would = format!(
            "{all} keys would be added, 0 would be changed, 0 unchanged, 0 only in the target"
        );
        assert_eq!(migrate(home, &to_age), would);
        assert_eq!(migrate(home, &to_age), would, "nothing was written");
        let done = format!("{all} keys added, 0 changed, 0 unchanged, 0 only in the target");
        assert_eq!(migrate(home, &[&to_age[..], &["--yes"]].concat()), done);
        let again = format!("0 keys added, 0 changed, {all} unchanged, 0 only in the target");
        assert_eq!(migrate(home, &[&to_age[..], &["--yes"]].concat()), again);
        let back = ["--from", "age", "--to", "vault", "--set", "vault_path=second", "--yes"];
        assert_eq!(migrate(home, &back), done);
        let names = |entries: Vec<(String, u64, Vec<String>)>| -> BTreeSet<String> {
            entries.into_iter().map(|(name, ..)| name).collect()
        };
        assert_eq!(names(entries(&vault, "second").await), keys);
        assert_eq!(entries(&vault, "second").await, entries(&vault, "first").await);
    });
}

/// A node that kept its keys in its own file, and is to keep them in Vault.
async fn to_migrate(vault: &VaultServer, csv: &str) -> (String, Home) {
    let mut node = Node::start(support::home(csv)).await;
    node.kill();
    let id = node.id();
    (id, at(node.home, vault, "joined").with("VAULT_TOKEN", vault.root_token()))
}

fn nodes_that_migrate_to_one_vault_unite_their_sources_and_models() {
    run(async {
        let vault = VaultServer::dev().await;
        let (a, first) = to_migrate(&vault, &csv_of(0..3)).await;
        let others = csv_of(1..4).replace("gpt-4o", "o3");
        let (b, second) = to_migrate(&vault, &others).await;
        let arguments = ["--from", "age", "--to", "vault", "--yes"];
        let added = "3 keys added, 0 changed, 0 unchanged, 0 only in the target";
        assert_eq!(migrate(&first, &arguments), added);
        let united = "1 key added, 2 changed, 0 unchanged, 1 only in the target";
        assert_eq!(migrate(&second, &arguments), united);
        for home in [&first, &second] {
            assert!(migrate(home, &arguments).starts_with("0 keys added, 0 changed, 3 unchanged"));
        }
        let mut both = [format!("csv@{a}"), format!("csv@{b}")];
        both.sort();
        let entries = entries(&vault, "joined").await;
        let united: Vec<_> = entries.iter().filter(|(_, _, sources)| sources == &both).collect();
        assert_eq!((entries.len(), united.len()), (4, 2), "{entries:?}");
        let path = format!("secret/data/joined/{}", united[0].0);
        let entry = vault.admin(Method::GET, &path, Value::Null).await;
        assert_eq!(entry["data"]["data"]["models"], json!(["openai/gpt-4o", "openai/o3"]));
        let (mut a, mut b) = tokio::join!(Node::start(first), Node::start(second));
        assert_eq!(serves(&mut a, 4).await, serves(&mut b, 4).await);
    });
}

fn a_migration_from_nothing_is_refused_and_what_is_only_asked_makes_nothing() {
    run(async {
        let vault = VaultServer::dev().await;
        put(&vault, "nothing", "team-a", "sk-fake-by-hand-1").await;
        let home = at(support::home(CSV), &vault, "nothing");
        let home = home.with("VAULT_TOKEN", vault.root_token());
        std::fs::create_dir(home.state()).unwrap();
        for more in [&[][..], &["--yes"]] {
            let arguments = ["store", "migrate", "--from", "age", "--to", "vault"];
            let ended = support::run(home.command(&[&arguments[..], more].concat()));
            assert_eq!(ended.code, Some(2), "{ended:?}");
            assert!(ended.error.contains("there is no age store in"), "{ended:?}");
        }
        let would = "1 key would be added, 0 would be changed, 0 unchanged, 0 only in the target";
        assert_eq!(migrate(&home, &["--from", "vault", "--to", "age"]), would);
        assert_eq!(std::fs::read_dir(home.state()).unwrap().count(), 0);
    });
}

/// Ids of the keys that are served.
async fn served(node: &mut Node) -> BTreeSet<String> {
    let picture = node.picture().await;
    let served = picture.keys.into_iter().filter(|key| key.state() != v1::KeyState::Retired);
    served.map(|key| key.key_id).collect()
}

async fn serves(node: &mut Node, count: usize) -> BTreeSet<String> {
    until("the change is in force", async || {
        let served = served(node).await;
        (served.len() == count).then_some(served)
    })
    .await
}

async fn reload(node: &mut Node) -> (i32, i32, i32) {
    let reloaded = node.client.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap();
    let reloaded = reloaded.into_inner();
    assert!(reloaded.success, "{reloaded:?}");
    (reloaded.added, reloaded.changed, reloaded.withdrawn)
}

fn a_key_changed_by_hand_is_in_force_by_itself() {
    run(async {
        let vault = VaultServer::dev().await;
        let mut node = Node::start(home_in(&vault, "hand", CSV).await).await;
        let of_csv = served(&mut node).await;
        let count = of_csv.len();
        put(&vault, "hand", "team-a", "sk-fake-by-hand-1").await;
        let added = serves(&mut node, count + 1).await;
        put(&vault, "hand", "team-a", "sk-fake-by-hand-2").await;
        until("the old credential is gone, the new one is served", async || {
            let served = served(&mut node).await;
            (served.len() == count + 1 && served != added).then_some(())
        })
        .await;
        delete(&vault, "hand", "team-a").await;
        assert_eq!(serves(&mut node, count).await, of_csv);
    });
}

fn a_key_changed_by_hand_is_in_force_at_once_by_a_reload() {
    run(async {
        let vault = VaultServer::dev().await;
        let home = home_in(&vault, "reload", CSV).await.with("KEY_SERVER_VAULT_POLL", "1h");
        let mut node = Node::start(home).await;
        let of_csv = served(&mut node).await;
        put(&vault, "reload", "team-a", "sk-fake-by-hand-1").await;
        assert_eq!(reload(&mut node).await, (1, 0, 0));
        let added = served(&mut node).await;
        assert_eq!(added.len(), of_csv.len() + 1);
        put(&vault, "reload", "team-a", "sk-fake-by-hand-2").await;
        assert_eq!(reload(&mut node).await, (1, 0, 1), "another credential is another key");
        let changed = served(&mut node).await;
        assert!(changed.len() == added.len() && changed != added);
        delete(&vault, "reload", "team-a").await;
        assert_eq!(reload(&mut node).await, (0, 0, 1));
        assert_eq!(served(&mut node).await, of_csv);
    });
}

fn csv_of(numbers: impl IntoIterator<Item = usize>) -> String {
    let rows = numbers.into_iter().map(|number| format!("OpenAI,gpt-4o,sk-fake-shared-{number}\n"));
    format!("provider,model,api_key\n{}", rows.collect::<String>())
}

fn two_nodes_that_import_at_the_same_moment_lose_nothing() {
    run(async {
        let vault = VaultServer::dev().await;
        // Four keys of each, and four of both.
        let first = home_in(&vault, "both", &csv_of(0..8)).await;
        let second = home_in(&vault, "both", &csv_of(4..12)).await;
        let (mut a, mut b) = tokio::join!(Node::start(first), Node::start(second));
        for round in 0..4 {
            let end = 12 + 4 * round;
            check_sources(&vault, [&a, &b], end).await;
            assert_eq!(serves(&mut a, end).await, serves(&mut b, end).await);
            // What is new to both is written by both at once.
            a.home.write_csv(&csv_of((0..8).chain(12..end + 4))).unwrap();
            b.home.write_csv(&csv_of(4..end + 4)).unwrap();
            tokio::join!(reload(&mut a), reload(&mut b));
        }
    });
}

/// Everybody who lists a key is among its sources.
async fn check_sources(vault: &VaultServer, [a, b]: [&Node; 2], end: usize) {
    let (a, b) = (format!("csv@{}", a.id()), format!("csv@{}", b.id()));
    let mut both = vec![a.clone(), b.clone()];
    both.sort();
    let entries = entries(vault, "both").await;
    assert_eq!(entries.len(), end);
    let listed_by =
        |sources: &[String]| entries.iter().filter(|(_, _, listed)| listed == sources).count();
    assert_eq!(
        (listed_by(&[a]), listed_by(&[b]), listed_by(&both)),
        (4, 4, end - 8),
        "{entries:?}"
    );
}

fn an_unchanged_csv_writes_nothing_to_vault() {
    run(async {
        let vault = VaultServer::dev().await;
        let mut node = Node::start(home_in(&vault, "same", CSV).await).await;
        let before = entries(&vault, "same").await;
        assert!(before.len() > 5 && before.iter().all(|(_, version, _)| *version == 1));
        node.restart().await;
        reload(&mut node).await;
        assert_eq!(entries(&vault, "same").await, before);
    });
}

fn what_a_dry_run_saw_comes_in_force_by_itself() {
    run(async {
        let vault = VaultServer::dev().await;
        let home = home_in(&vault, "dry", CSV).await.with("KEY_SERVER_VAULT_POLL", "4s");
        let mut node = Node::start(home).await;
        let count = served(&mut node).await.len();
        put(&vault, "dry", "team-a", "sk-fake-by-hand-1").await;
        let request = v1::ReloadKeysRequest { dry_run: true, ..Default::default() };
        let would = node.client.reload_keys(request).await.unwrap().into_inner();
        assert_eq!((would.success, would.added), (true, 1));
        assert_eq!(served(&mut node).await.len(), count, "nothing changed yet");
        serves(&mut node, count + 1).await;
    });
}

fn what_a_refused_reload_saw_comes_in_force_by_itself() {
    run(async {
        let vault = VaultServer::dev().await;
        put(&vault, "refused", "team-a", "sk-fake-by-hand-1").await;
        let home = home_in(&vault, "refused", CSV).await.with("KEY_SERVER_VAULT_POLL", "4s");
        let mut node = Node::start(home).await;
        let count = served(&mut node).await.len();
        node.home.write_csv("provider,model,api_key\nOpenAI,gpt-4o,\n").unwrap();
        delete(&vault, "refused", "team-a").await;
        let refused = node.client.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap();
        assert!(!refused.into_inner().success);
        assert_eq!(served(&mut node).await.len(), count, "nothing changed yet");
        serves(&mut node, count - 1).await;
    });
}

const IMPORTED_COUNT: usize = 2_000;

fn what_an_import_wrote_before_vault_was_sealed_comes_in_force() {
    run(async {
        let vault = VaultServer::stored().await;
        let home = home_in(&vault, "sealed", &csv_of(0..3)).await;
        let mut node = Node::start(home).await;
        node.home.write_csv(&csv_of(0..IMPORTED_COUNT)).unwrap();
        let sealing = async {
            until("a part of it is written", async || {
                (listed_count(&vault, "sealed").await > 20).then_some(())
            })
            .await;
            vault.seal().await;
        };
        let mut client = node.connect().await;
        let importing = client.reload_keys(v1::ReloadKeysRequest::default());
        let (refused, ()) = tokio::join!(importing, sealing);
        refused.expect_err("Vault is sealed");
        assert_eq!(served(&mut node).await.len(), 3, "nothing of it is in force");
        vault.unseal().await;
        let written = listed_count(&vault, "sealed").await;
        assert!((20..IMPORTED_COUNT).contains(&written), "{written}");
        serves(&mut node, written).await;
        assert_eq!(reload(&mut node).await.0, i32::try_from(IMPORTED_COUNT - written).unwrap());
    });
}
