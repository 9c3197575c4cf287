//! What the README tells people to type, word for word; its Python is run by
//! the Python client's tests.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use key_server_testkit::process::Home;

use crate::support::{Ended, PROGRAM, home, report, run, select, selected, until};

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    fs::read_to_string(path).expect("there is a README")
}

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let readme = readme();
    let fence = format!("```{language}\n");
    let blocks = readme.split(&fence).skip(1);
    blocks.map(|block| block.split("```").next().expect("it is closed").to_owned()).collect()
}

/// The lines of all shell blocks that begin so.
fn shell_lines(start: &str) -> Vec<String> {
    let blocks = blocks("bash");
    let lines = blocks.iter().flat_map(|block| block.lines());
    lines.filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

/// Runs a line in a shell, where `key-server` is on the path.
fn shell(home: &Home, line: &str) -> Ended {
    let model = home.command(&[]);
    let mut command = Command::new("sh");
    let mut path = OsString::from(Path::new(PROGRAM).parent().expect("it is in a directory"));
    path.push(":/usr/bin:/bin");
    let variables = model.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.args(["-c", line]).current_dir(home.path()).env_clear().envs(variables);
    run({
        command.env("PATH", path);
        command
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_of_keys_is_served() {
    let sample = blocks("csv").remove(0);
    let home = home(&sample);
    let (server, mut client) = home.start().await.unwrap();
    let models = ["openai/gpt-4o", "anthropic/claude-3-7-sonnet-20250219"];
    let keys = selected(&mut client, select("session_123", &models, 2)).await;
    let keys: Vec<_> = keys.iter().map(|key| key.api_key.as_str()).collect();
    assert_eq!(keys, ["sk-your-openai-key", "sk-ant-your-key"]);
    let models = ["DeepSeek/deepseek-reasoner", "XAI/grok-3-beta"];
    assert_eq!(selected(&mut client, select("other", &models, 1)).await.len(), 2);
    let model = ["Together/meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"];
    assert_eq!(selected(&mut client, select("other", &model, 1)).await.len(), 1);
    assert!(server.terminate().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_that_look_at_a_server_work() {
    let home = home(&blocks("csv").remove(0));
    let (server, mut client) = home.start().await.unwrap();
    let key = selected(&mut client, select("session_123", &["openai/gpt-4o"], 1)).await.remove(0);
    client.track_usage(report("session_123", &key, "e1")).await.unwrap();
    let mut lines = shell_lines("key-server ");
    // That one needs a Vault: the program `fleet` runs it.
    lines.retain(|line| !line.contains("store migrate"));
    assert!(lines.len() >= 5, "{lines:?}");
    for line in lines {
        // The local database follows the ledger a moment later.
        until("there is something to see", async || {
            let ended = shell(&home, &line);
            assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
            (!ended.output.is_empty()).then_some(())
        })
        .await;
    }
    assert!(server.terminate().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_can_be_listed_and_the_log_be_read() {
    let home = home(&blocks("csv").remove(0));
    let (server, _client) = home.start().await.unwrap();
    let socket = home.socket().display().to_string();
    let ls = shell_lines("ls -la /tmp/keyserver.sock").remove(0);
    let ended = shell(&home, &ls.replace("/tmp/keyserver.sock", &socket));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.output.starts_with("srw-------"), "{ended:?}");
    assert!(ended.output.trim_end().ends_with(&socket), "{ended:?}");
    // `tail -f` without the following.
    let tail = shell_lines("tail -f logs/keyserver.log").remove(0);
    let ended = shell(&home, &tail.replace("-f", "-n 100"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let said = format!("INFO serving 5 keys, 5 models, 0 live sessions on {socket}");
    assert!(ended.output.contains(&said), "{ended:?}");
    let is_readable = |line: &str| line.chars().all(|c| !c.is_control());
    assert!(ended.output.lines().all(is_readable), "{ended:?}");
    let begins_with_time = |line: &str| line.starts_with("20") && line.contains("Z ");
    assert!(ended.output.lines().all(begins_with_time), "{ended:?}");
    assert!(server.terminate().unwrap().success());
}

#[test]
fn the_variables_are_the_ones_of_the_program_and_their_values_its_defaults() {
    let home = home("");
    let exports = shell_lines("export ");
    let names: Vec<_> =
        exports.iter().map(|line| line["export ".len()..].split_once('=')).collect();
    let names: Vec<_> = names.into_iter().map(|pair| pair.expect("name=value").0).collect();
    // The others are those of Vault and Redis: the program `fleet` sets them.
    let (exports, names) = (&exports[..2], &names[..2]);
    assert_eq!(names, ["KEY_SERVER_SOCKET", "KEY_CONFIG_FILE"]);
    let unset = "unset KEY_SERVER_SOCKET";
    let show = "key-server config show --json";
    let set = format!("{}\n{show}", exports.join("\n"));
    for (script, origin) in [(format!("{unset}; {show}"), "default"), (set, "environment")] {
        let ended = shell(&home, &script);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let shown: serde_json::Value = serde_json::from_str(&ended.output).unwrap();
        let settings = shown["settings"].as_array().unwrap();
        for (name, value) in
            [("socket", "/tmp/keyserver.sock"), ("key_config_file", "api_keys.csv")]
        {
            let setting = settings.iter().find(|setting| setting["name"] == name).unwrap();
            assert_eq!((&setting["value"], &setting["origin"]), (&value.into(), &origin.into()));
        }
        let log = settings.iter().find(|setting| setting["name"] == "log_file").unwrap();
        assert_eq!(log["value"], "logs/keyserver.log");
    }
}
