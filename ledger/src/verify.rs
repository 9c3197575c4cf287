//! Checking a ledger as a whole.

use std::path::Path;

use crate::checkpoint::{Checkpoint, CheckpointError, Checkpoints};
use crate::error::{Cut, OpenError};
use crate::record::{Fact, Position, Record, SegmentRemoved};
use crate::scan::{Scan, Step};

/// What a ledger that verifies consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many segments.
    pub segments: u64,
    /// How many lines, those of the tail not counted.
    pub records: u64,
    /// The first line's sequence number; none when there is no line.
    pub first_seq: Option<u64>,
    /// What vouches for the beginning.
    pub beginning: Beginning,
    /// After the last line that counts: its sequence number and hash, to be
    /// compared with what was noted elsewhere.
    pub last: Position,
    /// The unfinished end; a server that is writing has one now and then.
    pub tail: Option<Cut>,
    /// How many checkpoints were found to fit.
    pub checkpoints: u64,
    /// The last line that a checkpoint stands for; lines after it could be
    /// missing without a trace.
    pub checkpointed_seq: Option<u64>,
}

/// What vouches for the first line that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It is line 1, or there is none.
    Whole,
    /// What was before it was removed by retention.
    Recorded {
        /// The line that says so.
        seq: u64,
    },
    /// Nothing: lines are missing at the front.
    Unvouched {
        /// The first of them.
        first_missing_seq: u64,
    },
}

/// Why a ledger does not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Of the ledger itself.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// The checkpoints cannot be used.
    #[error(transparent)]
    Checkpoints(#[from] CheckpointError),
    /// A line is not the one that was signed.
    #[error(
        "line {} is not the one that the checkpoint of {} was made for: lines from {first_seq} on were replaced",
        checkpoint.seq, checkpoint.time
    )]
    Replaced {
        /// The first line that may be another one; those before fit an older
        /// checkpoint.
        first_seq: u64,
        /// What does not fit.
        checkpoint: Box<Checkpoint>,
    },
    /// Lines are missing at the end.
    #[error(
        "the ledger ends before line {first_missing_seq}, but a checkpoint of {} stands for line {}: the end was cut off",
        checkpoint.time, checkpoint.seq
    )]
    CutOff {
        /// The first line that is missing.
        first_missing_seq: u64,
        /// The last that is known to have been there.
        checkpoint: Box<Checkpoint>,
    },
}

/// Checks every line of the ledger in `dir`: its checksum, its form, its number,
/// its time, the hash of the line before, across all segments; that the segments
/// are complete and rightly named; and whether a beginning that is not line 1
/// was recorded. Changes nothing, and reads as a stream.
///
/// It cannot see that lines are missing at the end, or that whoever can write
/// all files has computed all hashes anew: [`verify_against`] can.
///
/// # Errors
/// [`OpenError::Corrupt`] names the first line that does not verify;
/// [`OpenError::Io`] as it says.
pub fn verify(dir: &Path) -> Result<Report, OpenError> {
    verify_with(dir, None).map_err(|error| match error {
        VerifyError::Ledger(error) => error,
        other => unreachable!("without checkpoints nothing is said of them: {other}"),
    })
}

/// As [`verify`], and compares the lines with `checkpoints`.
///
/// # Errors
/// Any [`VerifyError`]; the first that is met from the front.
pub fn verify_against(dir: &Path, checkpoints: Checkpoints) -> Result<Report, VerifyError> {
    verify_with(dir, Some(checkpoints))
}

fn verify_with(dir: &Path, checkpoints: Option<Checkpoints>) -> Result<Report, VerifyError> {
    let mut against = Against::new(checkpoints)?;
    let Some(mut scan) = Scan::from_first(dir)? else {
        against.end(0)?;
        return Ok(Report::empty());
    };
    let mut front = Front::default();
    let tail = loop {
        match scan.step()? {
            Step::End(tail) => break tail,
            Step::Record(record) => {
                if front.before.is_none() {
                    front.before = scan.before();
                    front.begin(scan.first_seq(), &mut against)?;
                }
                front.see(&record, scan.first_seq());
                against.see(scan.position().seq, &scan.position().hash)?;
            }
        }
    };
    let first_seq = scan.first_seq();
    let last = *scan.call_end();
    against.end(last.seq)?;
    let records = last.seq + 1 - first_seq;
    Ok(Report {
        segments: scan.segment_count() as u64,
        records,
        first_seq: (records > 0).then_some(first_seq),
        beginning: front.vouched(first_seq, records),
        last,
        tail,
        checkpoints: against.count,
        checkpointed_seq: against.fits_to,
    })
}

