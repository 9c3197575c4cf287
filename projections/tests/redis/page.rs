//! `docs/redis.md` and what stands in Redis say the same; and how much room it
//! takes.

use std::collections::BTreeSet;
use std::time::Duration;

use key_server_core::{Changes, PoolStats, Usage};
use key_server_projections::Fleet;
use serde_json::Value;

use crate::fixture::{
    Node, hash, hold, key, key_id, model, next_rows, server, session, session_ref, wait,
};

const PAGE: &str = include_str!("../../../docs/redis.md");

/// The first column of the table under a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let section = PAGE.split_once(&format!("\n## {heading}\n"));
    let section = section.unwrap_or_else(|| panic!("the page has a section {heading}")).1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned()).collect()
}

/// What the table of keys says that there are at most of one.
fn bound(name: &str) -> String {
    let row = PAGE.lines().find(|line| line.starts_with(&format!("| `{name}`")));
    let bound = row.and_then(|row| row.split(" | ").nth(3));
    bound.unwrap_or_else(|| panic!("the page has a bound of {name}")).to_owned()
}

/// The names that stand in the place of what differs.
fn general(name: &str) -> String {
    let name = name.replace("{one}", "{<node>}").replace(&key_id(1).to_string(), "<key>");
    name.replace("openai/gpt-4o", "<provider>/<model>")
}

fn members(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

pub(crate) fn every_key_and_field_is_on_the_page_and_nothing_else_is() {
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    let mut status = one.status();
    let pool = PoolStats { model: model(), usable: 1, cooling: 0, at_cap: 0 };
    status.pools = Some(vec![pool]);
    wait(one.fleet.announce(&status)).unwrap();
    let mut listen = one.listen("one");
    one.write(1, &everything(&one));
    next_rows(&mut listen);
    let until = Some(one.now().after(Duration::from_secs(60)));
    let hold = hold(key_id(1), session_ref(1), until);
    wait(one.fleet.hold(&[hold])).unwrap();
    let names: Vec<String> = server.ask(&["KEYS", "*"]).unwrap();
    let general: BTreeSet<String> = names.iter().map(|name| general(name)).collect();
    assert_eq!(general, documented("Keys"));
    for name in &names {
        let ms: i64 = server.ask(&["PTTL", name]).unwrap();
        assert!(ms > 0, "{name} does not expire");
    }
    wait(one.fleet.leave()).unwrap();
    let fields: BTreeSet<String> = hash(&server, "keys:node:{one}").into_keys().collect();
    assert_eq!(fields, documented("What a node says of itself"));
    assert_eq!(bound("keys:node:{<node>}"), format!("{} fields", fields.len()));
    let value = |name: &str, field: &str| -> Value {
        serde_json::from_str(&hash(&server, name)[field]).unwrap()
    };
    let key = value("keys:keys:{one}", &key_id(1).to_string());
    assert_eq!(members(&key), documented("A key"));
    let session = value("keys:sessions:{one}", "1000/session-of-tests-0001");
    let ended = value("keys:sessions:{one}", "1000/session-of-tests-0002");
    let of_sessions = bound("keys:sessions:{<node>}");
    for setting in ["`sessions_max`", "`ended_sessions_max`"] {
        assert!(of_sessions.contains(setting), "live and ended ones are there: {of_sessions}");
    }
    let fields: BTreeSet<String> = &members(&session) | &members(&ended);
    assert_eq!(fields, documented("A session"));
    assert_eq!(members(&session["spent"]["openai/gpt-4o"][key_id(1).to_string()]).len(), 5);
    let channels: BTreeSet<String> = server.ask(&["PUBSUB", "CHANNELS"]).unwrap();
    let channels = channels.into_iter().map(|name| name.replace(":one", ":<node>"));
    assert_eq!(channels.collect::<BTreeSet<_>>(), documented("Channels"));
}

/// Rows in which nothing is zero or empty.
fn everything(node: &Node) -> Changes {
    let now = node.now();
    let mut key = key(1, 5, now);
    let mut facts = (*key.facts).clone();
    facts.label = Some("team-a".into());
    key.facts = facts.into();
    key.retired = true;
    key.lifetime.failures = 1;
    key.lifetime.tokens.cached_input = 7;
    key.cooling = vec![(model(), now)];
    let mut session = session(1, &[1], now);
    (session.term, session.base) = (2, 1);
    session.allocations[0].usage = Usage { ..key.lifetime };
    let mut ended = session.clone();
    (ended.session, ended.ended) = (session_ref(2), true);
    ended.allocations[0].held = false;
    Changes { keys: vec![key], sessions: vec![session, ended], ..Changes::default() }
}

/// Figures of this test stand on the page.
pub(crate) fn a_hundred_thousand_keys_and_sessions_take_little_room() {
    const COUNT: u32 = 100_000;
    let server = server();
    let mut one = Node::new(&server.url(), "one");
    let keys = (0..COUNT).map(|n| key(n, 12, one.now())).collect();
    let sessions = (0..COUNT).map(|n| session(n, &[n], one.now())).collect();
    one.write(1, &Changes { keys, sessions, ..Changes::default() });
    let bytes = |name: &str| -> u64 {
        let all: u64 = server.ask(&["MEMORY", "USAGE", name, "SAMPLES", "0"]).unwrap();
        all / u64::from(COUNT)
    };
    let (key, session) = (bytes("keys:keys:{one}"), bytes("keys:sessions:{one}"));
    let info: String = server.ask(&["INFO", "memory"]).unwrap();
    let used = info.lines().find(|line| line.starts_with("used_memory:")).unwrap();
    assert!(key <= 300, "{key} bytes a key");
    assert!(session <= 400, "{session} bytes a session");
    tell(&format!("{key} bytes a key, {session} bytes a session, {used} for 100,000 of each"));
}

#[expect(clippy::print_stderr, reason = "a measurement says what it found")]
fn tell(text: &str) {
    eprintln!("{text}");
}
