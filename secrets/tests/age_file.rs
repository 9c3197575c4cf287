//! The age file as a whole: first start, identities, damage, rights.

#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use key_server_core::{KeyFacts, OwnWeight};
use key_server_secrets::{
    AgeFileStore, Change, IdentitySource, SecretKey, SecretStore, SecretStoreError, StoredKey,
    key_id,
};
use tempfile::TempDir;

fn key(number: usize) -> StoredKey {
    let secret = SecretKey::copy_of(&format!("sk-fake-canary-{number:06}"));
    let facts = KeyFacts {
        key: key_id("openai", &secret),
        models: vec!["openai/gpt-4o".parse().unwrap()],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["csv@node-1".into()],
    };
    StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) }
}

fn put(keys: std::ops::Range<usize>) -> Change {
    Change { put: keys.map(key).collect(), remove: Vec::new() }
}

fn open(dir: &Path) -> Result<AgeFileStore, SecretStoreError> {
    AgeFileStore::open(dir, &IdentitySource::StateDirectory)
}

fn refusal(opened: Result<AgeFileStore, SecretStoreError>) -> SecretStoreError {
    match opened {
        Ok(_) => panic!("the store opened"),
        Err(error) => error,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A directory with a store of three keys.
async fn stored() -> (TempDir, AgeFileStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.commit(&put(0..3)).await.unwrap();
    (dir, store)
}

async fn count(store: &AgeFileStore) -> usize {
    store.load().await.unwrap().len()
}

#[tokio::test]
async fn first_start_makes_a_private_identity_and_the_first_commit_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(names(dir.path()), ["identity.age.txt"]);
    assert_eq!(count(&store).await, 0);
    store.commit(&put(0..1)).await.unwrap();
    assert_eq!(names(dir.path()), ["identity.age.txt", "secrets.age"]);
    for name in names(dir.path()) {
        assert_eq!(mode(&dir.path().join(&name)), 0o600, "{name}");
    }
    let identity = fs::read_to_string(dir.path().join("identity.age.txt")).unwrap();
    assert!(identity.contains(&format!("# public key: {}\nAGE-SECRET-KEY-1", store.recipient())));
}

#[tokio::test]
async fn store_file_holds_no_credential_in_clear() {
    let (dir, _store) = stored().await;
    let file = fs::read(dir.path().join("secrets.age")).unwrap();
    assert!(file.starts_with(b"age-encryption.org/v1\n-> X25519 "));
    let clear = file.windows(14).any(|window| window == b"sk-fake-canary");
    assert!(!clear);
}

#[tokio::test]
async fn store_without_its_identity_is_an_error_and_makes_no_new_one() {
    let (dir, _store) = stored().await;
    fs::remove_file(dir.path().join("identity.age.txt")).unwrap();
    let error = refusal(open(dir.path()));
    let at = dir.path().display();
    let expected = format!(
        "{at}/secrets.age exists but its identity {at}/identity.age.txt does not, and nothing else \
         opens it: put the identity back from a backup, or move {at}/secrets.age away and import \
         the keys again"
    );
    assert_eq!(error, SecretStoreError::Denied(expected));
    assert_eq!(names(dir.path()), ["secrets.age"]);
}

#[tokio::test]
async fn identity_that_others_may_read_is_refused() {
    let (dir, _store) = stored().await;
    let path = dir.path().join("identity.age.txt");
    for mode in [0o640, 0o604, 0o660, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = refusal(open(dir.path()));
        assert!(matches!(error, SecretStoreError::Denied(_)), "{error:?}");
        let hint = format!(
            "is open to group or others (mode {mode:04o}): run chmod 600 {}",
            path.display()
        );
        assert!(error.to_string().ends_with(&hint), "{error}");
    }
}

#[tokio::test]
async fn identity_that_is_none_is_refused_without_quoting_it() {
    let (dir, _store) = stored().await;
    let path = dir.path().join("identity.age.txt");
    let whole = fs::read_to_string(&path).unwrap();
    let cut = whole.trim_end().to_owned();
    for content in
        ["", "# only a comment\n", "sk-fake-canary-000001\n", "\u{1}\u{2}", &cut[..cut.len() - 1]]
    {
        fs::write(&path, content).unwrap();
        let error = refusal(open(dir.path()));
        assert!(matches!(error, SecretStoreError::Corrupt(_)), "{error:?}");
        assert!(!error.to_string().contains("canary"));
        assert!(!error.to_string().contains(cut.lines().last().unwrap()));
    }
}

#[tokio::test]
async fn another_identity_is_refused_and_the_store_is_left_alone() {
    let (dir, store) = stored().await;
    let before = fs::read(dir.path().join("secrets.age")).unwrap();
    let own = fs::read(dir.path().join("identity.age.txt")).unwrap();
    let other = tempfile::tempdir().unwrap();
    open(other.path()).unwrap();
    fs::copy(other.path().join("identity.age.txt"), dir.path().join("identity.age.txt")).unwrap();
    let wrong = open(dir.path()).unwrap();
    for refused in [wrong.load().await.map(drop), wrong.commit(&put(5..6)).await] {
        let error = refused.unwrap_err();
        assert!(matches!(error, SecretStoreError::Denied(_)), "{error:?}");
        assert!(error.to_string().contains("was written for another identity than"), "{error}");
    }
    assert_eq!(fs::read(dir.path().join("secrets.age")).unwrap(), before);
    // Whoever had it open follows the identity's file.
    assert!(matches!(store.load().await, Err(SecretStoreError::Denied(_))));
    fs::write(dir.path().join("identity.age.txt"), own).unwrap();
    assert_eq!(count(&store).await, 3);
}

#[tokio::test]
async fn identity_may_be_replaced_by_putting_a_new_one_before_it() {
    let (dir, store) = stored().await;
    let path = dir.path().join("identity.age.txt");
    let old = fs::read_to_string(&path).unwrap();
    let other = tempfile::tempdir().unwrap();
    let new_recipient = open(other.path()).unwrap().recipient();
    let new = fs::read_to_string(other.path().join("identity.age.txt")).unwrap();
    fs::write(&path, format!("{new}{old}")).unwrap();
    let both = open(dir.path()).unwrap();
    assert_eq!(both.recipient(), new_recipient);
    assert_eq!(count(&both).await, 3);
    both.commit(&put(3..4)).await.unwrap();
    fs::write(&path, new).unwrap();
    assert_eq!(count(&open(dir.path()).unwrap()).await, 4);
    assert_eq!(count(&store).await, 4, "whoever had it open follows the identity's file");
    fs::write(&path, old).unwrap();
    let refused = open(dir.path()).unwrap().load().await;
    assert!(refused.is_err(), "the old identity still opens the store");
}

#[tokio::test]
async fn identity_file_elsewhere_is_made_once_and_a_credential_never() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("my-identity");
    let credential = IdentitySource::Credential(path.clone());
    let error = refusal(AgeFileStore::open(dir.path(), &credential));
    assert!(error.to_string().contains("make it with age-keygen"), "{error}");
    let file = IdentitySource::File(path.clone());
    let store = AgeFileStore::open(dir.path(), &file).unwrap();
    store.commit(&put(0..2)).await.unwrap();
    assert_eq!(names(dir.path()), ["secrets.age"]);
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
    assert!(AgeFileStore::open(dir.path(), &file).is_err());
    let by_credential = AgeFileStore::open(dir.path(), &credential).unwrap();
    assert_eq!(count(&by_credential).await, 2);
}

