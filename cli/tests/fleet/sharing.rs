//! What one node does, the others know: sessions, usage, cooldowns, ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use key_server_proto::v1;
use key_server_testkit::client::connect_as;
use key_server_testkit::redis::RedisServer;
use key_server_testkit::requests::EVERYONE;
use key_server_testkit::suite::Test;
use key_server_testkit::tests;
use tonic::Code;

use crate::nodes::{Node, home_at, run, two_nodes, wait};
use crate::support::{
    ANTHROPIC, CSV, DEEPSEEK, OPENAI, health, is_root, key_ids, ledger_text, reason, records,
    release, report, select, selected, skip, until,
};

pub(crate) const TESTS: &[Test] = &tests![
    a_session_goes_on_at_another_node_and_ends_there,
    a_session_that_moved_is_not_forgotten_where_it_was,
    to_another_uid_a_session_does_not_exist_at_any_node,
    a_session_expires_once_in_all_ledgers,
    every_node_shows_the_sums_of_all_ledgers_and_each_part,
    a_key_that_cools_at_one_node_cools_at_the_other,
    a_killed_node_is_missed_for_a_day_or_until_an_operator_forgets_it,
    a_report_is_repeated_and_comes_late_where_the_session_was,
];

const NOBODY: u32 = 65_534;
const STRANGER: u32 = 65_533;

/// Waits until a node shows a session of this owner as living at `home`.
async fn shows(node: &mut Node, session: &str, owner: u32, home: &str) -> v1::SessionStats {
    until("the other node knows the session", async || {
        let picture = node.picture().await;
        let found = picture.session(owner, session).cloned();
        found.filter(|found| found.node_id == home && found.ended_at.is_none())
    })
    .await
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn a_session_goes_on_at_another_node_and_ends_there() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let [mut a, mut b] = two_nodes(&redis).await;
        let taken = selected(&mut a.client, select("s1", &[OPENAI], 2)).await;
        shows(&mut b, "s1", own_uid(), &a.id()).await;
        let holders = |picture: &key_server_testkit::picture::Picture, id: &str| {
            picture.keys.iter().find(|key| key.key_id == id).unwrap().holders
        };
        let picture = b.picture().await;
        assert!(taken.iter().all(|key| holders(&picture, &key.key_id) == 1));
        let again = selected(&mut b.client, select("s1", &[OPENAI], 2)).await;
        assert_eq!(key_ids(&again), key_ids(&taken));
        assert!(again.iter().all(|key| key.already_held));
        let more = selected(&mut b.client, select("s1", &[ANTHROPIC], 1)).await;
        b.client.track_usage(report("s1", &taken[0], "e1")).await.unwrap();
        b.client.track_usage(report("s1", &more[0], "e2")).await.unwrap();
        let released = b.client.release_key(release("s1")).await.unwrap().into_inner();
        assert_eq!(released.released, 3);
        until("nobody holds anything any more", async || {
            let picture = a.picture().await;
            let is_over = picture.totals.sessions_live == 0
                && picture.keys.iter().all(|key| key.holders == 0);
            let usage = picture.totals.lifetime.unwrap();
            (is_over && usage.requests == 2).then_some(())
        })
        .await;
    });
}

fn a_session_that_moved_is_not_forgotten_where_it_was() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let [mut a, mut b] = two_nodes(&redis).await;
        let taken = selected(&mut a.client, select("s1", &[OPENAI], 1)).await;
        shows(&mut b, "s1", own_uid(), &a.id()).await;
        selected(&mut b.client, select("s1", &[OPENAI], 1)).await;
        shows(&mut a, "s1", own_uid(), &b.id()).await;
        for event in 1..=3 {
            b.client.track_usage(report("s1", &taken[0], &format!("e{event}"))).await.unwrap();
            until("the old node hears of the usage", async || {
                let requests = a.picture().await.totals.lifetime.unwrap().requests;
                (requests == event).then_some(())
            })
            .await;
            let there = shows(&mut a, "s1", own_uid(), &b.id()).await;
            assert!(there.allocations.iter().all(|one| one.held), "{there:?}");
        }
        let back = selected(&mut a.client, select("s1", &[OPENAI], 1)).await;
        assert!(back[0].already_held);
        shows(&mut b, "s1", own_uid(), &a.id()).await;
    });
}

