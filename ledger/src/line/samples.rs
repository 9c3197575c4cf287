//! One entry of each kind, as `docs/audit.md` shows them.

use std::sync::Arc;

use key_server_core::{
    Event, KeyFacts, KeyId, KeysReleased, KeysSelected, ModelName, MovedAllocation, Outcome,
    OwnWeight, Pick, SessionExpired, SessionMovedIn, SessionMovedOut, SessionRef, Tier, Time,
    Tokens, Usage, UsageTracked,
};

use crate::chain::line_hash;
use crate::record::{
    CallNoted, Caller, CallsCounted, Durability, Entry, Fact, RemovalReason, SegmentRemoved,
};

/// Milliseconds of the first sample, on the timeline and the wall clock.
pub(super) const FIRST_MS: u64 = 1_767_225_600_000;

fn key(number: u8) -> KeyId {
    KeyId::from_digest(&line_hash(&[number]))
}

fn model(name: &str) -> ModelName {
    name.parse().expect("the samples name valid models")
}

fn time(seconds: u64) -> Time {
    Time::from_ms(FIRST_MS + seconds * 1_000)
}

fn session() -> SessionRef {
    SessionRef { owner: 1_000, id: "session_123".into() }
}

fn facts() -> KeyFacts {
    KeyFacts {
        key: key(1),
        models: vec![model("openai/gpt-4o"), model("openai/gpt-4o-mini")],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["csv@n_7f3a".into()],
    }
}

fn changed_facts() -> KeyFacts {
    KeyFacts {
        max_holders: std::num::NonZeroU32::new(8),
        label: Some("team \"blue\"".into()),
        sources: vec!["cli".into(), "csv@n_7f3a".into()],
        ..facts()
    }
}

fn pick(name: &str, number: u8, weight: u64) -> Pick {
    Pick {
        model: model(name),
        key: key(number),
        tier: Tier::Unused,
        already_held: false,
        candidates: 3,
        weight,
        total_weight: 270_000,
    }
}

fn selected() -> KeysSelected {
    KeysSelected {
        session: session(),
        user: 456,
        opened: true,
        deadline: time(3_603),
        seed: 0x9e37_79b9_7f4a_7c15,
        picks: vec![
            pick("openai/gpt-4o", 1, 100_000),
            pick("anthropic/claude-3-7-sonnet-20250219", 2, 100_000),
        ],
    }
}

fn tracked() -> UsageTracked {
    UsageTracked {
        session: session(),
        user: 456,
        key: key(1),
        model: model("openai/gpt-4o"),
        tokens: Tokens { input: 812, output: 164, cached_input: 512 },
        outcome: Outcome::RateLimited,
        event_id: "3f1c9a52".into(),
        occurred: time(4),
        late: false,
        deadline: Some(time(3_604)),
        cooling_until: Some(time(64)),
    }
}

fn released() -> KeysReleased {
    let allocations = vec![(model("openai/gpt-4o"), key(1))];
    KeysReleased { session: session(), allocations, deadline: None }
}

fn moved_in() -> SessionMovedIn {
    let tokens = Tokens { input: 90, output: 10, cached_input: 0 };
    SessionMovedIn {
        session: SessionRef { owner: 1_000, id: "session_124".into() },
        user: 456,
        opened: time(1),
        deadline: time(3_601),
        from: "n_9c2b".into(),
        term: 2,
        base: 1,
        allocations: vec![MovedAllocation {
            model: model("openai/gpt-4o"),
            key: key(1),
            usage: Usage { requests: 1, failures: 0, tokens },
        }],
    }
}

fn moved_out() -> SessionMovedOut {
    let SessionMovedIn { session, from, .. } = moved_in();
    SessionMovedOut { session, to: from, term: 3 }
}

fn refused() -> CallNoted {
    CallNoted {
        verb: "GetStats".into(),
        reason: Some("KEY_NOT_FOUND".into()),
        session: Some(session()),
        model: None,
        key: None,
    }
}

fn counted() -> CallsCounted {
    CallsCounted {
        verb: "ReleaseKey".into(),
        reason: Some("SESSION_NOT_FOUND".into()),
        uid: Some(1_000),
        count: 48_211,
        since: time(11),
    }
}

fn removed() -> SegmentRemoved {
    SegmentRemoved {
        first_seq: 1,
        last_seq: 3,
        first_hash: line_hash(b"the first line"),
        last_hash: line_hash(b"the last line"),
        bytes: 1_048,
        why: RemovalReason::Age,
    }
}

/// Each kind of entry, in an order in which they could happen.
pub(super) fn entries() -> Vec<Entry> {
    let caller = Caller {
        uid: 1_000,
        gid: 1_000,
        pid: 4_242,
        started_ms: Some(FIRST_MS - 60_000),
        exe: Some("/usr/bin/python3.12".into()),
    };
    let caller = Some(Arc::new(caller));
    let of_caller = |event: Event| Entry { caller: caller.clone(), fact: event.into() };
    let noted = |call: CallNoted| Entry { caller: caller.clone(), fact: Fact::CallNoted(call) };
    let durability = Durability::Disk;
    let error = "/var/lib/key-server/ledger/00000000000000000001.jsonl: No space left on device (os error 28)".into();
    let expired = SessionExpired { session: SessionRef { owner: 1_000, id: "session_122".into() } };
    vec![
        Entry::of_node(Fact::NodeStarted { version: "0.1.0".into(), durability }),
        Entry::of_node(Event::KeyAdded(facts().into())),
        Entry::of_node(Event::KeyChanged(changed_facts().into())),
        of_caller(Event::KeysSelected(selected())),
        of_caller(Event::UsageTracked(tracked())),
        of_caller(Event::KeysReleased(released())),
        Entry::of_node(Event::SessionExpired(expired)),
        of_caller(Event::SessionMovedIn(moved_in())),
        Entry::of_node(Event::SessionMovedOut(moved_out())),
        Entry::of_node(Event::KeyRetired { key: key(1) }),
        Entry::of_node(Fact::LedgerResumed { refused_count: 17, since: time(8), error }),
        Entry::of_node(Fact::RulesSet { rules: Box::default(), shares: false }),
        noted(refused()),
        Entry::of_node(Fact::CallsCounted(counted())),
        noted(CallNoted { reason: None, ..refused() }),
        Entry::of_node(Fact::CallsCounted(CallsCounted {
            verb: "GetStats".into(),
            reason: None,
            ..counted()
        })),
        Entry::of_node(Fact::SegmentRemoved(removed())),
        Entry::of_node(Fact::NodeStopped),
    ]
}
