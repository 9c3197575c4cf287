use std::sync::Arc;

use key_server_core::{Event, KeyId, ModelName, Rules, SessionRef, Time};

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
    /// What the rules are about from now on.
    RulesSet {
        /// Every number.
        rules: Box<Rules>,
        /// Whether other nodes have a say in weights and caps; what they say
        /// is not in this ledger.
        shares: bool,
    },
    /// A call that changed nothing: it was refused, or only read.
    CallNoted(CallNoted),
    /// Such calls of which there were too many for a line each.
    CallsCounted(CallsCounted),
    /// A segment is removed from the front of the ledger, after this line.
    SegmentRemoved(SegmentRemoved),
}

/// A call that changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallNoted {
    /// As the contract calls it, as in `ReleaseKey`.
    pub verb: Arc<str>,
    /// Why it was refused, as in `SESSION_NOT_FOUND`; none when it was answered.
    pub reason: Option<Arc<str>>,
    /// The session it named, if the node knows it.
    pub session: Option<SessionRef>,
    /// The first model it named, if the node serves it.
    pub model: Option<ModelName>,
    /// The key it named, if the node knows it.
    pub key: Option<KeyId>,
}

/// Calls that changed nothing and have no line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallsCounted {
    /// As in [`CallNoted`].
    pub verb: Arc<str>,
    /// As in [`CallNoted`].
    pub reason: Option<Arc<str>>,
    /// Whose calls; none when they are of several users, or of unknown ones.
    pub uid: Option<u32>,
    /// How many, those with a line of their own left out.
    pub count: u64,
    /// When the first of them came.
    pub since: Time,
}

/// A segment that is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRemoved {
    /// Its first line's sequence number.
    pub first_seq: u64,
    /// Its last line's.
    pub last_seq: u64,
    /// The hash of its first line.
    pub first_hash: [u8; 32],
    /// The hash of its last line, which the next segment's first line repeats.
    pub last_hash: [u8; 32],
    /// Its length.
    pub bytes: u64,
    /// Why.
    pub why: RemovalReason,
}

/// Why a segment is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalReason {
    /// All of its lines are older than is kept.
    Age,
    /// The ledger is longer than it may be.
    Size,
}

impl RemovalReason {
    /// `age` or `size`, as lines write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Size => "size",
        }
    }
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

/// The numbers of the rules with their names.
const RULES_BYTES: usize = 512;
/// The fields of a call without their texts.
const CALL_BYTES: usize = 192;
/// Two hashes and some numbers.
const REMOVED_BYTES: usize = 320;

fn reason_bytes(verb: &str, reason: Option<&str>) -> usize {
    verb.len() + reason.map_or(0, str::len)
}

fn fact_bytes_estimate(fact: &Fact) -> usize {
    match fact {
        Fact::Domain(event) => event_bytes_estimate(event),
        Fact::NodeStarted { version, .. } => version.len(),
        Fact::NodeStopped => 0,
        Fact::LedgerResumed { error, .. } => error.len(),
        Fact::RulesSet { .. } => RULES_BYTES,
        Fact::CallNoted(call) => {
            let session = call.session.as_ref().map_or(0, |session| session.id.len());
            let model = call.model.as_ref().map_or(0, |model| model.as_str().len());
            CALL_BYTES + session + model + reason_bytes(&call.verb, call.reason.as_deref())
        }
        Fact::CallsCounted(calls) => {
            CALL_BYTES + reason_bytes(&calls.verb, calls.reason.as_deref())
        }
        Fact::SegmentRemoved(_) => REMOVED_BYTES,
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
