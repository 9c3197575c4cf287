//! Canary keys with everything switched on: they are in the CSV, in Vault's own
//! encrypted storage, in memory and in replies, and nowhere else.

use std::fs;

use key_server_proto::v1;
use key_server_testkit::leaks::{leaks, leaks_in};
use key_server_testkit::redis::{PASSWORD, RedisServer};
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use key_server_testkit::vault::VaultServer;
use reqwest::Method;
use serde_json::json;

use crate::nodes::{Node, run as run_async, wait};
use crate::support::{ANTHROPIC, OPENAI, health, release, report, run, select, selected, until};
use crate::vaults::{at, home_in, token};

pub(crate) const TESTS: &[Test] = &tests![
    keys_are_in_no_redis_no_log_and_not_in_clear_in_vaults_audit,
    redis_is_looked_at_with_the_commands_that_people_know,
];

const CANARIES: [&str; 3] =
    ["Gk4Rt9Wz2Bn7Xp5Lc8Vd3Jm6", "Ys1Hq6Fu8Ta3Ko9Ei5Zr2Mx7", "Nb7Cj2Pw5Dg9Uv4Sl1Qy8Oh3"];
const POLL: &str = "KEY_SERVER_VAULT_POLL";

fn csv() -> String {
    let [a, b, c] = CANARIES;
    format!(
        "provider,model,api_key,max_holders\n\
         OpenAI,gpt-4o,sk-{a},\nOpenAI,gpt-4o,sk-{b},\n\
         Anthropic,claude-3-7-sonnet-20250219,sk-ant-{c},1\n"
    )
}

fn keys_are_in_no_redis_no_log_and_not_in_clear_in_vaults_audit() {
    run_async(async {
        let vault = VaultServer::dev().await;
        let audit = vault.path().join("audit.log");
        let device = json!({ "type": "file", "options": { "file_path": audit } });
        vault.admin(Method::PUT, "sys/audit/file", device).await;
        let redis = wait(|| RedisServer::start(&["appendonly yes", "appendfsync always"]));
        let mut nodes = Vec::new();
        let mut tokens = Vec::new();
        for _ in 0..2 {
            let token = token(&vault, "canary").await;
            let home = at(crate::support::home(&csv()), &vault, "canary")
                .with("VAULT_TOKEN", &token)
                .with("KEY_SERVER_REDIS_URL", redis.url())
                .with("KEY_SERVER_OFFLINE", "cache")
                .with("KEY_SERVER_LOG_LEVEL", "trace");
            nodes.push(Node::start(home).await);
            tokens.push(token);
        }
        let mut said = Vec::new();
        for (place, node) in nodes.iter_mut().enumerate() {
            said.extend(sing(node, place).await);
        }
        vault.admin(Method::PUT, "auth/token/revoke", json!({ "token": tokens[0] })).await;
        redis.ask::<()>(&["ACL", "SETUSER", "keyserver", "off"]).unwrap();
        redis.ask::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
        for backend in ["secrets", "fleet"] {
            said.push(
                until("Health says that it is away", async || {
                    let backend = nodes[0].backend(backend).await;
                    (backend.state == "unavailable").then_some(format!("{backend:?}"))
                })
                .await,
            );
        }
        let refused = nodes[0].client.reload_keys(v1::ReloadKeysRequest::default()).await;
        said.push(format!("{refused:?}"));
        redis.ask::<String>(&["SAVE"]).unwrap();
        let mut found = leaks_in(&CANARIES, &redis.path(""), &["redis.sock"]);
        assert!(redis.path("dump.rdb").is_file() && redis.path("appendonlydir").is_dir());
        let audited = fs::read(&audit).unwrap();
        assert!(audited.len() > 1_000, "Vault kept an audit log");
        found.extend(leaks(&CANARIES, "Vault's audit log", &audited));
        for node in &nodes {
            found.extend(leaks_in(&CANARIES, node.home.path(), &["api_keys.csv"]));
            let pid = node.server.as_ref().unwrap().pid();
            for file in ["cmdline", "environ"] {
                // It belongs to root; others cannot read it, which is as good.
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                found.extend(leaks(&CANARIES, file, &bytes));
            }
            said.push(node.home.words());
            said.push(fs::read_to_string(node.home.path().join("logs/keyserver.log")).unwrap());
            said.push(crate::support::ledger_text(&node.home));
        }
        for text in &said {
            found.extend(leaks(&CANARIES, "what was said", text.as_bytes()));
            let mut passwords = tokens.iter().map(String::as_str).chain([PASSWORD]);
            assert!(!passwords.any(|password| text.contains(password)), "{text}");
        }
        assert_eq!(found, Vec::<String>::new());
    });
}

