//! The service as a client sees it: a real socket, a real ledger, a real
//! store, and a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use key_server_proto::v1;
use key_server_server::lifecycle::Parts;
use key_server_testkit::client::connect;
use key_server_testkit::server::{Embedded, EmbeddedHome};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const CSV: &str = "\
provider,model,api_key,max_holders
OpenAI,gpt-4o,sk-fake-openai-1,
OpenAI,gpt-4o,sk-fake-openai-2,
OpenAI,gpt-4o,sk-fake-openai-3,
Anthropic,claude-3-7-sonnet-20250219,sk-ant-fake-1,
XAI,grok-3-beta,xai-fake-exclusive,1
";

fn select(session: &str, models: &[&str], count: i32) -> v1::SelectKeysRequest {
    v1::SelectKeysRequest {
        session_id: session.into(),
        user_id: 456,
        models: models.iter().map(|model| (*model).into()).collect(),
        count_per_model: count,
    }
}

fn report(session: &str, key: &v1::SelectedKey, event_id: &str) -> v1::TrackUsageRequest {
    v1::TrackUsageRequest {
        session_id: session.into(),
        key_id: key.key_id.clone(),
        model: format!("{}/{}", key.provider, key.model),
        input_tokens: 1_000,
        output_tokens: 200,
        event_id: event_id.into(),
        ..Default::default()
    }
}

fn release(session: &str) -> v1::ReleaseKeyRequest {
    v1::ReleaseKeyRequest { session_id: session.into(), ..Default::default() }
}

fn reason(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error says its reason");
    assert_eq!(info.domain, "keyserver.v1");
    (status.code(), info.reason.clone())
}

async fn ok_select(server: &mut Embedded, request: v1::SelectKeysRequest) -> Vec<v1::SelectedKey> {
    let reply = server.client.select_keys_for_session(request).await.unwrap().into_inner();
    assert!(reply.success, "{}", reply.error);
    reply.keys
}

