//! The copy of what a store elsewhere last gave.

#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use key_server_core::{KeyFacts, OwnWeight};
use key_server_secrets::{
    AgeFileStore, Change, IdentitySource, OfflineCopy, SecretKey, SecretStore, SecretStoreError,
    StoredKey, key_id,
};

const AS_OF: i64 = 1_770_000_000_123;

fn key(number: usize) -> StoredKey {
    let secret = SecretKey::copy_of(&format!("sk-fake-canary-{number:06}"));
    let facts = KeyFacts {
        key: key_id("openai", &secret),
        models: vec!["openai/gpt-4o".parse().unwrap()],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["vault".into()],
    };
    StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) }
}

fn open(dir: &Path) -> OfflineCopy {
    OfflineCopy::open(dir, &IdentitySource::StateDirectory).unwrap()
}

async fn loaded(copy: &OfflineCopy) -> (Vec<String>, i64) {
    let (keys, as_of) = copy.load().await.unwrap().unwrap();
    let mut secrets: Vec<String> = keys.iter().map(|key| key.secret.expose().into()).collect();
    secrets.sort();
    (secrets, as_of)
}

#[tokio::test]
async fn nothing_was_saved_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let copy = open(dir.path());
    assert!(copy.load().await.unwrap().is_none());
    copy.touch(AS_OF).unwrap();
    assert!(copy.load().await.unwrap().is_none());
}

#[tokio::test]
async fn saved_keys_come_back_with_their_time_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).save(&[key(2), key(1)], AS_OF).await.unwrap();
    let copy = open(dir.path());
    let expected = ["sk-fake-canary-000001", "sk-fake-canary-000002"].map(String::from).to_vec();
    assert_eq!(loaded(&copy).await, (expected, AS_OF));
    copy.save(&[], AS_OF + 1).await.unwrap();
    assert_eq!(loaded(&copy).await, (Vec::new(), AS_OF + 1));
}

#[tokio::test]
async fn touch_changes_the_time_and_writes_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let copy = open(dir.path());
    copy.save(&[key(1)], AS_OF).await.unwrap();
    let path = dir.path().join("secrets-copy.age");
    let (inode, content) = (fs::metadata(&path).unwrap().ino(), fs::read(&path).unwrap());
    copy.touch(AS_OF + 60_000).unwrap();
    assert_eq!(loaded(&copy).await.1, AS_OF + 60_000);
    assert_eq!((fs::metadata(&path).unwrap().ino(), fs::read(&path).unwrap()), (inode, content));
}

#[tokio::test]
async fn file_is_private_and_holds_no_credential_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).save(&[key(1)], AS_OF).await.unwrap();
    let path = dir.path().join("secrets-copy.age");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let content = fs::read(&path).unwrap();
    assert!(content.starts_with(b"age-encryption.org/v1\n"));
    assert!(!content.windows(14).any(|window| window == b"sk-fake-canary"));
}

#[tokio::test]
async fn store_and_copy_lie_beside_each_other_with_one_identity() {
    let dir = tempfile::tempdir().unwrap();
    let copy = open(dir.path());
    let store = AgeFileStore::open(dir.path(), &IdentitySource::StateDirectory).unwrap();
    copy.save(&[key(1)], AS_OF).await.unwrap();
    store.commit(&Change { put: vec![key(2)], remove: Vec::new() }).await.unwrap();
    assert_eq!(loaded(&copy).await.0, ["sk-fake-canary-000001"]);
    assert_eq!(store.load().await.unwrap().len(), 1);
}

#[tokio::test]
async fn identity_is_never_made_anew_beside_a_store_or_a_copy() {
    for with_copy in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        if with_copy {
            open(dir.path()).save(&[key(1)], AS_OF).await.unwrap();
        } else {
            let store = AgeFileStore::open(dir.path(), &IdentitySource::StateDirectory).unwrap();
            store.commit(&Change { put: vec![key(1)], remove: Vec::new() }).await.unwrap();
        }
        fs::remove_file(dir.path().join("identity.age.txt")).unwrap();
        let source = IdentitySource::StateDirectory;
        for refused in [
            OfflineCopy::open(dir.path(), &source).map(drop),
            AgeFileStore::open(dir.path(), &source).map(drop),
        ] {
            let Err(SecretStoreError::Denied(text)) = refused else { panic!("{refused:?}") };
            let (cure, file) = match with_copy {
                true => ("or remove", "secrets-copy.age"),
                false => ("and import the keys again", "secrets.age"),
            };
            assert!(text.contains(cure) && text.contains(file), "{text}");
        }
    }
}

#[tokio::test]
async fn damaged_copy_is_corrupt_and_a_save_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let copy = open(dir.path());
    fs::write(dir.path().join("secrets-copy.age"), b"not an age file").unwrap();
    assert!(matches!(copy.load().await, Err(SecretStoreError::Corrupt(_))));
    copy.save(&[key(1)], AS_OF).await.unwrap();
    assert_eq!(loaded(&copy).await.1, AS_OF);
}
