use std::sync::Arc;

use key_server_core::{Event, Time};

/// Who made a call: the kernel's word about the peer, as of the moment its
/// connection was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process.
    pub pid: u32,
    /// When that process began, in ms since 1970, UTC: with it, a pid means one
    /// process. Absent when the process was gone before it could be asked.
    pub started_ms: Option<u64>,
    /// The path of its executable; absent when it could not be read or the
    /// process was gone.
    pub exe: Option<Arc<str>>,
}

/// What a reply waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On the disk (fdatasync): survives a power cut.
    #[default]
    Disk,
    /// In the kernel, and on the disk within 100 ms: survives a kill.
    Process,
}

impl Durability {
    /// `disk` or `process`, as settings and lines write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Process => "process",
        }
    }
}

/// What a line tells: an event of the rules, or one of the ledger itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// Something the rules decided.
    Domain(Event),
    /// A server began to work on this ledger.
    NodeStarted {
        /// Of the program.
        version: Arc<str>,
        /// The setting in force.
        durability: Durability,
    },
    /// A server ended in good order.
    NodeStopped,
    /// The ledger could be written again after a failure.
    LedgerResumed {
        /// How many appends were refused or failed meanwhile.
        refused_count: u64,
        /// When the failure was noticed.
        since: Time,
        /// What had failed.
        error: Arc<str>,
    },
}

impl From<Event> for Fact {
    fn from(event: Event) -> Self {
        Self::Domain(event)
    }
}

/// One line to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Who caused it; absent when the node did so itself.
    pub caller: Option<Arc<Caller>>,
    /// What happened.
    pub fact: Fact,
}

impl Entry {
    /// An entry that no caller caused.
    pub fn of_node(fact: impl Into<Fact>) -> Self {
        Self { caller: None, fact: fact.into() }
    }

    /// Roughly the bytes of its line, without escapes; cheap.
    pub(crate) fn bytes_estimate(&self) -> usize {
        let exe = self.caller.as_ref().and_then(|caller| caller.exe.as_ref());
        LINE_FRAME_BYTES + exe.map_or(0, |exe| exe.len()) + fact_bytes_estimate(&self.fact)
    }
}

/// Version, sequence, times, node, hashes and numbers of a line, generously.
const LINE_FRAME_BYTES: usize = 512;
/// One pick without its model's name.
const PICK_BYTES: usize = 192;
/// A key of a session that moved, with what was spent.
const MOVED_BYTES: usize = 192;

fn fact_bytes_estimate(fact: &Fact) -> usize {
    match fact {
        Fact::Domain(event) => event_bytes_estimate(event),
        Fact::NodeStarted { version, .. } => version.len(),
        Fact::NodeStopped => 0,
        Fact::LedgerResumed { error, .. } => error.len(),
    }
}

fn event_bytes_estimate(event: &Event) -> usize {
    match event {
        Event::KeyAdded(facts) | Event::KeyChanged(facts) => {
            let models = facts.models.iter().map(|model| model.as_str().len() + 3);
            let sources = facts.sources.iter().map(|source| source.len() + 3);
            let label = facts.label.as_ref().map_or(0, |label| label.len());
            models.sum::<usize>() + sources.sum::<usize>() + label
        }
        Event::KeyRetired { .. } => 0,
        Event::KeysSelected(selected) => {
            let picks = selected.picks.iter();
            let picks = picks.map(|pick| PICK_BYTES + pick.model.as_str().len());
            selected.session.id.len() + picks.sum::<usize>()
        }
        Event::UsageTracked(usage) => {
            usage.session.id.len() + usage.model.as_str().len() + usage.event_id.len()
        }
        Event::KeysReleased(released) => {
            let keys = released.allocations.iter();
            let keys = keys.map(|(model, _)| PICK_BYTES + model.as_str().len());
            released.session.id.len() + keys.sum::<usize>()
        }
        Event::SessionExpired(expired) => expired.session.id.len(),
        Event::SessionMovedIn(moved) => {
            let keys = moved.allocations.iter();
            let keys = keys.map(|one| MOVED_BYTES + one.model.as_str().len());
            moved.session.id.len() + moved.from.len() + keys.sum::<usize>()
        }
        Event::SessionMovedOut(moved) => moved.session.id.len() + moved.to.len(),
    }
}

/// One line as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number: from 1, without gaps.
    pub seq: u64,
    /// When it happened, on the node's timeline; never before the line above.
    pub at: Time,
    /// The wall clock when it was written, in milliseconds since 1970, UTC; for
    /// display only: it may go back.
    pub wall_ms: u64,
    /// The node that wrote it.
    pub node: Arc<str>,
    /// Who caused it; absent when the node did so itself.
    pub caller: Option<Arc<Caller>>,
    /// What happened.
    pub fact: Fact,
    /// How many of the lines that follow belong to the same call.
    pub more: u64,
}

/// A place between two lines: everything up to it is known.
///
/// It names the last line before it; a reader that goes on from here knows by
/// the hash that it reads the same history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last line's sequence number; 0 before the first line.
    pub seq: u64,
    /// SHA-256 of that line without its newline; zeros before the first line.
    pub hash: [u8; 32],
    /// The segment that holds that line, by the number of its first line.
    pub segment: u64,
    /// Where the line after it begins, or would: bytes from the segment's start.
    pub offset: u64,
}

impl Position {
    /// Before the first line of all.
    pub const START: Self = Self { seq: 0, hash: [0; 32], segment: 1, offset: 0 };
}

impl Default for Position {
    fn default() -> Self {
        Self::START
    }
}