fn to_another_uid_a_session_does_not_exist_at_any_node() {
    if !is_root() {
        return skip(
            "to_another_uid_a_session_does_not_exist_at_any_node",
            "only root can call as somebody else",
        );
    }
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let open = async || {
            let home = home_at(&redis, CSV)
                .with("KEY_SERVER_SOCKET_MODE", "0666")
                .with_policy(EVERYONE)
                .unwrap();
            fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
            Node::start(home).await
        };
        let (a, mut b) = (open().await, open().await);
        let mut at_a = connect_as(NOBODY, &a.home.socket()).await;
        let taken = selected(&mut at_a, select("same", &[OPENAI], 2)).await;
        shows(&mut b, "same", NOBODY, &a.id()).await;
        let mut stranger = connect_as(STRANGER, &b.home.socket()).await;
        let theirs = report("same", &taken[0], "e1");
        for error in [
            stranger.track_usage(theirs.clone()).await.unwrap_err(),
            stranger.release_key(release("same")).await.unwrap_err(),
        ] {
            assert_eq!(reason(&error), (Code::NotFound, "SESSION_NOT_FOUND".into()));
        }
        let own = selected(&mut stranger, select("same", &[OPENAI], 4)).await;
        assert!(own.iter().all(|key| !key.already_held), "a session of the stranger's own");
        let mut at_b = connect_as(NOBODY, &b.home.socket()).await;
        let again = selected(&mut at_b, select("same", &[OPENAI], 2)).await;
        assert_eq!(key_ids(&again), key_ids(&taken));
        at_b.track_usage(theirs).await.unwrap();
        assert_eq!(at_b.release_key(release("same")).await.unwrap().into_inner().released, 2);
    });
}

fn a_session_expires_once_in_all_ledgers() {
    run(async {
        const SESSIONS: usize = 20;
        let redis = wait(|| RedisServer::start(&[]));
        let start =
            async || Node::start(home_at(&redis, CSV).with("KEY_SERVER_SESSION_TTL", "4s")).await;
        let (mut a, mut b) = (start().await, start().await);
        let names: Vec<String> = (0..SESSIONS).map(|number| format!("s{number}")).collect();
        for name in &names {
            selected(&mut a.client, select(name, &[OPENAI], 1)).await;
        }
        shows(&mut b, &names[SESSIONS - 1], own_uid(), &a.id()).await;
        for name in &names[..SESSIONS / 2] {
            assert!(selected(&mut b.client, select(name, &[OPENAI], 1)).await[0].already_held);
        }
        until("all have expired", async || (expired([&a, &b]).len() == SESSIONS).then_some(()))
            .await;
        for node in [&mut a, &mut b] {
            until("nothing is held", async || {
                let picture = node.picture().await;
                let is_held = picture.keys.iter().any(|key| key.holders > 0);
                (picture.totals.sessions_live == 0 && !is_held).then_some(())
            })
            .await;
        }
        let expired = expired([&a, &b]);
        assert!(expired.values().all(|count| *count == 1), "{expired:?}");
    });
}

/// How often each session expired, in the ledgers of these nodes.
fn expired(nodes: [&Node; 2]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for node in nodes {
        let text = ledger_text(&node.home);
        // The last line may be half written.
        let records = text.lines().flat_map(serde_json::from_str::<serde_json::Value>);
        for record in records.filter(|record| record["event"] == "session.expired") {
            let session = record["session"].as_str().unwrap().to_owned();
            *count.entry(session).or_default() += 1;
        }
    }
    count
}

fn every_node_shows_the_sums_of_all_ledgers_and_each_part() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let [mut a, mut b] = two_nodes(&redis).await;
        for (place, node) in [&mut a, &mut b].into_iter().enumerate() {
            for number in 0..4 + place {
                let session = format!("{place}-{number}");
                let keys = selected(&mut node.client, select(&session, &[OPENAI], 2)).await;
                for key in &keys {
                    let event = format!("e-{}", key.key_id);
                    node.client.track_usage(report(&session, key, &event)).await.unwrap();
                }
            }
        }
        let parts: BTreeMap<String, i64> =
            [(a.id(), tokens_in_ledger(&a)), (b.id(), tokens_in_ledger(&b))].into();
        assert_eq!(parts.values().copied().collect::<BTreeSet<_>>(), [8 * 120, 10 * 120].into());
        for node in [&mut a, &mut b] {
            until("the node shows the sums of both ledgers", async || {
                let request = v1::GetStatsRequest { by_node: true, ..Default::default() };
                let stats = node.client.get_stats(request).await.unwrap().into_inner();
                (are_sums(&stats, &parts)).then_some(())
            })
            .await;
        }
    });
}

/// Whether totals and keys are the sums of these parts, and say so.
fn are_sums(stats: &v1::GetStatsResponse, parts: &BTreeMap<String, i64>) -> bool {
    let totals = stats.totals.unwrap();
    let shown: BTreeMap<String, i64> =
        stats.nodes.iter().map(|node| (node.node_id.clone(), tokens(node.lifetime))).collect();
    let window: i64 = stats.nodes.iter().map(|node| node.window_tokens).sum();
    let of_keys = |node: &str| -> i64 {
        let parts = stats.keys.iter().flat_map(|key| &key.nodes);
        parts.filter(|part| part.node_id == node).map(|part| tokens(part.lifetime)).sum()
    };
    let sum: i64 = parts.values().sum();
    shown == *parts
        && tokens(totals.lifetime) == sum
        && (totals.window_tokens, window) == (sum, sum)
        && totals.sessions_live == 9
        && parts.iter().all(|(node, tokens)| of_keys(node) == *tokens)
        && stats.keys.iter().map(|key| tokens(key.lifetime)).sum::<i64>() == sum
}

