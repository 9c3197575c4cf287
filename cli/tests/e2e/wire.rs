//! The socket below the contract: standard services, garbage, signals.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use key_server_proto::v1;
use key_server_proto::v1::key_server_server::SERVICE_NAME;
use key_server_testkit::client::{channel, connect};
use key_server_testkit::picture::picture;
use key_server_testkit::process::{Home, ServerProcess};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, mknodat};
use rustix::process::Signal;
use tokio_stream::StreamExt;
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb;

use crate::support::{
    CSV, OPENAI, Random, health, home, run, select, selected, until, verify, within,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

fn checked(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

async fn exit_code(mut server: ServerProcess) -> Option<i32> {
    let ended = async || server.ended().expect("it is our child");
    until("the daemon ends", ended).await.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_health_service_answers() {
    let home = home(CSV);
    let (_server, _client) = home.start().await.unwrap();
    let mut health = HealthClient::new(channel(&home.socket()).await.unwrap());
    for service in ["", SERVICE_NAME] {
        let status = health.check(checked(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(checked("another.Service")).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_reflection_list_the_services() {
    let home = home(CSV);
    let (_server, _client) = home.start().await.unwrap();
    let channel = channel(&home.socket()).await.unwrap();
    let wanted = [SERVICE_NAME, "grpc.health.v1.Health"];
    macro_rules! services {
        ($version:ident) => {{
            use pb::$version::server_reflection_client::ServerReflectionClient;
            use pb::$version::server_reflection_request::MessageRequest;
            use pb::$version::server_reflection_response::MessageResponse;
            let message_request = Some(MessageRequest::ListServices(String::new()));
            let request =
                pb::$version::ServerReflectionRequest { message_request, ..Default::default() };
            let mut client = ServerReflectionClient::new(channel.clone());
            let stream = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
            let reply = within("reflection", stream.into_inner().next()).await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
                panic!("a list: {reply:?}");
            };
            list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
        }};
    }
    for services in [services!(v1), services!(v1alpha)] {
        let is_listed = |name: &&str| services.iter().any(|service| service == name);
        assert!(wanted.iter().all(is_listed), "{services:?}");
    }
}

/// What may come from something that is not a client.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let mut random = Random::new(11);
    let noise: Vec<u8> = (0..8_192).map(|_| random.below(256) as u8).collect();
    let with_preface = |frames: &[u8]| [PREFACE, &SETTINGS, frames].concat();
    let headers_without_end = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let continuation = [0, 0x40, 0, 9, 0, 0, 0, 0, 1];
    let flood = [continuation.to_vec(), vec![0; 0x4000]].concat().repeat(100);
    let resets: Vec<u8> = (0..20_000).flat_map(opened_and_reset).collect();
    vec![
        ("nothing", Vec::new()),
        ("noise", noise.clone()),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("TLS", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise[..500]].concat()),
        ("half a preface", PREFACE[..10].to_vec()),
        ("a preface alone", PREFACE.to_vec()),
        ("noise after the preface", with_preface(&noise)),
        ("a frame of 16 MiB", with_preface(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 0, 0])),
        ("settings of a wrong length", with_preface(&[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5])),
        ("headers on stream 0", with_preface(&[0, 0, 1, 1, 5, 0, 0, 0, 0, 0x82])),
        ("headers that never end", with_preface(&[&headers_without_end[..], &flood].concat())),
        ("streams opened and reset", with_preface(&resets)),
    ]
}

fn opened_and_reset(n: u32) -> Vec<u8> {
    let stream = (2 * n + 1).to_be_bytes();
    let open = [&[0, 0, 3, 1, 5][..], &stream, &[0x83, 0x86, 0x84]].concat();
    let reset = [&[0, 0, 4, 3, 0][..], &stream, &[0, 0, 0, 8]].concat();
    [open, reset].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_fill_the_log() {
    for level in ["info", "debug"] {
        let home = home(CSV).with("KEY_SERVER_LOG_LEVEL", level);
        let (_server, mut client) = home.start().await.unwrap();
        let before = home.words().lines().count();
        let resets: Vec<u8> = (0..200).flat_map(opened_and_reset).collect();
        for _ in 0..100 {
            let mut stream = UnixStream::connect(home.socket()).unwrap();
            // It hangs up on some.
            let _ = stream.write_all(&[PREFACE, &SETTINGS, &resets].concat());
            health(&mut client).await;
        }
        let lines = home.words().lines().count() - before;
        // One for each connection at level debug is ours.
        let allowed = if level == "debug" { 250 } else { 10 };
        assert!(lines < allowed, "{level}: {lines} lines for 20,000 resets");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_not_hurt() {
    let home = home(CSV);
    let (mut server, mut client) = home.start().await.unwrap();
    let keys = selected(&mut client, select("s1", &[OPENAI], 2)).await;
    let before = picture(&mut client).await;
    let mut open = Vec::new();
    for (name, bytes) in garbage() {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        stream.set_nonblocking(true).unwrap();
        // It may hang up in the middle, or not read on.
        let _ = stream.write_all(&bytes);
        assert_eq!(health(&mut client).await.sessions, 1, "{name}");
        assert!(server.ended().unwrap().is_none(), "{name}");
        open.push(stream);
    }
    drop(open);
    // A deadline that has passed before the call arrives: answered or not.
    for _ in 0..100 {
        let mut late = Request::new(v1::GetStatsRequest::default());
        late.set_timeout(Duration::from_nanos(1));
        let _ = client.get_stats(late).await;
    }
    let mut other = connect(&home.socket()).await.unwrap();
    assert_eq!(picture(&mut other).await, before);
    let again = selected(&mut client, select("s1", &[OPENAI], 2)).await;
    assert_eq!(again[0].key_id, keys[0].key_id);
    assert!(server.terminate().unwrap().success());
    assert!(!home.words().contains("panicked"), "{}", home.words());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_and_later_ones_are_served() {
    let home = home(CSV).with("KEY_SERVER_CONNECTIONS_MAX", 3);
    let (_server, mut client) = home.start().await.unwrap();
    let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    health(&mut client).await;
    drop(silent);
    // While the dead ones are found out, a new one may be sent away.
    until("a later one is served", async || {
        let mut late = connect(&home.socket()).await.ok()?;
        late.health(v1::HealthRequest {}).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_csv_again_and_goes_on_in_a_new_log() {
    let home = home(CSV);
    let (server, mut client) = home.start().await.unwrap();
    let log = home.path().join("logs/keyserver.log");
    let old = home.path().join("logs/keyserver.log.1");
    fs::rename(&log, &old).unwrap();
    home.write_csv(&format!("{CSV}XAI,grok-3-beta,xai-fake-1\n")).unwrap();
    server.signal(Signal::HUP).unwrap();
    until("the new key is there", async || (health(&mut client).await.keys == 8).then_some(()))
        .await;
    until("the new log tells of it", async || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.contains("reloaded: 1 added").then_some(())
    })
    .await;
    selected(&mut client, select("s1", &["xai/grok-3-beta"], 1)).await;
    assert!(fs::read_to_string(&old).unwrap().contains("serving 7 keys"));
    // A CSV that is bad changes nothing, and the log says why.
    home.write_csv("provider,model,api_key\nOpenAI,gpt-4o,\n").unwrap();
    server.signal(Signal::HUP).unwrap();
    until("the log says why not", async || {
        let text = fs::read_to_string(&log).unwrap();
        (text.contains("not reloaded") && text.contains("api_keys.csv:2")).then_some(())
    })
    .await;
    assert_eq!(health(&mut client).await.keys, 8);
    assert!(server.terminate().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_end_it_well_and_remove_its_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = home(CSV);
        let (server, mut client) = home.start().await.unwrap();
        selected(&mut client, select("s1", &[OPENAI], 1)).await;
        server.signal(signal).unwrap();
        assert_eq!(exit_code(server).await, Some(0));
        assert!(!home.socket().exists());
        let log = fs::read_to_string(home.path().join("logs/keyserver.log")).unwrap();
        assert!(log.ends_with("INFO stopped\n"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_another_put_in_its_place_stays() {
    let home = home(CSV);
    let (server, _client) = home.start().await.unwrap();
    fs::remove_file(home.socket()).unwrap();
    let _other = UnixListener::bind(home.socket()).unwrap();
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(0));
    assert!(home.socket().exists());
}

/// A call that never ends by itself, on a daemon that waits long for calls.
async fn watching(
    socket: &Path,
) -> (
    HealthClient<tonic::transport::Channel>,
    tonic::Streaming<tonic_health::pb::HealthCheckResponse>,
) {
    let mut health = HealthClient::new(channel(socket).await.unwrap());
    let mut watch = health.watch(checked(SERVICE_NAME)).await.unwrap().into_inner();
    assert_eq!(next_status(&mut watch).await, ServingStatus::Serving);
    (health, watch)
}

async fn next_status(
    watch: &mut tonic::Streaming<tonic_health::pb::HealthCheckResponse>,
) -> ServingStatus {
    within("the status", watch.next()).await.expect("it goes on").expect("it is told").status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_daemon_is_not_serving_and_a_second_signal_ends_it_at_once() {
    let home = home(CSV).with("KEY_SERVER_SHUTDOWN_GRACE", "7d");
    let (server, _client) = home.start().await.unwrap();
    let (_health, mut watch) = watching(&home.socket()).await;
    server.signal(Signal::TERM).unwrap();
    assert_eq!(next_status(&mut watch).await, ServingStatus::NotServing);
    until("nobody can come any more", async || (!home.socket().exists()).then_some(())).await;
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(1));
    assert!(home.words().contains("stopped at once by a second signal"), "{}", home.words());
    let (server, _client) = home.start().await.unwrap();
    assert!(server.terminate().unwrap().success());
}

/// The right to write beside the store, which the daemon waits for.
fn held(home: &Home) -> File {
    let directory = File::open(home.state()).unwrap();
    flock(&directory, FlockOperation::LockExclusive).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hangs_hears_the_signal_to_stop() {
    let home = home(CSV);
    fs::create_dir(home.state()).unwrap();
    fs::set_permissions(home.state(), fs::Permissions::from_mode(0o700)).unwrap();
    let _held = held(&home);
    let server = home.spawn().unwrap();
    let database = home.state().join("state.sqlite");
    until("it is at work", async || database.exists().then_some(())).await;
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(0), "{}", home.words());
    assert!(home.words().contains("stopped before it had started"), "{}", home.words());
    assert!(!home.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_hangs_does_not_hold_up_a_stop() {
    let home = home(CSV);
    let (server, mut client) = home.start().await.unwrap();
    let _held = held(&home);
    home.write_csv(&format!("{CSV}XAI,grok-3-beta,xai-fake-1\n")).unwrap();
    server.signal(Signal::HUP).unwrap();
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(0));
    let words = home.words();
    assert!(words.ends_with("INFO stopped\n") && !words.contains("reloaded"), "{words}");
    verify(&home);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_policys_place_holds_nothing_up() {
    let policy = "[[rule]]\nname = \"all\"\neveryone = true\nproviders = \"*\"\n";
    let home = home(CSV).with_policy(policy).unwrap();
    let (server, mut client) = home.start().await.unwrap();
    fs::remove_file(home.policy()).unwrap();
    pipe(&home.policy());
    server.signal(Signal::HUP).unwrap();
    until("it is refused", async || home.words().contains("policy.toml is wrong").then_some(()))
        .await;
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(0));
    let ended = run(home.command(&["serve"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains("no regular file"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_logs_place_holds_nothing_up() {
    let home = home(CSV);
    let (server, mut client) = home.start().await.unwrap();
    let log = home.path().join("logs/keyserver.log");
    fs::remove_file(&log).unwrap();
    pipe(&log);
    server.signal(Signal::HUP).unwrap();
    until("it says so", async || {
        home.words().contains("the log file cannot be opened again").then_some(())
    })
    .await;
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    // Somebody holds it open and does not read, and it is full.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut reader = File::options().read(true).write(true).custom_flags(flags).open(&log).unwrap();
    while reader.write_all(b"x").is_ok() {}
    let reloaded = || home.words().matches("reloaded: ").count();
    let before = reloaded();
    server.signal(Signal::HUP).unwrap();
    until("it is reloaded", async || (reloaded() > before).then_some(())).await;
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(0));
    drop(reader);
}

/// A pipe that nobody writes to or reads.
fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_say_nothing_hold_a_stop_up_for_the_grace_at_most() {
    let home = home(CSV).with("KEY_SERVER_SHUTDOWN_GRACE", "200ms");
    let (server, _idle) = home.start().await.unwrap();
    let silent = UnixStream::connect(home.socket()).unwrap();
    let mut begun = UnixStream::connect(home.socket()).unwrap();
    begun.write_all(PREFACE).unwrap();
    let (_health, _watch) = watching(&home.socket()).await;
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(0));
    drop((silent, begun));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_does_not_hold_a_stop_up() {
    let home = home(CSV).with("KEY_SERVER_SHUTDOWN_GRACE", "7d");
    let (server, mut client) = home.start().await.unwrap();
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(0));
}
