//! Another identity in the place of the one in use.

use std::path::Path;
use std::time::SystemTime;

use age::x25519;

use super::file::{AgeFile, OFFLINE_COPY_FILE, STORE_FILE};
use super::identity::{self, Identities, IdentitySource};
use crate::atomic_file::{self, DirectoryLock};
use crate::{SecretStoreError, StoredKey};

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The public half of the new identity, as in `age1…`.
    pub recipient: String,
    /// Each file that was encrypted anew, with how many keys it holds.
    pub files: Vec<(&'static str, usize)>,
}

/// What is done and stays when the next step is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// Nothing was written, everything was read.
    Read,
    /// The identity file holds the new identity and the ones before.
    BothKept,
    /// One more file is encrypted for the new identity.
    FileReplaced,
    /// Every file was read with the new identity alone.
    Checked,
}

/// Makes a new identity, encrypts the store and the offline copy in
/// `state_directory` for it, and forgets the old one.
///
/// A server may run meanwhile: it reads the identity again when its file was
/// replaced, and does not write while this does. After a crash at any instant
/// everything opens with what the identity file holds; the same call again
/// completes it. With a passphrase the new identity has the same.
///
/// Blocks: on the disk, and with a passphrase for some seconds of work.
///
/// # Errors
/// [`SecretStoreError::Denied`] when the identity is a credential, which
/// others make, when there is none, or when it does not open a file;
/// [`SecretStoreError::Corrupt`] when a file fails its check;
/// [`SecretStoreError::Unavailable`] on I/O. Everything opens as before.
pub fn rotate_identity(
    state_directory: &Path,
    source: &IdentitySource,
) -> Result<Rotated, SecretStoreError> {
    rotate(state_directory, source, |_| Ok(()))
}

/// As [`rotate_identity`]; ends where `after` says so.
fn rotate(
    directory: &Path,
    source: &IdentitySource,
    mut after: impl FnMut(Done) -> Result<(), SecretStoreError>,
) -> Result<Rotated, SecretStoreError> {
    if !source.may_make() {
        return Err(SecretStoreError::Denied(
            "the identity is a credential, which this program does not write: add a line of \
             age-keygen before the old one, restart the server, change a key, and remove the \
             old line"
                .into(),
        ));
    }
    let io_error = |error| SecretStoreError::from_io("lock", directory, &error);
    let _lock = DirectoryLock::acquire(directory).map_err(io_error)?;
    let old = identity::read(source, directory)?.ok_or_else(|| none_yet(directory))?;
    let _ = atomic_file::remove_leftovers(old.origin());
    let mut files = Vec::new();
    for name in [STORE_FILE, OFFLINE_COPY_FILE] {
        let path = directory.join(name);
        atomic_file::remove_leftovers(&path).map_err(io_error)?;
        if let Some((keys, modified)) = AgeFile::load_at(&path, &old)? {
            files.push(Content { name, keys, modified });
        }
    }
    after(Done::Read)?;
    let new = x25519::Identity::generate();
    identity::replace(source, &old.succeeded_by(new.clone()))?;
    after(Done::BothKept)?;
    let new = Identities::of(new, old.origin().to_owned());
    for content in &files {
        content.write(directory, &new)?;
        after(Done::FileReplaced)?;
    }
    for content in &files {
        content.check(directory, &new)?;
    }
    after(Done::Checked)?;
    identity::replace(source, &new)?;
    Ok(Rotated {
        recipient: new.recipient().to_string(),
        files: files.iter().map(|content| (content.name, content.keys.len())).collect(),
    })
}

/// What one file holds.
struct Content {
    name: &'static str,
    keys: Vec<StoredKey>,
    /// As of when the offline copy is.
    modified: SystemTime,
}

impl Content {
    fn write(&self, directory: &Path, new: &Identities) -> Result<(), SecretStoreError> {
        AgeFile::replace_at(&directory.join(self.name), &self.keys, new, Some(self.modified))
    }

    /// Reads the file with the new identity alone.
    fn check(&self, directory: &Path, new: &Identities) -> Result<(), SecretStoreError> {
        let path = directory.join(self.name);
        let read = AgeFile::load_at(&path, new)?.map(|(keys, _)| keys).unwrap_or_default();
        let same = |(one, other): (&StoredKey, &StoredKey)| {
            one.facts == other.facts && one.secret.expose() == other.secret.expose()
        };
        if read.len() == self.keys.len() && read.iter().zip(&self.keys).all(same) {
            return Ok(());
        }
        Err(SecretStoreError::Corrupt(format!(
            "{} does not hold what was written to it; both identities stay, try again",
            path.display()
        )))
    }
}