fn tokens(usage: Option<v1::Usage>) -> i64 {
    usage.map_or(0, |usage| usage.input_tokens + usage.output_tokens)
}

fn tokens_in_ledger(node: &Node) -> i64 {
    let records = records(&node.home);
    let reports = records.iter().filter(|record| record["event"] == "usage.tracked");
    let count = |record: &serde_json::Value, name: &str| record[name].as_i64().unwrap();
    reports.map(|one| count(one, "input_tokens") + count(one, "output_tokens")).sum()
}

fn a_key_that_cools_at_one_node_cools_at_the_other() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let [mut a, mut b] = two_nodes(&redis).await;
        let key = selected(&mut a.client, select("s1", &[DEEPSEEK], 1)).await.remove(0);
        let limited = v1::TrackUsageRequest {
            outcome: v1::Outcome::RateLimited.into(),
            ..report("s1", &key, "e1")
        };
        a.client.track_usage(limited).await.unwrap();
        until("it cools at the other node, too", async || {
            let picture = b.picture().await;
            let key = picture.keys.iter().find(|one| one.key_id == key.key_id).unwrap().clone();
            (key.state() == v1::KeyState::Cooling).then_some(())
        })
        .await;
        for number in 0..20 {
            let request = select(&format!("other-{number}"), &[DEEPSEEK], 1);
            let reply = b.client.select_keys_for_session(request).await.unwrap().into_inner();
            assert!(!reply.success);
            assert_eq!(reply.shortages[0].reason(), v1::ShortageReason::AllCooling);
            assert!(reply.shortages[0].retry_after.is_some(), "{reply:?}");
        }
    });
}

fn a_killed_node_is_missed_for_a_day_or_until_an_operator_forgets_it() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let [mut a, mut b] = two_nodes(&redis).await;
        selected(&mut b.client, select("s1", &[OPENAI], 1)).await;
        shows(&mut a, "s1", own_uid(), &b.id()).await;
        b.kill();
        let name = format!("keys:node:{{{}}}", b.id());
        let command = format!("redis-cli del '{name}'");
        let is_said = async |a: &mut Node, expected: bool| {
            until("the other node says so, or does not", async || {
                let health = health(&mut a.client).await;
                let says = health.notes.iter().any(|note| note.contains(&command));
                let is_ok = health.status() == v1::HealthStatus::Ok;
                (health.nodes.len() == 1 && says == expected && is_ok != expected).then_some(())
            })
            .await;
        };
        is_said(&mut a, true).await;
        let heartbeat: u64 = redis.ask(&["HGET", &name, "heartbeat"]).unwrap();
        for (hours, expected) in [(25, false), (23, true)] {
            let earlier = (heartbeat - hours * 3_600_000).to_string();
            redis.ask::<()>(&["HSET", &name, "heartbeat", &earlier]).unwrap();
            is_said(&mut a, expected).await;
        }
        redis.ask::<()>(&["DEL", &name]).unwrap();
        until("it is forgotten", async || {
            let health = health(&mut a.client).await;
            let nodes: Vec<String> = redis.ask(&["SMEMBERS", "keys:nodes"]).unwrap();
            (health.nodes.is_empty() && health.notes.is_empty() && nodes == [a.id()]).then_some(())
        })
        .await;
        b.restart().await;
        shows(&mut a, "s1", own_uid(), &b.id()).await;
        is_said(&mut a, false).await;
    });
}

/// What docs/redis.md says that nodes do not share.
fn a_report_is_repeated_and_comes_late_where_the_session_was() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let [mut a, mut b] = two_nodes(&redis).await;
        let taken = selected(&mut a.client, select("s1", &[OPENAI], 1)).await;
        a.client.track_usage(report("s1", &taken[0], "e1")).await.unwrap();
        shows(&mut b, "s1", own_uid(), &a.id()).await;
        let more = selected(&mut b.client, select("s1", &[ANTHROPIC], 1)).await;
        shows(&mut a, "s1", own_uid(), &b.id()).await;
        a.client.track_usage(report("s1", &taken[0], "e1")).await.unwrap();
        assert_eq!(a.picture().await.totals.lifetime.unwrap().requests, 1, "it counts once");
        shows(&mut b, "s1", own_uid(), &a.id()).await;
        b.client.release_key(release("s1")).await.unwrap();
        for (place, key) in [&taken[0], &more[0]].into_iter().enumerate() {
            let late = report("s1", key, &format!("late-{place}"));
            assert!(b.client.track_usage(late).await.unwrap().into_inner().late);
        }
        selected(&mut a.client, select("s2", &[OPENAI], 1)).await;
        shows(&mut b, "s2", own_uid(), &a.id()).await;
        a.client.release_key(release("s2")).await.unwrap();
        until("the other node knows of the end", async || {
            (b.picture().await.totals.sessions_live == 0).then_some(())
        })
        .await;
        let late = report("s2", &taken[0], "late");
        let error = b.client.track_usage(late).await.unwrap_err();
        assert_eq!(reason(&error), (Code::NotFound, "SESSION_NOT_FOUND".into()));
    });
}
