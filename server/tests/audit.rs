//! What the ledger says of calls that change nothing, of its own end, and of
//! what retention takes away.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    Event, KeyFacts, KeyId, OwnWeight, Rules, Select, SessionRef, State, SyncKeys,
};
use key_server_ledger::checkpoint::{
    CHECKPOINTS_FILE_NAME, Checkpoints, PUBLIC_KEY_FILE_NAME, PublicKey,
};
use key_server_ledger::verify::{Beginning, Report, verify, verify_against};
use key_server_ledger::{CallNoted, CallsCounted, Fact, Options, Record, RemovalReason, read};
use key_server_projections::SqliteProjection;
use key_server_proto::v1;
use key_server_server::config::{Settings, Sources, resolve};
use key_server_server::engine::{Engine, Restored, restore};
use key_server_server::projector::Projector;
use key_server_testkit::clock::ManualClock;
use key_server_testkit::server::{Embedded, EmbeddedHome};
use key_server_testkit::wait::until;

const CSV: &str = "provider,model,api_key\nOpenAI,gpt-4o,sk-fake-openai-1\n";

fn records(home: &EmbeddedHome) -> Vec<Record> {
    read::records(&home.state().join("ledger"), None).unwrap().map(Result::unwrap).collect()
}

fn noted(home: &EmbeddedHome) -> Vec<CallNoted> {
    let facts = records(home).into_iter().filter_map(|record| match record.fact {
        Fact::CallNoted(call) => Some(call),
        _ => None,
    });
    facts.collect()
}

fn counted(home: &EmbeddedHome) -> Vec<CallsCounted> {
    let facts = records(home).into_iter().filter_map(|record| match record.fact {
        Fact::CallsCounted(calls) => Some(calls),
        _ => None,
    });
    facts.collect()
}

fn select(session: &str, model: &str) -> v1::SelectKeysRequest {
    v1::SelectKeysRequest {
        session_id: session.into(),
        user_id: 456,
        models: vec![model.into()],
        count_per_model: 1,
    }
}

