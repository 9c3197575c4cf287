//! What the modules share: homes, requests, programs that end, conditions.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::Command;

use key_server_testkit::process::Home;
use key_server_testkit::wait::{LIMIT, POLL_EVERY};

pub(crate) use key_server_testkit::random::Random;
pub(crate) use key_server_testkit::requests::{
    health, key_ids, reason, release, report, select, selected,
};
pub(crate) use key_server_testkit::wait::{spawn, until, within};

/// The daemon and the operator's tools.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_key-server");

/// Three pools of fake keys.
pub(crate) const CSV: &str = "\
provider,model,api_key
OpenAI,gpt-4o,sk-fake-openai-1
OpenAI,gpt-4o,sk-fake-openai-2
OpenAI,gpt-4o,sk-fake-openai-3
OpenAI,gpt-4o,sk-fake-openai-4
OpenAI,gpt-4o-mini,sk-fake-openai-1
Anthropic,claude-3-7-sonnet-20250219,sk-ant-fake-1
Anthropic,claude-3-7-sonnet-20250219,sk-ant-fake-2
DeepSeek,deepseek-reasoner,fake-deepseek-1
";
pub(crate) const OPENAI: &str = "openai/gpt-4o";
pub(crate) const ANTHROPIC: &str = "anthropic/claude-3-7-sonnet-20250219";
pub(crate) const DEEPSEEK: &str = "deepseek/deepseek-reasoner";

/// A home for the daemon with this CSV.
pub(crate) fn home(csv: &str) -> Home {
    Home::new(PROGRAM, csv).expect("a temporary directory can be made")
}

/// How a program ended, and all that it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) error: String,
}

/// Runs a program that must end by itself.
pub(crate) fn run(mut command: Command) -> Ended {
    let file = || tempfile::tempfile().expect("there is room for a file");
    let (output, error) = (file(), file());
    let handle = |file: &File| file.try_clone().expect("there are descriptors left");
    command.stdout(handle(&output)).stderr(handle(&error));
    let mut child = command.spawn().expect("the program is there");
    for _ in 0..LIMIT.as_millis() / POLL_EVERY.as_millis() {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return Ended { code: status.code(), output: text(output), error: text(error) };
        }
        std::thread::sleep(POLL_EVERY);
    }
    child.kill().expect("it still runs");
    panic!("it does not end: {command:?}: {} {}", text(output), text(error))
}

fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("it can be read");
    String::from_utf8(bytes).expect("programs write text")
}

/// Checks the chain of a home's ledger, as an operator does.
pub(crate) fn verify(home: &Home) {
    let ended = run(home.command(&["audit", "verify"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// The records of a home's ledger, as they stand there.
pub(crate) fn records(home: &Home) -> Vec<serde_json::Value> {
    let text = ledger_text(home);
    let line = |line: &str| serde_json::from_str(line).expect("every line is JSON");
    text.lines().map(line).collect()
}

pub(crate) fn ledger_text(home: &Home) -> String {
    let dir = home.state().join("ledger").read_dir().expect("there is a ledger");
    let mut segments: Vec<_> = dir.map(|entry| entry.expect("it can be read").path()).collect();
    segments.sort();
    let segments = segments.iter().filter(|path| path.extension() == Some(OsStr::new("jsonl")));
    segments.map(|path| std::fs::read_to_string(path).expect("it is text")).collect()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test was not made, past the capture of the test's output.
pub(crate) fn skip(test: &str, why: &str) {
    figure(&format!("skipped: {test}: {why}"));
}

/// Says what was counted, past the capture of the test's output.
pub(crate) fn figure(text: &str) {
    // One write, for other tests say things as well.
    let line = format!("{text}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}