#[tokio::test]
async fn passphrase_opens_the_store_that_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let source = |text: &str| IdentitySource::Passphrase(Arc::new(SecretKey::copy_of(text)));
    let store = AgeFileStore::open(dir.path(), &source("fake passphrase")).unwrap();
    store.commit(&put(0..2)).await.unwrap();
    assert_eq!(names(dir.path()), ["identity.age", "secrets.age"]);
    let again = AgeFileStore::open(dir.path(), &source("fake passphrase")).unwrap();
    assert_eq!(count(&again).await, 2);
    let error = refusal(AgeFileStore::open(dir.path(), &source("fake passphrasf")));
    assert!(matches!(error, SecretStoreError::Denied(_)), "{error:?}");
    assert!(error.to_string().starts_with("the passphrase does not open "), "{error}");
    assert!(!error.to_string().contains("fake"));
    fs::remove_file(dir.path().join("identity.age")).unwrap();
    assert!(AgeFileStore::open(dir.path(), &source("fake passphrase")).is_err());
}

#[tokio::test]
async fn every_flipped_byte_of_the_store_is_an_error() {
    let (dir, store) = stored().await;
    let path = dir.path().join("secrets.age");
    let whole = fs::read(&path).unwrap();
    // The content fills the first bytes of the first chunk; the rest is
    // filler, of which a part is tried.
    let chunk_end = whole.len() - 65_536 - 16;
    let places = (0..2_048)
        .chain((2_048..whole.len()).step_by(331))
        .chain(chunk_end - 16..chunk_end + 16)
        .chain(whole.len() - 32..whole.len());
    let mut file = whole.clone();
    for place in places {
        file[place] ^= 0x20;
        fs::write(&path, &file).unwrap();
        assert!(store.load().await.is_err(), "byte {place}");
        file[place] = whole[place];
    }
    fs::write(&path, &file).unwrap();
    assert_eq!(count(&store).await, 3);
}

