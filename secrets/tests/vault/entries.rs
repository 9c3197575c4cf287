//! Entries: the port's contract, by hand, broken, deleted, changed by others.

use std::sync::Arc;

use key_server_secrets::{KvVersion, SecretStore, SecretStoreError, VaultStore};
use key_server_testkit::secret_store::conformance;
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::wait::until;
use reqwest::Method;
use serde_json::{Value, json};

use crate::setup::{
    CANARY, key, listed_by, put, remove, run, secrets, secrets_of, settings, settings_on, shared,
    store, text, token, version_of, write_by_hand,
};

pub(crate) const TESTS: &[Test] = &tests![
    version_2_keeps_the_contract,
    version_1_keeps_the_contract,
    entry_made_by_hand_is_a_key,
    edited_credential_is_another_key_and_the_old_one_can_come_back_beside_it,
    broken_entry_is_named_and_the_rest_is_not_given_without_it,
    same_key_in_two_entries_is_named,
    unchanged_keys_cost_no_write,
    change_of_somebody_else_is_a_conflict_and_both_are_kept_after_planning_again,
    removal_of_a_key_that_somebody_else_changed_is_a_conflict_and_keeps_it,
    own_write_whose_answer_was_lost_is_no_conflict,
    change_of_somebody_else_is_a_conflict_on_version_1_too,
    deleted_entry_is_no_key_and_undelete_brings_it_back,
    every_change_by_somebody_else_is_noticed,
    every_change_by_somebody_else_is_noticed_on_version_1,
    key_that_could_not_be_read_back_is_refused,
    entry_that_vault_deletes_by_itself_is_noticed,
    engine_that_became_version_2_is_never_taken_for_an_empty_one,
];

fn version_2_keeps_the_contract() {
    run(async {
        let server = shared().await;
        conformance(async |place: &str| store(server, &format!("contract/{place}")).await).await;
    });
}

fn version_1_keeps_the_contract() {
    run(async {
        let server = shared().await;
        server.mount("kv-one", 1).await;
        conformance(async |place: &str| {
            let settings = settings_on(server, "kv-one", place, KvVersion::V1).await;
            VaultStore::new(settings).unwrap()
        })
        .await;
    });
}

fn entry_made_by_hand_is_a_key() {
    run(async {
        let server = shared().await;
        let data = json!({
            "models": "openai/gpt-4o, openai/o3",
            "weight": "2.5",
            "max_holders": "3",
            "api_key": format!("{CANARY}-000001"),
        });
        write_by_hand(server, "by-hand", "team a's key", data).await;
        let store = store(server, "by-hand").await;
        let keys = store.load().await.unwrap();
        assert_eq!(keys.len(), 1);
        let facts = &keys[0].facts;
        assert_eq!((facts.key, facts.own_weight.thousandths()), (key(1).id(), 2_500));
        assert_eq!(facts.sources, [Arc::from("vault")]);
        // What changes of it is written where it is.
        store.commit(&put([listed_by(&keys[0], &["csv@node-1", "vault"])])).await.unwrap();
        assert_eq!(version_of(server, "by-hand", "team%20a's%20key").await, 2);
        assert_eq!(secrets(&store).await, secrets_of([1]));
        store.commit(&remove([key(1)])).await.unwrap();
        assert!(secrets(&store).await.is_empty());
    });
}

