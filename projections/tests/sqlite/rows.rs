//! Rows that tests are made of.

use std::path::PathBuf;
use std::sync::Arc;

use key_server_core::{
    AllocationRow, Changes, KeyFacts, KeyId, KeyRow, ModelName, Outcome, OwnWeight, Receipt,
    ReceiptRow, SessionRef, SessionRow, Time, Tokens, Usage, UsageRow,
};
use key_server_projections::{Mark, SqliteProjection};
use tempfile::TempDir;

pub(crate) const HOUR_MS: u64 = 3_600_000;
/// Early in hour 490,000 of the timeline.
pub(crate) const NOW: Time = Time::from_ms(490_000 * HOUR_MS + 90_000);

/// A directory with room for one state file; in memory where there is any, for
/// these tests wait for a disk thousands of times and look at none.
pub(crate) fn place() -> (TempDir, PathBuf) {
    let memory = tempfile::tempdir_in("/dev/shm");
    let directory = memory.or_else(|_| tempfile::tempdir()).unwrap();
    let path = directory.path().join("state.sqlite");
    (directory, path)
}

pub(crate) fn opened() -> (TempDir, PathBuf, SqliteProjection) {
    let (directory, path) = place();
    let projection = SqliteProjection::open(&path).unwrap();
    (directory, path, projection)
}

pub(crate) fn mark(seq: u64) -> Mark {
    Mark { seq, at: NOW, resume: format!("segment 1, byte {seq}") }
}

pub(crate) fn key_id(n: u8) -> KeyId {
    KeyId::from_digest(&[n; 32])
}

pub(crate) fn model(name: &str) -> ModelName {
    name.parse().unwrap()
}

pub(crate) fn key(n: u8, requests: u64) -> KeyRow {
    let facts = KeyFacts {
        key: key_id(n),
        models: vec![model("openai/gpt-4o"), model("openai/o1")],
        own_weight: OwnWeight::from_thousandths(1_500).unwrap(),
        max_holders: std::num::NonZeroU32::new(9),
        label: Some(format!("team {n}").into()),
        sources: vec!["cli".into(), "csv@node-1".into()],
    };
    KeyRow {
        facts: Arc::new(facts),
        retired: false,
        lifetime: usage(requests),
        last_used: Some(NOW),
        window: vec![((NOW.as_ms() / 60_000) as u32 - 3, 700)],
        cooling: vec![(model("openai/o1"), Time::from_ms(NOW.as_ms() + 5_000))],
    }
}

pub(crate) fn usage(requests: u64) -> Usage {
    let tokens = Tokens { input: 10 * requests, output: requests, cached_input: 0 };
    Usage { requests, failures: 0, tokens }
}

pub(crate) fn name(id: &str) -> SessionRef {
    SessionRef { owner: 1_000, id: id.into() }
}

pub(crate) fn session(id: &str, keys: &[u8]) -> SessionRow {
    let allocation = |n: &u8| AllocationRow {
        key: key_id(*n),
        model: model("openai/gpt-4o"),
        held: true,
        usage: usage(2),
    };
    SessionRow {
        session: name(id),
        user: 456,
        opened: NOW,
        end: Time::from_ms(NOW.as_ms() + HOUR_MS),
        ended: false,
        term: 0,
        base: 0,
        allocations: keys.iter().map(allocation).collect(),
    }
}

pub(crate) fn report(id: &str, key: u8, input: u64) -> UsageRow {
    UsageRow {
        at: NOW,
        session: name(id),
        user: 456,
        key: key_id(key),
        model: model("openai/gpt-4o"),
        tokens: Tokens { input, output: 1, cached_input: 0 },
        outcome: Outcome::Success,
        late: false,
    }
}

pub(crate) fn receipt(n: u128) -> ReceiptRow {
    ReceiptRow { hour: 490_000, receipt: Receipt::from_bits(n << 40) }
}

/// A batch with something in each table.
pub(crate) fn batch(n: u64) -> Changes {
    let id = format!("session_{n}");
    Changes {
        keys: vec![key(1, n), key(2, n)],
        sessions: vec![session(&id, &[1, 2]), session("session_0", &[2])],
        usage: vec![report(&id, 1, 100), report("session_0", 2, 7)],
        receipts: vec![receipt(u128::from(n))],
        oldest_receipt_hour: 490_000 - 24,
        forgotten: Vec::new(),
    }
}
