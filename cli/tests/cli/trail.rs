//! The audit trail: exports to sockets, replays that find something, ends that
//! were cut.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    Decide, Event, KeyFacts, KeyId, KeysSelected, ModelName, OwnWeight, Rules, Select, SessionRef,
    State, SyncKeys, Time,
};
use key_server_ledger::checkpoint::{CHECKPOINTS_FILE_NAME, PUBLIC_KEY_FILE_NAME, Signer};
use key_server_ledger::{Entry, Fact, Ledger, Options, Position};
use serde_json::Value;
use tempfile::tempdir;

use crate::sample;

fn key_server(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_key-server"));
    command.args(args).env_clear().env("KEY_SERVER_STATE_DIR", state);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ended(state: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let Output { status, stdout, stderr } = key_server(state, args).output().unwrap();
    let json = serde_json::from_slice(&stdout);
    (status.code(), json.unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&stderr))))
}

/// Exports to a socket of the test's own; answers `count` datagrams.
fn exported(state: &Path, format: &str, count: usize) -> Vec<Vec<u8>> {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let to = path.to_str().unwrap();
    let mut child =
        key_server(state, &["audit", "export", "--format", format, "--to", to]).spawn().unwrap();
    let mut datagrams = Vec::new();
    for _ in 0..count {
        let mut bytes = vec![0; 1 << 20];
        let length = socket.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        datagrams.push(bytes);
    }
    assert!(child.wait().unwrap().success());
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 1]).is_err(), "there is no more");
    datagrams
}

#[test]
fn journald_gets_each_record_with_its_fields() {
    let state = tempdir().unwrap();
    sample::ledger(state.path());
    let datagrams = exported(state.path(), "journald", 11);
    for (seq, datagram) in (1..).zip(&datagrams) {
        let text = str::from_utf8(datagram).unwrap();
        assert!(text.lines().all(|line| line.contains('=')), "{text}");
        assert!(text.contains(&format!("KEY_SERVER_SEQ={seq}\n")), "{text}");
        assert!(text.contains("SYSLOG_IDENTIFIER=key-server-audit\n"), "{text}");
    }
    let selected = str::from_utf8(&datagrams[3]).unwrap();
    for field in
        ["KEY_SERVER_EVENT=keys.selected", "KEY_SERVER_SESSION=session_123", "KEY_SERVER_UID=1000"]
    {
        assert!(selected.contains(&format!("{field}\n")), "{selected}");
    }
}

#[test]
fn syslog_gets_each_record_and_is_told_of_one_that_is_too_long() {
    let state = tempdir().unwrap();
    let (ledger, _) =
        Ledger::open(&state.path().join("ledger"), "n_1", &Options::default(), None, |_, _| {})
            .unwrap();
    let many = (0..20_000).map(|number| format!("acme/model-{number:05}").parse().unwrap());
    let facts = KeyFacts { models: many.collect(), ..facts(1) };
    sample::append(&ledger, 1, vec![Fact::NodeStopped]);
    sample::append(&ledger, 2, vec![Event::KeyAdded(Arc::new(facts)).into()]);
    sample::append(&ledger, 3, vec![Fact::NodeStopped]);
    ledger.close().unwrap();
    let datagrams = exported(state.path(), "syslog", 3);
    let texts: Vec<_> = datagrams.iter().map(|one| str::from_utf8(one).unwrap()).collect();
    assert!(texts[0].starts_with("<110>1 "), "{}", texts[0]);
    assert!(
        texts[0].contains(" n_1 key-server - node.stopped - {\"v\":1,\"seq\":1,"),
        "{}",
        texts[0]
    );
    assert!(texts[1].ends_with(" key.added - {\"seq\":2,\"too_long\":true}"), "{}", texts[1]);
    assert!(texts[2].contains("\"seq\":3,"), "{}", texts[2]);
}

fn facts(number: u8) -> KeyFacts {
    KeyFacts {
        key: KeyId::from_digest(&[number; 32]),
        models: vec![model()],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: Vec::new(),
    }
}

