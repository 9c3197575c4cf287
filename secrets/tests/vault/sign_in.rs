//! Every way to a token, and how long it is kept.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use key_server_secrets::{
    KvVersion, SecretId, SecretKey, SecretStore, SignIn, VaultSettings, VaultStore,
};
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::vault::{GuardedProcess, VaultServer};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
use crate::setup::{
    denied, key, put, run, secrets, secrets_of, settings, shared, token, unavailable,
};

pub(crate) const TESTS: &[Test] = &tests![
    token_file_is_read_again_when_it_changes,
    token_file_that_others_may_read_is_refused,
    role_signs_in_and_again_after_its_token_was_revoked,
    role_secret_id_may_come_from_a_file,
    wrong_role_or_secret_id_is_denied_without_repeating_it,
    short_token_is_renewed_while_nobody_asks,
    token_at_its_largest_lifetime_is_replaced_by_signing_in_again,
    token_that_cannot_be_renewed_ends_with_words,
    revoked_token_is_denied,
    root_token_is_never_renewed,
    wrapped_token_is_taken_once,
    certificate_signs_in_over_tls,
    unknown_authority_is_named,
    service_account_signs_in,
    agent_adds_its_own_token_over_a_socket,
    health_says_how_vault_is,
];

fn private_file(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    let new = folder.join(format!("{name}.new"));
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, &path).unwrap();
    path
}

async fn policy_of(server: &VaultServer, settings: &VaultSettings) -> String {
    server.policy(&VaultStore::policy(settings, KvVersion::V2)).await
}

/// Settings that sign in by role, whose tokens live this long.
async fn by_role(server: &VaultServer, role: &str, ttl: &str, max: &str) -> VaultSettings {
    let mut settings = settings(server, role).await;
    let policy = policy_of(server, &settings).await;
    // Enabled by whichever test comes first.
    let _ = server.try_admin(Method::POST, "sys/auth/approle", json!({ "type": "approle" })).await;
    let path = format!("auth/approle/role/{role}");
    let body = json!({
        "token_policies": [policy],
        "token_no_default_policy": true,
        "token_ttl": ttl,
        "token_max_ttl": max,
    });
    server.admin(Method::POST, &path, body).await;
    let role_id = server.admin(Method::GET, &format!("{path}/role-id"), Value::Null).await;
    let secret_id = server.admin(Method::POST, &format!("{path}/secret-id"), Value::Null).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    settings.sign_in = SignIn::AppRole {
        mount: "approle".into(),
        role_id: text(&role_id["data"]["role_id"]),
        secret_id: SecretId::Value(Arc::new(SecretKey::from_owned(text(
            &secret_id["data"]["secret_id"],
        )))),
    };
    settings
}

/// Waits until `done`, for up to 20 seconds.
async fn until(mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not happen");
}

/// The accessors of a role's tokens that are alive.
async fn tokens_of(server: &VaultServer, role: &str) -> Vec<String> {
    let list = server.admin(Method::GET, "auth/token/accessors?list=true", Value::Null).await;
    let mut found = Vec::new();
    for accessor in list["data"]["keys"].as_array().unwrap() {
        let body = json!({ "accessor": accessor });
        // Those of other tests may end in between.
        let token = server.try_admin(Method::POST, "auth/token/lookup-accessor", body).await;
        if token.unwrap().1["data"]["meta"]["role_name"] == *role {
            found.push(accessor.as_str().unwrap().to_owned());
        }
    }
    found
}

fn token_file_is_read_again_when_it_changes() {
    run(async {
        let server = shared().await;
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(server, "token-file").await;
        let policy = VaultStore::policy(&settings, KvVersion::V2);
        let first = server.token(&policy, "1h", "").await;
        let path = private_file(dir.path(), "token", &format!("{first}\n"));
        settings.sign_in = SignIn::TokenFile(path);
        let store = VaultStore::new(settings).unwrap();
        store.commit(&put([key(1)])).await.unwrap();
        // A file that is just being written changes nothing.
        private_file(dir.path(), "token", "");
        assert_eq!(secrets(&store).await, secrets_of([1]));
        // Nor does a wrong token, while the old one lives.
        private_file(dir.path(), "token", "hvs.fake-wrong");
        assert_eq!(secrets(&store).await, secrets_of([1]));
        let second = server.token(&policy, "1h", "").await;
        server.admin(Method::POST, "auth/token/revoke", json!({ "token": first })).await;
        denied(store.load().await);
        private_file(dir.path(), "token", &second);
        assert_eq!(secrets(&store).await, secrets_of([1]));
    });
}