async fn release_unknown(server: &mut Embedded, session: &str) {
    let request = v1::ReleaseKeyRequest { session_id: session.into(), ..Default::default() };
    server.client.release_key(request).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_change_nothing_leave_a_record() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    let selected = server.client.select_keys_for_session(select("s1", "openai/gpt-4o")).await;
    let key = selected.unwrap().into_inner().keys.remove(0);
    assert!(noted(&home).is_empty(), "what changes something has a line of its own");
    let refused = server.client.select_keys_for_session(select("s1", "openai/gpt-5")).await;
    assert!(!refused.unwrap().into_inner().success);
    let other_user = v1::SelectKeysRequest { user_id: 7, ..select("s1", "openai/gpt-4o") };
    server.client.select_keys_for_session(other_user).await.unwrap_err();
    release_unknown(&mut server, "s2").await;
    let report = v1::TrackUsageRequest {
        session_id: "s1".into(),
        key_id: key.key_id.clone(),
        model: "openai/gpt-4o".into(),
        event_id: "e1".into(),
        ..Default::default()
    };
    for _ in 0..2 {
        server.client.track_usage(report.clone()).await.unwrap();
    }
    let stats = v1::GetStatsRequest { session_id: "s1".into(), ..Default::default() };
    server.client.get_stats(stats).await.unwrap();
    let reload = v1::ReloadKeysRequest { dry_run: true, ..Default::default() };
    server.client.reload_keys(reload).await.unwrap();
    let bad = v1::ReloadKeysRequest { path: "/nowhere.csv".into(), ..Default::default() };
    let bad = server.client.reload_keys(bad).await;
    let bad_reason = bad.map_or_else(|_| "INVALID_REQUEST", |_| "RELOAD_REFUSED");
    server.running.stop().await.unwrap();
    let calls = noted(&home);
    let told: Vec<_> = calls.iter().map(|call| (&*call.verb, call.reason.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("SelectKeysForSession", Some("UNKNOWN_MODEL")),
            ("SelectKeysForSession", Some("SESSION_OF_OTHER_USER")),
            ("ReleaseKey", Some("SESSION_NOT_FOUND")),
            ("TrackUsage", None),
            ("GetStats", None),
            ("ReloadKeys", None),
            ("ReloadKeys", Some(bad_reason)),
        ]
    );
    let ids = |call: &CallNoted| call.session.as_ref().map(|session| session.id.to_string());
    assert_eq!(ids(&calls[0]).as_deref(), Some("s1"));
    assert_eq!(calls[0].model, None, "nobody serves it");
    assert_eq!(calls[1].model.as_ref().map(|model| model.as_str()), Some("openai/gpt-4o"));
    assert_eq!(ids(&calls[2]), None, "nobody opened it");
    assert_eq!(calls[3].key.map(|key| key.to_string()), Some(key.key_id));
    let callers = records(&home).into_iter().filter(|r| matches!(r.fact, Fact::CallNoted(_)));
    let uid = |record: Record| record.caller.map(|caller| caller.uid);
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(home.state()).unwrap());
    assert!(callers.map(uid).all(|uid| uid == Some(own)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_wrong_field_of_a_refused_call_is_not_recorded() {
    const CANARY: &str = "sk-canary-4f9a1c77";
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    release_unknown(&mut server, CANARY).await;
    let model = format!("openai/{CANARY}");
    assert!(
        !server
            .client
            .select_keys_for_session(select("s1", &model))
            .await
            .unwrap()
            .into_inner()
            .success
    );
    for request in [
        v1::GetStatsRequest { key_id: CANARY.into(), ..Default::default() },
        v1::GetStatsRequest { session_id: CANARY.into(), ..Default::default() },
        v1::GetStatsRequest { model: CANARY.into(), ..Default::default() },
    ] {
        server.client.get_stats(request).await.unwrap_err();
    }
    let report = v1::TrackUsageRequest {
        session_id: "s1".into(),
        key_id: CANARY.into(),
        model,
        event_id: CANARY.into(),
        ..Default::default()
    };
    server.client.track_usage(report).await.unwrap_err();
    server.running.stop().await.unwrap();
    assert_eq!(noted(&home).len(), 6, "each left a record");
    for file in std::fs::read_dir(home.state().join("ledger")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains(CANARY), "{text}");
    }
}

/// Lines of their own that refused calls of one kind get.
const LINES: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_counted_in_one_line_a_window() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    for _ in 0..LINES + 33 {
        release_unknown(&mut server, "nobody's").await;
    }
    home.clock.pass(Duration::from_secs(59));
    release_unknown(&mut server, "nobody's").await;
    assert_eq!((noted(&home).len(), counted(&home).len()), (LINES, 0));
    home.clock.pass(Duration::from_secs(1));
    let told = until("the count is told", async || counted(&home).pop()).await;
    assert_eq!((&*told.verb, told.reason.as_deref()), ("ReleaseKey", Some("SESSION_NOT_FOUND")));
    assert_eq!(told.count, 34);
    for _ in 0..LINES + 1 {
        release_unknown(&mut server, "nobody's").await;
    }
    server.running.stop().await.unwrap();
    let counts: Vec<u64> = counted(&home).iter().map(|calls| calls.count).collect();
    assert_eq!((noted(&home).len(), counts), (2 * LINES, vec![34, 1]), "told before the end, too");
    verify(&home.state().join("ledger")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_does_not_change_what_a_restart_knows() {
    let home = EmbeddedHome::new(CSV, &[]);
    let mut server = home.start().await;
    server.client.select_keys_for_session(select("s1", "openai/gpt-4o")).await.unwrap();
    let stats = v1::GetStatsRequest { session_id: "s1".into(), ..Default::default() };
    release_unknown(&mut server, "s2").await;
    let before = server.client.get_stats(stats.clone()).await.unwrap().into_inner();
    server.running.stop().await.unwrap();
    for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        let _ = std::fs::remove_file(home.state().join(name));
    }
    let mut server = home.start().await;
    let after = server.client.get_stats(stats).await.unwrap().into_inner();
    assert_eq!(before, after);
    server.running.stop().await.unwrap();
}

fn checked(home: &EmbeddedHome) -> Report {
    let key = PublicKey::open(&home.state().join(PUBLIC_KEY_FILE_NAME)).unwrap();
    let checkpoints = Checkpoints::open(&home.state().join(CHECKPOINTS_FILE_NAME), key).unwrap();
    verify_against(&home.state().join("ledger"), checkpoints).unwrap()
}

fn checkpoints(home: &EmbeddedHome) -> usize {
    let path = home.state().join(CHECKPOINTS_FILE_NAME);
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_written_at_start_hourly_on_rotation_and_at_the_end() {
    let home = EmbeddedHome::new(CSV, &[("ledger_segment_bytes_max", "65536")]);
    let mut server = home.start().await;
    until("one at the start", async || (checkpoints(&home) == 1).then_some(())).await;
    server.client.select_keys_for_session(select("s1", "openai/gpt-4o")).await.unwrap();
    home.clock.pass(Duration::from_secs(3_600));
    until("one an hour later", async || (checkpoints(&home) == 2).then_some(())).await;
    for number in 0..130 {
        let request = select(&format!("session-{number}"), "openai/gpt-4o");
        server.client.select_keys_for_session(request).await.unwrap();
    }
    until("one for the new segment", async || (checkpoints(&home) == 3).then_some(())).await;
    server.running.stop().await.unwrap();
    let report = checked(&home);
    assert!(report.segments > 1);
    assert_eq!(report.checkpointed_seq, Some(report.last.seq), "one for the last line");
}

/// An engine with its projection, without a socket.
struct Node {
    dir: tempfile::TempDir,
    engine: Arc<Engine>,
    projector: Projector,
    clock: Arc<ManualClock>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut projection = SqliteProjection::open(&dir.path().join("state.sqlite")).unwrap();
        // Each call fills a segment.
        let options = Options { segment_bytes_max: 1, ..Options::default() };
        let (ledger_dir, rules) = (dir.path().join("ledger"), Rules::default());
        let restored = restore(&ledger_dir, "n_test", &options, &mut projection, &rules).unwrap();
        let Restored { ledger, state, .. } = restored;
        let clock = Arc::new(ManualClock::default());
        let engine = Engine::new((ledger, state), rules, Arc::clone(&clock) as _, None);
        let engine = Arc::new(engine);
        let projector = Projector::new(Arc::clone(&engine), Box::new(projection));
        Self { dir, engine, projector, clock }
    }

    fn ledger(&self) -> std::path::PathBuf {
        self.dir.path().join("ledger")
    }

    async fn fill(&self, sessions: usize) {
        let facts = KeyFacts {
            key: KeyId::from_digest(&[1; 32]),
            models: vec!["openai/gpt-4o".parse().unwrap()],
            own_weight: OwnWeight::DEFAULT,
            max_holders: None,
            label: None,
            sources: Vec::new(),
        };
        let sync = SyncKeys { desired: vec![Arc::new(facts)] };
        self.engine.submit(None, None, &sync).await.unwrap().unwrap();
        for number in 0..sessions {
            let select = Select {
                session: SessionRef { owner: 1, id: format!("s{number}").into() },
                user: 1,
                models: vec!["openai/gpt-4o".parse().unwrap()],
                count: 1,
                reserved: None,
                owner_sessions_max: None,
            };
            self.clock.pass(Duration::from_secs(1));
            self.engine.select(None, &select, false).await.unwrap();
        }
    }
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    let flags = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    resolve(&Sources::new(flags, [])).unwrap().0
}

fn removed(dir: &Path) -> Vec<(u64, RemovalReason)> {
    let records = read::records(dir, None).unwrap().map(Result::unwrap);
    let facts = records.filter_map(|record| match record.fact {
        Fact::SegmentRemoved(segment) => Some((segment.last_seq, segment.why)),
        _ => None,
    });
    facts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_by_size_and_age_on_record_and_never_beyond_the_projection() {
    let node = Node::new();
    node.fill(9).await;
    let (dir, little) = (node.ledger(), settings(&[("ledger_bytes_max", "1")]));
    node.projector.prune(&little, &dir).await;
    assert_eq!(verify(&dir).unwrap().first_seq, Some(1), "the projection has taken in nothing");
    node.projector.flush().await;
    node.fill(2).await;
    node.projector.prune(&settings(&[]), &dir).await;
    assert_eq!(verify(&dir).unwrap().first_seq, Some(1), "no limit, nothing removed");
    node.projector.prune(&settings(&[("ledger_retention", "5s")]), &dir).await;
    let report = verify(&dir).unwrap();
    let by_age = removed(&dir);
    assert!(by_age.iter().all(|(_, why)| *why == RemovalReason::Age), "{by_age:?}");
    assert_eq!(report.first_seq, by_age.last().map(|(last_seq, _)| last_seq + 1));
    assert!(matches!(report.beginning, Beginning::Recorded { .. }), "{report:?}");
    node.projector.prune(&little, &dir).await;
    let report = verify(&dir).unwrap();
    assert!(matches!(report.beginning, Beginning::Recorded { .. }), "{report:?}");
    let by_size = removed(&dir);
    assert_eq!(by_size.last(), Some(&(9, RemovalReason::Size)), "line 10 is the projection's");
    assert_eq!(report.first_seq, Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_on_record_at_each_start() {
    let home = EmbeddedHome::new(CSV, &[("tier_light_weight", "33"), ("session_ttl", "10m")]);
    home.start().await.running.stop().await.unwrap();
    home.start().await.running.stop().await.unwrap();
    let rules: Vec<_> = records(&home)
        .into_iter()
        .filter_map(|record| match record.fact {
            Fact::RulesSet { rules, shares } => Some((rules, shares)),
            _ => None,
        })
        .collect();
    assert_eq!(rules.len(), 2);
    assert_eq!(rules[0], rules[1]);
    assert_eq!(rules[0].0.tiers.weights, [100, 33, 20, 5]);
    assert_eq!((rules[0].0.session_ttl, rules[0].1), (Duration::from_secs(600), false));
}

/// Invariant 4: memory is what the ledger adds up to, also beside facts that
/// change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn memory_equals_the_fold_beside_facts_of_the_ledger() {
    let node = Node::new();
    node.fill(3).await;
    let call = CallNoted {
        verb: "ReleaseKey".into(),
        reason: Some("SESSION_NOT_FOUND".into()),
        session: None,
        model: None,
        key: None,
    };
    node.engine.note(vec![Fact::CallNoted(call)]).await.unwrap();
    let mut folded = State::new(Rules::default());
    for record in read::records(&node.ledger(), None).unwrap().map(Result::unwrap) {
        let event: Option<Event> = match record.fact {
            Fact::Domain(event) => Some(event),
            _ => None,
        };
        event.iter().for_each(|event| folded.apply(record.at, event));
    }
    let session = SessionRef { owner: 1, id: "s1".into() };
    let at = node.engine.read(State::now);
    folded.advance(at);
    assert_eq!(node.engine.read(State::totals), folded.totals());
    let live = node.engine.read(|state| state.session_stats(&session));
    assert_eq!(live, folded.session_stats(&session));
}
