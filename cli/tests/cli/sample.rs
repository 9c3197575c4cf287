//! A node's files with a short history.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use key_server_core::{
    Changes, Event, KeyFacts, KeyId, KeyRow, KeysReleased, KeysSelected, ModelName, Outcome,
    OwnWeight, Pick, SessionExpired, SessionRef, Tier, Time, Tokens, Usage, UsageRow, UsageTracked,
};
use key_server_ledger::{Caller, Durability, Entry, Fact, Ledger, Options};
use key_server_projections::{Mark, Projection, SqliteProjection};

use crate::KEYS;

fn key(place: usize) -> KeyId {
    KEYS[place].parse().unwrap()
}

fn model(name: &str) -> ModelName {
    name.parse().unwrap()
}

fn session(id: &str) -> SessionRef {
    SessionRef { owner: 1_000, id: id.into() }
}

fn facts(place: usize, models: &[&str], label: Option<&str>) -> Arc<KeyFacts> {
    Arc::new(KeyFacts {
        key: key(place),
        models: models.iter().map(|name| model(name)).collect(),
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: label.map(Arc::from),
        sources: vec!["csv@n_4kq2zv7m3c5xw6tb".into()],
    })
}

fn pick(place: usize, name: &str) -> Pick {
    let (key, model) = (key(place), model(name));
    let (tier, candidates, weight, total_weight) = (Tier::Unused, 2, 100, 150);
    Pick { model, key, tier, already_held: false, candidates, weight, total_weight }
}

fn usage(place: usize, name: &str, tokens: [u64; 3], outcome: Outcome) -> UsageTracked {
    let [input, output, cached_input] = tokens;
    UsageTracked {
        session: session("session_123"),
        user: 456,
        key: key(place),
        model: model(name),
        tokens: Tokens { input, output, cached_input },
        outcome,
        event_id: format!("call-{input}").into(),
        occurred: Time::from_ms(60_000),
        late: false,
        deadline: Some(Time::from_ms(3_660_000)),
        cooling_until: (outcome == Outcome::RateLimited).then(|| Time::from_ms(180_000)),
    }
}

fn history() -> Vec<Vec<Fact>> {
    let gpt = "openai/gpt-4o";
    let selected = KeysSelected {
        session: session("session_123"),
        user: 456,
        opened: true,
        deadline: Time::from_ms(3_600_000),
        seed: 7,
        picks: vec![pick(0, gpt), pick(1, gpt)],
    };
    let released = KeysReleased {
        session: session("session_123"),
        allocations: vec![(model(gpt), key(0)), (model(gpt), key(1))],
        deadline: None,
    };
    let other = KeysSelected {
        session: session("nightly"),
        user: 7,
        picks: vec![pick(0, gpt)],
        ..selected.clone()
    };
    vec![
        vec![Fact::NodeStarted { version: "0.1.0".into(), durability: Durability::Disk }],
        vec![
            Event::KeyAdded(facts(0, &[gpt, "openai/gpt-4o-mini"], Some("team-a"))).into(),
            Event::KeyAdded(facts(1, &[gpt], None)).into(),
        ],
        vec![Event::KeysSelected(selected).into()],
        vec![Event::UsageTracked(usage(0, gpt, [1_840, 221, 920], Outcome::Success)).into()],
        vec![Event::UsageTracked(usage(1, gpt, [12, 0, 0], Outcome::RateLimited)).into()],
        vec![Event::KeysReleased(released).into()],
        vec![Event::KeysSelected(other).into()],
        vec![Event::SessionExpired(SessionExpired { session: session("nightly") }).into()],
        vec![Event::KeyRetired { key: key(1) }.into()],
        vec![Fact::NodeStopped],
    ]
}

fn caller(fact: &Fact) -> Option<Arc<Caller>> {
    let exe = Some(Arc::from("/usr/bin/python3.11"));
    let of_application = match fact {
        Fact::Domain(Event::SessionExpired(_) | Event::KeyAdded(_) | Event::KeyRetired { .. }) => {
            false
        }
        Fact::Domain(_) => true,
        _ => false,
    };
    of_application
        .then(|| Arc::new(Caller { uid: 1_000, gid: 1_000, pid: 31_337, started_ms: None, exe }))
}

/// Writes the history to the ledger of `state_dir`, in segments of a few lines.
pub(crate) fn ledger(state_dir: &Path) {
    let options = Options { segment_bytes_max: 1_500, ..Options::default() };
    let dir = state_dir.join("ledger");
    let (ledger, _) = Ledger::open(&dir, "n_4kq2zv7m3c5xw6tb", &options, None, |_, _| {}).unwrap();
    for (second, facts) in history().into_iter().enumerate() {
        append(&ledger, second as u64, facts);
    }
    ledger.close().unwrap();
}

/// Writes the lines of one call, and waits for them.
pub(crate) fn append(ledger: &Ledger, second: u64, facts: Vec<Fact>) {
    let entries = facts.into_iter().map(|fact| Entry { caller: caller(&fact), fact });
    let pending = ledger.append(Time::from_ms(60_000 + second * 1_000), entries.collect());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(pending).unwrap();
}

/// Flips one letter in the line with sequence number 5.
pub(crate) fn damage(state_dir: &Path) {
    for entry in fs::read_dir(state_dir.join("ledger")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let bad = |line: &str| match line.contains("\"seq\":5,") {
            true => line.replace("call-1840", "call-9840"),
            false => line.to_owned(),
        };
        let text: Vec<_> = text.split('\n').map(bad).collect();
        fs::write(&path, text.join("\n")).unwrap();
    }
}

/// Writes what was spent within the last minute to the database of `state_dir`.
#[expect(clippy::disallowed_methods, reason = "usage is shown up to now")]
pub(crate) fn database(state_dir: &Path) {
    let at = Time::from_ms(jiff::Timestamp::now().as_millisecond().unsigned_abs());
    let row = |place: usize, name: &str, user, id: &str, input, outcome| UsageRow {
        at,
        session: session(id),
        user,
        key: key(place),
        model: model(name),
        tokens: Tokens { input, output: input / 10, cached_input: input / 4 },
        outcome,
        late: false,
    };
    let (gpt, mini) = ("openai/gpt-4o", "openai/gpt-4o-mini");
    let changes = Changes {
        keys: vec![
            key_row(facts(0, &[gpt, mini], Some("team-a"))),
            key_row(facts(1, &[gpt], None)),
        ],
        usage: vec![
            row(0, gpt, 456, "session_123", 5_310_277, Outcome::Success),
            row(1, gpt, 456, "session_123", 88_120, Outcome::RateLimited),
            row(0, mini, 7, "nightly", 1_200, Outcome::Success),
            row(0, mini, -1, "odd", 3, Outcome::ProviderError),
        ],
        ..Changes::default()
    };
    let mark = Mark { seq: 12, at, resume: String::new() };
    let mut projection = SqliteProjection::open(&state_dir.join("state.sqlite")).unwrap();
    projection.write(&mark, &changes).unwrap();
}

fn key_row(facts: Arc<KeyFacts>) -> KeyRow {
    KeyRow {
        facts,
        retired: false,
        lifetime: Usage::default(),
        last_used: None,
        window: Vec::new(),
        cooling: Vec::new(),
    }
}
