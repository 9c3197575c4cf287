//! The checkpoints beside a ledger, and their keys.

use std::fs;
use std::path::Path;
use std::thread_local;

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signer as _, SigningKey};
use key_server_core::Time;
use key_server_ledger::checkpoint::{
    CHECKPOINTS_FILE_NAME, CheckpointError, Checkpoints, KEY_FILE_NAME, PublicKey, Signer,
};
use key_server_ledger::verify::{VerifyError, verify_against};
use key_server_ledger::{Entry, Fact, Ledger, Options, Position};
use tempfile::TempDir;

use crate::scratch;

/// Of nobody, and always the same: what the corpus has signed stays signed.
const SEED: [u8; 32] = [7; 32];
/// Lines of the ledger that the checkpoints are compared with.
const RECORDS: u64 = 5;
/// A torn line that is longer is none that a crash left.
const LINE_BYTES_MAX: usize = 4_096;

thread_local! {
    static LEDGER: TempDir = ledger();
}

fn ledger() -> TempDir {
    let dir = scratch::dir();
    let opened = Ledger::open(dir.path(), "n_fuzz", &Options::default(), None, |_, _| {});
    let (ledger, _) = opened.expect("it is new");
    for number in 1..=RECORDS {
        let entries = vec![Entry::of_node(Fact::NodeStopped)];
        drop(ledger.append(Time::from_ms(number), entries));
    }
    ledger.close().expect("there is room for files");
    dir
}

/// The first byte says what the rest is: the file of checkpoints; its lines up
/// to `,"signature"`, which are signed then; the public key; or the secret one.
pub fn run(bytes: &[u8]) {
    let Some((kind, content)) = bytes.split_first() else { return };
    scratch::within(|dir| match kind % 4 {
        0 => file(dir, content),
        1 => file(dir, &signed(content)),
        2 => public_key(content),
        _ => secret_key(dir, content),
    });
}

fn signed(content: &[u8]) -> Vec<u8> {
    let key = SigningKey::from_bytes(&SEED);
    let mut lines = Vec::new();
    for body in content.split(|byte| *byte == b'\n').filter(|body| !body.is_empty()) {
        let signature = key.sign(&[b"key-server checkpoint 1\n", body].concat()).to_bytes();
        lines.extend_from_slice(body);
        let signature = HEXLOWER.encode(&signature);
        lines.extend_from_slice(format!(",\"signature\":\"{signature}\"}}\n").as_bytes());
    }
    lines
}

fn signer(dir: &Path) -> Signer {
    let key = scratch::write(dir, KEY_FILE_NAME, HEXLOWER.encode(&SEED).as_bytes());
    private(&key);
    Signer::open(dir, "n_fuzz").expect("the key is right")
}

fn private(path: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(path, mode).expect("it is ours");
}

/// Checkpoints in order, or the first bad line; what fits the ledger is of one
/// of its lines; and the next checkpoint follows the whole lines that are there.
fn file(dir: &Path, content: &[u8]) {
    let signer = signer(dir);
    let path = scratch::write(dir, CHECKPOINTS_FILE_NAME, content);
    let open = || Checkpoints::open(&path, signer.public_key()).expect("it is a file");
    let Ok(before) = read(open(), content) else { return };
    match LEDGER.with(|ledger| verify_against(ledger.path(), open())) {
        Ok(report) => {
            assert_eq!(report.records, RECORDS);
            assert!(report.checkpointed_seq.is_none_or(|seq| seq <= RECORDS), "{report:?}");
        }
        Err(VerifyError::Replaced { .. } | VerifyError::CutOff { .. }) => {}
        Err(error) => panic!("nothing is wrong with ledger and checkpoints: {error}"),
    }
    let last = content.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    if last.len() < LINE_BYTES_MAX {
        let seq = before.last().copied().unwrap_or(0);
        let position = Position { seq, hash: [1; 32], segment: 1, offset: 0 };
        signer.write(&position).expect("there is room for files");
        let written = fs::read(&path).expect("it was written just now");
        let after = read(open(), &written).expect("what was whole stays, and one line follows");
        assert_eq!(after, [before, vec![seq]].concat());
    }
}

/// The numbers of the lines that checkpoints stand for.
fn read(mut checkpoints: Checkpoints, content: &[u8]) -> Result<Vec<u64>, ()> {
    let lines = content.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    let mut seqs = Vec::new();
    loop {
        match checkpoints.advance() {
            Ok(Some(checkpoint)) => seqs.push(checkpoint.seq),
            Ok(None) => break,
            Err(
                CheckpointError::Malformed { line, .. }
                | CheckpointError::NotSigned { line, .. }
                | CheckpointError::OutOfOrder { line, .. },
            ) => {
                assert!((1..=lines).contains(&line));
                assert_eq!(line, seqs.len() as u64 + 1, "the first one that is wrong");
                return Err(());
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(seqs.is_sorted());
    Ok(seqs)
}

fn public_key(content: &[u8]) {
    let Ok(text) = str::from_utf8(content) else { return };
    if let Some(key) = PublicKey::read(text) {
        assert_eq!(key.show(), text.trim(), "there is one way to write a key");
    }
}

/// A key or a refusal that does not repeat it.
fn secret_key(dir: &Path, content: &[u8]) {
    private(&scratch::write(dir, KEY_FILE_NAME, content));
    match Signer::open(dir, "n_fuzz") {
        Ok(signer) => {
            let seed = HEXLOWER.decode(content.trim_ascii()).expect("it was taken");
            let key = SigningKey::from_bytes(&seed.try_into().expect("of that length"));
            let shown = HEXLOWER.encode(key.verifying_key().as_bytes());
            assert_eq!(signer.public_key().show(), shown);
        }
        Err(CheckpointError::NotAKey { path }) => assert!(path.ends_with(KEY_FILE_NAME)),
        Err(error) => panic!("{error}"),
    }
}
