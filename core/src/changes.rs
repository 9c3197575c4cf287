use std::sync::Arc;

use crate::event::{KeyFacts, Outcome, SessionRef, Tokens};
use crate::id::{KeyId, ModelName};
use crate::key::{KeyIndex, Usage};
use crate::receipts::Receipt;
use crate::session::SessionIndex;
use crate::time::Time;

/// What changed since the last look, as absolute values: writing it twice is
/// harmless. Only `usage` and `receipts` are additions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Keys, as they are now.
    pub keys: Vec<KeyRow>,
    /// Sessions that were forgotten; to be removed before `sessions` are
    /// written, for one may have come again.
    pub forgotten: Vec<SessionRef>,
    /// Sessions, as they are now.
    pub sessions: Vec<SessionRow>,
    /// Reports that were counted.
    pub usage: Vec<UsageRow>,
    /// Receipts of these reports.
    pub receipts: Vec<ReceiptRow>,
    /// Receipts of hours before this one are forgotten.
    pub oldest_receipt_hour: u32,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
            && self.forgotten.is_empty()
            && self.sessions.is_empty()
            && self.usage.is_empty()
            && self.receipts.is_empty()
    }
}

/// A key with all that is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRow {
    /// Its facts.
    pub facts: Arc<KeyFacts>,
    /// True when it is in no pool any more.
    pub retired: bool,
    /// What it spent since it was first seen.
    pub lifetime: Usage,
    /// When it was last given or reported on.
    pub last_used: Option<Time>,
    /// (minute of the timeline, tokens), oldest first.
    pub window: Vec<(u32, u64)>,
    /// Models it cools for, and until when.
    pub cooling: Vec<(ModelName, Time)>,
}

/// A session with all that is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    /// Its name.
    pub session: SessionRef,
    /// The caller's number for whom it works.
    pub user: i32,
    /// When it was opened, the last time.
    pub opened: Time,
    /// When it ends (live) or ended.
    pub end: Time,
    /// Whether it has ended.
    pub ended: bool,
    /// Grows whenever it draws a key or moves from node to node: of two nodes
    /// that say it lives there, the one with the larger term is right.
    pub term: u32,
    /// The term in which it was at the node that it came from; 0 when it was
    /// opened where it lives.
    pub base: u32,
    /// What it holds or held.
    pub allocations: Vec<AllocationRow>,
}

/// One key that a session holds or held for one model.
#[derive(Clone, Debug, PartialEq)]
pub struct AllocationRow {
    /// The key.
    pub key: KeyId,
    /// The model.
    pub model: ModelName,
    /// False once it was given back.
    pub held: bool,
    /// What the session spent with it.
    pub usage: Usage,
}

/// One counted report, for reports over time.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRow {
    /// When it was recorded.
    pub at: Time,
    /// Through this session.
    pub session: SessionRef,
    /// For this user.
    pub user: i32,
    /// With this key.
    pub key: KeyId,
    /// For this model.
    pub model: ModelName,
    /// What it spent.
    pub tokens: Tokens,
    /// How it ended.
    pub outcome: Outcome,
    /// True when the session or allocation had ended before.
    pub late: bool,
}

/// The receipt of one counted report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    /// The hour of the timeline it was counted in.
    pub hour: u32,
    /// The receipt.
    pub receipt: Receipt,
}

/// Who is told of changes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    /// The local projection.
    Local = 1,
    /// The other nodes.
    Fleet = 2,
}

/// The readers whose lists of changes something is on, and what else
/// there is room for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Listed(u8);

impl Listed {
    /// Of a session of another node: the round in which it was last read.
    const ROUND: u8 = 4;
    /// Of a session of this node: how often it was taken back since it drew a
    /// key; in the bits above.
    const TAKEN_BACK_SHIFT: u32 = 3;
    const TAKEN_BACK_MAX: u8 = u8::MAX >> Self::TAKEN_BACK_SHIFT;

    /// Puts it on a list; false when it was there already.
    pub(crate) fn put(&mut self, reader: Reader) -> bool {
        let was = self.0 & reader as u8;
        self.0 |= reader as u8;
        was == 0
    }

    /// Takes it off a list; false when it was not there.
    pub(crate) fn take(&mut self, reader: Reader) -> bool {
        let was = self.0 & reader as u8;
        self.0 &= !(reader as u8);
        was != 0
    }

    pub(crate) fn round(self) -> bool {
        self.0 & Self::ROUND != 0
    }

    pub(crate) fn set_round(&mut self, round: bool) {
        self.0 = (self.0 & !Self::ROUND) | (Self::ROUND * u8::from(round));
    }

    pub(crate) fn taken_back(self) -> u8 {
        self.0 >> Self::TAKEN_BACK_SHIFT
    }

    pub(crate) fn set_taken_back(&mut self, times: u8) {
        let others = self.0 & !(u8::MAX << Self::TAKEN_BACK_SHIFT);
        self.0 = others | (times.min(Self::TAKEN_BACK_MAX) << Self::TAKEN_BACK_SHIFT);
    }
}

/// What changed, by place; turned into [`Changes`] when somebody looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    pub(crate) keys: Vec<KeyIndex>,
    pub(crate) sessions: Vec<SessionIndex>,
    pub(crate) forgotten: Vec<SessionRef>,
    pub(crate) usage: Vec<UsageRow>,
    pub(crate) receipts: Vec<ReceiptRow>,
}

impl Journal {
    /// How many entries wait; each takes at most about 200 bytes.
    pub(crate) fn len(&self) -> usize {
        self.keys.len() + self.sessions.len() + self.forgotten.len() + 2 * self.usage.len()
    }
}