/// The figure of the store: of 10,000 bytes, anywhere, changed to anything,
/// each is found, and what was in the store is there again without the change.
#[tokio::test]
async fn each_of_10000_flipped_bytes_is_found() {
    const SEED: u64 = 20_261_123;
    let (dir, store) = stored().await;
    let path = dir.path().join("secrets.age");
    let whole = fs::read(&path).unwrap();
    let (mut file, mut state) = (whole.clone(), SEED);
    // SplitMix64: the same numbers for the same seed.
    let mut random = |bound: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(bits ^ (bits >> 31)) * bound as u128) >> 64) as usize
    };
    for number in 0..10_000 {
        // A third of them where the head and the keys are; the rest anywhere.
        let bound = if number % 3 == 0 { 2_048 } else { whole.len() };
        let place = random(bound);
        file[place] ^= u8::try_from(1 + random(255)).unwrap();
        fs::write(&path, &file).unwrap();
        let error = store.load().await.expect_err(&format!("byte {place}"));
        let is_named = matches!(&error, SecretStoreError::Corrupt(_) | SecretStoreError::Denied(_));
        assert!(is_named && !error.to_string().contains("canary"), "byte {place}: {error:?}");
        file[place] = whole[place];
    }
    fs::write(&path, &file).unwrap();
    assert_eq!(count(&store).await, 3);
}

#[tokio::test]
async fn cut_or_lengthened_store_is_an_error() {
    let (dir, store) = stored().await;
    let path = dir.path().join("secrets.age");
    let whole = fs::read(&path).unwrap();
    for bytes in (0..1_024).chain((1_024..whole.len()).step_by(997)) {
        fs::write(&path, &whole[..bytes]).unwrap();
        let error = store.load().await.unwrap_err();
        assert!(!matches!(error, SecretStoreError::Unavailable(_)), "{bytes} bytes: {error:?}");
    }
    fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
    let error = store.load().await.unwrap_err();
    let expected = format!(
        "{} fails its check: it was changed or cut; put it back from a backup, or move it away and import the keys again",
        path.display()
    );
    assert_eq!(error, SecretStoreError::Corrupt(expected));
}

#[tokio::test]
async fn damaged_store_is_never_overwritten() {
    let (dir, store) = stored().await;
    let path = dir.path().join("secrets.age");
    fs::write(&path, b"not an age file").unwrap();
    assert!(matches!(store.commit(&put(7..8)).await, Err(SecretStoreError::Corrupt(_))));
    assert_eq!(fs::read(&path).unwrap(), b"not an age file");
    assert_eq!(names(dir.path()), ["identity.age.txt", "secrets.age"]);
}