fn model() -> ModelName {
    "acme/large".parse().unwrap()
}

/// Writes what the rules decide for twenty sessions; `change` may change the
/// selection of the number given.
fn decided(
    state_dir: &Path,
    options: &Options,
    change: impl Fn(usize, &mut KeysSelected),
) -> Position {
    let dir = state_dir.join("ledger");
    let (ledger, _) = Ledger::open(&dir, "n_1", options, None, |_, _| {}).unwrap();
    let now = Time::from_ms(1_795_000_000_000);
    let mut state = State::new(Rules::default());
    state.advance(now);
    let append = |facts: Vec<Fact>| {
        let entries = facts.into_iter().map(Entry::of_node).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(ledger.append(now, entries)).unwrap()
    };
    append(vec![Fact::RulesSet { rules: Box::default(), shares: false }]);
    let sync = SyncKeys { desired: (0..5).map(|number| Arc::new(facts(number))).collect() };
    let events = sync.decide(&state, now, 0).unwrap().events;
    events.iter().for_each(|event| state.apply(now, event));
    let mut position = append(events.into_iter().map(Fact::Domain).collect());
    for number in 0..20 {
        let session = SessionRef { owner: 1, id: format!("s{number}").into() };
        let select = Select {
            session,
            user: 1,
            models: vec![model()],
            count: 2,
            reserved: None,
            owner_sessions_max: None,
        };
        let mut events = select.decide(&state, now, number as u64).unwrap().events;
        if let Some(Event::KeysSelected(selected)) = events.first_mut() {
            change(number, selected);
        }
        events.iter().for_each(|event| state.apply(now, event));
        position = append(events.into_iter().map(Fact::Domain).collect());
    }
    ledger.close().unwrap();
    position
}

#[test]
fn replay_finds_the_selections_that_did_not_follow_the_rules() {
    let state = tempdir().unwrap();
    decided(state.path(), &Options::default(), |_, _| {});
    let (code, said) = ended(state.path(), &["audit", "replay", "--json"]);
    assert_eq!((code, &said["ok"]), (Some(0), &Value::Bool(true)), "{said}");
    assert_eq!((&said["selections"], &said["redrawn"]), (&20.into(), &40.into()), "{said}");
    let state = tempdir().unwrap();
    decided(state.path(), &Options::default(), |number, selected| match number {
        3 => selected.picks[1].key = selected.picks[0].key,
        7 => selected.picks[0].weight *= 2,
        _ => {}
    });
    let (code, said) = ended(state.path(), &["audit", "replay", "--json"]);
    assert_eq!((code, &said["wrong"]), (Some(1), &2.into()), "{said}");
    // Rules, five keys, and then one line for each session.
    let seqs: Vec<_> =
        said["violations"].as_array().unwrap().iter().map(|one| &one["seq"]).collect();
    assert_eq!((seqs[0], *seqs.last().unwrap()), (&10.into(), &14.into()), "{said}");
    let (code, _) = ended(state.path(), &["audit", "verify", "--json"]);
    assert_eq!(code, Some(0), "the chain alone does not show it");
}

#[test]
fn replay_of_a_ledger_without_its_beginning_says_so_and_blames_nobody() {
    let state = tempdir().unwrap();
    let options = Options { segment_bytes_max: 2_000, ..Options::default() };
    decided(state.path(), &options, |_, _| {});
    std::fs::remove_file(state.path().join("ledger/00000000000000000001.jsonl")).unwrap();
    let (code, said) = ended(state.path(), &["audit", "replay", "--json"]);
    assert_eq!((code, &said["ok"]), (Some(0), &Value::Bool(true)), "{said}");
    assert!(said["unjudged"].as_u64().unwrap() > 20, "{said}");
    assert!(said["notes"][0].as_str().unwrap().contains("older records"), "{said}");
    let (code, said) = ended(state.path(), &["audit", "verify", "--json"]);
    assert_eq!((code, &said["first_bad_seq"]), (Some(1), &1.into()), "{said}");
}

