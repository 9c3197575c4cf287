use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::HEXLOWER;
use key_server_ledger::checkpoint::{
    CHECKPOINTS_FILE_NAME, Checkpoints, PUBLIC_KEY_FILE_NAME, PublicKey,
};
use key_server_ledger::verify::{self, Beginning, Report, VerifyError};
use key_server_ledger::{Corrupt, Cut, CutReason, OpenError};
use serde_json::{Value, json};

use super::segments;
use crate::failure::{Exit, Failure};
use crate::output::facts::Facts;
use crate::output::text::{counted, thousands};
use crate::output::{Output, Tone};
use crate::place;
use crate::settings::StateDirArg;

pub(super) const EXAMPLES: &str = "\
Checks every line of every segment: its checksum, its number, and the hash of
the line before; and compares them with the signed checkpoints. Exit code 1: it
does not verify; the first bad sequence number is named. Lines missing after the
last checkpoint do not show. Without --key, the public key in the state
directory is used: it is worth as much as that directory. A copy kept on another
machine is worth more.

Examples:
  key-server audit verify
  key-server audit verify --key node1.pub --checkpoints node1-checkpoints.jsonl
  sudo key-server audit verify --state-dir /var/lib/key-server --json";

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The node's public key: a file as checkpoint.pub, or its 64 digits
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The node's checkpoints, when they are kept elsewhere
    #[arg(long, value_name = "FILE")]
    checkpoints: Option<PathBuf>,
    #[command(flatten)]
    pub(super) state_dir: StateDirArg,
}

impl VerifyArgs {
    fn asks_for_checkpoints(&self) -> bool {
        self.key.is_some() || self.checkpoints.is_some()
    }
}

/// `key-server audit verify`
pub(super) fn run(
    args: &VerifyArgs,
    state_dir: &Path,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let dir = place::ledger_dir(state_dir);
    segments::list(&dir)?;
    let verified = match checkpoints(args, state_dir)? {
        Some(checkpoints) => verify::verify_against(&dir, checkpoints),
        None => verify::verify(&dir).map_err(VerifyError::Ledger),
    };
    let failure = match verified {
        Ok(report) => match report.beginning {
            Beginning::Unvouched { first_missing_seq } => front_missing(&report, first_missing_seq),
            _ if args.asks_for_checkpoints() && report.checkpoints == 0 => Bad::uncompared(),
            _ => return good(&report, &dir, output),
        },
        Err(VerifyError::Ledger(OpenError::Corrupt(corrupt))) => Bad::corrupt(&corrupt),
        Err(VerifyError::Ledger(error)) => return Err(Failure::usage(error.to_string())),
        Err(VerifyError::Checkpoints(error)) => Bad::checkpoints(&error.to_string()),
        Err(error @ VerifyError::Replaced { first_seq, .. }) => Bad::against(first_seq, &error),
        Err(error @ VerifyError::CutOff { first_missing_seq, .. }) => {
            Bad::against(first_missing_seq, &error)
        }
    };
    if output.is_json() {
        output.json(&failure.json)?;
    }
    output.flush()?;
    Err(failure.failure)
}

/// The checkpoints to compare with; none when there are none, and none were
/// asked for.
fn checkpoints(args: &VerifyArgs, state_dir: &Path) -> Result<Option<Checkpoints>, Failure> {
    let beside = state_dir.join(PUBLIC_KEY_FILE_NAME);
    let path = args.checkpoints.clone().unwrap_or_else(|| state_dir.join(CHECKPOINTS_FILE_NAME));
    let is_there = path.exists() && beside.exists();
    if !args.asks_for_checkpoints() && !is_there {
        return Ok(None);
    }
    let wrong = |error: &dyn ToString| Failure::usage(error.to_string());
    let key = match args.key.as_deref().and_then(PublicKey::read) {
        Some(key) => key,
        None => {
            let file = args.key.as_ref().map_or(beside, PathBuf::from);
            PublicKey::open(&file).map_err(|error| wrong(&error))?
        }
    };
    Checkpoints::open(&path, key).map(Some).map_err(|error| wrong(&error))
}

/// A ledger that does not verify.
struct Bad {
    failure: Failure,
    json: Value,
}

impl Bad {
    fn corrupt(corrupt: &Corrupt) -> Self {
        Self { failure: not_verified(corrupt), json: corrupt_json(corrupt) }
    }

    fn checkpoints(error: &str) -> Self {
        Self {
            failure: Failure::no("the checkpoints cannot be trusted").detail(error),
            json: json!({ "ok": false, "first_bad_seq": null, "fault": error }),
        }
    }

    /// Every line verifies, but nothing was signed that could be compared.
    fn uncompared() -> Self {
        let fault = "no checkpoint stands for a line that is there, so nobody can tell whether \
                     lines are missing at the end";
        let failure = Failure::no("the ledger was compared with no checkpoint")
            .detail(fault)
            .hint("name the node's checkpoints with --checkpoints, best a copy kept elsewhere");
        Self { failure, json: json!({ "ok": false, "first_bad_seq": null, "fault": fault }) }
    }

