//! SIGKILL at any instant: the ledger opens, and what was acknowledged is there.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use common::{Open, open, open_with, selected, session};
use key_server_ledger::{Durability, Ledger, Options, verify::verify};

const DIR_VARIABLE: &str = "LEDGER_CRASH_DIR";
const ROUND_VARIABLE: &str = "LEDGER_CRASH_ROUND";
const ROUNDS: u64 = 60;
const THREADS: u64 = 4;

/// Not a test of its own: what the killed process does. Alone, it does nothing.
#[test]
#[expect(clippy::disallowed_methods, reason = "how the parent tells its child what to do")]
fn child_that_appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return };
    let round: u64 = std::env::var(ROUND_VARIABLE).unwrap().parse().unwrap();
    let durability = if round.is_multiple_of(2) { Durability::Disk } else { Durability::Process };
    let options = Options { durability, segment_bytes_max: 16_000, ..Options::default() };
    let Open { ledger, opened, .. } = open_with(Path::new(&dir), &options, None).unwrap();
    let order = Mutex::new(());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (ledger, order) = (&ledger, &order);
            scope.spawn(move || append_for_ever(ledger, order, opened.last_at, round, thread));
        }
    });
}

fn append_for_ever(
    ledger: &Ledger,
    order: &Mutex<()>,
    at: key_server_core::Time,
    round: u64,
    thread: u64,
) {
    for call in 0_u64.. {
        let name = format!("{round}-{thread}-{call}");
        let entries = vec![selected(&name); call as usize % 3 + 1];
        let pending = {
            let _order = order.lock().expect("no thread panics");
            ledger.append(at, entries)
        };
        let position = pending.wait().expect("the append is durable");
        // One write: a line is there whole, or not at all.
        let line = format!("ack {} {name}\n", position.seq);
        std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens");
    }
}

/// Runs a child, kills it after `acks` acknowledgements, and answers all that it
/// had given: sequence number of the call's last line, and session.
fn killed_after(dir: &Path, round: u64, acks: usize) -> Vec<(u64, String)> {
    let mut child = Command::new(std::env::current_exe().expect("this is a program"))
        .args(["--exact", "child_that_appends_until_it_is_killed", "--nocapture"])
        .env(DIR_VARIABLE, dir)
        .env(ROUND_VARIABLE, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be run again");
    let stdout = child.stdout.take().expect("its output is piped");
    let mut given = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("its output is text");
        given.extend(ack(&line));
        if given.len() == acks {
            child.kill().expect("it runs until it is killed");
        }
    }
    child.wait().expect("it was started here");
    given
}

fn ack(line: &str) -> Option<(u64, String)> {
    // The harness may have written the beginning of the first line.
    let (_, ack) = line.split_once("ack ")?;
    let (seq, session) = ack.split_once(' ')?;
    Some((seq.parse().ok()?, session.to_owned()))
}

#[test]
fn killed_at_any_instant_it_opens_with_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<u64, String> = HashMap::new();
    for round in 0..ROUNDS {
        // From the very start to some segments in, in an order without pattern.
        let acks = 1 + (round * 37 % ROUNDS) as usize * 4;
        let given = killed_after(dir.path(), round, acks);
        assert!(given.len() >= acks, "round {round}: the child ended by itself");
        acknowledged.extend(given);
        verify(dir.path()).unwrap();
        let open = open(dir.path());
        let records = open.records();
        assert_eq!(records.len() as u64, open.opened.position.seq);
        for (seq, name) in &acknowledged {
            let record = records.get(*seq as usize - 1).unwrap();
            assert_eq!(session(&record.fact), Some(name.as_str()), "round {round}");
        }
    }
    assert!(acknowledged.len() as u64 > ROUNDS * 100);
}
