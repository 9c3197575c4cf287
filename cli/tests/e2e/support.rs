//! What the modules share: homes, requests, programs that end, conditions.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::Command;
use std::time::Duration;

use key_server_proto::v1;
use key_server_testkit::client::Client;
use key_server_testkit::process::Home;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt;

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

/// How long something that must happen may take; only a failure takes it.
const LIMIT: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// A home for the daemon with this CSV.
pub(crate) fn home(csv: &str) -> Home {
    Home::new(PROGRAM, csv).expect("a temporary directory can be made")
}

pub(crate) fn select(session: &str, models: &[&str], count: i32) -> v1::SelectKeysRequest {
    v1::SelectKeysRequest {
        session_id: session.into(),
        user_id: 456,
        models: models.iter().map(|model| (*model).into()).collect(),
        count_per_model: count,
    }
}

pub(crate) fn report(session: &str, key: &v1::SelectedKey, event: &str) -> v1::TrackUsageRequest {
    v1::TrackUsageRequest {
        session_id: session.into(),
        key_id: key.key_id.clone(),
        model: format!("{}/{}", key.provider, key.model),
        input_tokens: 100,
        output_tokens: 20,
        event_id: event.into(),
        ..Default::default()
    }
}

pub(crate) fn release(session: &str) -> v1::ReleaseKeyRequest {
    v1::ReleaseKeyRequest { session_id: session.into(), ..Default::default() }
}

/// Keys for a session that must get some.
pub(crate) async fn selected(
    client: &mut Client,
    request: v1::SelectKeysRequest,
) -> Vec<v1::SelectedKey> {
    let reply = client.select_keys_for_session(request).await.expect("it is served").into_inner();
    assert!(reply.success, "{}", reply.error);
    reply.keys
}

pub(crate) async fn health(client: &mut Client) -> v1::HealthResponse {
    client.health(v1::HealthRequest {}).await.expect("it tells how it is").into_inner()
}

pub(crate) fn key_ids(keys: &[v1::SelectedKey]) -> Vec<&str> {
    keys.iter().map(|key| key.key_id.as_str()).collect()
}

/// The code, and the reason for programs.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info();
    let info = info.unwrap_or_else(|| panic!("every error says its reason: {status:?}"));
    assert_eq!(info.domain, "keyserver.v1");
    (status.code(), info.reason.clone())
}

#[expect(clippy::disallowed_methods, reason = "a client of the test's own, which waits for it")]
pub(crate) fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// Waits until `condition` gives a value; `what` is said when it never does.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..LIMIT.as_millis() / POLL_EVERY.as_millis() {
        if let Some(value) = condition().await {
            return value;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    panic!("it never happened: {what}")
}

/// Waits for what must end by itself.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LIMIT, work).await;
    done.unwrap_or_else(|_| panic!("it never ended: {what}"))
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
    // One write, for other tests say things as well.
    let line = format!("skipped: {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Small numbers that a seed decides (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits fit") % end
    }
}