#[tokio::test]
async fn link_or_directory_in_the_place_of_the_store_is_refused() {
    let (dir, store) = stored().await;
    let path = dir.path().join("secrets.age");
    let aside = dir.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    symlink(&aside, &path).unwrap();
    let error = store.load().await.unwrap_err();
    assert!(matches!(error, SecretStoreError::Denied(_)), "{error:?}");
    assert!(store.commit(&put(7..8)).await.is_err());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(store.load().await.is_err());
}

#[tokio::test]
async fn key_that_could_not_be_read_back_is_refused_and_nothing_is_written() {
    let (_dir, store) = stored().await;
    let mut facts = KeyFacts::clone(&key(9).facts);
    facts.models = vec!["xai/grok-3-beta".parse().unwrap()];
    let wrong = StoredKey { facts: Arc::new(facts), secret: key(9).secret };
    let change = Change { put: vec![key(8), wrong], remove: Vec::new() };
    let error = store.commit(&change).await.unwrap_err();
    assert!(
        error.to_string().ends_with(
            "cannot be stored: its id is not that of its provider and secret; nothing was changed"
        ),
        "{error}"
    );
    assert_eq!(count(&store).await, 3);
}

#[tokio::test]
async fn leftovers_of_a_crashed_write_are_removed_at_start() {
    let (dir, _store) = stored().await;
    for name in [
        "secrets.age.0123456789abcdef.tmp",
        "identity.age.txt.0123456789abcdef.tmp",
        "secrets.age.bak",
    ] {
        fs::write(dir.path().join(name), "left").unwrap();
    }
    let store = open(dir.path()).unwrap();
    assert_eq!(names(dir.path()), ["identity.age.txt", "secrets.age", "secrets.age.bak"]);
    assert_eq!(count(&store).await, 3);
}

#[tokio::test]
async fn missing_state_directory_is_named() {
    let error = refusal(open(Path::new("/nonexistent/key-server")));
    assert!(matches!(error, SecretStoreError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("/nonexistent/key-server"));
}

#[tokio::test]
async fn commits_of_two_stores_on_one_directory_do_not_lose_each_other() {
    let (dir, first) = stored().await;
    let second = open(dir.path()).unwrap();
    for round in 0..10 {
        let (one, other) = (put(10 * round..10 * round + 5), put(10 * round + 5..10 * round + 10));
        let (one, other) = tokio::join!(first.commit(&one), second.commit(&other));
        one.unwrap();
        other.unwrap();
    }
    assert_eq!(count(&first).await, 100);
}

/// Puts a file that the `age` tool made (version 1.1.1) into a directory.
fn put_made_by_age(dir: &Path, name: &str, content: &[u8]) {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn store_and_identities_made_by_the_age_tool_are_read() {
    let dir = tempfile::tempdir().unwrap();
    put_made_by_age(dir.path(), "secrets.age", include_bytes!("made-by-age/store.bin"));
    put_made_by_age(dir.path(), "identity.age.txt", include_bytes!("made-by-age/identity.txt"));
    let wrapped = include_bytes!("made-by-age/identity-with-passphrase.bin");
    put_made_by_age(dir.path(), "identity.age", wrapped);
    let passphrase = Arc::new(SecretKey::copy_of("fake passphrase"));
    for source in [IdentitySource::StateDirectory, IdentitySource::Passphrase(passphrase)] {
        let store = AgeFileStore::open(dir.path(), &source).unwrap();
        let keys = store.load().await.unwrap();
        let [key] = &keys[..] else {
            panic!("{} keys", keys.len());
        };
        assert_eq!(key.secret.expose(), "sk-fake-1");
        let models: Vec<_> = key.facts.models.iter().map(ToString::to_string).collect();
        assert_eq!(models, ["openai/gpt-4o", "openai/o3"]);
    }
}
