//! What the daemon gave up before it served.

use std::fs;

use key_server_proto::v1;
use key_server_testkit::process::ServerProcess;

use crate::support::{CSV, health, home};

/// What the kernel says of every thread, one line of its status each.
fn of_threads(server: &ServerProcess, line: &str) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let of_thread = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().to_owned())
        };
        Some((value("Name:")?, value(line)?))
    };
    // One may end while they are counted.
    threads.filter_map(|thread| of_thread(thread.ok()?)).collect()
}

fn sandbox(health: &v1::HealthResponse) -> &str {
    let row = health.backends.iter().find(|row| row.name.starts_with("sandbox"));
    &row.expect("Health says what is in force").name
}

#[tokio::test(flavor = "multi_thread")]
async fn every_thread_is_in_the_sandbox_and_health_says_so() {
    let home = home(CSV);
    let (server, mut client) = home.start().await.unwrap();
    let health = health(&mut client).await;
    let words = sandbox(&health);
    assert!(words.contains("no programs, no debugging, no listening"), "{words}");
    assert!(words.contains("no networks"), "{words}");
    assert_eq!(health.status(), v1::HealthStatus::Ok, "{health:?}");
    for (line, value) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let threads = of_threads(&server, line);
        assert!(threads.len() > 2, "{threads:?}");
        assert!(threads.iter().all(|(_, said)| said == value), "{line} {threads:?}");
    }
    assert!(server.terminate().unwrap().success());
    assert!(!home.socket().exists(), "it may still remove its socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_peers_may_connect_to_them_and_still_never_listens() {
    let home = home(CSV).with("KEY_SERVER_REDIS_URL", "redis://127.0.0.1:1");
    let (server, mut client) = home.start().await.unwrap();
    let health = health(&mut client).await;
    let words = sandbox(&health);
    assert!(words.contains("no listening") && !words.contains("no networks"), "{words}");
    server.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_can_be_left_out() {
    let home = home(CSV).with("KEY_SERVER_SANDBOX", "false");
    let (server, mut client) = home.start().await.unwrap();
    let health = health(&mut client).await;
    assert_eq!(sandbox(&health), "sandbox (off)");
    let threads = of_threads(&server, "Seccomp:");
    assert!(threads.iter().all(|(_, said)| said == "0"), "{threads:?}");
    server.kill().unwrap();
}

/// A rule for a user by name.
fn rule(user: &str) -> String {
    format!("[[rule]]\nname = \"a\"\nuser = \"{user}\"\nproviders = \"*\"\n")
}

/// The user database may map and ask modules that it did not need before.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_up_from_within_the_sandbox() {
    let numbers = "[[rule]]\nname = \"a\"\nuid = 4711\nproviders = \"*\"\n";
    let home = home(CSV).with_policy(numbers).unwrap();
    let (_server, mut client) = home.start().await.unwrap();
    home.write_policy(&rule("daemon")).unwrap();
    let reload = v1::ReloadKeysRequest::default;
    let reloaded = client.reload_keys(reload()).await.unwrap().into_inner();
    assert!(reloaded.success, "{reloaded:?}");
    home.write_policy(&rule("no-such-user-here")).unwrap();
    let refused = client.reload_keys(reload()).await;
    let words = format!("{refused:?}");
    assert!(words.contains("there is no user of this name"), "{words}");
}