fn token_file_that_others_may_read_is_refused() {
    run(async {
        let server = shared().await;
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(server, "token-file-mode").await;
        let path = private_file(dir.path(), "token", "fake-token");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        settings.sign_in = SignIn::TokenFile(path);
        let text = denied(VaultStore::new(settings.clone()).unwrap().load().await);
        assert!(text.contains("is open to everyone"), "{text}");
        settings.sign_in = SignIn::TokenFile(dir.path().join("none"));
        let text = denied(VaultStore::new(settings).unwrap().load().await);
        assert!(text.contains("does not exist"), "{text}");
    });
}

fn role_signs_in_and_again_after_its_token_was_revoked() {
    run(async {
        let server = shared().await;
        let store = VaultStore::new(by_role(server, "role-revoked", "1h", "2h").await).unwrap();
        store.commit(&put([key(1)])).await.unwrap();
        let before = tokens_of(server, "role-revoked").await;
        assert_eq!(before.len(), 1);
        let body = json!({ "accessor": before[0] });
        server.admin(Method::POST, "auth/token/revoke-accessor", body).await;
        assert_eq!(secrets(&store).await, secrets_of([1]));
        let after = tokens_of(server, "role-revoked").await;
        assert!(after.len() == 1 && after != before, "{after:?}");
    });
}

fn role_secret_id_may_come_from_a_file() {
    run(async {
        let server = shared().await;
        let dir = tempfile::tempdir().unwrap();
        let mut settings = by_role(server, "role-file", "1h", "2h").await;
        let SignIn::AppRole { mount, role_id, secret_id: SecretId::Value(value) } =
            settings.sign_in.clone()
        else {
            panic!("no role");
        };
        let path = private_file(dir.path(), "secret-id", value.expose());
        settings.sign_in = SignIn::AppRole { mount, role_id, secret_id: SecretId::File(path) };
        let store = VaultStore::new(settings).unwrap();
        assert!(store.load().await.unwrap().is_empty());
    });
}

fn wrong_role_or_secret_id_is_denied_without_repeating_it() {
    run(async {
        let server = shared().await;
        let mut settings = by_role(server, "role-wrong", "1h", "2h").await;
        let SignIn::AppRole { role_id, .. } = settings.sign_in.clone() else {
            panic!("no role");
        };
        let wrong = SecretId::Value(Arc::new(SecretKey::copy_of("fake-wrong-secret-id")));
        for (mount, role_id) in [("approle", role_id.as_str()), ("approle", "none"), ("none", "x")]
        {
            settings.sign_in = SignIn::AppRole {
                mount: mount.into(),
                role_id: role_id.into(),
                secret_id: wrong.clone(),
            };
            let text = denied(VaultStore::new(settings.clone()).unwrap().load().await);
            assert!(text.contains("refuses the sign-in by approle"), "{text}");
            assert!(text.contains("check role id and secret id"), "{text}");
            assert!(!text.contains("fake-wrong-secret-id"), "{text}");
        }
    });
}

fn short_token_is_renewed_while_nobody_asks() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "renewed").await;
        let policy = VaultStore::policy(&settings, KvVersion::V2);
        let text = server.token(&policy, "3s", "").await;
        settings.sign_in = token(&text);
        let store = Arc::new(VaultStore::new(settings).unwrap());
        store.load().await.unwrap();
        let renewing = Arc::clone(&store);
        let mut renewal = tokio::task::JoinSet::new();
        renewal.spawn(async move { renewing.run_renewal().await });
        // Twice its lifetime: nobody but the renewal asks.
        let looked_up = async || {
            let body = json!({ "token": text });
            server.try_admin(Method::POST, "auth/token/lookup", body).await.unwrap()
        };
        let created = looked_up().await.1["data"]["creation_time"].as_i64().unwrap();
        until(async || {
            let (status, found) = looked_up().await;
            assert_eq!(status, 200, "it ended");
            found["data"]["last_renewal_time"].as_i64().is_some_and(|at| at - created >= 6)
        })
        .await;
        store.load().await.unwrap();
    });
}

fn token_at_its_largest_lifetime_is_replaced_by_signing_in_again() {
    run(async {
        let server = shared().await;
        let store = VaultStore::new(by_role(server, "role-max", "2s", "3s").await).unwrap();
        store.load().await.unwrap();
        let before = tokio::time::Instant::now();
        // Requests alone do it, and none of them fails.
        while before.elapsed() < Duration::from_secs(7) {
            store.load().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let left = store.check().await.unwrap().token_ttl.unwrap();
        assert!(left <= Duration::from_secs(2), "{left:?}");
    });
}

fn token_that_cannot_be_renewed_ends_with_words() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "ends").await;
        let policy = VaultStore::policy(&settings, KvVersion::V2);
        settings.sign_in = token(&server.token(&policy, "1s", "2s").await);
        settings.kv_version = Some(KvVersion::V2);
        let store = VaultStore::new(settings).unwrap();
        store.load().await.unwrap();
        until(async || store.load().await.is_err()).await;
        let text = denied(store.load().await);
        assert!(text.contains("the token is wrong, has ended or was revoked"), "{text}");
    });
}

