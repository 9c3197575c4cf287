//! Several uids on one socket: to each, only its own sessions exist.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use key_server_proto::v1;
use key_server_testkit::client::{Client, connect_as};
use key_server_testkit::picture::picture;
use key_server_testkit::process::{Home, ServerProcess};
use key_server_testkit::requests::EVERYONE;
use tonic::{Code, Status};

use crate::support::{
    ANTHROPIC, CSV, OPENAI, PROGRAM, home, is_root, key_ids, reason, records, release, report, run,
    select, selected, skip,
};

const NOBODY: u32 = 65_534;
const STRANGER: u32 = 65_533;

/// A daemon that everybody may connect to; none, and said so, without root.
async fn open_server(test: &str) -> Option<(Home, ServerProcess, Client)> {
    if !is_root() {
        skip(test, "only root can call as somebody else");
        return None;
    }
    let home = home(CSV).with("KEY_SERVER_SOCKET_MODE", "0666").with_policy(EVERYONE).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let (server, client) = home.start().await.unwrap();
    Some((home, server, client))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_session_id_of_two_uids_is_two_sessions() {
    let name = "the_same_session_id_of_two_uids_is_two_sessions";
    let Some((home, _server, mut root)) = open_server(name).await else { return };
    let mut nobody = connect_as(NOBODY, &home.socket()).await;
    let of_root = selected(&mut root, select("same", &[OPENAI], 2)).await;
    let of_nobody = selected(&mut nobody, select("same", &[ANTHROPIC], 1)).await;
    assert!(of_nobody.iter().all(|key| !key.already_held));
    let before = picture(&mut root).await;
    assert_eq!(before.totals.sessions_live, 2);
    let allocations = |owner| before.session(owner, "same").unwrap().allocations.len();
    assert_eq!((allocations(0), allocations(NOBODY)), (2, 1));
    // The key that only the other session holds is not there to report on.
    let error = nobody.track_usage(report("same", &of_root[0], "e1")).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "KEY_NOT_ALLOCATED".into()));
    nobody.track_usage(report("same", &of_nobody[0], "e1")).await.unwrap();
    // The same event id in the other session is another event.
    root.track_usage(report("same", &of_root[0], "e1")).await.unwrap();
    assert_eq!(nobody.release_key(release("same")).await.unwrap().into_inner().released, 1);
    let after = picture(&mut root).await;
    assert!(after.session(NOBODY, "same").unwrap().ended_at.is_some());
    let kept = after.session(0, "same").unwrap();
    assert!(kept.ended_at.is_none() && kept.allocations.iter().all(|one| one.held));
    let again = selected(&mut root, select("same", &[OPENAI], 2)).await;
    assert_eq!(key_ids(&again), key_ids(&of_root));
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_an_own_session_show_nothing_of_others() {
    let name = "statistics_of_an_own_session_show_nothing_of_others";
    let Some((home, _server, mut root)) = open_server(name).await else { return };
    let mut nobody = connect_as(NOBODY, &home.socket()).await;
    let of_root = selected(&mut root, select("same", &[OPENAI], 4)).await;
    let of_nobody = selected(&mut nobody, select("same", &[ANTHROPIC], 1)).await;
    let own = v1::GetStatsRequest { session_id: "same".into(), ..Default::default() };
    let page = nobody.get_stats(own.clone()).await.unwrap().into_inner();
    let seen: Vec<_> = page.keys.iter().map(|key| key.key_id.as_str()).collect();
    assert_eq!(seen, key_ids(&of_nobody));
    assert_eq!(page.totals, None);
    let view = v1::StatsView::Sessions.into();
    let request = v1::GetStatsRequest { view, ..own.clone() };
    let sessions = nobody.get_stats(request).await.unwrap().into_inner().sessions;
    let owners: Vec<_> = sessions.iter().map(|session| session.owner_uid).collect();
    assert_eq!(owners, [NOBODY]);
    // A key of somebody else is as unknown as one that does not exist.
    let mut answers = Vec::new();
    for key_id in [of_root[0].key_id.as_str(), "k_aaaaaaaaaaaaaaaaaaaaaaaa"] {
        let request = v1::GetStatsRequest { key_id: key_id.into(), ..own.clone() };
        let error = nobody.get_stats(request).await.unwrap_err();
        assert_eq!(reason(&error), (Code::NotFound, "KEY_NOT_FOUND".into()));
        answers.push(visible(&error).replace(key_id, "[KEY]"));
    }
    assert_eq!(answers[0], answers[1]);
    let request = v1::GetStatsRequest { key_id: of_nobody[0].key_id.clone(), ..own.clone() };
    assert_eq!(nobody.get_stats(request).await.unwrap().into_inner().keys.len(), 1);
    let view = v1::StatsView::Pools.into();
    let error = nobody.get_stats(v1::GetStatsRequest { view, ..own }).await.unwrap_err();
    assert_eq!(reason(&error), (Code::PermissionDenied, "OPERATORS_ONLY".into()));
}

