//! One age-encrypted file in the state directory, and the identity that opens
//! it. `docs/secret-store.md` is the page for people.

mod document;
mod file;
mod identity;
mod interner;
mod rotate;
mod seal;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use key_server_core::KeyId;

use crate::{Change, SecretStore, SecretStoreError, StoredKey};

use file::STORE_FILE;
pub(crate) use file::{AgeFile, OFFLINE_COPY_FILE};
pub use identity::IdentitySource;
pub(crate) use interner::Interner;
pub use rotate::{Rotated, rotate_identity};

/// A [`SecretStore`] in one age-encrypted file, `secrets.age`.
///
/// It keeps no credential in memory: every call reads the file. Every commit
/// replaces it as a whole, so a crash at any instant leaves the old or the new
/// content.
pub struct AgeFileStore {
    file: Arc<AgeFile>,
}

impl AgeFileStore {
    /// Opens the store in `state_directory`, which exists and is private.
    ///
    /// Reads the identity, or makes it on the first start (see
    /// [`IdentitySource`]), and removes what a crashed write left. The store's
    /// file itself is first made by the first commit. Blocks: on the disk, and
    /// with a passphrase for about a second of work.
    ///
    /// # Errors
    /// [`SecretStoreError::Denied`] when the identity is missing although the
    /// store exists, is not private, or the passphrase is wrong;
    /// [`SecretStoreError::Corrupt`] when it is no identity;
    /// [`SecretStoreError::Unavailable`] on I/O.
    pub fn open(state_directory: &Path, source: &IdentitySource) -> Result<Self, SecretStoreError> {
        let file = AgeFile::open(state_directory, STORE_FILE, source)?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Whether there is one in `state_directory`; makes nothing.
    pub fn is_at(state_directory: &Path) -> bool {
        state_directory.join(STORE_FILE).exists()
    }

    /// The public half of the identity that new content is encrypted to, as in
    /// `age1…`.
    pub fn recipient(&self) -> String {
        self.file.recipient()
    }
}

#[async_trait]
impl SecretStore for AgeFileStore {
    fn name(&self) -> &'static str {
        "age"
    }

    async fn load(&self) -> Result<Vec<StoredKey>, SecretStoreError> {
        AgeFile::blocking(&self.file, load).await
    }

    async fn commit(&self, change: &Change) -> Result<(), SecretStoreError> {
        if change.is_empty() {
            return Ok(());
        }
        change.put.iter().try_for_each(file::storable)?;
        let change = change.clone();
        AgeFile::blocking(&self.file, move |file| {
            let _writing = file.lock()?;
            file.replace(&applied(load(file)?, change), None)
        })
        .await
    }
}

fn load(file: &AgeFile) -> Result<Vec<StoredKey>, SecretStoreError> {
    Ok(file.load()?.map(|(keys, _)| keys).unwrap_or_default())
}

fn applied(stored: Vec<StoredKey>, change: Change) -> Vec<StoredKey> {
    let mut keys: BTreeMap<KeyId, StoredKey> =
        stored.into_iter().map(|key| (key.id(), key)).collect();
    for id in &change.remove {
        keys.remove(id);
    }
    keys.extend(change.put.into_iter().map(|key| (key.id(), key)));
    keys.into_values().collect()
}
