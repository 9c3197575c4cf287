//! A disk that takes nothing any more, and takes again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use key_server_proto::v1;
use key_server_testkit::client::{Client, connect};
use key_server_testkit::picture::{Picture, picture};
use key_server_testkit::process::{Home, ServerProcess};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    ANTHROPIC, CSV, DEEPSEEK, OPENAI, home, is_root, key_ids, records, release, report, run,
    select, selected, skip, until, verify,
};

const FULL: &str = "No space left on device";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_calls_and_service_resumes_by_itself() {
    let home = home(CSV).with("KEY_SERVER_LOG_LEVEL", "debug");
    let name = "a_full_disk_refuses_calls_and_service_resumes_by_itself";
    let Some(disk) = SmallDisk::mount(&home.state(), name) else { return };
    let mut fault = Fault::begin(&home).await;
    disk.fill();
    fault.until_refused().await;
    fault.check(FULL).await;
    disk.make_room();
    fault.until_resumed().await;
    fault.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_made_immutable_refuses_calls_until_it_can_be_written() {
    let home = home(CSV).with("KEY_SERVER_LOG_LEVEL", "debug");
    let name = "a_ledger_that_is_made_immutable_refuses_calls_until_it_can_be_written";
    let mut fault = Fault::begin(&home).await;
    let segment = home.state().join("ledger/00000000000000000001.jsonl");
    let Some(immutable) = Immutable::make(&segment, name) else { return };
    fault.until_refused().await;
    fault.check("Operation not permitted").await;
    drop(immutable);
    fault.until_resumed().await;
    fault.end().await;
}

/// A file system cannot be made read-only while a daemon has files open in it
/// (the kernel says busy), so it is so when the daemon starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_state_directory_stops_the_start_until_it_can_be_written() {
    let home = home(CSV);
    let name = "a_read_only_state_directory_stops_the_start_until_it_can_be_written";
    let Some(disk) = SmallDisk::mount(&home.state(), name) else { return };
    let (server, mut client) = home.start().await.expect("it starts");
    let keys = selected(&mut client, select("s1", &[OPENAI], 2)).await;
    let before = picture(&mut client).await;
    assert!(server.terminate().expect("it runs").success());
    disk.remount("ro");
    let ended = run(home.command(&["serve"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains("Read-only file system"), "{ended:?}");
    assert!(ended.error.contains(&home.state().display().to_string()), "{ended:?}");
    assert!(!home.socket().exists());
    disk.remount("rw");
    let (server, mut client) = home.start().await.expect("it starts");
    assert_eq!(picture(&mut client).await, before);
    let again = selected(&mut client, select("s1", &[OPENAI], 2)).await;
    assert_eq!(key_ids(&again), key_ids(&keys));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_says_what_is_full_and_a_later_one_works() {
    let home = home(CSV);
    let name = "a_start_on_a_full_disk_says_what_is_full_and_a_later_one_works";
    let Some(disk) = SmallDisk::mount(&home.state(), name) else { return };
    disk.fill();
    let ended = run(home.command(&["serve"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains(FULL), "{ended:?}");
    assert!(!home.socket().exists());
    disk.make_room();
    let (server, mut client) = home.start().await.expect("it starts");
    selected(&mut client, select("s1", &[OPENAI], 2)).await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_full_disk_does_not_hurt() {
    let home = home(CSV).with("KEY_SERVER_LOG_LEVEL", "trace");
    let name = "a_log_on_a_full_disk_does_not_hurt";
    let logs = home.path().join("logs");
    let Some(disk) = SmallDisk::mount(&logs, name) else { return };
    disk.fill();
    // Standard error often goes to the same disk.
    let words = File::create(logs.join("stderr")).expect("a file without content fits");
    let server = spawn_with_stderr(&home, words.into());
    let mut client = answering(&home).await;
    serve_everything(&mut client, "full").await;
    server.signal(rustix::process::Signal::HUP).expect("it runs");
    serve_everything(&mut client, "still").await;
    disk.make_room();
    until("the log goes on", async || {
        serve_everything(&mut client, "room").await;
        let log = std::fs::read_to_string(logs.join("keyserver.log")).unwrap_or_default();
        (!log.is_empty()).then_some(())
    })
    .await;
    assert!(server.terminate().expect("it runs").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_left_to_read_standard_error_does_not_hurt() {
    let home = home(CSV).with("KEY_SERVER_LOG_LEVEL", "trace");
    let (reader, writer) = std::io::pipe().expect("there are descriptors left");
    let server = spawn_with_stderr(&home, writer.into());
    drop(reader);
    let mut client = answering(&home).await;
    serve_everything(&mut client, "unread").await;
    assert!(server.terminate().expect("it runs").success());
}

fn spawn_with_stderr(home: &Home, stderr: Stdio) -> ServerProcess {
    let mut command = home.command(&["serve"]);
    command.stdout(Stdio::null()).stderr(stderr);
    ServerProcess::of(command.spawn().expect("the program is there"))
}

async fn answering(home: &Home) -> Client {
    until("it answers", async || {
        let mut client = connect(&home.socket()).await.ok()?;
        client.health(v1::HealthRequest {}).await.is_ok().then_some(client)
    })
    .await
}

async fn serve_everything(client: &mut Client, session: &str) {
    let keys = selected(client, select(session, &[OPENAI], 1)).await;
    client.track_usage(report(session, &keys[0], "e1")).await.expect("it is counted");
    let reload = v1::ReloadKeysRequest::default();
    assert!(client.reload_keys(reload).await.expect("it reloads").into_inner().success);
    client.release_key(release(session)).await.expect("it is released");
}

/// A daemon whose ledger will not be writable, and what it had acknowledged.
struct Fault<'home> {
    home: &'home Home,
    server: ServerProcess,
    client: Client,
    keys: Vec<v1::SelectedKey>,
    /// What the daemon showed when the ledger had just refused.
    refusing: Option<Picture>,
    /// Small calls that still found a place in a half-filled page.
    squeezed_in: i64,
}

impl<'home> Fault<'home> {
    async fn begin(home: &'home Home) -> Self {
        let (server, mut client) = home.start().await.expect("it starts");
        let keys = selected(&mut client, select("early", &[OPENAI], 2)).await;
        client.track_usage(report("early", &keys[0], "e0")).await.expect("it is counted");
        Self { home, server, client, keys, refusing: None, squeezed_in: 0 }
    }

    /// Reports until even the record that would resume service finds no place.
    async fn until_refused(&mut self) {
        for n in 0.. {
            let event = format!("squeeze-{n}");
            match self.client.track_usage(report("early", &self.keys[1], &event)).await {
                Ok(_) => self.squeezed_in += 1,
                Err(status) => {
                    assert_refused(&status);
                    if self.is_refused_for_long().await {
                        break;
                    }
                }
            }
        }
        self.refusing = Some(picture(&mut self.client).await);
    }

    /// Whether the ledger failed to resume; false when it did after all.
    async fn is_refused_for_long(&mut self) -> bool {
        let marks = ["the ledger still refuses", "the ledger takes records again"];
        let seen = |words: &str| marks.map(|mark| words.matches(mark).count());
        let [failed, resumed] = seen(&self.home.words());
        let refusals = self.home.words().matches("until the ledger takes them").count();
        until("it tries to resume", async || match seen(&self.home.words()) {
            [now, _] if now > failed => Some(true),
            [_, now] if now > resumed || now >= refusals => Some(false),
            _ => None,
        })
        .await
    }

    async fn check(&mut self, why: &str) {
        self.calls_are_refused().await;
        self.health_tells(why).await;
        let now = picture(&mut self.client).await;
        assert_eq!(Some(&now), self.refusing.as_ref(), "refused calls left no trace");
        let early = now.session(rustix::process::geteuid().as_raw(), "early");
        assert_eq!(early.expect("it is live").allocations.len(), 2);
        assert!(now.session(0, "refused").is_none());
        let requests = now.keys.iter().map(|key| key.lifetime.expect("it is there").requests);
        assert_eq!(requests.sum::<i64>(), 1 + self.squeezed_in);
        let health = run(self.home.command(&["health"]));
        assert_eq!(health.code, Some(1), "{health:?}");
    }

    async fn calls_are_refused(&mut self) {
        let (client, key) = (&mut self.client, &self.keys[0]);
        for session in ["refused", "early"] {
            let models = [OPENAI, ANTHROPIC, DEEPSEEK];
            let refused = client.select_keys_for_session(select(session, &models, 4)).await;
            assert_refused(&refused.expect_err("no key leaves"));
        }
        let refused = client.track_usage(report("early", key, "e1")).await;
        assert_refused(&refused.expect_err("nothing is counted"));
        let refused = client.release_key(release("early")).await;
        assert_refused(&refused.expect_err("nothing is given back"));
        let csv = format!("{CSV}XAI,grok-3-beta,xai-fake-new\n");
        self.home.write_csv(&csv).expect("the CSV lies elsewhere");
        let refused = client.reload_keys(v1::ReloadKeysRequest::default()).await;
        assert_refused(&refused.expect_err("no key comes"));
    }

    async fn health_tells(&mut self, why: &str) {
        let health = self.client.health(v1::HealthRequest {}).await.expect("it answers");
        let health = health.into_inner();
        assert_eq!(health.status(), v1::HealthStatus::Unavailable);
        let ledger = &health.backends[0];
        assert_eq!((ledger.name.as_str(), ledger.state.as_str()), ("ledger", "unavailable"));
        assert!(ledger.last_error.contains(why), "{ledger:?}");
        let others = &health.backends[1..];
        let since = ledger.since.expect("it says since when");
        let start = others.iter().filter_map(|one| one.since).map(|since| since.seconds).min();
        assert!(Some(since.seconds) >= start, "after the start");
    }

    /// The same process takes calls again, and all that was acknowledged holds.
    async fn until_resumed(&mut self) {
        let client = &mut self.client;
        until("service resumes", async || {
            let health = client.health(v1::HealthRequest {}).await.expect("it answers");
            (health.get_ref().status() == v1::HealthStatus::Ok).then_some(())
        })
        .await;
        let again = selected(client, select("early", &[OPENAI], 2)).await;
        assert!(again.iter().all(|key| key.already_held));
        assert_eq!(key_ids(&again), key_ids(&self.keys));
        selected(client, select("refused", &[OPENAI, ANTHROPIC], 4)).await;
        client.track_usage(report("early", &self.keys[0], "e1")).await.expect("it is counted");
        let reload = client.reload_keys(v1::ReloadKeysRequest::default()).await;
        assert_eq!(reload.expect("it reloads").into_inner().added, 1);
    }

    async fn end(mut self) {
        let now = picture(&mut self.client).await;
        let requests = now.keys.iter().map(|key| key.lifetime.expect("it is there").requests);
        assert_eq!(requests.sum::<i64>(), 2 + self.squeezed_in);
        verify(self.home);
        let records = records(self.home);
        let resumed = records.iter().rfind(|record| record["event"] == "ledger.resumed");
        let refused = resumed.expect("it is on record")["refused_count"].as_u64();
        assert!(refused >= Some(1), "{resumed:?}");
        self.server.kill().expect("it still runs");
        let (server, mut client) = self.home.start().await.expect("it starts");
        assert_eq!(picture(&mut client).await, now);
        assert!(server.terminate().expect("it runs").success());
        verify(self.home);
    }
}

fn assert_refused(status: &Status) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    assert_eq!((status.code(), reason), (Code::Unavailable, Some("LEDGER_UNWRITABLE")));
    assert!(details.retry_info().is_some(), "{status:?}");
    assert!(!format!("{status:?}").contains("fake"), "{status:?}");
}

/// A file system of 4 MiB in memory; gone when dropped, so that the home that
/// it is mounted in can be removed after it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one at `path`; none, and said so, where that is not allowed.
    fn mount(path: &Path, test: &str) -> Option<Self> {
        if !is_root() {
            skip(test, "only root can mount a small disk");
            return None;
        }
        std::fs::create_dir(path).expect("the directory is not there yet");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs"]).arg(path);
        let ended = run(mount);
        if ended.code != Some(0) {
            skip(test, &format!("a small disk cannot be mounted: {}", ended.error));
            return None;
        }
        Some(Self(path.to_owned()))
    }

    fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).expect("it is still empty");
        let error = loop {
            if let Err(error) = filler.write_all(&[b'x'; 4_096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("it was filled");
    }

    fn remount(&self, how: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{how}")]).arg(&self.0);
        let ended = run(mount);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon of a failed test may still be in it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A file that nobody may write to, not even who has it open; undone when
/// dropped.
struct Immutable(PathBuf);

impl Immutable {
    /// None, and said so, where the file system does not do that.
    fn make(path: &Path, test: &str) -> Option<Self> {
        let mut open = File::options().append(true).open(path).expect("it is there");
        let made = is_root() && Self::change(path, "+i");
        let immutable = Self(path.to_owned());
        if made && open.write_all(b"x").is_err() {
            return Some(immutable);
        }
        skip(test, "it needs root, and a file system that keeps open files from being written");
        None
    }

    fn change(path: &Path, how: &str) -> bool {
        let mut chattr = Command::new("chattr");
        chattr.arg(how).arg(path).stderr(Stdio::null());
        chattr.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        Self::change(&self.0, "-i");
    }
}
