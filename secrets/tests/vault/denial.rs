//! Missing permissions, wrong mounts, wrong tokens: what the texts say.

use key_server_secrets::{Change, KvVersion, SecretStore, VaultStore};
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::vault::VaultServer;

use crate::setup::{
    denied, key, listed_by, put, remove, run, secrets, settings, settings_on, shared, store, token,
};

pub(crate) const TESTS: &[Test] = &tests![
    each_missing_capability_is_named_on_version_2,
    each_missing_capability_is_named_on_version_1,
    wrong_token_is_named_with_the_address,
    missing_mount_says_how_to_enable_it,
    mount_that_is_no_key_value_engine_is_named,
    mount_with_a_part_of_the_path_is_named,
    wrong_version_by_setting_is_named_and_never_looks_empty,
    wrong_version_is_named_even_where_the_token_may_not_list,
];

/// What a policy leaves out, by a text that takes it out.
struct Without {
    from: &'static str,
    to: &'static str,
    change: Option<Change>,
    expected: &'static str,
}

async fn each_is_named(server: &VaultServer, mount: &str, version: KvVersion, cases: [Without; 5]) {
    let full = settings_on(server, mount, "denied", version).await;
    let policy = VaultStore::policy(&full, version);
    let good = VaultStore::new(full.clone()).unwrap();
    good.commit(&put([key(1), key(2)])).await.unwrap();
    for Without { from, to, change, expected } in cases {
        let less = policy.replace(from, to);
        assert_ne!(less, policy, "{from}");
        let mut settings = full.clone();
        settings.sign_in = token(&server.token(&less, "1h", "").await);
        let store = VaultStore::new(settings).unwrap();
        let text = match change {
            None => denied(store.load().await),
            Some(change) => {
                store.load().await.unwrap();
                denied(store.commit(&change).await)
            }
        };
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(text.contains(&policy), "the policy to paste: {text}");
        assert!(text.contains(&server.address()), "{text}");
    }
    assert_eq!(secrets(&good).await.len(), 2);
}

fn each_missing_capability_is_named_on_version_2() {
    run(async {
        let server = shared().await;
        let cases = [
            Without {
                from: "\"list\"",
                to: "\"read\"",
                change: None,
                expected: "lacks the capability \"list\" on \"secret/metadata/denied\"",
            },
            Without {
                from: "\"create\", \"read\", \"update\"",
                to: "\"create\", \"update\"",
                change: None,
                expected: "lacks the capability \"read\" on \"secret/data/denied/k_",
            },
            Without {
                from: "\"create\", \"read\"",
                to: "\"read\"",
                change: Some(put([key(3)])),
                expected: "lacks the capability \"create\" on \"secret/data/denied/k_",
            },
            Without {
                from: "\"read\", \"update\"",
                to: "\"read\"",
                change: Some(put([listed_by(&key(1), &["cli"])])),
                expected: "lacks the capability \"update\" on \"secret/data/denied/k_",
            },
            Without {
                from: "path \"secret/delete/denied/*\" { capabilities = [\"update\"] }",
                to: "",
                change: Some(remove([key(1)])),
                expected: "lacks the capability \"update\" on \"secret/delete/denied/k_",
            },
        ];
        each_is_named(server, "secret", KvVersion::V2, cases).await;
    });
}

fn each_missing_capability_is_named_on_version_1() {
    run(async {
        let server = shared().await;
        server.mount("kv-denied", 1).await;
        let cases = [
            Without {
                from: "\"list\"",
                to: "\"read\"",
                change: None,
                expected: "lacks the capability \"list\" on \"kv-denied/denied\"",
            },
            Without {
                from: "\"read\", ",
                to: "",
                change: None,
                expected: "lacks the capability \"read\" on \"kv-denied/denied/k_",
            },
            Without {
                from: "\"create\", ",
                to: "",
                change: Some(put([key(3)])),
                expected: "lacks the capability \"create\" on \"kv-denied/denied/k_",
            },
            Without {
                from: "\"update\", ",
                to: "",
                change: Some(put([listed_by(&key(1), &["cli"])])),
                expected: "lacks the capability \"update\" on \"kv-denied/denied/k_",
            },
            Without {
                from: ", \"delete\"",
                to: "",
                change: Some(remove([key(1)])),
                expected: "lacks the capability \"delete\" on \"kv-denied/denied/k_",
            },
        ];
        each_is_named(server, "kv-denied", KvVersion::V1, cases).await;
    });
}

fn wrong_token_is_named_with_the_address() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "wrong-token").await;
        settings.sign_in = token("fake-wrong-token");
        let text = denied(VaultStore::new(settings.clone()).unwrap().load().await);
        assert!(text.contains("does not know the token"), "{text}");
        assert!(text.contains(&server.address()) && !text.contains("mount"), "{text}");
        settings.kv_version = Some(KvVersion::V2);
        let store = VaultStore::new(settings).unwrap();
        let text = denied(store.load().await);
        assert!(text.contains("the token is wrong, has ended or was revoked"), "{text}");
        assert!(text.contains(&server.address()) && text.contains("secret/metadata/wrong-token"));
        assert!(!text.contains("fake-wrong-token"), "{text}");
    });
}

fn wrong_version_is_named_even_where_the_token_may_not_list() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "version-denied").await;
        let less = VaultStore::policy(&settings, KvVersion::V2).replace("\"list\"", "\"read\"");
        settings.sign_in = token(&server.token(&less, "1h", "").await);
        settings.kv_version = Some(KvVersion::V1);
        let text = denied(VaultStore::new(settings).unwrap().load().await);
        assert!(text.contains("is of version 2, not 1"), "{text}");
    });
}

fn missing_mount_says_how_to_enable_it() {
    run(async {
        let server = shared().await;
        for version in [None, Some(KvVersion::V2)] {
            let mut settings = settings(server, "no-mount").await;
            settings.mount = "team/none".into();
            settings.kv_version = version;
            settings.sign_in = token(server.root_token());
            let text = denied(VaultStore::new(settings).unwrap().load().await);
            assert!(text.contains("vault secrets enable -version=2 -path=team/none kv"), "{text}");
        }
    });
}

fn mount_that_is_no_key_value_engine_is_named() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "cubby").await;
        settings.mount = "cubbyhole".into();
        settings.sign_in = token(server.root_token());
        let text = denied(VaultStore::new(settings).unwrap().load().await);
        assert!(text.contains("is a mount of type cubbyhole, not kv"), "{text}");
    });
}

fn mount_with_a_part_of_the_path_is_named() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "keys").await;
        settings.mount = "secret/team".into();
        settings.sign_in = token(server.root_token());
        let text = denied(VaultStore::new(settings).unwrap().load().await);
        assert!(text.contains("is secret, not secret/team: set KEY_SERVER_VAULT_MOUNT"), "{text}");
    });
}

fn wrong_version_by_setting_is_named_and_never_looks_empty() {
    run(async {
        let server = shared().await;
        server.mount("kv-really-one", 1).await;
        for (mount, set, is) in
            [("kv-really-one", KvVersion::V2, "1"), ("secret", KvVersion::V1, "2")]
        {
            let mut settings = settings(server, "version").await;
            settings.mount = mount.into();
            settings.kv_version = Some(set);
            settings.sign_in = token(server.root_token());
            let store = VaultStore::new(settings).unwrap();
            let expected = format!("KEY_SERVER_VAULT_KV_VERSION={is}");
            for text in [denied(store.load().await), denied(store.commit(&put([key(1)])).await)] {
                assert!(text.contains(&expected), "{text}");
            }
        }
        assert!(secrets(&store(server, "version").await).await.is_empty());
    });
}
