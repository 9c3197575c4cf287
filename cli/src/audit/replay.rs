use std::path::Path;

use key_server_core::{Replay, Review, Violation};
use key_server_ledger::{Fact, OpenError, Record, read};
use serde_json::json;

use super::segments;
use crate::failure::{Exit, Failure};
use crate::output::facts::Facts;
use crate::output::text::{counted, thousands};
use crate::output::{Output, Tone};

pub(super) const EXAMPLES: &str = "\
Goes through the ledger from its beginning, and judges each selection by what was
known when it was made: that every key was served, not cooling, below its cap and
given once; that held keys came first; that tier, weight, candidates and deadline
are what the rules say. Exit code 1: some did not follow the rules; the first ones
are named. What cannot be known (older segments were removed, other nodes have a
say) is said, and not called a violation.

Examples:
  key-server audit replay
  sudo key-server audit replay --state-dir /var/lib/key-server --json";

/// Violations that are named; all are counted.
const NAMED_MAX: usize = 20;

/// What a replay comes to.
#[derive(Default)]
struct Totals {
    first_seq: Option<u64>,
    shares: bool,
    without_rules: u64,
    selections: u64,
    wrong: u64,
    unjudged: u64,
    redrawn: u64,
    redrawn_other: u64,
    named: Vec<(u64, Violation)>,
}

/// `key-server audit replay`
pub(super) fn run(dir: &Path, output: &mut Output) -> Result<Exit, Failure> {
    segments::list(dir)?;
    let totals = replay(dir)?;
    if output.is_json() {
        output.json(&totals.json())?;
    } else {
        totals.show(output)?;
    }
    Ok(if totals.wrong == 0 { Exit::Ok } else { Exit::No })
}

fn replay(dir: &Path) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    let mut replay = None;
    let mut knows_rules = false;
    for record in read::records(dir, None).map_err(unreadable)? {
        let Record { seq, at, fact, .. } = record.map_err(unreadable)?;
        totals.first_seq.get_or_insert(seq);
        let replay = replay.get_or_insert_with(|| Replay::new(seq == 1));
        match fact {
            Fact::RulesSet { rules, shares } => {
                knows_rules = true;
                totals.shares |= shares;
                replay.set_rules(*rules, shares);
            }
            Fact::Domain(event) => {
                let Some(review) = replay.take(at, &event) else { continue };
                totals.without_rules += u64::from(!knows_rules);
                totals.add(seq, review);
            }
            _ => {}
        }
    }
    Ok(totals)
}

fn unreadable(error: OpenError) -> Failure {
    match error {
        OpenError::Corrupt(_) => Failure::no(error.to_string()),
        error => Failure::usage(error.to_string()),
    }
}

impl Totals {
    fn add(&mut self, seq: u64, review: Review) {
        self.selections += 1;
        self.wrong += u64::from(!review.violations.is_empty());
        self.unjudged += review.unjudged;
        self.redrawn += review.redrawn;
        self.redrawn_other += review.redrawn_other;
        let room = NAMED_MAX.saturating_sub(self.named.len());
        self.named.extend(review.violations.into_iter().take(room).map(|one| (seq, one)));
    }

    fn show(&self, output: &mut Output) -> Result<(), Failure> {
        let mut facts = Facts::default();
        match self.wrong {
            0 => facts.add_in(Tone::Good, "ok", "every selection followed the rules"),
            wrong => {
                let many = counted(wrong, "selection", "selections");
                facts.add_in(Tone::Bad, "wrong", format!("{many} did not follow the rules"));
            }
        }
        facts.add("selections", thousands(self.selections));
        let other = match self.redrawn_other {
            0 => String::new(),
            other => format!(", another key for {}", thousands(other)),
        };
        facts.add("drawn again", format!("the same key for {}{other}", thousands(self.redrawn)));
        output.facts(&facts)?;
        for (seq, violation) in &self.named {
            output.line(format!("{:>7}  {violation}", thousands(*seq)))?;
        }
        self.notes().iter().for_each(|note| output.note(note));
        Ok(())
    }

    /// What was not judged, and why.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(first) = self.first_seq.filter(|first| *first > 1) {
            notes.push(format!(
                "the ledger begins at {}: what depends on older records was not judged",
                thousands(first)
            ));
        }
        if self.shares {
            notes.push(
                "other nodes have a say in weights and caps: these were judged by their limits"
                    .to_owned(),
            );
        }
        if self.without_rules > 0 {
            let many = counted(self.without_rules, "selection", "selections");
            notes.push(format!(
                "{many} came before any record of the rules: weights were not judged"
            ));
        }
        if self.unjudged > 0 {
            let many = counted(self.unjudged, "key", "keys");
            notes.push(format!("of {many} not everything could be judged"));
        }
        if self.redrawn_other > 0 {
            notes.push(
                "after a restart, keys lie in another order, and a seed can draw another key"
                    .to_owned(),
            );
        }
        notes
    }

    fn json(&self) -> serde_json::Value {
        let named = self.named.iter();
        let named = named.map(|(seq, one)| json!({ "seq": seq, "violation": one.to_string() }));
        json!({
            "ok": self.wrong == 0,
            "first_seq": self.first_seq,
            "selections": self.selections,
            "wrong": self.wrong,
            "unjudged": self.unjudged,
            "redrawn": self.redrawn,
            "redrawn_other": self.redrawn_other,
            "violations": named.collect::<Vec<_>>(),
            "notes": self.notes(),
        })
    }
}
