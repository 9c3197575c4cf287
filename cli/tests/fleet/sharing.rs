//! What one node does, the others know: sessions, usage, cooldowns, ends.

use key_server_proto::v1;
use key_server_testkit::redis::RedisServer;
use key_server_testkit::suite::Test;
use key_server_testkit::tests;

use crate::nodes::{Node, run, two_nodes, wait};
use crate::support::{ANTHROPIC, OPENAI, key_ids, release, report, select, selected, until};

pub(crate) const TESTS: &[Test] = &tests![a_session_goes_on_at_another_node_and_ends_there,];

/// Waits until a node shows a session as living at the node `home`.
async fn shows(node: &mut Node, session: &str, home: &str) {
    until("the other node knows the session", async || {
        let picture = node.picture().await;
        let mut sessions = picture.sessions.iter();
        let found = sessions.any(|one| one.session_id == session && one.node_id == home);
        found.then_some(())
    })
    .await;
}

fn a_session_goes_on_at_another_node_and_ends_there() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let [mut a, mut b] = two_nodes(&redis).await;
        let taken = selected(&mut a.client, select("s1", &[OPENAI], 2)).await;
        shows(&mut b, "s1", &a.id()).await;
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
