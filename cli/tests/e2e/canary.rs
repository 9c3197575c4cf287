//! Canary keys: whatever happens, at the most verbose level, a credential is
//! in the CSV, the encrypted store, memory and replies, and nowhere else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
use key_server_proto::v1;
use key_server_testkit::client::{Client, connect};
use key_server_testkit::leaks;
use key_server_testkit::process::{Home, ServerProcess};
use rustix::process::Signal;

use crate::support::{
    ANTHROPIC, Ended, OPENAI, home, is_root, release, report, run, select, selected, until, within,
};

/// The parts of the keys that are nowhere else by accident.
const CANARIES: [&str; 5] = [
    "Qv7Xw2Lm9Tz4Rb6Yk1Ns8Hd3",
    "Jp5Ua8Ce2Gi6Mo9Sw3Zy7Kt1",
    "Bf4Vn0Xr7Dq2Lh8Pj5Wm1Ec6",
    "Tz3Ko6Ig9Yb1Fx5Nu7Ar2Qs8",
    "Hw9Dm3Vz6Jt0Pc4Le8Ok2Xi7",
];
/// What callers are told in the course of it, besides answers.
const REASONS: [&str; 10] = [
    "INVALID_REQUEST",
    "SESSION_NOT_FOUND",
    "KEY_NOT_ALLOCATED",
    "EVENT_ID_REUSED",
    "TOO_MANY_SESSIONS",
    "TOO_MANY_KEYS_HELD",
    "STORE_DENIED",
    "STORE_CORRUPT",
    "did you mean",
    "AllAtCap",
];

fn csv() -> String {
    let [a, b, c, d, _] = CANARIES;
    format!(
        "provider,model,api_key,max_holders\n\
         OpenAI,gpt-4o,sk-{a},\nOpenAI,gpt-4o,sk-{b},\nOpenAI,gpt-4o,sk-{c},\n\
         OpenAI,gpt-4o-mini,sk-{a},\nOpenAI,gpt-4o-mini,sk-{b},\n\
         Anthropic,claude-3-7-sonnet-20250219,sk-ant-{d},1\n"
    )
}

/// Each breaks an import in another way, with a key in it.
fn bad_csvs() -> Vec<String> {
    let [a, b, .., e] = CANARIES;
    let header = "provider,model,api_key,weight,label";
    [
        format!("OpenAI,gpt-4o,sk-{a}\nOpenAI,gpt-4o,sk-{b}"),
        format!("{header}\nOpenAI,gpt-4o,sk-{e} sk-{a}"),
        format!("{header}\nOpenAI,gpt-4o,sk-{e}\u{7}"),
        format!("{header}\nOpenAI,gpt-4o,\"sk-{e}"),
        format!("{header}\nOpenAI,gpt-4o,\"sk-{e}\"sk-{a}"),
        format!("{header}\nOpenAI,gpt-4o,x,sk-{e},sk-{a}"),
        format!("{header}\nOpenAI,gpt-4o,sk-{e},{e}"),
        format!("{header}\nOpenAI,sk-{e},gpt-4o"),
        format!("{header}\nsk-{e},gpt-4o,OpenAI,,sk-{e}"),
        format!("{header}\nOpenAI,gpt-4o,sk-{e},1,label,sk-{a}"),
        format!("{header}\nOpenAI,gpt-4o,sk-{}", e.repeat(1_000)),
        format!("provider,model,api_key,sk-{e}\nOpenAI,gpt-4o,"),
        format!("{header}\nOpenAI,gpt-4o,sk-{e}\0"),
        format!("{header};OpenAI;gpt-4o;sk-{e}"),
        // Right, but it would withdraw most keys.
        format!("{header}\nOpenAI,gpt-4o,sk-{a}"),
    ]
    .into()
}

