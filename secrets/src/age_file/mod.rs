//! One age-encrypted file in the state directory, and the identity that opens
//! it. `docs/secret-store.md` is the page for people.

mod document;
mod identity;
mod interner;
mod seal;

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use key_server_core::KeyId;
use rustix::fs::OFlags;

use crate::atomic_file::{self, DirectoryLock};
use crate::{Change, SecretStore, SecretStoreError, StoredKey, private_file};

use identity::Identities;
pub use identity::IdentitySource;
pub(crate) use interner::Interner;
use seal::UnsealError;

const STORE_FILE: &str = "secrets.age";
const STORE_BYTES_MAX: u64 = 1 << 30;

/// A [`SecretStore`] in one age-encrypted file, `secrets.age`.
///
/// It keeps no credential in memory: every call reads the file. Every commit
/// replaces it as a whole, so a crash at any instant leaves the old or the new
/// content.
pub struct AgeFileStore {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    identities: Identities,
    writing: Mutex<()>,
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
        let path = state_directory.join(STORE_FILE);
        let io_error = |error| SecretStoreError::from_io("open", state_directory, &error);
        let _lock = DirectoryLock::acquire(state_directory).map_err(io_error)?;
        atomic_file::remove_leftovers(&path).map_err(io_error)?;
        let identities = identity::obtain(source, state_directory, &path)?;
        Ok(Self { shared: Arc::new(Shared { path, identities, writing: Mutex::new(()) }) })
    }

    /// The public half of the identity that new content is encrypted to, as in
    /// `age1…`.
    pub fn recipient(&self) -> String {
        self.shared.identities.recipient().to_string()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, SecretStoreError> + Send + 'static,
    ) -> Result<T, SecretStoreError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|_| {
            let path = self.shared.path.display();
            Err(SecretStoreError::Unavailable(format!(
                "the work on {path} was ended from outside; try again"
            )))
        })
    }
}

#[async_trait]
impl SecretStore for AgeFileStore {
    fn name(&self) -> &'static str {
        "age"
    }

    async fn load(&self) -> Result<Vec<StoredKey>, SecretStoreError> {
        self.blocking(Shared::load).await
    }

    async fn commit(&self, change: &Change) -> Result<(), SecretStoreError> {
        if change.is_empty() {
            return Ok(());
        }
        let change = storable(change)?;
        self.blocking(move |shared| shared.commit(change)).await
    }
}

impl Shared {
    fn load(&self) -> Result<Vec<StoredKey>, SecretStoreError> {
        let Some(file) = private_file::open(&self.path, OFlags::NOFOLLOW)? else {
            return Ok(Vec::new());
        };
        let bytes = file
            .metadata()
            .map_err(|error| SecretStoreError::from_io("read", &self.path, &error))?
            .len();
        if bytes > STORE_BYTES_MAX {
            return Err(self.corrupt("is larger than 1 GiB"));
        }
        let content = seal::unseal(BufReader::new(file), bytes, self.identities.as_age())
            .map_err(|error| self.unseal_error(error))?;
        document::read(&content).map_err(|fault| self.corrupt(&fault.to_string()))
    }

    fn commit(&self, change: Change) -> Result<(), SecretStoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let io_error = |error| SecretStoreError::from_io("write", &self.path, &error);
        let directory = atomic_file::directory_of(&self.path);
        let _lock = DirectoryLock::acquire(directory).map_err(io_error)?;
        let keys = applied(self.load()?, change);
        atomic_file::replace(&self.path, |file| {
            let recipient = self.identities.recipient();
            seal::seal(file, &recipient, document::FILLER, |out| document::write(out, &keys))
        })
        .map_err(io_error)
    }

    fn unseal_error(&self, error: UnsealError) -> SecretStoreError {
        match error {
            UnsealError::Io(error) => SecretStoreError::from_io("read", &self.path, &error),
            UnsealError::WrongIdentity => SecretStoreError::Denied(format!(
                "{} was written for another identity than {} (or its first bytes are damaged): \
                 put the identity back that belongs to it, or both from one backup",
                self.path.display(),
                self.identities.origin(),
            )),
            UnsealError::Damaged => self.corrupt("fails its check: it was changed or cut"),
            UnsealError::NotAge => self.corrupt("is not an age file of a known version"),
        }
    }

    fn corrupt(&self, what: &str) -> SecretStoreError {
        SecretStoreError::Corrupt(format!(
            "{} {what}; put it back from a backup, or move it away and import the keys again",
            self.path.display()
        ))
    }
}

/// The same change, if the store could be read with it.
fn storable(change: &Change) -> Result<Change, SecretStoreError> {
    for key in &change.put {
        document::check(key).map_err(|what| {
            let id = key.id();
            SecretStoreError::Corrupt(format!(
                "key {id} cannot be stored: {what}; nothing was changed"
            ))
        })?;
    }
    Ok(change.clone())
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