    fn against(seq: u64, error: &VerifyError) -> Self {
        let error = error.to_string();
        let json = json!({ "ok": false, "first_bad_seq": seq, "fault": error });
        let message = format!("the ledger does not verify at sequence number {}", thousands(seq));
        let failure = Failure::no(message).detail(error).hint(
            "change nothing, copy the ledger's directory, then compare it with a backup: \
             somebody cut or rewrote it, or restored an older one",
        );
        Self { failure, json }
    }
}

/// Lines are gone at the front, and nothing says why.
fn front_missing(report: &Report, first_missing_seq: u64) -> Bad {
    let first_seq = report.first_seq.unwrap_or(report.last.seq + 1);
    let fault = format!(
        "the ledger begins at {}, and no record says that retention removed what was before",
        thousands(first_seq)
    );
    let json = json!({ "ok": false, "first_bad_seq": first_missing_seq, "fault": fault });
    let message =
        format!("the ledger does not verify at sequence number {}", thousands(first_missing_seq));
    let failure =
        Failure::no(message).detail(fault).hint("restore the missing segments from a backup");
    Bad { failure, json }
}

fn good(report: &Report, dir: &Path, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.json(&report_json(report))?;
        return Ok(Exit::Ok);
    }
    let last = report.last.seq;
    let numbers = report.first_seq.map_or(String::new(), |first| {
        format!(", sequence numbers {} to {}", thousands(first), thousands(last))
    });
    let mut facts = Facts::default();
    facts.add_in(Tone::Good, "ok", "every line verifies");
    facts.add("records", format!("{}{numbers}", thousands(report.records)));
    facts.add("segments", format!("{} in {}", thousands(report.segments), dir.display()));
    facts.add("last hash", HEXLOWER.encode(&report.last.hash));
    if let Some(seq) = report.checkpointed_seq {
        let many = counted(report.checkpoints, "fits", "fit");
        facts.add("checkpoints", format!("{many}, the last one for {}", thousands(seq)));
    }
    output.facts(&facts)?;
    if let Some(note) = beginning(report) {
        output.note(&note);
    }
    if report.checkpointed_seq.is_none() {
        output.note("no checkpoint was compared: lines missing at the end would not show");
    }
    if let Some(cut) = &report.tail {
        output.note(&tail(cut));
    }
    Ok(Exit::Ok)
}

fn beginning(report: &Report) -> Option<String> {
    let first = thousands(report.first_seq?);
    match report.beginning {
        Beginning::Whole | Beginning::Unvouched { .. } => None,
        Beginning::Recorded { seq } => Some(format!(
            "retention removed what was before {first}; record {} says so",
            thousands(seq)
        )),
    }
}

fn tail(cut: &Cut) -> String {
    let what = match cut.reason {
        CutReason::TornLine => "a line that is not finished",
        CutReason::IncompleteCall => "a call whose lines are not all there",
    };
    let bytes = counted(cut.bytes, "byte", "bytes");
    format!(
        "the ledger ends with {what} ({bytes}): a server is writing it, or cuts it off when it starts"
    )
}

fn not_verified(corrupt: &Corrupt) -> Failure {
    let Corrupt { path, offset, seq, fault, .. } = corrupt;
    Failure::no(format!("the ledger does not verify at sequence number {}", thousands(*seq)))
        .detail(fault.to_string())
        .detail(format!("{}, byte {}", path.display(), thousands(*offset)))
        .hint(
            "change nothing, copy the ledger's directory, then restore this segment from a backup",
        )
}

fn report_json(report: &Report) -> Value {
    let tail = report.tail.as_ref().map(|cut| {
        json!({ "segment": cut.segment, "offset": cut.offset, "bytes": cut.bytes, "seq": cut.seq })
    });
    json!({
        "ok": true,
        "segments": report.segments,
        "records": report.records,
        "first_seq": report.first_seq,
        "last_seq": report.last.seq,
        "last_hash": HEXLOWER.encode(&report.last.hash),
        "beginning": beginning_word(report.beginning),
        "checkpoints": report.checkpoints,
        "checkpointed_seq": report.checkpointed_seq,
        "tail": tail,
    })
}

fn corrupt_json(corrupt: &Corrupt) -> Value {
    json!({
        "ok": false,
        "first_bad_seq": corrupt.seq,
        "path": corrupt.path.display().to_string(),
        "offset": corrupt.offset,
        "fault": corrupt.fault.to_string(),
    })
}

fn beginning_word(beginning: Beginning) -> &'static str {
    match beginning {
        Beginning::Whole => "whole",
        Beginning::Recorded { .. } => "recorded",
        Beginning::Unvouched { .. } => "unvouched",
    }
}