#[test]
fn every_form_of_a_key_is_found() {
    let canary = CANARIES[0];
    let text = format!("before sk-{canary} after");
    let reversed: String = text.chars().rev().collect();
    let bytes = text.as_bytes();
    for form in [
        text.clone(),
        canary[4..12].to_owned(),
        reversed,
        HEXLOWER.encode(bytes),
        HEXUPPER.encode(bytes),
        BASE64.encode(bytes),
        BASE64.encode(&bytes[1..]),
        BASE64URL.encode(&bytes[2..]),
        format!("{bytes:?}"),
    ] {
        assert_eq!(leaks("text", form.as_bytes()).len(), 1, "{form}");
    }
    assert_eq!(leaks("text", &canary.as_bytes()[..7]), Vec::<String>::new());
    let home = home(&csv());
    assert_eq!(leaks_in(home.path(), &[]).len(), 4, "the CSV itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_leaves_but_in_replies_with_a_log_of_text() {
    sing("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_leaves_but_in_replies_with_a_log_of_json() {
    sing("json").await;
}

/// The kernel gives the files in /proc of a process that it will not dump to
/// root, whoever the process runs as.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_leaves_no_core_dump() {
    let home = home(&csv());
    let mut command = home.command(&["serve"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    if is_root() {
        std::os::unix::fs::chown(home.path(), Some(65_534), Some(65_534)).unwrap();
        std::os::unix::fs::chown(home.path().join("api_keys.csv"), Some(65_534), None).unwrap();
        command.uid(65_534).gid(65_534);
    }
    let server = ServerProcess::of(command.spawn().unwrap());
    until("it listens", async || home.socket().exists().then_some(())).await;
    let environ = PathBuf::from(format!("/proc/{}/environ", server.pid()));
    assert_eq!(environ.metadata().unwrap().uid(), 0);
    server.kill().unwrap();
}

async fn sing(format: &str) {
    let home = home(&csv())
        .with("KEY_SERVER_LOG_LEVEL", "trace")
        .with("KEY_SERVER_LOG_FORMAT", format)
        .with("KEY_SERVER_SESSIONS_MAX", 4)
        .with("KEY_SERVER_SESSION_ALLOCATIONS_MAX", 3)
        .with("KEY_SERVER_LEDGER_SEGMENT_BYTES_MAX", 65_536);
    let mut song = Song { said: Vec::new(), given: 0, home };
    let (server, mut client) = song.home.start().await.unwrap();
    song.verbs(&mut client).await;
    song.refusals(&mut client).await;
    song.commands();
    song.bad_reloads(&mut client, &server).await;
    song.damaged_store(&mut client).await;
    song.scan(Some(&server));
    server.kill().unwrap();
    song.scan(None);
    // A bad CSV at start: what the store held is served.
    song.home.write_csv(&bad_csvs()[1]).unwrap();
    let (server, mut client) = song.home.start().await.unwrap();
    song.verbs(&mut client).await;
    song.commands();
    song.scan(Some(&server));
    assert!(server.terminate().unwrap().success());
    song.scan(None);
    assert!(song.given >= 8, "canaries did leave, in replies");
    for reason in REASONS {
        assert!(song.said.iter().any(|said| said.contains(reason)), "{reason} was said");
    }
}

struct Song {
    home: Home,
    /// Everything that callers and operators were told besides credentials.
    said: Vec<String>,
    given: usize,
}

impl Song {
    async fn select(&mut self, client: &mut Client, request: v1::SelectKeysRequest) {
        let mut reply = client.select_keys_for_session(request).await;
        for key in reply.iter_mut().flat_map(|reply| &mut reply.get_mut().keys) {
            let canary = std::mem::take(&mut key.api_key);
            assert!(CANARIES.iter().any(|known| canary.ends_with(known)));
            self.given += 1;
        }
        self.say(reply);
    }

    fn say(&mut self, what: impl std::fmt::Debug) {
        self.said.push(format!("{what:?}"));
    }

    async fn verbs(&mut self, client: &mut Client) {
        self.select(client, select("s1", &[OPENAI, ANTHROPIC], 2)).await;
        self.select(client, select("s1", &[OPENAI], 1)).await;
        let key = selected(client, select("s1", &[OPENAI], 1)).await.remove(0);
        for outcome in [v1::Outcome::Success, v1::Outcome::AuthFailed, v1::Outcome::RateLimited] {
            let event = format!("e-{outcome:?}");
            let report = report("s1", &key, &event);
            let report = v1::TrackUsageRequest { outcome: outcome.into(), ..report };
            self.say(client.track_usage(report).await);
        }
        for view in [v1::StatsView::Keys, v1::StatsView::Pools, v1::StatsView::Sessions] {
            let request = v1::GetStatsRequest { view: view.into(), ..Default::default() };
            self.say(client.get_stats(request).await);
        }
        self.say(client.health(v1::HealthRequest {}).await);
        for dry_run in [true, false] {
            let request = v1::ReloadKeysRequest { dry_run, ..Default::default() };
            self.say(client.reload_keys(request).await);
        }
        self.say(client.release_key(release("s1")).await);
        self.say(client.release_key(release("s1")).await);
    }

    /// One of each class that a caller can cause, a key in place of an id where
    /// that can happen by mistake.
    async fn refusals(&mut self, client: &mut Client) {
        let secret = format!("sk-{}", CANARIES[0]);
        self.select(client, select("s2", &["openai/gpt-4"], 1)).await;
        self.select(client, select("", &[OPENAI], 1)).await;
        self.select(client, select("s2", &[OPENAI, "openai/gpt-4o-mini"], 4)).await;
        self.select(client, select("s2", &[ANTHROPIC], 1)).await;
        self.select(client, select("s3", &[ANTHROPIC], 1)).await;
        self.select(client, select("s2", &[&secret], 1)).await;
        for session in ["s3", "s4", "s5", "s6"] {
            self.select(client, select(session, &[OPENAI], 1)).await;
        }
        let key = selected(client, select("s3", &[OPENAI], 1)).await.remove(0);
        let good = report("s3", &key, "e1");
        for report in [
            v1::TrackUsageRequest { key_id: secret.clone(), ..good.clone() },
            v1::TrackUsageRequest { model: secret.clone(), ..good.clone() },
            v1::TrackUsageRequest { session_id: "none".into(), ..good.clone() },
            v1::TrackUsageRequest { input_tokens: -1, ..good.clone() },
            good.clone(),
            v1::TrackUsageRequest { output_tokens: 9, ..good.clone() },
            v1::TrackUsageRequest { model: ANTHROPIC.into(), event_id: "e2".into(), ..good },
        ] {
            self.say(client.track_usage(report).await);
        }
        let request = v1::ReleaseKeyRequest { key_id: secret.clone(), ..release("s3") };
        self.say(client.release_key(request).await);
        self.say(client.release_key(release("none")).await);
        for request in [
            v1::GetStatsRequest { key_id: secret.clone(), ..Default::default() },
            v1::GetStatsRequest { model: secret.clone(), ..Default::default() },
            v1::GetStatsRequest { page_token: secret, ..Default::default() },
        ] {
            self.say(client.get_stats(request).await);
        }
        for session in ["s2", "s3", "s4", "s5", "s6"] {
            self.say(client.release_key(release(session)).await);
        }
    }

    /// What an operator types, once more for programs.
    fn commands(&mut self) {
        let select = ["select", "--session", "s9", "--user", "9", "--model", OPENAI];
        let commands: [&[&str]; 10] = [
            &select,
            &["status"],
            &["health"],
            &["keys", "list"],
            &["models", "list"],
            &["sessions", "list"],
            &["audit", "show"],
            &["usage", "--by", "key"],
            &["config", "show", "--origin"],
            &["reload"],
        ];
        for arguments in commands {
            for more in [&[][..], &["--json"]] {
                let ended: Ended = run(self.home.command(&[arguments, more].concat()));
                assert!(matches!(ended.code, Some(0 | 1)), "{arguments:?} {ended:?}");
                self.said.push(format!("{}{}", ended.output, ended.error));
            }
        }
        self.said.push(run(self.home.command(&["sessions", "release", "s9"])).output);
    }

    async fn bad_reloads(&mut self, client: &mut Client, server: &ServerProcess) {
        for bad in bad_csvs() {
            let other = self.home.path().join("other.csv");
            fs::write(&other, &bad).unwrap();
            let path = other.display().to_string();
            let request = v1::ReloadKeysRequest { path, ..Default::default() };
            let reply = client.reload_keys(request).await.unwrap().into_inner();
            assert!(!reply.success, "{bad}");
            self.say(reply);
            self.home.write_csv(&bad).unwrap();
            let ended = run(self.home.command(&["reload"]));
            assert_eq!(ended.code, Some(1), "{ended:?}");
            self.say(ended);
        }
        let refused = || self.home.words().matches("not reloaded").count();
        let before = refused();
        server.signal(Signal::HUP).unwrap();
        until("it reads the CSV again", async || (refused() > before).then_some(())).await;
        self.home.write_csv(&csv()).unwrap();
        self.say(client.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap());
        fs::remove_file(self.home.path().join("other.csv")).unwrap();
    }

    async fn damaged_store(&mut self, client: &mut Client) {
        let store = self.home.state().join("secrets.age");
        let whole = fs::read(&store).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(&store, flipped).unwrap();
        let reply = client.reload_keys(v1::ReloadKeysRequest::default()).await;
        self.say(reply.expect_err("the store is damaged"));
        fs::remove_file(&store).unwrap();
        fs::create_dir(&store).unwrap();
        let reply = client.reload_keys(v1::ReloadKeysRequest::default()).await;
        self.say(reply.expect_err("the store is a directory"));
        fs::remove_dir(&store).unwrap();
        fs::write(&store, whole).unwrap();
        let reply = client.reload_keys(v1::ReloadKeysRequest::default()).await;
        assert!(reply.unwrap().into_inner().success);
        // Somebody who goes away in the middle of a call.
        let mut other = connect(&self.home.socket()).await.unwrap();
        let call = other.select_keys_for_session(select("gone", &[OPENAI], 1));
        let _ = within("a call", tokio::time::timeout(std::time::Duration::ZERO, call)).await;
        self.say(client.release_key(release("gone")).await);
    }

    fn scan(&self, server: Option<&ServerProcess>) {
        let mut found = leaks_in(self.home.path(), &["api_keys.csv"]);
        for said in &self.said {
            found.extend(leaks(said, said.as_bytes()));
        }
        for file in ["cmdline", "environ"] {
            let Some(server) = server else { continue };
            let path = format!("/proc/{}/{file}", server.pid());
            // It belongs to root; others cannot read it, which is as good.
            if let Ok(bytes) = fs::read(&path) {
                assert!(!bytes.is_empty(), "{path}");
                found.extend(leaks(&path, &bytes));
            }
        }
        assert_eq!(found, Vec::<String>::new());
    }
}

/// Leaks in every file below `dir`, but for those of the names `except`.
fn leaks_in(dir: &Path, except: &[&str]) -> Vec<String> {
    leaks::leaks_in(&CANARIES, dir, except)
}

/// Which canaries are in the bytes, in any form.
fn leaks(place: &str, bytes: &[u8]) -> Vec<String> {
    leaks::leaks(&CANARIES, place, bytes)
}
