use key_server_core::Time;
use sha2::{Digest, Sha256};

use crate::error::Fault;
use crate::line::Decoder;
use crate::record::{Position, Record};

/// SHA-256 of a line without its newline.
pub(crate) fn line_hash(line: &[u8]) -> [u8; 32] {
    Sha256::digest(line).into()
}

/// What the lines so far demand of the next one.
pub(crate) struct Chain {
    decoder: Decoder,
    /// The last line's sequence number.
    seq: u64,
    /// Its hash; none when it is not known, because it was removed.
    hash: Option<[u8; 32]>,
    /// What the first line says of the line before it, which was removed.
    before: Option<[u8; 32]>,
    at: Time,
    /// How many lines its call still has.
    more: u64,
}

impl Chain {
    /// The chain of a history that begins with line `first_seq`.
    pub(crate) fn from_first(first_seq: u64) -> Self {
        let hash = (first_seq == 1).then_some(Position::START.hash);
        let seq = first_seq - 1;
        Self { decoder: Decoder::default(), seq, hash, before: None, at: Time::default(), more: 0 }
    }

    /// The chain after `line`, if that is the line `position` names, and the
    /// last of its call.
    pub(crate) fn after(position: &Position, line: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::default();
        let record = decoder.decode(line).ok()?.record;
        let same = line_hash(line) == position.hash && record.seq == position.seq;
        let Record { seq, at, more, .. } = record;
        let hash = Some(position.hash);
        (same && more == 0).then_some(Self { decoder, seq, hash, before: None, at, more })
    }

    /// Takes the next line (without its newline), if it follows.
    pub(crate) fn accept(&mut self, line: &[u8]) -> Result<Record, Fault> {
        let decoded = self.decoder.decode(line)?;
        let record = decoded.record;
        if record.seq != self.next_seq() {
            return Err(Fault::Sequence { found: record.seq });
        }
        if self.hash.is_some_and(|hash| hash != decoded.prev) {
            return Err(Fault::Chain);
        }
        if record.at < self.at {
            return Err(Fault::TimeWentBack { at: record.at.as_ms() });
        }
        if self.more > 0 && record.more != self.more - 1 {
            return Err(Fault::More { found: record.more, expected: self.more - 1 });
        }
        if self.hash.is_none() {
            self.before = Some(decoded.prev);
        }
        (self.seq, self.at, self.more) = (record.seq, record.at, record.more);
        self.hash = Some(line_hash(line));
        Ok(record)
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.seq + 1
    }

    /// The hash of the last line; zeros when none is known.
    pub(crate) fn hash(&self) -> [u8; 32] {
        self.hash.unwrap_or(Position::START.hash)
    }

    /// What the first line says of the line before it; none when the chain did
    /// not begin after lines that were removed.
    pub(crate) fn before(&self) -> Option<[u8; 32]> {
        self.before
    }

    pub(crate) fn at(&self) -> Time {
        self.at
    }

    /// True between two lines of one call.
    pub(crate) fn within_call(&self) -> bool {
        self.more > 0
    }
}