fn none_yet(directory: &Path) -> SecretStoreError {
    SecretStoreError::Denied(format!(
        "there is no identity for {} yet: the server makes one on its first start",
        directory.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;

    use key_server_core::{KeyFacts, OwnWeight};

    use super::*;
    use crate::{AgeFileStore, Change, OfflineCopy, SecretKey, SecretStore, key_id};

    fn key(number: usize) -> StoredKey {
        let secret = SecretKey::copy_of(&format!("sk-fake-{number:06}"));
        let facts = KeyFacts {
            key: key_id("openai", &secret),
            models: vec!["openai/gpt-4o".parse().unwrap()],
            own_weight: OwnWeight::DEFAULT,
            max_holders: None,
            label: None,
            sources: vec!["cli".into()],
        };
        StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) }
    }

    fn put(number: usize) -> Change {
        Change { put: vec![key(number)], remove: Vec::new() }
    }

    const AS_OF_MS: i64 = 1_795_000_000_000;

    struct Node {
        dir: tempfile::TempDir,
        source: IdentitySource,
    }

    impl Node {
        /// Three keys in the store, two in the copy.
        async fn new(source: impl FnOnce(&Path) -> IdentitySource) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let source = source(dir.path());
            let node = Self { dir, source };
            for number in [1, 2, 3] {
                node.store().commit(&put(number)).await.unwrap();
            }
            node.copy().save(&[key(1), key(2)], AS_OF_MS).await.unwrap();
            node
        }

        fn store(&self) -> AgeFileStore {
            AgeFileStore::open(self.dir.path(), &self.source).unwrap()
        }

        fn copy(&self) -> OfflineCopy {
            OfflineCopy::open(self.dir.path(), &self.source).unwrap()
        }

        fn identity(&self) -> PathBuf {
            identity::read(&self.source, self.dir.path()).unwrap().unwrap().origin().to_owned()
        }

        fn rotate(&self) -> Result<Rotated, SecretStoreError> {
            rotate_identity(self.dir.path(), &self.source)
        }

        /// As after a start: everything opens and is what it was.
        async fn assert_whole(&self, store_count: usize) {
            assert_eq!(self.store().load().await.unwrap().len(), store_count);
            let (keys, as_of_ms) = self.copy().load().await.unwrap().unwrap();
            assert_eq!((keys.len(), as_of_ms), (2, AS_OF_MS));
        }
    }

    async fn nodes() -> Vec<Node> {
        let passphrase = || Arc::new(SecretKey::copy_of("fake passphrase"));
        vec![
            Node::new(|_| IdentitySource::StateDirectory).await,
            Node::new(|dir| IdentitySource::File(dir.join("elsewhere.txt"))).await,
            Node::new(|_| IdentitySource::Passphrase(passphrase())).await,
        ]
    }

    #[tokio::test]
    async fn the_old_identity_opens_nothing_and_the_new_one_everything() {
        for node in nodes().await {
            let old = fs::read(node.identity()).unwrap();
            let before = node.store().recipient();
            let rotated = node.rotate().unwrap();
            assert_ne!(rotated.recipient, before);
            assert_eq!(rotated.files, [(STORE_FILE, 3), (OFFLINE_COPY_FILE, 2)]);
            assert_eq!(node.store().recipient(), rotated.recipient);
            node.assert_whole(3).await;
            fs::write(node.identity(), old).unwrap();
            assert!(matches!(node.store().load().await, Err(SecretStoreError::Denied(_))));
            assert!(matches!(node.copy().load().await, Err(SecretStoreError::Denied(_))));
        }
    }

    #[tokio::test]
    async fn an_end_after_any_step_leaves_what_opens_and_is_completed_by_the_next_try() {
        for node in nodes().await {
            let mut steps = Vec::new();
            rotate(node.dir.path(), &node.source, |done| {
                steps.push(done);
                Ok(())
            })
            .unwrap();
            assert_eq!(steps.len(), 5, "{steps:?}");
            for ends_after in 0..steps.len() {
                let old = node.store();
                let mut left = ends_after;
                let ended = rotate(node.dir.path(), &node.source, |_| match left.checked_sub(1) {
                    Some(fewer) => {
                        left = fewer;
                        Ok(())
                    }
                    None => Err(SecretStoreError::Unavailable("the end".into())),
                });
                assert_eq!(ended, Err(SecretStoreError::Unavailable("the end".into())));
                node.assert_whole(3).await;
                // A server that ran all the time goes on, too, and what it
                // writes is for an identity that is there.
                assert_eq!(old.load().await.unwrap().len(), 3);
                old.commit(&put(3)).await.unwrap();
                node.assert_whole(3).await;
                node.rotate().unwrap();
                node.assert_whole(3).await;
            }
        }
    }

    #[tokio::test]
    async fn an_open_store_writes_for_the_new_identity() {
        for node in nodes().await {
            let (store, copy) = (node.store(), node.copy());
            let rotated = node.rotate().unwrap();
            store.commit(&put(4)).await.unwrap();
            copy.save(&[key(1), key(2)], AS_OF_MS).await.unwrap();
            assert_eq!(store.recipient(), rotated.recipient);
            node.assert_whole(4).await;
        }
    }

    #[tokio::test]
    async fn what_does_not_open_or_is_not_ours_to_write_changes_nothing() {
        let node = Node::new(|_| IdentitySource::StateDirectory).await;
        let identity = fs::read(node.identity()).unwrap();
        fs::write(node.dir.path().join(OFFLINE_COPY_FILE), "damaged").unwrap();
        assert!(matches!(node.rotate(), Err(SecretStoreError::Corrupt(_))));
        assert_eq!(fs::read(node.identity()).unwrap(), identity);
        let credential = IdentitySource::Credential(node.identity());
        let refused = rotate_identity(node.dir.path(), &credential).unwrap_err();
        assert!(refused.to_string().contains("age-keygen"), "{refused}");
        let empty = tempfile::tempdir().unwrap();
        let refused = rotate_identity(empty.path(), &IdentitySource::StateDirectory).unwrap_err();
        assert!(refused.to_string().contains("no identity"), "{refused}");
    }
}
