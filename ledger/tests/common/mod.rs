//! What the tests of the ledger share: entries, and opening in one line.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use key_server_core::{Event, KeyId, KeysSelected, Pick, SessionRef, Tier, Time};
use key_server_ledger::{
    Caller, Entry, Fact, Ledger, OpenError, Opened, Options, Position, Record,
};

pub const NODE: &str = "n_test";

/// Keys given to the session called `session`.
pub fn selected(session: &str) -> Entry {
    let caller = Caller {
        uid: 7,
        gid: 8,
        pid: 9,
        started_ms: Some(10),
        exe: Some("/usr/bin/caller".into()),
    };
    let pick = Pick {
        model: "openai/gpt-4o".parse().expect("the model is valid"),
        key: KeyId::from_digest(&[3; 32]),
        tier: Tier::Light,
        already_held: false,
        candidates: 12,
        weight: 50_000,
        total_weight: 600_000,
    };
    let selected = KeysSelected {
        session: SessionRef { owner: 7, id: session.into() },
        user: 456,
        opened: true,
        deadline: Time::from_ms(3_600_000),
        seed: u64::MAX,
        picks: vec![pick],
    };
    let fact = Fact::Domain(Event::KeysSelected(selected));
    Entry { caller: Some(Arc::new(caller)), fact }
}

/// The session of an entry that [`selected`] made.
pub fn session(fact: &Fact) -> Option<&str> {
    match fact {
        Fact::Domain(Event::KeysSelected(selected)) => Some(&selected.session.id),
        _ => None,
    }
}

/// A directory in memory where there is one: a test that opens thousands of
/// ledgers need not wait for a disk each time.
pub fn memory_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a directory can be made")
}

/// Options with segments of about `bytes`.
pub fn segments_of(bytes: u64) -> Options {
    Options { segment_bytes_max: bytes, ..Options::default() }
}

/// An opened ledger, and the calls it read with the positions after them.
pub struct Open {
    pub ledger: Ledger,
    pub opened: Opened,
    pub calls: Vec<(Position, Vec<Record>)>,
}

impl Open {
    pub fn records(&self) -> Vec<&Record> {
        self.calls.iter().flat_map(|(_, records)| records).collect()
    }

    pub fn sessions(&self) -> Vec<&str> {
        self.records().into_iter().filter_map(|record| session(&record.fact)).collect()
    }
}

pub fn open(dir: &Path) -> Open {
    open_after(dir, None).expect("the ledger opens")
}

pub fn open_after(dir: &Path, from: Option<&Position>) -> Result<Open, OpenError> {
    open_with(dir, &Options::default(), from)
}

pub fn open_with(
    dir: &Path,
    options: &Options,
    from: Option<&Position>,
) -> Result<Open, OpenError> {
    let mut calls = Vec::new();
    let (ledger, opened) = Ledger::open(dir, NODE, options, from, |position, records| {
        calls.push((*position, records.to_vec()));
    })?;
    Ok(Open { ledger, opened, calls })
}

/// Appends one call with these sessions, and waits for it.
pub fn append(ledger: &Ledger, at: u64, sessions: &[&str]) -> Position {
    let entries = sessions.iter().map(|session| selected(session)).collect();
    ledger.append(Time::from_ms(at), entries).wait().expect("the append is durable")
}

/// A ledger with one call for each item, in segments of about `segment_bytes`.
pub fn ledger_of(dir: &Path, segment_bytes: u64, calls: &[&[&str]]) -> Vec<Position> {
    let open = open_with(dir, &segments_of(segment_bytes), None).expect("the ledger opens");
    let append = |(at, call): (u64, &&[&str])| append(&open.ledger, at, call);
    (1..).zip(calls).map(append).collect()
}

/// The segments of a ledger, in order.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the directory can be listed");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it has a name").path()).collect();
    paths.sort();
    paths
}

pub fn copy_dir(from: &Path, to: &Path) {
    for segment in segments(from) {
        let name = segment.file_name().expect("a segment has a name");
        std::fs::copy(&segment, to.join(name)).expect("the segment can be copied");
    }
}

/// The lines of a segment, without their newlines.
pub fn lines(segment: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(segment).expect("the segment is text");
    text.lines().map(str::to_owned).collect()
}

pub fn write_lines(segment: &Path, lines: &[String]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(segment, text).expect("the segment can be written");
}
