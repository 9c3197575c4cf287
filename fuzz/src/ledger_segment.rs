//! A ledger's directory as a crash, a disk or a person may leave it.

use key_server_core::Time;
use key_server_ledger::{Durability, Entry, Fact, Ledger, OpenError, Options, verify};

use crate::scratch;

/// Separates two segments in the bytes.
const BETWEEN: &[u8] = b"\n\n";

/// A ledger of these segments opens and goes on, verified, or says what is
/// wrong and changes nothing.
pub fn run(bytes: &[u8]) {
    let dir = scratch::dir();
    let cut = bytes.windows(BETWEEN.len()).position(|window| window == BETWEEN);
    let (first, rest) =
        cut.map_or((bytes, None), |at| (&bytes[..=at], Some(&bytes[at + BETWEEN.len()..])));
    scratch::write(dir.path(), &name(1), first);
    if let Some(rest) = rest {
        let lines = first.iter().filter(|byte| **byte == b'\n').count() as u64;
        scratch::write(dir.path(), &name(lines + 1), rest);
    }
    let options = Options { durability: Durability::Process, ..Options::default() };
    let before = verify::verify(dir.path());
    let mut handed_out = 0;
    let opened = Ledger::open(dir.path(), "n_fuzz", &options, None, |_, records| {
        handed_out += records.len() as u64;
    });
    match opened {
        Ok((ledger, opened)) => {
            let report = before.expect("what opens verifies");
            assert_eq!(report.records, handed_out);
            let at = opened.last_at.max(Time::from_ms(1));
            let pending = ledger.append(at, vec![Entry::of_node(Fact::NodeStopped)]);
            assert!(pending.refusal().is_none());
            ledger.close().expect("the memory holds it");
            let after = verify::verify(dir.path()).expect("what was appended follows");
            assert_eq!(after.records, handed_out + 1);
            assert!(after.tail.is_none());
        }
        Err(OpenError::Corrupt(corrupt)) => assert!(!corrupt.to_string().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn name(first_seq: u64) -> String {
    format!("{first_seq:020}.jsonl")
}
