//! SIGKILL of a node under load, among others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use key_server_proto::v1;
use key_server_testkit::books::{Books, Call};
use key_server_testkit::picture::Picture;
use key_server_testkit::random::Random;
use key_server_testkit::redis::RedisServer;
use key_server_testkit::suite::Test;
use key_server_testkit::tests;

use crate::load::{Load, agree, books, history};
use crate::nodes::{Node, nodes, run, wait};
use crate::support::verify;

pub(crate) const TESTS: &[Test] = &tests![fifty_kills_of_a_node_lose_nothing_among_others];

const CLIENTS: usize = 8;
const KILLS: usize = 50;
/// A kill waits for so many answers at most.
const ANSWERS_MAX: usize = 60;
/// Sessions of the dead node that go on at the other one.
const MOVED_MAX: usize = 3;
const LOOKS_MAX: usize = 600;
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn fifty_kills_of_a_node_lose_nothing_among_others() {
    run(async {
        let redis = wait(|| RedisServer::start(&[]));
        let mut nodes = nodes(&redis, 2).await;
        let (mut books, mut random) = (books(CLIENTS), Random::new(5));
        for round in 0..KILLS {
            let load = Load::begin(books, &nodes, 0).await;
            load.answers(1 + random.below(ANSWERS_MAX)).await;
            nodes[0].kill();
            books = load.end().await;
            let moved = go_on_elsewhere(&mut books, &mut nodes[1]).await;
            nodes[0].restart().await;
            settle(&mut books, &mut nodes[0]).await;
            settle_down(&moved, &mut nodes).await;
            if round % 10 == 9 {
                agree(&mut nodes, &redis, &books).await;
            }
        }
        for node in &nodes {
            verify(&node.home);
        }
        let reported: usize = books.iter().map(|books| books.reported.len()).sum();
        assert!(reported > 100, "there was load");
    });
}

/// Makes the calls without an answer again, where they were made: another node
/// would not know that they were made before.
async fn settle(books: &mut [Books], node: &mut Node) {
    for books in books.iter_mut().step_by(2) {
        assert!(books.unanswered.is_none() || books.answer(&mut node.client, true).await);
    }
}

/// Uses some sessions of the dead node at the other one; which.
async fn go_on_elsewhere(books: &mut [Books], node: &mut Node) -> BTreeSet<String> {
    let picture = node.picture().await;
    let mut moved = BTreeSet::new();
    for books in books.iter_mut().step_by(2) {
        let known = books.sessions.iter().filter(|(id, _)| is_known(&picture, books, id));
        let known: Vec<String> = known.map(|(id, _)| id.clone()).take(MOVED_MAX).collect();
        for session in known {
            go_on(books, node, &session).await;
            moved.insert(session);
        }
    }
    moved
}

/// Whether the other node knows all that the session holds, and no call of it
/// is under way.
fn is_known(picture: &Picture, books: &Books, id: &str) -> bool {
    let session = &books.sessions[id];
    let is_under_way = books.unanswered.as_ref().is_some_and(|call| match call {
        Call::Select(request) => request.session_id == id,
        Call::Track(request) => request.session_id == id,
        Call::Release(request) => request.session_id == id,
    });
    let mut shown = picture.sessions.iter();
    let shown = shown.find(|one| one.session_id == id && one.ended_at.is_none());
    let shown = shown.map(|shown| {
        let held = shown.allocations.iter().filter(|allocation| allocation.held);
        let held = held.map(|one| {
            let spent = one.usage.unwrap_or_default();
            ((one.model.clone(), one.key_id.clone()), spent)
        });
        held.collect::<Vec<_>>()
    });
    let spent = |held: &(String, String)| session.spent.get(held).copied().unwrap_or_default();
    session.is_live
        && !session.held.is_empty()
        && !is_under_way
        && shown.is_some_and(|shown| {
            shown.len() == session.held.len()
                && shown.iter().all(|(held, usage)| {
                    session.held.contains(held) && (session.was_split || *usage == spent(held))
                })
        })
}

async fn go_on(books: &mut Books, node: &mut Node, session: &str) {
    let model = books.sessions[session].held.first().unwrap().0.clone();
    let call = Call::Select(v1::SelectKeysRequest {
        session_id: session.to_owned(),
        user_id: books.user(),
        models: vec![model],
        count_per_model: 1,
    });
    let before = books.unanswered.replace(call);
    assert!(books.answer(&mut node.client, false).await);
    books.unanswered = before;
}

/// Each session lives at one node, and both nodes say at which: where it went
/// on, or where it had been used just before the kill, which nobody was told.
async fn settle_down(moved: &BTreeSet<String>, nodes: &mut [Node]) {
    for _ in 0..LOOKS_MAX {
        if split(moved, nodes).await.is_empty() {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let split = split(moved, nodes).await;
    let said = split.iter().map(|id| history(id, nodes));
    assert!(split.is_empty(), "{}", said.collect::<String>());
}

/// Sessions of which the nodes do not say the same home.
async fn split(moved: &BTreeSet<String>, nodes: &mut [Node]) -> BTreeSet<String> {
    let mut homes = Vec::new();
    for node in nodes {
        homes.push(homes_of(&node.picture().await, &node.id()));
    }
    let is_settled = |id: &String| {
        let first = homes[0].get(id);
        first.is_some_and(|names| names.len() == 1)
            && homes.iter().all(|homes| homes.get(id) == first)
    };
    moved.iter().filter(|id| !is_settled(id)).cloned().collect()
}

/// Where each live session lives, as `own` has it.
fn homes_of(picture: &Picture, own: &str) -> BTreeMap<String, Vec<String>> {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for session in picture.sessions.iter().filter(|session| session.ended_at.is_none()) {
        let home = if session.node_id.is_empty() { own } else { &session.node_id };
        homes.entry(session.session_id.clone()).or_default().push(home.to_owned());
    }
    homes
}