/// The whole flow, and what an operator types; what was said.
async fn sing(node: &mut Node, place: usize) -> Vec<String> {
    let mut said = Vec::new();
    let session = format!("s{place}");
    let keys = selected(&mut node.client, select(&session, &[OPENAI], 2)).await;
    assert!(keys.iter().all(|key| CANARIES.iter().any(|one| key.api_key.ends_with(one))));
    let capped = node.client.select_keys_for_session(select(&session, &[ANTHROPIC], 1)).await;
    assert!(capped.is_ok());
    for outcome in [v1::Outcome::Success, v1::Outcome::AuthFailed] {
        let event = format!("e-{outcome:?}");
        let report = report(&session, &keys[0], &event);
        let report = v1::TrackUsageRequest { outcome: outcome.into(), ..report };
        said.push(format!("{:?}", node.client.track_usage(report).await));
    }
    let misplaced = v1::TrackUsageRequest {
        key_id: keys[0].api_key.clone(),
        ..report(&session, &keys[0], "e")
    };
    said.push(format!("{:?}", node.client.track_usage(misplaced).await));
    said.push(format!("{:?}", health(&mut node.client).await));
    said.push(format!("{:?}", node.picture().await.keys));
    let reloaded = node.client.reload_keys(v1::ReloadKeysRequest::default()).await;
    said.push(format!("{:?}", reloaded.unwrap()));
    for arguments in [&["status"][..], &["config", "show", "--origin"], &["keys", "list"]] {
        let ended = run(node.home.command(arguments));
        said.push(format!("{}{}", ended.output, ended.error));
    }
    said.push(format!("{:?}", node.client.release_key(release(&session)).await));
    said
}

fn redis_is_looked_at_with_the_commands_that_people_know() {
    run_async(async {
        let vault = VaultServer::dev().await;
        let redis = wait(|| RedisServer::start(&[]));
        let home = home_in(&vault, "commands", &csv()).await.with(POLL, "1h");
        let url = format!("{}/1", redis.url());
        let mut node = Node::start(home.with("KEY_SERVER_REDIS_URL", url)).await;
        selected(&mut node.client, select("s1", &[OPENAI], 1)).await;
        let (port, address) = (redis.port(), vault.address());
        let shell = |line: &str| {
            let line = line.replace("redis-cli", &format!("redis-cli -p {port}"));
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &line]);
            command.env("VAULT_ADDR", &address).env("VAULT_TOKEN", vault.root_token());
            command.env("REDISCLI_AUTH", key_server_testkit::redis::ADMIN_PASSWORD);
            let ended = run(command);
            assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
            ended.output
        };
        let health =
            shell(r#"curl -sS -H "X-Vault-Token: $VAULT_TOKEN" $VAULT_ADDR/v1/sys/health"#);
        assert!(health.contains("\"sealed\":false"), "{health}");
        assert_eq!(shell("redis-cli -n 1 ping").trim(), "PONG");
        let id = node.id();
        until("the node has published", async || {
            let keys = shell(r#"redis-cli -n 1 keys "keys:*""#);
            let names = ["keys:nodes".to_owned(), format!("keys:sessions:{{{id}}}")];
            names.iter().all(|name| keys.lines().any(|line| line == name)).then_some(())
        })
        .await;
        assert!(shell("redis-cli -n 1 keys '*'").lines().all(|line| line.starts_with("keys:")));
        assert_eq!(shell("redis-cli -n 0 dbsize").trim(), "0");
    });
}