fn edited_credential_is_another_key_and_the_old_one_can_come_back_beside_it() {
    run(async {
        let server = shared().await;
        let store = store(server, "edited").await;
        store.commit(&put([key(1)])).await.unwrap();
        let data = json!({ "models": ["openai/o3"], "api_key": format!("{CANARY}-000002") });
        write_by_hand(server, "edited", &key(1).id().to_string(), data).await;
        let keys = store.load().await.unwrap();
        assert_eq!(keys.iter().map(|key| key.id()).collect::<Vec<_>>(), [key(2).id()]);
        store.commit(&put([key(1)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([1, 2]));
        store.commit(&remove([key(1)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([2]));
    });
}

fn broken_entry_is_named_and_the_rest_is_not_given_without_it() {
    run(async {
        let server = shared().await;
        let store = store(server, "broken").await;
        store.commit(&put([key(1)])).await.unwrap();
        let secret = format!("{CANARY}-000002");
        let data = json!({ "models": "openai/o3", "weight": "heavy", "api_key": secret });
        write_by_hand(server, "broken", "new", data).await;
        let error = store.load().await.unwrap_err();
        assert!(matches!(error, SecretStoreError::Corrupt(_)), "{error:?}");
        let text = text(&error);
        assert!(text.contains("secret/broken/new: weight is not a decimal"), "{text}");
        // Another fault elsewhere is named together with it.
        let data = json!({ "models": "openai/o3", "api_key": 7 });
        write_by_hand(server, "broken", "other", data).await;
        let text = crate::setup::text(&store.load().await.unwrap_err());
        assert!(text.contains("2 entries") && text.contains("other: api_key is not"), "{text}");
        for name in ["new", "other"] {
            let path = format!("secret/data/broken/{name}");
            server.admin(Method::DELETE, &path, Value::Null).await;
        }
        assert_eq!(secrets(&store).await, secrets_of([1]));
    });
}

fn same_key_in_two_entries_is_named() {
    run(async {
        let server = shared().await;
        let data = json!({ "models": "openai/o3", "api_key": format!("{CANARY}-000001") });
        write_by_hand(server, "twice", "one", data.clone()).await;
        write_by_hand(server, "twice", "other", data).await;
        let error = store(server, "twice").await.load().await.unwrap_err();
        let text = text(&error);
        assert!(text.contains("secret/twice/one") && text.contains("secret/twice/other"), "{text}");
    });
}

fn unchanged_keys_cost_no_write() {
    run(async {
        let server = shared().await;
        let store = store(server, "unchanged").await;
        store.commit(&put((0..20).map(key))).await.unwrap();
        store.load().await.unwrap();
        let label = listed_by(&key(3), &["cli", "csv@node-1"]);
        store.commit(&put((0..20).map(key).chain([label.clone()]))).await.unwrap();
        for number in 0..20 {
            let version = version_of(server, "unchanged", &key(number).id().to_string()).await;
            assert_eq!(version, if number == 3 { 2 } else { 1 });
        }
    });
}

fn change_of_somebody_else_is_a_conflict_and_both_are_kept_after_planning_again() {
    run(async {
        let server = shared().await;
        let (one, other) = (store(server, "conflict").await, store(server, "conflict").await);
        one.commit(&put([key(1)])).await.unwrap();
        one.load().await.unwrap();
        other.load().await.unwrap();
        let by_two = listed_by(&key(1), &["csv@node-1", "csv@node-2"]);
        other.commit(&put([by_two])).await.unwrap();
        let by_cli = listed_by(&key(1), &["cli", "csv@node-1"]);
        let error = one.commit(&put([by_cli, key(2)])).await.unwrap_err();
        assert!(matches!(error, SecretStoreError::Conflict(_)), "{error:?}");
        assert!(text(&error).contains("load and plan again"));
        let loaded = one.load().await.unwrap();
        let mine = loaded.iter().find(|loaded| loaded.id() == key(1).id()).unwrap();
        assert_eq!(mine.facts.sources, [Arc::from("csv@node-1"), Arc::from("csv@node-2")]);
        let all = listed_by(&key(1), &["cli", "csv@node-1", "csv@node-2"]);
        one.commit(&put([all.clone(), key(2)])).await.unwrap();
        let loaded = other.load().await.unwrap();
        assert_eq!(loaded.len(), 2);
        assert!(loaded.iter().any(|loaded| loaded.facts == all.facts));
    });
}

fn removal_of_a_key_that_somebody_else_changed_is_a_conflict_and_keeps_it() {
    run(async {
        let server = shared().await;
        let (one, other) = (store(server, "removal").await, store(server, "removal").await);
        one.commit(&put([key(1)])).await.unwrap();
        other.load().await.unwrap();
        other.commit(&put([listed_by(&key(1), &["csv@node-2"])])).await.unwrap();
        let error = one.commit(&remove([key(1)])).await.unwrap_err();
        assert!(matches!(error, SecretStoreError::Conflict(_)), "{error:?}");
        assert_eq!(secrets(&other).await, secrets_of([1]));
        // A key that somebody else made since is not removed unseen either.
        other.commit(&put([key(2)])).await.unwrap();
        let error = one.commit(&remove([key(2)])).await.unwrap_err();
        assert!(matches!(error, SecretStoreError::Conflict(_)), "{error:?}");
        one.load().await.unwrap();
        one.commit(&remove([key(1), key(2)])).await.unwrap();
        assert!(secrets(&other).await.is_empty());
    });
}

fn own_write_whose_answer_was_lost_is_no_conflict() {
    run(async {
        let server = shared().await;
        let (one, other) = (store(server, "lost").await, store(server, "lost").await);
        one.load().await.unwrap();
        // As if one's own write had arrived and its answer had not.
        other.commit(&put([key(1)])).await.unwrap();
        one.commit(&put([key(1)])).await.unwrap();
        let id = key(1).id().to_string();
        assert_eq!(version_of(server, "lost", &id).await, 1);
    });
}

fn change_of_somebody_else_is_a_conflict_on_version_1_too() {
    run(async {
        let server = shared().await;
        server.mount("kv-conflict", 1).await;
        let settings = settings_on(server, "kv-conflict", "keys", KvVersion::V1).await;
        let one = VaultStore::new(settings.clone()).unwrap();
        let other = VaultStore::new(settings).unwrap();
        one.commit(&put([key(1)])).await.unwrap();
        other.load().await.unwrap();
        other.commit(&put([listed_by(&key(1), &["csv@node-2"])])).await.unwrap();
        for change in [put([listed_by(&key(1), &["cli"])]), remove([key(1)])] {
            let error = one.commit(&change).await.unwrap_err();
            assert!(matches!(error, SecretStoreError::Conflict(_)), "{error:?}");
        }
        one.load().await.unwrap();
        one.commit(&remove([key(1)])).await.unwrap();
        assert!(secrets(&other).await.is_empty());
    });
}

fn deleted_entry_is_no_key_and_undelete_brings_it_back() {
    run(async {
        let server = shared().await;
        let store = store(server, "undelete").await;
        store.commit(&put([key(1), key(2)])).await.unwrap();
        store.commit(&remove([key(1)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([2]));
        assert!(!store.has_changed().await.unwrap());
        let path = format!("secret/undelete/undelete/{}", key(1).id());
        server.admin(Method::POST, &path, json!({ "versions": [1] })).await;
        assert!(store.has_changed().await.unwrap());
        assert_eq!(secrets(&store).await, secrets_of([1, 2]));
        assert!(!store.has_changed().await.unwrap());
    });
}

fn every_change_by_somebody_else_is_noticed() {
    run(async {
        let server = shared().await;
        let mine = store(server, "watch").await;
        assert!(mine.has_changed().await.unwrap(), "nothing was seen yet");
        mine.commit(&put((0..5).map(key))).await.unwrap();
        assert!(!mine.has_changed().await.unwrap(), "own writes are no news");
        let id = key(1).id();
        let steps: [(Method, String, Value); 4] = [
            (
                Method::POST,
                format!("secret/data/watch/{id}"),
                json!({ "data": { "models": "openai/o3", "api_key": format!("{CANARY}-000001") } }),
            ),
            (Method::DELETE, format!("secret/data/watch/{id}"), Value::Null),
            (Method::DELETE, format!("secret/metadata/watch/{id}"), Value::Null),
            (
                Method::POST,
                "secret/data/watch/new".into(),
                json!({ "data": { "models": "openai/o3", "api_key": format!("{CANARY}-000009") } }),
            ),
        ];
        for (method, path, body) in steps {
            server.admin(method.clone(), &path, body).await;
            assert!(mine.has_changed().await.unwrap(), "{method} {path}");
            mine.load().await.unwrap();
            assert!(!mine.has_changed().await.unwrap(), "{method} {path}");
        }
        mine.commit(&remove([key(2)])).await.unwrap();
        assert!(!mine.has_changed().await.unwrap(), "own removals are no news");
    });
}

fn every_change_by_somebody_else_is_noticed_on_version_1() {
    run(async {
        let server = shared().await;
        server.mount("kv-watch", 1).await;
        let settings = settings_on(server, "kv-watch", "keys", KvVersion::V1).await;
        let mine = VaultStore::new(settings.clone()).unwrap();
        let other = VaultStore::new(settings).unwrap();
        mine.commit(&put((0..3).map(key))).await.unwrap();
        other.load().await.unwrap();
        let changes = [
            put([listed_by(&key(1), &["cli"])]),
            put([key(7)]),
            remove([key(7)]),
            remove([key(0)]),
        ];
        for change in changes {
            assert!(!mine.has_changed().await.unwrap(), "before {change:?}");
            other.commit(&change).await.unwrap();
            assert!(mine.has_changed().await.unwrap(), "{change:?}");
            mine.load().await.unwrap();
        }
    });
}

fn key_that_could_not_be_read_back_is_refused() {
    run(async {
        let server = shared().await;
        let store = VaultStore::new(settings(server, "refused").await).unwrap();
        let mut wrong = key(1);
        wrong.secret = key(2).secret;
        let error = store.commit(&put([key(3), wrong])).await.unwrap_err();
        assert!(text(&error).ends_with("does not fit the key's id; nothing was changed"));
        assert!(secrets(&store).await.is_empty());
    });
}

fn entry_that_vault_deletes_by_itself_is_noticed() {
    run(async {
        let server = shared().await;
        let ends = json!({ "delete_version_after": "3s" });
        server.admin(Method::POST, "secret/metadata/ends/a", ends).await;
        let data = json!({ "models": "openai/o3", "api_key": format!("{CANARY}-000001") });
        write_by_hand(server, "ends", "a", data).await;
        let store = store(server, "ends").await;
        assert_eq!(secrets(&store).await, secrets_of([1]));
        assert!(!store.has_changed().await.unwrap());
        until("it ended", async || store.has_changed().await.unwrap().then_some(())).await;
        assert!(secrets(&store).await.is_empty());
        assert!(!store.has_changed().await.unwrap(), "that is known now");
    });
}

fn engine_that_became_version_2_is_never_taken_for_an_empty_one() {
    run(async {
        let server = shared().await;
        server.mount("kv-upgraded", 1).await;
        let mut settings = settings_on(server, "kv-upgraded", "keys", KvVersion::V1).await;
        settings.sign_in = token(server.root_token());
        let store = VaultStore::new(settings).unwrap();
        store.commit(&put((0..3).map(key))).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of(0..3));
        let tune = json!({ "options": { "version": "2" } });
        server.admin(Method::POST, "sys/mounts/kv-upgraded/tune", tune).await;
        let mut refused_count = 0;
        let keys = until("it is read as version 2", async || {
            let loaded = store.load().await;
            refused_count += u32::from(loaded.is_err());
            loaded.ok()
        })
        .await;
        assert_eq!(keys.len(), 3, "it was never taken for an empty one");
        assert!(refused_count > 0, "what changed is said");
        store.commit(&remove([key(0)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([1, 2]));
    });
}