/// All that a client can see of a refusal, but for the time of day; error
/// details are shown by their text, for they are not printed whole.
fn visible(status: &Status) -> String {
    let mut metadata = status.metadata().clone();
    metadata.remove("date");
    metadata.remove_bin("grpc-status-details-bin");
    let details = String::from_utf8_lossy(status.details());
    format!("{:?} {:?} {details:?} {metadata:?}", status.code(), status.message())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_others_and_unknown_ones_are_answered_alike_to_the_byte() {
    let name = "sessions_of_others_and_unknown_ones_are_answered_alike_to_the_byte";
    let Some((home, _server, mut root)) = open_server(name).await else { return };
    let mut nobody = connect_as(NOBODY, &home.socket()).await;
    let mut stranger = connect_as(STRANGER, &home.socket()).await;
    let key = selected(&mut root, select("theirs", &[OPENAI], 1)).await.remove(0);
    selected(&mut nobody, select("theirs", &[OPENAI], 4)).await;
    let before = picture(&mut root).await;
    let mut answers = [const { Vec::new() }; 2];
    for (answers, session) in answers.iter_mut().zip(["theirs", "nobody"]) {
        for owner_uid in [None, Some(STRANGER), Some(NOBODY), Some(0)] {
            let request = v1::ReleaseKeyRequest { owner_uid, ..release(session) };
            answers.push(stranger.release_key(request).await.unwrap_err());
            let model =
                v1::ReleaseKeyRequest { model: OPENAI.into(), owner_uid, ..release(session) };
            answers.push(stranger.release_key(model).await.unwrap_err());
            let session_id = session.to_owned();
            let request = v1::GetStatsRequest { session_id, owner_uid, ..Default::default() };
            for view in [v1::StatsView::Keys, v1::StatsView::Sessions, v1::StatsView::Pools] {
                let request = v1::GetStatsRequest { view: view.into(), ..request.clone() };
                answers.push(stranger.get_stats(request).await.unwrap_err());
            }
            let request = v1::GetStatsRequest { key_id: key.key_id.clone(), ..request };
            answers.push(stranger.get_stats(request).await.unwrap_err());
        }
        answers.push(stranger.track_usage(report(session, &key, "e1")).await.unwrap_err());
    }
    let [theirs, unknown] = answers;
    for (theirs, unknown) in theirs.iter().zip(&unknown) {
        assert_eq!(reason(theirs), (Code::NotFound, "SESSION_NOT_FOUND".into()));
        assert_eq!(visible(theirs), visible(unknown));
        assert_eq!(theirs.details(), unknown.details());
    }
    assert_eq!(theirs.len(), unknown.len());
    assert_eq!(picture(&mut root).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shared_key_does_for_others_is_not_shown_to_its_holder() {
    let name = "what_a_shared_key_does_for_others_is_not_shown_to_its_holder";
    let Some((home, _server, mut root)) = open_server(name).await else { return };
    let mut nobody = connect_as(NOBODY, &home.socket()).await;
    let of_nobody = selected(&mut nobody, select("own", &[OPENAI], 1)).await.remove(0);
    let own = v1::GetStatsRequest { session_id: "own".into(), ..Default::default() };
    nobody.track_usage(report("own", &of_nobody, "e1")).await.unwrap();
    let before = nobody.get_stats(own.clone()).await.unwrap().into_inner();
    // Every key of the pool is given to others too, and used by them.
    for session in ["o1", "o2", "o3"] {
        for key in selected(&mut root, select(session, &[OPENAI], 4)).await {
            root.track_usage(report(session, &key, &key.key_id)).await.unwrap();
        }
    }
    let after = nobody.get_stats(own.clone()).await.unwrap().into_inner();
    assert_eq!(after, before);
    let shown = &after.keys[0];
    let spent = shown.lifetime.unwrap();
    assert_eq!((spent.requests, spent.input_tokens, spent.output_tokens), (1, 100, 20));
    assert_eq!(shown.models, [OPENAI], "not that the key serves another model too");
    assert_eq!((shown.holders, shown.window_tokens, shown.weight), (0, 0, 0.0));
    let whole = v1::GetStatsRequest { owner_uid: Some(NOBODY), ..own };
    let whole = root.get_stats(whole).await.unwrap().into_inner();
    assert!(whole.keys[0].holders == 4 && whole.keys[0].lifetime.unwrap().requests == 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_look_at_and_release_the_sessions_of_others() {
    let name = "an_operator_may_look_at_and_release_the_sessions_of_others";
    let Some((home, _server, mut root)) = open_server(name).await else { return };
    let mut nobody = connect_as(NOBODY, &home.socket()).await;
    selected(&mut nobody, select("theirs", &[OPENAI], 2)).await;
    let owner_uid = Some(NOBODY);
    let session_id = "theirs".to_owned();
    let request = v1::GetStatsRequest { session_id, owner_uid, ..Default::default() };
    assert_eq!(root.get_stats(request).await.unwrap().into_inner().keys.len(), 2);
    let request = v1::ReleaseKeyRequest { owner_uid, ..release("theirs") };
    assert_eq!(root.release_key(request).await.unwrap().into_inner().released, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_operators_is_denied_to_everybody_else() {
    let name = "what_is_for_operators_is_denied_to_everybody_else";
    let Some((home, _server, mut root)) = open_server(name).await else { return };
    let mut nobody = connect_as(NOBODY, &home.socket()).await;
    let key = selected(&mut root, select("s1", &[OPENAI], 1)).await.remove(0);
    let mut denied = Vec::new();
    for dry_run in [false, true] {
        let request = v1::ReloadKeysRequest { dry_run, ..Default::default() };
        denied.push(nobody.reload_keys(request).await.unwrap_err());
    }
    let all = v1::GetStatsRequest::default;
    for request in [
        all(),
        v1::GetStatsRequest { view: v1::StatsView::Pools.into(), ..all() },
        v1::GetStatsRequest { view: v1::StatsView::Sessions.into(), ..all() },
        v1::GetStatsRequest { provider: "openai".into(), ..all() },
        v1::GetStatsRequest { model: OPENAI.into(), ..all() },
        v1::GetStatsRequest { user_id: Some(456), ..all() },
        v1::GetStatsRequest { key_id: key.key_id, ..all() },
        // Whether a key is known is not for everybody either.
        v1::GetStatsRequest { key_id: "k_aaaaaaaaaaaaaaaaaaaaaaaa".into(), ..all() },
    ] {
        denied.push(nobody.get_stats(request).await.unwrap_err());
    }
    for error in denied {
        assert_eq!(reason(&error), (Code::PermissionDenied, "OPERATORS_ONLY".into()));
        assert!(error.message().contains(&format!("uid {NOBODY}")), "{error:?}");
    }
    let told = nobody.health(v1::HealthRequest {}).await.unwrap().into_inner();
    assert_eq!(told.status(), v1::HealthStatus::Ok);
    let all = root.health(v1::HealthRequest {}).await.unwrap().into_inner();
    let (version, durability) = (all.version.clone(), all.durability.clone());
    let little =
        v1::HealthResponse { status: all.status, version, durability, ..Default::default() };
    assert_eq!(told, little, "whether it serves, and nothing of what it holds");
    assert!(all.keys > 0 && all.pid > 0 && !all.node_id.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_names_the_uid_the_process_and_the_program_of_a_caller() {
    let name = "the_ledger_names_the_uid_the_process_and_the_program_of_a_caller";
    let Some((home, _server, mut root)) = open_server(name).await else { return };
    let mut nobody = connect_as(NOBODY, &home.socket()).await;
    let caller = |session: &str| {
        let records = records(&home);
        let record = records.iter().find(|record| record["session"] == session);
        record.unwrap_or_else(|| panic!("{session} is on record"))["caller"].clone()
    };
    let (pid, exe) = (std::process::id(), std::env::current_exe().unwrap());
    for (client, uid, session) in [(&mut root, 0, "of-root"), (&mut nobody, NOBODY, "of-nobody")] {
        selected(client, select(session, &[OPENAI], 1)).await;
        let expected = serde_json::json!({ "uid": uid, "gid": uid, "pid": pid, "exe": exe });
        let mut found = caller(session);
        let started = found.as_object_mut().and_then(|fields| fields.remove("started"));
        assert!(started.is_some_and(|started| started.is_u64()));
        assert_eq!(found, expected);
    }
    // And one that comes and goes, in its own process.
    let line = format!("select --session of-cli --user 1 --model {OPENAI} --json --reveal");
    let mut command = home.command(&line.split(' ').collect::<Vec<_>>());
    command.uid(NOBODY).gid(NOBODY);
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.output.contains("sk-fake-openai-"), "{ended:?}");
    let caller = caller("of-cli");
    assert_eq!((&caller["uid"], &caller["gid"]), (&NOBODY.into(), &NOBODY.into()));
    assert_ne!(caller["pid"], pid);
    let exe = fs::canonicalize(PROGRAM).unwrap();
    assert_eq!(caller["exe"], serde_json::json!(exe));
}
