use std::path::Path;

use data_encoding::HEXLOWER;
use key_server_ledger::verify::{self, Report};
use key_server_ledger::{Corrupt, Cut, CutReason, OpenError};
use serde_json::{Value, json};

use super::segments;
use crate::failure::{Exit, Failure};
use crate::output::facts::Facts;
use crate::output::text::{counted, thousands};
use crate::output::{Output, Tone};

pub(super) const EXAMPLES: &str = "\
Checks every line of every segment: its checksum, its number, and the hash of
the line before. Exit code 1: it does not verify; the first bad sequence number
is named. Lines missing at the end show only when the last hash is compared with
one that was noted elsewhere.

Examples:
  key-server audit verify
  sudo key-server audit verify --state-dir /var/lib/key-server --json";

/// `key-server audit verify`
pub(super) fn run(dir: &Path, output: &mut Output) -> Result<Exit, Failure> {
    segments::list(dir)?;
    match verify::verify(dir) {
        Ok(report) => verified(&report, dir, output),
        Err(OpenError::Corrupt(corrupt)) => {
            if output.is_json() {
                output.json(&corrupt_json(&corrupt))?;
            }
            output.flush()?;
            Err(not_verified(&corrupt))
        }
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

fn verified(report: &Report, dir: &Path, output: &mut Output) -> Result<Exit, Failure> {
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
    output.facts(&facts)?;
    if let Some(first) = report.first_seq.filter(|first| *first > 1) {
        let note = format!(
            "older segments were removed: what was before {} is not checked",
            thousands(first)
        );
        output.note(&note);
    }
    if let Some(cut) = &report.tail {
        output.note(&tail(cut));
    }
    Ok(Exit::Ok)
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