#[test]
fn a_cut_end_is_found_with_a_checkpoint_and_key_that_were_kept_elsewhere() {
    let (state, kept) = (tempdir().unwrap(), tempdir().unwrap());
    let last = decided(state.path(), &Options::default(), |_, _| {});
    let signer = Signer::open(state.path(), "n_1").unwrap();
    signer.write(&last).unwrap();
    for name in [CHECKPOINTS_FILE_NAME, PUBLIC_KEY_FILE_NAME] {
        std::fs::copy(state.path().join(name), kept.path().join(name)).unwrap();
    }
    let path = |name| kept.path().join(name).display().to_string();
    let (key, notes) = (path(PUBLIC_KEY_FILE_NAME), path(CHECKPOINTS_FILE_NAME));
    let args = ["audit", "verify", "--json", "--key", &key, "--checkpoints", &notes];
    let (code, said) = ended(state.path(), &args);
    assert_eq!((code, &said["checkpointed_seq"]), (Some(0), &last.seq.into()), "{said}");
    let segment = state.path().join("ledger/00000000000000000001.jsonl");
    let text = std::fs::read_to_string(&segment).unwrap();
    let cut: String = text.split_inclusive('\n').take(15).collect();
    std::fs::write(&segment, cut).unwrap();
    let (code, said) = ended(state.path(), &args);
    assert_eq!((code, &said["first_bad_seq"]), (Some(1), &16.into()), "{said}");
    // Whoever cuts the checkpoints beside the ledger too is not found there.
    std::fs::remove_file(state.path().join(CHECKPOINTS_FILE_NAME)).unwrap();
    assert_eq!(ended(state.path(), &["audit", "verify", "--json"]).0, Some(0));
    let digits = signer.public_key().show();
    let by_digits = ["audit", "verify", "--json", "--key", &digits, "--checkpoints", &notes];
    assert_eq!(ended(state.path(), &by_digits).0, Some(1));
    // With a key, nothing to compare is no good news.
    std::fs::write(state.path().join(CHECKPOINTS_FILE_NAME), "").unwrap();
    let (code, said) = ended(state.path(), &["audit", "verify", "--json", "--key", &digits]);
    assert_eq!((code, &said["ok"]), (Some(1), &Value::Bool(false)), "{said}");
    assert!(said["fault"].as_str().unwrap().contains("no checkpoint stands"), "{said}");
}

#[test]
fn a_front_that_was_removed_without_a_record_is_found_though_it_was_signed() {
    let state = tempdir().unwrap();
    let options = Options { segment_bytes_max: 2_000, ..Options::default() };
    let last = decided(state.path(), &options, |_, _| {});
    let signer = Signer::open(state.path(), "n_1").unwrap();
    let first = state.path().join("ledger/00000000000000000001.jsonl");
    let seq = std::fs::read_to_string(&first).unwrap().lines().count() as u64;
    let second = state.path().join(format!("ledger/{:020}.jsonl", seq + 1));
    let line = std::fs::read_to_string(second).unwrap();
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let hash = data_encoding::HEXLOWER.decode(line["prev"].as_str().unwrap().as_bytes());
    let hash = hash.unwrap().try_into().unwrap();
    signer.write(&Position { seq, hash, ..last }).unwrap();
    signer.write(&last).unwrap();
    let key = signer.public_key().show();
    let args = ["audit", "verify", "--json", "--key", &key];
    assert_eq!(ended(state.path(), &args).0, Some(0));
    std::fs::remove_file(first).unwrap();
    let (code, said) = ended(state.path(), &args);
    assert_eq!((code, &said["first_bad_seq"]), (Some(1), &1.into()), "{said}");
    let begins = format!("the ledger begins at {}, and no record", seq + 1);
    assert!(said["fault"].as_str().unwrap().starts_with(&begins), "{said}");
}