/// What is known of the lines before the first one.
#[derive(Default)]
struct Front {
    /// What the first line says of the line before it.
    before: Option<[u8; 32]>,
    has_begun: bool,
    recorded: Option<u64>,
    /// The last line that was removed on record, of those before what is
    /// missing.
    removed_to: u64,
}

impl Front {
    /// Compares with a checkpoint of the line before, and passes over older
    /// ones. None of them says why those lines are gone.
    fn begin(&mut self, first_seq: u64, against: &mut Against) -> Result<(), VerifyError> {
        if self.has_begun {
            return Ok(());
        }
        self.has_begun = true;
        against.pass(first_seq - 1)?;
        if let Some(before) = self.before {
            against.see(first_seq - 1, &before)?;
        }
        Ok(())
    }

    fn see(&mut self, record: &Record, first_seq: u64) {
        let Fact::SegmentRemoved(SegmentRemoved { last_seq, last_hash, .. }) = &record.fact else {
            return;
        };
        if last_seq + 1 == first_seq && self.before == Some(*last_hash) {
            self.recorded = Some(record.seq);
        } else if last_seq + 1 < first_seq {
            self.removed_to = self.removed_to.max(*last_seq);
        }
    }

    fn vouched(&self, first_seq: u64, records: u64) -> Beginning {
        match self.recorded {
            _ if first_seq == 1 => Beginning::Whole,
            Some(seq) => Beginning::Recorded { seq },
            // A first segment without a line says nothing of those before.
            None if records == 0 && first_seq == 1 => Beginning::Whole,
            None => Beginning::Unvouched { first_missing_seq: self.removed_to + 1 },
        }
    }
}

/// Checkpoints, in step with the lines.
struct Against {
    checkpoints: Option<Checkpoints>,
    next: Option<Checkpoint>,
    count: u64,
    /// The last line that was found to fit.
    fits_to: Option<u64>,
}

impl Against {
    fn new(mut checkpoints: Option<Checkpoints>) -> Result<Self, CheckpointError> {
        let next = checkpoints.as_mut().map(Checkpoints::advance).transpose()?.flatten();
        Ok(Self { checkpoints, next, count: 0, fits_to: None })
    }

    fn advance(&mut self) -> Result<(), CheckpointError> {
        self.next = self.checkpoints.as_mut().map(Checkpoints::advance).transpose()?.flatten();
        Ok(())
    }

    /// Leaves out those of lines before `seq`.
    fn pass(&mut self, seq: u64) -> Result<(), CheckpointError> {
        while self.next.as_ref().is_some_and(|next| next.seq < seq) {
            self.advance()?;
        }
        Ok(())
    }

    /// Compares a line with the checkpoints that stand for it.
    fn see(&mut self, seq: u64, hash: &[u8; 32]) -> Result<(), VerifyError> {
        while let Some(next) = self.next.take_if(|next| next.seq == seq) {
            if next.hash != *hash {
                let first_seq = self.fits_to.map_or(1, |seq| seq + 1);
                return Err(VerifyError::Replaced { first_seq, checkpoint: Box::new(next) });
            }
            self.count += 1;
            self.fits_to = Some(seq);
            self.advance()?;
        }
        Ok(())
    }

    /// Nothing may be left when the ledger ends after line `seq`.
    fn end(&mut self, seq: u64) -> Result<(), VerifyError> {
        let Some(mut last) = self.next.take() else { return Ok(()) };
        loop {
            self.advance()?;
            match self.next.take() {
                Some(next) => last = next,
                None => break,
            }
        }
        let first_missing_seq = seq + 1;
        Err(VerifyError::CutOff { first_missing_seq, checkpoint: Box::new(last) })
    }
}

impl Report {
    fn empty() -> Self {
        Self {
            segments: 0,
            records: 0,
            first_seq: None,
            beginning: Beginning::Whole,
            last: Position::START,
            tail: None,
            checkpoints: 0,
            checkpointed_seq: None,
        }
    }
}
