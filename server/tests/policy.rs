//! The policy in force in a real server: real sockets, real uids, and a clock
//! that the test moves. Without root, what needs other uids is left out, and
//! said so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use key_server_ledger::{Fact, read};
use key_server_proto::v1;
use key_server_testkit::client::{Client, connect_as, connect_in};
use key_server_testkit::picture::picture;
use key_server_testkit::requests::{EVERYONE, reason, release, report, select, selected};
use key_server_testkit::server::{Embedded, EmbeddedHome};
use key_server_testkit::wait::spawn;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const CSV: &str = "\
provider,model,api_key
OpenAI,gpt-4o,sk-fake-openai-1
OpenAI,gpt-4o,sk-fake-openai-2
OpenAI,gpt-4o,sk-fake-openai-3
Anthropic,claude-3-7-sonnet-20250219,sk-ant-fake-1
";
const OPENAI: &str = "openai/gpt-4o";
const ANTHROPIC: &str = "anthropic/claude-3-7-sonnet-20250219";
const ONE: u32 = 60_001;
const OTHER: u32 = 60_002;

/// Says that a test was not made, past the capture of the test's output.
fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        let line = format!("skipped: {test}: only root can call as somebody else\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    is_root
}

fn rule(name: &str, lines: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\n{lines}\n")
}

async fn refusal(client: &mut Client, request: v1::SelectKeysRequest) -> Status {
    client.select_keys_for_session(request).await.expect_err("it is refused")
}

fn retry_after(status: &Status) -> Duration {
    status.get_details_retry_info().unwrap().retry_delay.unwrap()
}