fn ids(keys: &[v1::SelectedKey]) -> Vec<&str> {
    keys.iter().map(|key| key.key_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn select_gives_distinct_keys_and_a_repeat_gives_the_same() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let models = ["OpenAI/gpt-4o", "anthropic/claude-3-7-sonnet-20250219"];
    let first = ok_select(&mut server, select("s1", &models, 2)).await;
    assert_eq!(first.len(), 3, "two of openai, the only one of anthropic");
    assert_eq!(ids(&first).iter().collect::<HashSet<_>>().len(), 3);
    assert!(first.iter().all(|key| key.api_key.contains("-fake-") && !key.already_held));
    assert_eq!((first[0].provider.as_str(), first[0].model.as_str()), ("openai", "gpt-4o"));
    let again = ok_select(&mut server, select("s1", &models, 2)).await;
    assert_eq!(ids(&again), ids(&first));
    assert!(again.iter().all(|key| key.already_held));
    let more = ok_select(&mut server, select("s1", &models[..1], 3)).await;
    assert_eq!(ids(&more)[..2], ids(&first)[..2]);
    assert_eq!(more.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_select_is_all_or_nothing_and_says_why() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let models = ["openai/gpt-4o", "openai/gpt-4"];
    let reply = server.client.select_keys_for_session(select("s1", &models, 1)).await;
    let reply = reply.unwrap().into_inner();
    assert!(!reply.success);
    assert!(reply.keys.is_empty());
    assert_eq!(reply.error, "openai/gpt-4: no key serves it; did you mean openai/gpt-4o?");
    assert_eq!(reply.shortages[0].reason(), v1::ShortageReason::UnknownModel);
    assert_eq!(reply.shortages[0].did_you_mean, ["openai/gpt-4o"]);
    // Nothing was allocated: the session does not even exist.
    let error = server.client.release_key(release("s1")).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "SESSION_NOT_FOUND".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_key_is_held_by_one_session_until_it_ends() {
    let home = EmbeddedHome::new(CSV, &[("session_ttl", "60s")]);
    let mut server = home.start().await;
    let request = |session| select(session, &["xai/grok-3-beta"], 1);
    ok_select(&mut server, request("s1")).await;
    let refused = server.client.select_keys_for_session(request("s2")).await.unwrap().into_inner();
    assert_eq!(refused.shortages[0].reason(), v1::ShortageReason::AllAtCap);
    server.client.release_key(release("s1")).await.unwrap();
    ok_select(&mut server, request("s2")).await;
    home.clock.pass(Duration::from_secs(61));
    ok_select(&mut server, request("s3")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_on_by_being_named_and_ends_by_its_deadline() {
    let home = EmbeddedHome::new(CSV, &[("session_ttl", "60s")]);
    let mut server = home.start().await;
    let keys = ok_select(&mut server, select("s1", &["openai/gpt-4o"], 1)).await;
    home.clock.pass(Duration::from_secs(50));
    let tracked = server.client.track_usage(report("s1", &keys[0], "e1")).await.unwrap();
    assert!(!tracked.into_inner().late);
    home.clock.pass(Duration::from_secs(50));
    assert!(ok_select(&mut server, select("s1", &["openai/gpt-4o"], 1)).await[0].already_held);
    home.clock.pass(Duration::from_secs(60));
    let late = server.client.track_usage(report("s1", &keys[0], "e2")).await.unwrap();
    assert!(late.into_inner().late, "usage after the end counts, marked late");
    let stats = key_stats(&mut server, &keys[0].key_id).await;
    assert_eq!(stats.lifetime.unwrap().requests, 2);
    assert_eq!(stats.holders, 0);
}

async fn key_stats(server: &mut Embedded, key_id: &str) -> v1::KeyStats {
    let request = v1::GetStatsRequest { key_id: key_id.into(), ..Default::default() };
    server.client.get_stats(request).await.unwrap().into_inner().keys.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_once_and_moves_the_tier() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let keys = ok_select(&mut server, select("s1", &["openai/gpt-4o"], 1)).await;
    for _ in 0..3 {
        server.client.track_usage(report("s1", &keys[0], "e1")).await.unwrap();
    }
    let stats = key_stats(&mut server, &keys[0].key_id).await;
    assert_eq!((stats.window_tokens, stats.tier()), (1_200, v1::Tier::Moderate));
    assert_eq!(stats.lifetime.unwrap().requests, 1);
    let other = v1::TrackUsageRequest { output_tokens: 201, ..report("s1", &keys[0], "e1") };
    let error = server.client.track_usage(other).await.unwrap_err();
    assert_eq!(reason(&error), (Code::AlreadyExists, "EVENT_ID_REUSED".into()));
    home.clock.pass(Duration::from_secs(3_600));
    let stats = key_stats(&mut server, &keys[0].key_id).await;
    assert_eq!((stats.window_tokens, stats.tier()), (0, v1::Tier::Unused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limited_key_cools_and_comes_back_by_itself() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let model = ["anthropic/claude-3-7-sonnet-20250219"];
    let keys = ok_select(&mut server, select("s1", &model, 1)).await;
    let limited = v1::TrackUsageRequest {
        outcome: v1::Outcome::RateLimited.into(),
        retry_after: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..report("s1", &keys[0], "e1")
    };
    server.client.track_usage(limited).await.unwrap();
    let refused = server.client.select_keys_for_session(select("s2", &model, 1)).await.unwrap();
    let shortage = refused.into_inner().shortages.remove(0);
    assert_eq!(shortage.reason(), v1::ShortageReason::AllCooling);
    assert_eq!(shortage.retry_after.unwrap().seconds, 20);
    assert_eq!(key_stats(&mut server, &keys[0].key_id).await.state(), v1::KeyState::Cooling);
    home.clock.pass(Duration::from_secs(20));
    ok_select(&mut server, select("s2", &model, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn release_takes_back_a_key_a_model_or_all_and_twice_is_fine() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let models = ["openai/gpt-4o", "anthropic/claude-3-7-sonnet-20250219"];
    let keys = ok_select(&mut server, select("s1", &models, 2)).await;
    for (request, released) in [
        (v1::ReleaseKeyRequest { key_id: keys[0].key_id.clone(), ..release("s1") }, 1),
        (v1::ReleaseKeyRequest { key_id: keys[0].key_id.clone(), ..release("s1") }, 0),
        (v1::ReleaseKeyRequest { model: models[1].into(), ..release("s1") }, 1),
        (release("s1"), 1),
        (release("s1"), 0),
    ] {
        let reply = server.client.release_key(request).await.unwrap().into_inner();
        assert_eq!((reply.success, reply.released), (true, released));
    }
    let totals = server.client.get_stats(v1::GetStatsRequest::default()).await.unwrap();
    assert_eq!(totals.into_inner().totals.unwrap().sessions_live, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let keys = ok_select(&mut server, select("s1", &["openai/gpt-4o"], 2)).await;
    server.client.track_usage(report("s1", &keys[0], "e1")).await.unwrap();
    let before = key_stats(&mut server, &keys[0].key_id).await;
    let node = health(&mut server).await.node_id;
    server.running.stop().await.unwrap();
    let mut server = home.start().await;
    assert_eq!(health(&mut server).await.node_id, node);
    assert_eq!(key_stats(&mut server, &keys[0].key_id).await, before);
    let again = ok_select(&mut server, select("s1", &["openai/gpt-4o"], 2)).await;
    assert_eq!(ids(&again), ids(&keys));
    server.client.track_usage(report("s1", &keys[0], "e1")).await.unwrap();
    assert_eq!(key_stats(&mut server, &keys[0].key_id).await.lifetime, before.lifetime);
    // Without the database everything adds up again from the ledger.
    server.running.stop().await.unwrap();
    for file in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        let _ = std::fs::remove_file(home.state().join(file));
    }
    let mut server = home.start().await;
    assert_eq!(key_stats(&mut server, &keys[0].key_id).await.lifetime, before.lifetime);
    assert!(ok_select(&mut server, select("s1", &["openai/gpt-4o"], 2)).await[0].already_held);
}

async fn health(server: &mut Embedded) -> v1::HealthResponse {
    server.client.health(v1::HealthRequest {}).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_all_or_nothing_and_takes_effect_at_once() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let keys = ok_select(&mut server, select("s1", &["openai/gpt-4o"], 3)).await;
    let bad = format!("{CSV}OpenAI,gpt-4o,\nOpenAI,,sk-fake-openai-9,\n");
    std::fs::write(home.csv(), bad).unwrap();
    let reply = reload(&mut server, false, false).await;
    assert!(!reply.success);
    let errors = reply.problems.iter();
    let errors = errors.filter(|one| one.severity() == v1::row_problem::Severity::Error);
    let errors: Vec<_> = errors.map(|problem| problem.line).collect();
    assert_eq!(errors, [7, 8]);
    let changed =
        CSV.replace("OpenAI,gpt-4o,sk-fake-openai-2,\n", "OpenAI,gpt-4o,sk-fake-openai-4,\n");
    std::fs::write(home.csv(), changed).unwrap();
    let dry = reload(&mut server, false, true).await;
    assert_eq!((dry.success, dry.added, dry.withdrawn, dry.unchanged), (true, 1, 1, 4));
    assert_eq!(ok_select(&mut server, select("s1", &["openai/gpt-4o"], 3)).await.len(), 3);
    let real = reload(&mut server, false, false).await;
    assert_eq!((real.success, real.added, real.withdrawn), (true, 1, 1));
    let after = ok_select(&mut server, select("s1", &["openai/gpt-4o"], 3)).await;
    let secrets: HashSet<_> = after.iter().map(|key| key.api_key.as_str()).collect();
    assert_eq!(
        secrets,
        HashSet::from(["sk-fake-openai-1", "sk-fake-openai-3", "sk-fake-openai-4"])
    );
    let gone = keys.iter().find(|key| key.api_key == "sk-fake-openai-2").unwrap();
    assert_eq!(key_stats(&mut server, &gone.key_id).await.state(), v1::KeyState::Retired);
    std::fs::write(home.csv(), "provider,model,api_key\nOpenAI,gpt-4o,sk-fake-openai-1\n").unwrap();
    let most = reload(&mut server, false, false).await;
    assert!(!most.success && most.error.contains("force"), "{}", most.error);
    assert!(reload(&mut server, true, false).await.success);
}

async fn reload(server: &mut Embedded, force: bool, dry_run: bool) -> v1::ReloadKeysResponse {
    let request = v1::ReloadKeysRequest { force, dry_run, ..Default::default() };
    server.client.reload_keys(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_csv_at_start_serves_the_store_and_says_degraded() {
    let home = EmbeddedHome::new("provider,model,api_key\nOpenAI,gpt-4o,\n", &[]);
    let error = match home.try_start().await {
        Ok(_) => panic!("an empty store has nothing to serve"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("api_keys.csv:2"), "{error}");
    std::fs::write(home.csv(), CSV).unwrap();
    home.start().await.running.stop().await.unwrap();
    std::fs::write(home.csv(), "provider,model,api_key\nOpenAI,gpt-4o,\n").unwrap();
    let mut server = home.start().await;
    let degraded = health(&mut server).await;
    assert_eq!(degraded.status(), v1::HealthStatus::Degraded);
    assert!(degraded.notes.iter().any(|note| note.contains("api_keys.csv:2")), "{degraded:?}");
    ok_select(&mut server, select("s1", &["openai/gpt-4o"], 3)).await;
    std::fs::write(home.csv(), CSV).unwrap();
    assert!(reload(&mut server, false, false).await.success);
    assert_eq!(health(&mut server).await.status(), v1::HealthStatus::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_request_is_refused_with_its_field() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let good = select("s1", &["openai/gpt-4o"], 1);
    let long = "x".repeat(10_240);
    let many = vec!["openai/gpt-4o".to_owned(); 10_000];
    for (request, field) in [
        (v1::SelectKeysRequest { session_id: String::new(), ..good.clone() }, "session_id"),
        (v1::SelectKeysRequest { session_id: long.clone(), ..good.clone() }, "session_id"),
        (v1::SelectKeysRequest { session_id: "a b".into(), ..good.clone() }, "session_id"),
        (v1::SelectKeysRequest { models: vec![], ..good.clone() }, "models"),
        (v1::SelectKeysRequest { models: many, ..good.clone() }, "models"),
        (v1::SelectKeysRequest { models: vec!["gpt-4o".into()], ..good.clone() }, "models"),
        (v1::SelectKeysRequest { models: vec![long.clone()], ..good.clone() }, "models"),
        (v1::SelectKeysRequest { count_per_model: -1, ..good.clone() }, "count_per_model"),
        (v1::SelectKeysRequest { count_per_model: i32::MAX, ..good.clone() }, "count_per_model"),
    ] {
        let error = server.client.select_keys_for_session(request).await.unwrap_err();
        assert_field(&error, field);
    }
    let key = ok_select(&mut server, good).await.remove(0);
    let good = report("s1", &key, "e1");
    for (request, field) in [
        (v1::TrackUsageRequest { event_id: String::new(), ..good.clone() }, "event_id"),
        (v1::TrackUsageRequest { event_id: long, ..good.clone() }, "event_id"),
        (v1::TrackUsageRequest { key_id: "sk-fake".into(), ..good.clone() }, "key_id"),
        (v1::TrackUsageRequest { model: "gpt-4o".into(), ..good.clone() }, "model"),
        (v1::TrackUsageRequest { input_tokens: -1, ..good.clone() }, "input_tokens"),
        (v1::TrackUsageRequest { output_tokens: i64::MAX, ..good.clone() }, "output_tokens"),
        (
            v1::TrackUsageRequest { cached_input_tokens: 1_001, ..good.clone() },
            "cached_input_tokens",
        ),
        (v1::TrackUsageRequest { outcome: 99, ..good.clone() }, "outcome"),
        (
            v1::TrackUsageRequest {
                occurred_at: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
                ..good.clone()
            },
            "occurred_at",
        ),
    ] {
        let error = server.client.track_usage(request).await.unwrap_err();
        assert_field(&error, field);
    }
    let both = v1::ReleaseKeyRequest {
        key_id: key.key_id.clone(),
        model: "openai/gpt-4o".into(),
        ..release("s1")
    };
    assert_field(&server.client.release_key(both).await.unwrap_err(), "model");
    let page = v1::GetStatsRequest { page_size: 1_001, ..Default::default() };
    assert_field(&server.client.get_stats(page).await.unwrap_err(), "page_size");
    let token = v1::GetStatsRequest { page_token: "x".into(), ..Default::default() };
    assert_field(&server.client.get_stats(token).await.unwrap_err(), "page_token");
    let large = select(&"s".repeat(300_000), &["openai/gpt-4o"], 1);
    let error = server.client.select_keys_for_session(large).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
    assert_eq!(key_stats(&mut server, &key.key_id).await.lifetime.unwrap().requests, 0);
}

fn assert_field(error: &Status, field: &str) {
    assert_eq!(reason(error), (Code::InvalidArgument, "INVALID_REQUEST".into()), "{field}");
    let details = error.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["field"], field, "{error:?}");
    assert!(!error.message().contains("sk-fake"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn references_to_nothing_are_not_found() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let key = ok_select(&mut server, select("s1", &["openai/gpt-4o"], 1)).await.remove(0);
    let error = server.client.track_usage(report("s2", &key, "e1")).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "SESSION_NOT_FOUND".into()));
    let other =
        v1::TrackUsageRequest { model: "xai/grok-3-beta".into(), ..report("s1", &key, "e") };
    let error = server.client.track_usage(other).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "KEY_NOT_ALLOCATED".into()));
    let request =
        v1::GetStatsRequest { key_id: "k_aaaaaaaaaaaaaaaaaaaaaaaa".into(), ..Default::default() };
    let error = server.client.get_stats(request).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "KEY_NOT_FOUND".into()));
    let user = v1::SelectKeysRequest { user_id: 7, ..select("s1", &["openai/gpt-4o"], 1) };
    let error = server.client.select_keys_for_session(user).await.unwrap_err();
    assert_eq!(reason(&error), (Code::AlreadyExists, "SESSION_OF_OTHER_USER".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_on_sessions_and_their_keys_are_kept() {
    let home = EmbeddedHome::new(CSV, &[("sessions_max", "2"), ("session_allocations_max", "3")]);
    let mut server = home.start().await;
    ok_select(&mut server, select("s1", &["openai/gpt-4o"], 3)).await;
    let more = select("s1", &["xai/grok-3-beta"], 1);
    let error = server.client.select_keys_for_session(more).await.unwrap_err();
    assert_eq!(reason(&error), (Code::ResourceExhausted, "TOO_MANY_KEYS_HELD".into()));
    ok_select(&mut server, select("s2", &["openai/gpt-4o"], 1)).await;
    let third = select("s3", &["openai/gpt-4o"], 1);
    let error = server.client.select_keys_for_session(third).await.unwrap_err();
    assert_eq!(reason(&error), (Code::ResourceExhausted, "TOO_MANY_SESSIONS".into()));
    assert!(error.get_error_details().retry_info().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_come_in_pages_and_by_filter() {
    let rows: String = (0..25).map(|n| format!("OpenAI,gpt-4o,sk-fake-{n}\n")).collect();
    let home =
        EmbeddedHome::new(&format!("provider,model,api_key\n{rows}XAI,grok,xai-fake\n"), &[]);
    let mut server = home.start().await;
    let keys = ok_select(&mut server, select("s1", &["openai/gpt-4o"], 2)).await;
    let both = |key_id, user_id| v1::GetStatsRequest { key_id, user_id, ..Default::default() };
    let mut seen = Vec::new();
    let mut request =
        v1::GetStatsRequest { page_size: 10, provider: "OpenAI".into(), ..Default::default() };
    loop {
        let page = server.client.get_stats(request.clone()).await.unwrap().into_inner();
        assert!(page.keys.len() <= 10);
        seen.extend(page.keys.into_iter().map(|key| key.key_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((seen.len(), seen.iter().collect::<HashSet<_>>().len()), (25, 25));
    let unheld = seen.iter().find(|id| keys.iter().all(|key| key.key_id != **id)).unwrap();
    for (request, count) in [
        (v1::GetStatsRequest { model: "xai/grok".into(), ..Default::default() }, 1),
        (v1::GetStatsRequest { user_id: Some(456), ..Default::default() }, 2),
        (v1::GetStatsRequest { user_id: Some(0), ..Default::default() }, 0),
        (v1::GetStatsRequest { session_id: "s1".into(), ..Default::default() }, 2),
        (v1::GetStatsRequest { key_id: keys[0].key_id.clone(), ..Default::default() }, 1),
        (both(keys[0].key_id.clone(), Some(456)), 1),
        (both(keys[0].key_id.clone(), Some(7)), 0),
        (both(unheld.clone(), Some(456)), 0),
    ] {
        let page = server.client.get_stats(request.clone()).await.unwrap().into_inner();
        assert_eq!(page.keys.len(), count, "{request:?}");
        assert_eq!(page.totals.unwrap().keys, 26);
    }
    let view =
        |view: v1::StatsView| v1::GetStatsRequest { view: view.into(), ..Default::default() };
    let pools =
        server.client.get_stats(view(v1::StatsView::Pools)).await.unwrap().into_inner().pools;
    assert_eq!(pools.iter().map(|pool| pool.usable).collect::<Vec<_>>(), [25, 1]);
    let sessions = server.client.get_stats(view(v1::StatsView::Sessions)).await.unwrap();
    let sessions = sessions.into_inner().sessions;
    assert_eq!((sessions[0].session_id.as_str(), sessions[0].allocations.len()), ("s1", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_position_durability_and_backends() {
    let home = EmbeddedHome::new(CSV, &[("durability", "process")]);
    let mut server = home.start().await;
    let health = health(&mut server).await;
    assert_eq!(health.status(), v1::HealthStatus::Ok);
    assert_eq!((health.keys, health.models, health.sessions), (5, 3, 0));
    // node.started, rules.set and five key.added.
    assert_eq!((health.ledger_position, health.durability.as_str()), (7, "process"));
    let names: Vec<_> = health.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["ledger", "secrets (age)", "projection (sqlite)", "sandbox (off)"]);
    assert!(health.backends.iter().all(|backend| backend.state == "ok"));
}

/// How an HTTP/2 client begins (RFC 9113, section 3.4), with settings that
/// say nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A server that has accepted answers within far less.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// The first byte of what a client is answered that comes now.
fn answer(socket: &Path) -> io::Result<u8> {
    let mut client = UnixStream::connect(socket)?;
    client.set_read_timeout(Some(ANSWERS_WITHIN))?;
    client.write_all(PREFACE)?;
    let mut first = [0];
    client.read_exact(&mut first)?;
    Ok(first[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_answered_before_the_server_gave_up_what_it_has_no_use_for() {
    let home = EmbeddedHome::new(CSV, &[]);
    let (answered, answers) = mpsc::channel();
    let socket = home.socket();
    let confine = move || {
        answered.send(answer(&socket)).unwrap();
        "all is given up".to_owned()
    };
    let parts = Parts { confine: Box::new(confine), ..home.parts() };
    let mut server = home.try_start_of(parts).await.unwrap();
    let early = answers.recv().unwrap();
    assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock, "it listens and is silent");
    let health = health(&mut server).await;
    assert!(
        health.backends.iter().any(|row| row.name == "sandbox (all is given up)"),
        "{health:?}"
    );
    assert_eq!(answer(&home.socket()).unwrap(), 0, "and then answers");
}

#[expect(clippy::disallowed_methods, reason = "a client of the test's own")]
fn spawn<T: Send + 'static>(
    call: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(call)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_under_way_finish_and_new_ones_are_refused_when_it_stops() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let mut other = connect(&home.socket()).await.unwrap();
    // Both connections are accepted, not only waiting to be.
    health(&mut server).await;
    other.health(v1::HealthRequest {}).await.unwrap();
    let calls = (0..50).map(|n| {
        let mut client = server.client.clone();
        async move {
            client.select_keys_for_session(select(&format!("s{n}"), &["openai/gpt-4o"], 1)).await
        }
    });
    let calls: Vec<_> = calls.map(spawn).collect();
    server.running.stop().await.unwrap();
    let mut given = Vec::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(reply) => given.extend(reply.into_inner().keys),
            // Not begun: the connection says so, not the service.
            Err(status) => assert!(status.get_error_details().error_info().is_none(), "{status:?}"),
        }
    }
    assert!(!home.socket().exists());
    assert!(other.health(v1::HealthRequest {}).await.is_err());
    let mut server = home.start().await;
    let sessions = health(&mut server).await.sessions;
    assert!(sessions >= given.len() as i64, "{sessions} of {} acknowledged", given.len());
}
