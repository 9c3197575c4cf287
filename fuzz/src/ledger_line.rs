//! The form of a ledger's lines, behind checksum and chain.

use std::path::Path;

use data_encoding::HEXLOWER;
use key_server_ledger::{read, verify};
use sha2::{Digest, Sha256};

use crate::scratch;

const FIRST_SEGMENT: &str = "00000000000000000001.jsonl";

/// Each line of the bytes is what a ledger's line holds up to `,"prev"`; what
/// comes after is made right, so that mutations reach what the line says. What
/// is read is the same as what verifies, and says so again when it is shown.
pub fn run(bytes: &[u8]) {
    let (verified, records) = scratch::within(|dir| {
        scratch::write(dir, FIRST_SEGMENT, &chained(bytes));
        (verify::verify(dir), records(dir))
    });
    match &verified {
        Ok(report) => {
            // A reader does not tell a tail that a crash left from other damage.
            if report.tail.is_none() {
                assert_eq!(records, Some(report.records));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The lines with their hashes and checksums, as `docs/audit.md` has it.
fn chained(bytes: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    let mut before = [0; 32];
    for body in bytes.split(|byte| *byte == b'\n').filter(|body| !body.is_empty()) {
        let mut line = body.to_vec();
        line.extend_from_slice(b",\"prev\":\"");
        line.extend_from_slice(HEXLOWER.encode(&before).as_bytes());
        line.push(b'"');
        let crc = crc32fast::hash(&line);
        line.extend_from_slice(format!(",\"crc\":\"{crc:08x}\"}}").as_bytes());
        before = Sha256::digest(&line).into();
        segment.extend_from_slice(&line);
        segment.push(b'\n');
    }
    segment
}

fn records(dir: &Path) -> Option<u64> {
    let mut count = 0;
    for record in read::records(dir, None).expect("the directory can be read") {
        let record = record.ok()?;
        let _ = format!("{record:?}");
        count += 1;
    }
    Some(count)
}