async fn reload(server: &mut Embedded) -> v1::ReloadKeysResponse {
    server.client.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_keys_are_for_the_servers_uid_and_the_sockets_group() {
    if !is_root("without_a_file_keys_are_for_the_servers_uid_and_the_sockets_group") {
        return;
    }
    let home = EmbeddedHome::new(CSV, &[]).open_to_all(EVERYONE).without_policy();
    let mut server = home.start().await;
    selected(&mut server.client, select("s1", &[OPENAI], 1)).await;
    let mut stranger = connect_as(ONE, &home.socket()).await;
    let key = selected(&mut server.client, select("s1", &[OPENAI], 1)).await.remove(0);
    let own = v1::GetStatsRequest { session_id: "s1".into(), ..Default::default() };
    for error in [
        refusal(&mut stranger, select("s1", &[OPENAI], 1)).await,
        refusal(&mut stranger, select("s1", &["openai/none"], 1)).await,
        stranger.track_usage(report("s1", &key, "e1")).await.unwrap_err(),
        stranger.release_key(release("s1")).await.unwrap_err(),
        stranger.get_stats(own).await.unwrap_err(),
    ] {
        assert_eq!(reason(&error), (Code::PermissionDenied, "POLICY_DENIED".into()));
    }
    let error = stranger.reload_keys(v1::ReloadKeysRequest::default()).await.unwrap_err();
    assert_eq!(reason(&error), (Code::PermissionDenied, "OPERATORS_ONLY".into()));
    // The socket belongs to root's group: its members are let in, whichever
    // of their groups it is.
    for (session, gid, groups) in [("first", 0, vec![]), ("another", OTHER, vec![ONE, 0])] {
        let mut member = connect_in(OTHER, gid, &groups, &home.socket()).await;
        selected(&mut member, select(session, &[OPENAI], 1)).await;
        let all = member.get_stats(v1::GetStatsRequest::default()).await.unwrap_err();
        assert_eq!(reason(&all), (Code::PermissionDenied, "OPERATORS_ONLY".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_allows_is_given_and_nothing_else() {
    if !is_root("what_a_rule_allows_is_given_and_nothing_else") {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let text = [
        rule("elsewhere", &format!("uid = {ONE}\nexecutable = \"/opt/other\"\nproviders = \"*\"")),
        rule("here", &format!("uid = {ONE}\nexecutable = {program:?}\nproviders = \"anthropic\"")),
        rule("team", "gid = 7\nmodels = \"openai/gpt-4*\"\ncount_max = 2"),
        rule("watcher", &format!("uid = {OTHER}\nverbs = [\"stats-all\", \"release-all\"]")),
    ]
    .concat();
    let home = EmbeddedHome::new(CSV, &[]).open_to_all(&text);
    let mut server = home.start().await;
    let mut one = connect_as(ONE, &home.socket()).await;
    selected(&mut one, select("s1", &[ANTHROPIC], 1)).await;
    for models in [&[OPENAI][..], &[ANTHROPIC, OPENAI], &["openai/none"]] {
        let error = refusal(&mut one, select("s2", models, 1)).await;
        assert_eq!(reason(&error), (Code::PermissionDenied, "POLICY_DENIED".into()));
        let details = error.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["rule"], "here");
    }
    // A name that the caller may use and nobody serves: what is near and not
    // for it stays unsaid.
    let reply = one.select_keys_for_session(select("s3", &["anthropic/gpt-4o"], 1)).await;
    let reply = reply.unwrap().into_inner();
    assert!(!reply.success && !reply.error.contains("openai"), "{}", reply.error);
    assert!(reply.shortages[0].did_you_mean.iter().all(|name| !name.contains("openai")));

    let mut team = connect_in(60_003, 60_003, &[7], &home.socket()).await;
    selected(&mut team, select("s1", &[OPENAI], 2)).await;
    let error = refusal(&mut team, select("s1", &[OPENAI], 3)).await;
    assert_eq!(reason(&error), (Code::PermissionDenied, "POLICY_DENIED".into()));
    assert!(error.message().contains("at most 2"), "{error:?}");

    let mut watcher = connect_as(OTHER, &home.socket()).await;
    let seen = picture(&mut watcher).await;
    assert_eq!(seen.sessions.len(), 2);
    assert!(watcher.health(v1::HealthRequest {}).await.unwrap().into_inner().keys > 0);
    let request = v1::ReleaseKeyRequest { owner_uid: Some(ONE), ..release("s1") };
    assert_eq!(watcher.release_key(request).await.unwrap().into_inner().released, 1);
    refusal(&mut watcher, select("s1", &[OPENAI], 1)).await;
    // Root needs a rule for keys, and none to look after the server.
    let error = refusal(&mut server.client, select("s1", &[OPENAI], 1)).await;
    assert_eq!(reason(&error), (Code::PermissionDenied, "POLICY_DENIED".into()));
    assert!(reload(&mut server).await.success);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_rule_are_kept_and_say_when_to_come_again() {
    let uid = rustix::process::geteuid().as_raw();
    let limits =
        "providers = \"*\"\nsessions_max = 2\nkeys_per_minute = 6\ntokens_per_minute = 1000";
    let home = EmbeddedHome::new(CSV, &[]);
    let home = home.open_to_all(&rule("own", &format!("uid = {uid}\n{limits}")));
    let mut server = home.start().await;
    let client = &mut server.client;
    let key = selected(client, select("s1", &[OPENAI], 2)).await.remove(0);
    selected(client, select("s2", &[OPENAI], 1)).await;
    let error = refusal(client, select("s3", &[OPENAI], 1)).await;
    assert_eq!(reason(&error), (Code::ResourceExhausted, "SESSIONS_LIMIT".into()));
    assert!(retry_after(&error) > Duration::ZERO);
    // Three of six are left: what was refused cost nothing, and neither does
    // what a pool does not have.
    client.release_key(release("s2")).await.unwrap();
    assert_eq!(selected(client, select("s3", &[ANTHROPIC], 3)).await.len(), 1);
    assert_eq!(selected(client, select("s3", &[OPENAI], 2)).await.len(), 2);
    let error = refusal(client, select("s3", &[OPENAI], 1)).await;
    assert_eq!(reason(&error), (Code::ResourceExhausted, "RATE_LIMITED".into()));
    assert_eq!(retry_after(&error), Duration::from_secs(10));
    // More than a minute's worth at once never passes: no time is named.
    let error = refusal(client, select("s3", &[OPENAI], 7)).await;
    assert!(error.get_details_retry_info().is_none(), "{error:?}");
    // A reload gives nobody a fresh start.
    assert!(reload(&mut server).await.success);
    let client = &mut server.client;
    refusal(client, select("s3", &[OPENAI], 1)).await;
    home.clock.pass(Duration::from_secs(10));
    selected(client, select("s3", &[OPENAI], 1)).await;

    home.clock.pass(Duration::from_secs(60));
    let spent = v1::TrackUsageRequest { input_tokens: 900, ..report("s1", &key, "e1") };
    for _ in 0..10 {
        client.track_usage(spent.clone()).await.unwrap();
    }
    selected(client, select("s1", &[OPENAI], 1)).await;
    // Beyond the limit usage is still taken, for it is money.
    for event in ["e2", "e3"] {
        client
            .track_usage(v1::TrackUsageRequest { event_id: event.into(), ..spent.clone() })
            .await
            .unwrap();
    }
    let error = refusal(client, select("s1", &[OPENAI], 1)).await;
    let details = error.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["limit"], "tokens_per_minute");
    let wait = retry_after(&error);
    // 3 x 920 of 1000 are spent: 1760 tokens of debt, 60 ms each.
    assert!(
        wait > Duration::from_millis(105_500) && wait < Duration::from_millis(105_700),
        "{wait:?}"
    );
    home.clock.pass(wait);
    selected(client, select("s1", &[OPENAI], 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_policy_and_keys_together_or_neither() {
    let uid = rustix::process::geteuid().as_raw();
    let only = |provider: &str| rule("own", &format!("uid = {uid}\nproviders = \"{provider}\""));
    let home = EmbeddedHome::new(CSV, &[]).open_to_all(&only("openai"));
    let mut server = home.start().await;
    let more = format!("{CSV}XAI,grok-3,xai-fake-1\n");
    let bad_csv = format!("{CSV}XAI,,xai-fake-1\n");
    let denied = async |server: &mut Embedded, model: &str| {
        let reply = server.client.select_keys_for_session(select("s1", &[model], 1)).await;
        reply.is_err_and(|error| error.code() == Code::PermissionDenied)
    };
    // A bad policy keeps good keys out,
    std::fs::write(home.csv(), &more).unwrap();
    home.write_policy("[[rule]]\nname = \"own\"\nusr = \"x\"\n\n[[rules]]\n");
    let reply = reload(&mut server).await;
    assert!(!reply.success && reply.error.contains("policy.toml"), "{}", reply.error);
    let lines: Vec<_> = reply.problems.iter().map(|problem| problem.line).collect();
    assert!(lines.contains(&3) && lines.contains(&5), "{lines:?}");
    assert_eq!(picture(&mut server.client).await.totals.keys, 4);
    assert!(denied(&mut server, ANTHROPIC).await && !denied(&mut server, OPENAI).await);
    // and so does one that somebody else could change;
    home.write_policy(&only("anthropic"));
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(home.policy(), open).unwrap();
    assert!(!reload(&mut server).await.success);
    // bad keys keep a good policy out;
    home.write_policy(&only("anthropic"));
    std::fs::write(home.csv(), bad_csv).unwrap();
    assert!(!reload(&mut server).await.success);
    assert!(denied(&mut server, ANTHROPIC).await && !denied(&mut server, OPENAI).await);
    // a dry run changes nothing;
    std::fs::write(home.csv(), &more).unwrap();
    let dry = v1::ReloadKeysRequest { dry_run: true, ..Default::default() };
    assert_eq!(server.client.reload_keys(dry).await.unwrap().into_inner().added, 1);
    assert!(denied(&mut server, ANTHROPIC).await);
    // and both good take both in.
    assert_eq!(reload(&mut server).await.added, 1);
    assert!(!denied(&mut server, ANTHROPIC).await && denied(&mut server, OPENAI).await);
    // A file that is gone is no permission.
    std::fs::remove_file(home.policy()).unwrap();
    assert!(!reload(&mut server).await.success);
    assert!(denied(&mut server, OPENAI).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_policy_keeps_the_server_from_starting() {
    let home = EmbeddedHome::new(CSV, &[]).open_to_all("[[rule]]\nuid = 1\nverb = \"select\"\n");
    let error = match home.try_start().await {
        Ok(_) => panic!("default deny would be silent"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("line 1: it has no name"), "{error}");
    assert!(error.contains("line 3: a rule has no \"verb\"; did you mean verbs?"), "{error}");
    home.write_policy(EVERYONE);
    home.start().await;
}

const RELOADS: usize = 1_000;
const SELECTORS: usize = 64;

/// Reloads that take one key after another away and bring it back, beside
/// selectors that note what had been removed for good when they began.
#[tokio::test(flavor = "multi_thread")]
async fn a_select_that_began_after_a_reload_never_gets_what_it_removed() {
    let uid = rustix::process::geteuid().as_raw();
    let allowed = |model: &str| {
        rule("own", &format!("uid = {uid}\nmodels = [\"openai/gpt-4o\", \"openai/{model}\"]"))
    };
    let with_keys = |first: usize| {
        let rows = (0..8).map(|place| {
            let key = first + place;
            format!(
                "OpenAI,gpt-4o,sk-fake-{key}\nOpenAI,even,sk-fake-{key}\nOpenAI,odd,sk-fake-{key}\n"
            )
        });
        format!("provider,model,api_key\n{}", rows.collect::<String>())
    };
    let settings = [("durability", "process"), ("calls_per_second", "0")];
    let home = EmbeddedHome::new(&with_keys(0), &settings).open_to_all(&allowed("even"));
    let mut server = home.start().await;
    // How many keys are removed for good, and how often it was reloaded.
    let removed = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let selects = Arc::new(AtomicUsize::new(0));
    let selectors: Vec<_> = (0..SELECTORS)
        .map(|number| {
            let (removed, is_over) = (Arc::clone(&removed), Arc::clone(&is_over));
            let (mut client, selects) = (server.client.clone(), Arc::clone(&selects));
            spawn(async move {
                let mut round = 0;
                while !is_over.load(Ordering::SeqCst) {
                    // Half of them go on with the session that they have.
                    let session = if number % 2 == 0 { 0 } else { round };
                    let gone = removed.load(Ordering::SeqCst);
                    let request = select(&format!("s{number}-{session}"), &[OPENAI], 2);
                    match client.select_keys_for_session(request).await {
                        Ok(reply) => {
                            for key in reply.into_inner().keys {
                                let key: usize = key.api_key["sk-fake-".len()..].parse().unwrap();
                                assert!(key >= gone, "{key} was removed before the call");
                            }
                            selects.fetch_add(1, Ordering::SeqCst);
                        }
                        // A key that went at the same instant.
                        Err(error) => assert_eq!(reason(&error).1, "KEY_WITHDRAWN"),
                    }
                    round += 1;
                }
            })
        })
        .collect();
    let policy_checks = Arc::new(Mutex::new(0));
    for reloaded in 1..=RELOADS {
        std::fs::write(home.csv(), with_keys(reloaded)).unwrap();
        let [now, before] = if reloaded % 2 == 0 { ["even", "odd"] } else { ["odd", "even"] };
        home.write_policy(&allowed(now));
        let reply = reload(&mut server).await;
        assert!(reply.success, "{} {:?}", reply.error, reply.problems);
        assert_eq!(reply.withdrawn, 1);
        removed.store(reloaded, Ordering::SeqCst);
        // The policy that came with it is in force.
        let session = format!("p{reloaded}");
        let now = select(&session, &[&format!("openai/{now}")], 1);
        selected(&mut server.client, now).await;
        let error =
            refusal(&mut server.client, select(&session, &[&format!("openai/{before}")], 1)).await;
        assert_eq!(reason(&error), (Code::PermissionDenied, "POLICY_DENIED".into()));
        *policy_checks.lock().unwrap() += 1;
        server.client.release_key(release(&session)).await.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    for selector in selectors {
        selector.await.unwrap();
    }
    let selects = selects.load(Ordering::SeqCst);
    assert!(selects >= RELOADS, "{selects} selects raced {RELOADS} reloads");
    assert_eq!(*policy_checks.lock().unwrap(), RELOADS);
}

/// Of nine calls eight are on sessions that there are: 100,000.
const FOREIGN_CALLS: usize = 112_500;
const FOREIGN_SESSIONS: usize = 100;
const KINDS: usize = 8;
const IN_FLIGHT: usize = 64;

/// All that a client can see of a refusal, but for the time of day.
fn visible(status: &Status) -> String {
    let mut metadata = status.metadata().clone();
    metadata.remove("date");
    metadata.remove_bin("grpc-status-details-bin");
    format!("{:?} {:?} {:?} {metadata:?}", status.code(), status.message(), status.details())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_calls_on_sessions_of_others_do_nothing_and_tell_nothing() {
    if !is_root("a_hundred_thousand_calls_on_sessions_of_others_do_nothing_and_tell_nothing") {
        return;
    }
    let home = EmbeddedHome::new(CSV, &[("calls_per_second", "0")]).open_to_all(EVERYONE);
    let mut server = home.start().await;
    let mut owner = connect_as(ONE, &home.socket()).await;
    let mut keys = Vec::new();
    for number in 0..FOREIGN_SESSIONS {
        let session = format!("theirs-{number}");
        let key = selected(&mut owner, select(&session, &[OPENAI], 1)).await.remove(0);
        owner.track_usage(report(&session, &key, "e0")).await.unwrap();
        keys.push(key);
    }
    let before = picture(&mut server.client).await;
    let ledger = server.client.health(v1::HealthRequest {}).await.unwrap().into_inner();
    let answers = Arc::new(Mutex::new(HashSet::new()));
    let keys = Arc::new(keys);
    let callers: Vec<_> = (0..IN_FLIGHT)
        .map(|caller| {
            let (socket, answers, keys) = (home.socket(), Arc::clone(&answers), Arc::clone(&keys));
            spawn(async move {
                let mut stranger = connect_as(OTHER, &socket).await;
                let mut seen = [HashSet::new(), HashSet::new()];
                for call in (caller..FOREIGN_CALLS).step_by(IN_FLIGHT) {
                    let (kind, number) = (call % KINDS, call % FOREIGN_SESSIONS);
                    let is_real = call % 9 != 0;
                    let session = if is_real {
                        format!("theirs-{number}")
                    } else {
                        format!("nobody-{number}")
                    };
                    let error = call_on(&mut stranger, kind, &session, &keys[number]).await;
                    let text = visible(&error);
                    assert!(!text.contains("theirs") && !text.contains("nobody"), "{text}");
                    seen[usize::from(is_real)].insert(format!("{kind} {text}"));
                }
                let [unknown, real] = seen;
                assert_eq!(real, unknown);
                answers.lock().unwrap().extend(real);
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let answers = answers.lock().unwrap().clone();
    assert_eq!(answers.len(), KINDS, "one answer for each kind of call: {answers:#?}");
    assert!(answers.iter().all(|answer| answer.contains("NotFound")), "{answers:#?}");
    assert_eq!(picture(&mut server.client).await, before);
    // The ledger tells of the calls, and of nothing that they did.
    server.running.stop().await.unwrap();
    let from = u64::try_from(ledger.ledger_position).unwrap() + 1;
    let records = read::records(&home.state().join("ledger"), Some(from)).unwrap();
    let facts: Vec<Fact> = records.map(|record| record.unwrap().fact).collect();
    let is_told = |fact: &Fact| matches!(fact, Fact::CallNoted(_) | Fact::CallsCounted(_));
    let others: Vec<_> = facts.iter().filter(|fact| !is_told(fact)).collect();
    assert!(matches!(others[..], [Fact::NodeStopped]), "{others:?}");
    let counted = facts.iter().map(|fact| match fact {
        Fact::CallNoted(call) => u64::from(call.reason.is_some()),
        Fact::CallsCounted(calls) if calls.reason.is_some() => calls.count,
        _ => 0,
    });
    assert_eq!(counted.sum::<u64>(), FOREIGN_CALLS as u64, "each refusal is counted");
}

/// A call of the kind, for a session that is not the caller's.
async fn call_on(client: &mut Client, kind: usize, session: &str, key: &v1::SelectedKey) -> Status {
    let owner_uid = (kind % 2 == 1).then_some(ONE);
    let stats = |view: v1::StatsView| v1::GetStatsRequest {
        session_id: session.into(),
        owner_uid,
        view: view.into(),
        ..Default::default()
    };
    match kind {
        0 | 1 => {
            let request = v1::ReleaseKeyRequest { owner_uid, ..release(session) };
            client.release_key(request).await.unwrap_err()
        }
        2 | 3 => {
            let key_id = key.key_id.clone();
            let request = v1::ReleaseKeyRequest { owner_uid, key_id, ..release(session) };
            client.release_key(request).await.unwrap_err()
        }
        // The owner's own event id, and a new one.
        4 => client.track_usage(report(session, key, "e0")).await.unwrap_err(),
        5 => client.track_usage(report(session, key, "e1")).await.unwrap_err(),
        6 => client.get_stats(stats(v1::StatsView::Sessions)).await.unwrap_err(),
        _ => client.get_stats(stats(v1::StatsView::Keys)).await.unwrap_err(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_uid_is_refused_and_another_uid_is_served() {
    if !is_root("a_flood_of_one_uid_is_refused_and_another_uid_is_served") {
        return;
    }
    let home = EmbeddedHome::new(CSV, &[("calls_per_second", "100")]).open_to_all(EVERYONE);
    let server = home.start().await;
    // The clock stands still: of 2,000 calls of a uid a hundred pass.
    let flood: Vec<_> = (0..20)
        .map(|number| {
            let socket = home.socket();
            spawn(async move {
                let mut client = connect_as(ONE, &socket).await;
                let mut passed = 0;
                for call in 0..100 {
                    let answer = match call % 2 {
                        0 => client.health(v1::HealthRequest {}).await.map(drop),
                        _ => client
                            .select_keys_for_session(select(&format!("f{number}"), &[OPENAI], 1))
                            .await
                            .map(drop),
                    };
                    match answer {
                        Ok(()) => passed += 1,
                        Err(error) => {
                            let limited = (Code::ResourceExhausted, "RATE_LIMITED".to_owned());
                            assert_eq!(reason(&error), limited);
                            assert!(retry_after(&error) > Duration::ZERO);
                        }
                    }
                }
                passed
            })
        })
        .collect();
    let mut other = connect_as(OTHER, &home.socket()).await;
    for call in 0..99 {
        selected(&mut other, select(&format!("o{call}"), &[OPENAI], 1)).await;
    }
    let mut passed = 0;
    for one in flood {
        passed += one.await.unwrap();
    }
    assert_eq!(passed, 100);
    home.clock.pass(Duration::from_secs(1));
    let mut first = connect_as(ONE, &home.socket()).await;
    selected(&mut first, select("again", &[OPENAI], 1)).await;
    server.running.stop().await.unwrap();
}
