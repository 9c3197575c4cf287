//! Who answers is not Vault, or not a good one.

use std::time::Duration;

use key_server_secrets::{KvVersion, SecretStore, VaultSettings, VaultStore};
use key_server_testkit::suite::Test;
use key_server_testkit::tests;

use crate::scripted::{Answer, Request, Scripted};
use crate::setup::{denied, key, put, run, text, token, unavailable};

pub(crate) const TESTS: &[Test] = &tests![
    redirect_to_another_address_does_not_get_the_token,
    redirect_to_the_same_address_is_followed_once,
    huge_reply_is_cut_off,
    slow_reply_times_out,
    replies_that_are_not_vaults_are_away_and_never_an_empty_store,
    echoed_secrets_are_not_repeated,
];

const TOKEN: &str = "fake-canary-token";

fn store(address: String) -> VaultStore {
    let mut settings = VaultSettings::new(address, token(TOKEN));
    settings.kv_version = Some(KvVersion::V2);
    settings.request_timeout = Duration::from_millis(500);
    VaultStore::new(settings).unwrap()
}

fn is_list(request: &Request) -> bool {
    request.head.contains("?list=true")
}

/// Answers the look at the token, so that the rest is what is tried.
fn after_sign_in(
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    move |request| match request.head.contains("lookup-self") {
        true => Answer::json(200, r#"{"data":{"ttl":0,"renewable":false}}"#),
        false => answer(request),
    }
}

fn redirect_to_another_address_does_not_get_the_token() {
    run(async {
        let thief = Scripted::start(|_| Answer::json(200, r#"{"data":{"keys":[]}}"#)).await;
        for status in [301, 302, 307, 308] {
            let location = format!("location: {}/v1/secret", thief.address());
            let vault =
                Scripted::start(after_sign_in(move |_| Answer::with_header(status, &location, "")))
                    .await;
            let text = denied(store(vault.address()).load().await);
            assert!(text.contains("redirects to") && text.contains(&thief.address()), "{text}");
            assert!(!text.contains(TOKEN), "{text}");
        }
        assert!(thief.requests().is_empty());
    });
}

fn redirect_to_the_same_address_is_followed_once() {
    run(async {
        let vault =
            Scripted::start(after_sign_in(|request| match request.head.contains("/v1/moved") {
                true => Answer::json(200, r#"{"data":{"keys":[]}}"#),
                false => Answer::with_header(307, "location: /v1/moved?list=true", ""),
            }))
            .await;
        assert!(store(vault.address()).load().await.unwrap().is_empty());
        let vault =
            Scripted::start(after_sign_in(|_| Answer::with_header(307, "location: /v1/again", "")))
                .await;
        let text = unavailable(store(vault.address()).load().await);
        assert!(text.contains("in a circle"), "{text}");
        assert_eq!(vault.requests().len(), 3, "sign-in, request, and once more");
    });
}

fn huge_reply_is_cut_off() {
    run(async {
        let vault = Scripted::start(after_sign_in(|request| {
            if is_list(request) {
                return Answer::json(200, r#"{"data":{"keys":["one"]}}"#);
            }
            let head = b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            let chunk = [b"10000\r\n", &[b' '; 65_536][..], b"\r\n"].concat();
            let parts = std::iter::once(head).chain(std::iter::repeat_n(chunk, 64)).collect();
            Answer { parts, pause: Duration::ZERO }
        }))
        .await;
        let text = unavailable(store(vault.address()).load().await);
        assert!(text.contains("larger than 1024 KiB"), "{text}");
    });
}

fn slow_reply_times_out() {
    run(async {
        let vault = Scripted::start(after_sign_in(|_| {
            let head = b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n".to_vec();
            let parts = std::iter::once(head).chain(std::iter::repeat_n(b" ".to_vec(), 100));
            Answer { parts: parts.collect(), pause: Duration::from_millis(100) }
        }))
        .await;
        let before = tokio::time::Instant::now();
        let text = unavailable(store(vault.address()).load().await);
        assert!(text.contains("no answer within 500 ms"), "{text}");
        assert!(before.elapsed() < Duration::from_secs(3));
    });
}

fn replies_that_are_not_vaults_are_away_and_never_an_empty_store() {
    run(async {
        for body in [
            "<html>sign in to the hotel's network</html>",
            "{}",
            "[]",
            r#"{"data":null}"#,
            r#"{"data":{"keys":"all"}}"#,
            r#"{"data":{"keys":["#,
            "",
        ] {
            let vault = Scripted::start(after_sign_in(move |_| Answer::json(200, body))).await;
            let text = unavailable(store(vault.address()).load().await);
            assert!(text.contains("what this is not"), "{body}: {text}");
            let text = unavailable(store(vault.address()).check().await);
            assert!(text.contains("is not Vault"), "{body}: {text}");
        }
        // A list, and then entries that are none.
        for body in ["{}", r#"{"data":{"data":[],"metadata":{}}}"#, r#"{"data":{"data":{}}}"#] {
            let vault = Scripted::start(after_sign_in(move |request| match is_list(request) {
                true => Answer::json(200, r#"{"data":{"keys":["one"]}}"#),
                false => Answer::json(200, body),
            }))
            .await;
            unavailable(store(vault.address()).load().await);
        }
    });
}

fn echoed_secrets_are_not_repeated() {
    run(async {
        let vault = Scripted::start(after_sign_in(|request| {
            if is_list(request) {
                return Answer::json(200, r#"{"data":{"keys":[]}}"#);
            }
            let echo = format!("{} {}", request.head, request.body);
            let status = if request.body.contains("000001") { 400 } else { 500 };
            Answer::json(status, &serde_json::json!({ "errors": [echo] }).to_string())
        }))
        .await;
        let store = store(vault.address());
        for number in [1, 2] {
            let error = store.commit(&put([key(number)])).await.unwrap_err();
            let text = text(&error);
            assert!(!text.contains(TOKEN), "{text}");
        }
    });
}