fn revoked_token_is_denied() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "revoked").await;
        let policy = VaultStore::policy(&settings, KvVersion::V2);
        let text = server.token(&policy, "1h", "").await;
        settings.sign_in = token(&text);
        let store = VaultStore::new(settings).unwrap();
        store.load().await.unwrap();
        server.admin(Method::POST, "auth/token/revoke", json!({ "token": text })).await;
        let text = denied(store.load().await);
        assert!(text.contains("has ended or was revoked"), "{text}");
    });
}

fn root_token_is_never_renewed() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "root").await;
        settings.sign_in = token(server.root_token());
        let store = VaultStore::new(settings).unwrap();
        store.load().await.unwrap();
        assert_eq!(store.check().await.unwrap().token_ttl, None);
        let renewal = tokio::time::timeout(Duration::from_millis(300), store.run_renewal());
        assert!(renewal.await.is_err(), "it waits for ever");
        let found = server.admin(Method::GET, "auth/token/lookup-self", Value::Null).await;
        assert!(found["data"]["last_renewal_time"].is_null());
    });
}

fn wrapped_token_is_taken_once() {
    run(async {
        let server = shared().await;
        let mut settings = settings(server, "wrapped").await;
        let policy = policy_of(server, &settings).await;
        let headers = [("X-Vault-Wrap-TTL", "60s")];
        let body = json!({ "policies": [policy], "ttl": "1h" });
        let made =
            server.ask_with(&headers, Method::POST, "auth/token/create", body).await.unwrap();
        let wrapping = made.1["wrap_info"]["token"].as_str().unwrap().to_owned();
        settings.sign_in = token(&wrapping);
        settings.token_is_wrapped = true;
        let store = VaultStore::new(settings.clone()).unwrap();
        store.commit(&put([key(1)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([1]));
        // Whoever comes second learns that somebody was first.
        let text = denied(VaultStore::new(settings).unwrap().load().await);
        assert!(text.contains("it may have been intercepted"), "{text}");
        assert!(!text.contains(&wrapping), "{text}");
    });
}

/// A server behind TLS, its authority, and a client certificate, as files.
struct Tls {
    _dir: tempfile::TempDir,
    server: VaultServer,
    ca: PathBuf,
    ca_pem: String,
    cert: PathBuf,
    key: PathBuf,
}

async fn tls() -> Tls {
    let dir = tempfile::tempdir().unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, ca_key).unwrap();
    let leaf = |name: &str, usage| {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        params.extended_key_usages = vec![usage];
        let cert = params.signed_by(&key, &ca).unwrap();
        let cert = private_file(dir.path(), &format!("{name}.pem"), &cert.pem());
        (cert, private_file(dir.path(), &format!("{name}.key"), &key.serialize_pem()))
    };
    let (server_cert, server_key) = leaf("server", ExtendedKeyUsagePurpose::ServerAuth);
    let (cert, key) = leaf("client", ExtendedKeyUsagePurpose::ClientAuth);
    let ca_pem = ca.pem();
    let ca = private_file(dir.path(), "ca.pem", &ca_pem);
    let server = VaultServer::with_tls(&server_cert, &server_key).await;
    Tls { _dir: dir, server, ca, ca_pem, cert, key }
}

fn certificate_signs_in_over_tls() {
    run(async {
        let Tls { _dir, server, ca, ca_pem, cert, key: client_key } = tls().await;
        let mut settings = settings(&server, "certificate").await;
        settings.tls.ca_cert = Some(ca);
        settings.tls.client_cert = Some(cert.clone());
        settings.tls.client_key = Some(client_key);
        let policy = policy_of(&server, &settings).await;
        server.admin(Method::POST, "sys/auth/cert", json!({ "type": "cert" })).await;
        let body = json!({ "certificate": ca_pem, "token_policies": [policy], "token_ttl": "1h" });
        server.admin(Method::POST, "auth/cert/certs/key-server", body).await;
        for name in [None, Some("key-server".to_owned())] {
            settings.sign_in = SignIn::Certificate { mount: "cert".into(), name };
            let store = VaultStore::new(settings.clone()).unwrap();
            store.commit(&put([key(1)])).await.unwrap();
            assert_eq!(secrets(&store).await, secrets_of([1]));
        }
        settings.sign_in =
            SignIn::Certificate { mount: "cert".into(), name: Some("unknown".into()) };
        let text = denied(VaultStore::new(settings.clone()).unwrap().load().await);
        assert!(text.contains("VAULT_CLIENT_CERT"), "{text}");
        // The certificate in the place of its key.
        settings.tls.client_key = Some(cert);
        let text = denied(VaultStore::new(settings).map(drop));
        assert!(text.contains("in PEM form"), "{text}");
    });
}

fn unknown_authority_is_named() {
    run(async {
        let tls = tls().await;
        let mut settings = settings(&tls.server, "authority").await;
        // Another authority than the server's: a certificate of no authority.
        settings.tls.ca_cert = Some(tls.cert);
        let text = unavailable(VaultStore::new(settings.clone()).unwrap().load().await);
        assert!(text.contains("certificate") && text.contains("VAULT_CACERT"), "{text}");
        settings.tls.ca_cert = None;
        settings.tls.skip_verify = true;
        assert!(VaultStore::new(settings).unwrap().load().await.unwrap().is_empty());
    });
}

fn service_account_signs_in() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let jwt = private_file(dir.path(), "jwt", "fake.jwt.token");
        fs::set_permissions(&jwt, fs::Permissions::from_mode(0o644)).unwrap();
        let vault = Scripted::start(|request| {
            if request.head.starts_with("POST /v1/auth/k8s/login ") {
                return match request.body.contains(r#""jwt":"fake.jwt.token""#)
                    && request.body.contains(r#""role":"key-server""#)
                {
                    true => Answer::json(
                        200,
                        r#"{"auth":{"client_token":"fake-k8s-token","lease_duration":3600,"renewable":true}}"#,
                    ),
                    false => Answer::json(403, r#"{"errors":["permission denied: fake.jwt.token"]}"#),
                };
            }
            match request.head.to_ascii_lowercase().contains("x-vault-token: fake-k8s-token") {
                true => Answer::json(404, r#"{"errors":[]}"#),
                false => Answer::json(403, r#"{"errors":["permission denied"]}"#),
            }
        })
        .await;
        let mut settings = VaultSettings::new(vault.address(), SignIn::Agent);
        settings.kv_version = Some(KvVersion::V2);
        let with_role = |role: &str| SignIn::Kubernetes {
            mount: "k8s".into(),
            role: role.into(),
            jwt_file: jwt.clone(),
        };
        settings.sign_in = with_role("key-server");
        assert!(VaultStore::new(settings.clone()).unwrap().load().await.unwrap().is_empty());
        settings.sign_in = with_role("other");
        let text = denied(VaultStore::new(settings).unwrap().load().await);
        assert!(text.contains("bound service accounts"), "{text}");
        assert!(!text.contains("fake.jwt"), "{text}");
    });
}

fn agent_adds_its_own_token_over_a_socket() {
    run(async {
        let server = shared().await;
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(server, "agent").await;
        let policy = VaultStore::policy(&settings, KvVersion::V2);
        let token = private_file(dir.path(), "token", &server.token(&policy, "1h", "").await);
        let socket = dir.path().join("agent.sock");
        let config = format!(
            "vault {{\n  address = \"{}\"\n}}\nauto_auth {{\n  method \"token_file\" {{\n    config = \
             {{\n      token_file_path = \"{}\"\n    }}\n  }}\n}}\napi_proxy {{\n  \
             use_auto_auth_token = \"force\"\n}}\nlistener \"unix\" {{\n  address = \"{}\"\n  tls_disable \
             = true\n}}\n",
            server.address(),
            token.display(),
            socket.display()
        );
        let config = private_file(dir.path(), "agent.hcl", &config);
        let config = format!("-config={}", config.display());
        let log = dir.path().join("agent.log");
        let program = VaultServer::find().unwrap();
        let agent = GuardedProcess::start(&program, &["proxy", &config], &log).unwrap();
        settings.address = format!("unix://{}", socket.display());
        settings.sign_in = SignIn::Agent;
        let store = VaultStore::new(settings).unwrap();
        until(async || store.load().await.is_ok()).await;
        store.commit(&put([key(1)])).await.unwrap();
        assert_eq!(secrets(&store).await, secrets_of([1]));
        drop(agent);
        let text = unavailable(store.load().await);
        assert!(text.contains("agent.sock"), "{text}");
    });
}

fn health_says_how_vault_is() {
    run(async {
        let server = shared().await;
        let store = VaultStore::new(by_role(server, "role-health", "1h", "2h").await).unwrap();
        let health = store.check().await.unwrap();
        let version = health.version.clone().unwrap();
        assert_eq!(
            (health.state, health.is_ready, health.kv_version, health.sign_in),
            ("active", true, Some(KvVersion::V2), "approle")
        );
        let text = health.to_string();
        let expected = format!(
            "Vault {version} at {} is active, KV version 2, signed in by approle, the token ends in ",
            server.address()
        );
        assert!(text.starts_with(&expected), "{text}");
        assert!(health.token_ttl.unwrap() > Duration::from_secs(3_500));
        assert_eq!(tokens_of(server, "role-health").await.len(), 1);
    });
}
