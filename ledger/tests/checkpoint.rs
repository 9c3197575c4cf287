//! Signed notes of how far the ledger was.

use std::os::unix::fs::PermissionsExt;

use key_server_ledger::Position;
use key_server_ledger::checkpoint::{
    CHECKPOINTS_FILE_NAME, CheckpointError, Checkpoints, KEY_FILE_NAME, PUBLIC_KEY_FILE_NAME,
    PublicKey, Signer,
};

fn position(seq: u64) -> Position {
    Position { seq, hash: [seq as u8; 32], segment: 1, offset: 0 }
}

fn read(dir: &std::path::Path, key: PublicKey) -> Result<Vec<u64>, CheckpointError> {
    let mut checkpoints = Checkpoints::open(&dir.join(CHECKPOINTS_FILE_NAME), key)?;
    let mut seqs = Vec::new();
    while let Some(checkpoint) = checkpoints.advance()? {
        assert_eq!(checkpoint.hash, [checkpoint.seq as u8; 32]);
        assert_eq!(checkpoint.node, "n_\"1\"");
        seqs.push(checkpoint.seq);
    }
    Ok(seqs)
}

#[test]
fn checkpoints_are_read_back_with_the_key_that_was_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let key = Signer::open(dir.path(), "n_\"1\"").unwrap().public_key();
    for seq in [1, 5, 5, 9] {
        let signer = Signer::open(dir.path(), "n_\"1\"").unwrap();
        assert_eq!(signer.public_key().show(), key.show());
        signer.write(&position(seq)).unwrap();
    }
    assert_eq!(read(dir.path(), key.clone()).unwrap(), [1, 5, 5, 9]);
    let published = PublicKey::open(&dir.path().join(PUBLIC_KEY_FILE_NAME)).unwrap();
    assert_eq!(published.show(), key.show());
    for name in [KEY_FILE_NAME, CHECKPOINTS_FILE_NAME] {
        let mode = dir.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_changed_foreign_or_moved_checkpoint_is_named() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let signer = Signer::open(dir.path(), "n_\"1\"").unwrap();
    [1, 2, 3].iter().for_each(|seq| drop(signer.write(&position(*seq)).unwrap()));
    let path = dir.path().join(CHECKPOINTS_FILE_NAME);
    let whole = std::fs::read_to_string(&path).unwrap();
    for (place, byte) in whole.bytes().enumerate().filter(|(_, byte)| *byte != b'\n') {
        let mut bytes = whole.clone().into_bytes();
        bytes[place] = byte ^ 1;
        std::fs::write(&path, bytes).unwrap();
        let line = whole[..place].matches('\n').count() as u64 + 1;
        let error = read(dir.path(), signer.public_key()).unwrap_err();
        let named = match error {
            CheckpointError::Malformed { line, .. } | CheckpointError::NotSigned { line, .. } => {
                line
            }
            error => panic!("{error}"),
        };
        assert_eq!(named, line, "byte {place}");
    }
    let lines: Vec<&str> = whole.lines().collect();
    std::fs::write(&path, format!("{}\n{}\n", lines[2], lines[0])).unwrap();
    let error = read(dir.path(), signer.public_key()).unwrap_err();
    assert!(matches!(error, CheckpointError::OutOfOrder { line: 2, .. }), "{error}");
    std::fs::write(&path, &whole).unwrap();
    let foreign = Signer::open(other.path(), "n_\"1\"").unwrap().public_key();
    let error = read(dir.path(), foreign).unwrap_err();
    assert!(matches!(error, CheckpointError::NotSigned { line: 1, .. }), "{error}");
}

#[test]
fn a_torn_last_checkpoint_does_not_count_and_is_cut_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::open(dir.path(), "n_\"1\"").unwrap();
    signer.write(&position(1)).unwrap();
    signer.write(&position(2)).unwrap();
    let path = dir.path().join(CHECKPOINTS_FILE_NAME);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 30]).unwrap();
    assert_eq!(read(dir.path(), signer.public_key()).unwrap(), [1]);
    signer.write(&position(3)).unwrap();
    assert_eq!(read(dir.path(), signer.public_key()).unwrap(), [1, 3]);
}

#[test]
fn a_key_that_others_can_read_or_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Signer::open(dir.path(), "n_1").unwrap());
    let path = dir.path().join(KEY_FILE_NAME);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let error = Signer::open(dir.path(), "n_1").err().unwrap().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&path, "zz\n").unwrap();
    let error = Signer::open(dir.path(), "n_1").err().unwrap();
    assert!(matches!(error, CheckpointError::NotAKey { .. }), "{error}");
}
