//! One encrypted file of keys: read as a whole, replaced as a whole.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::fs::OFlags;

use super::document;
use super::identity::{self, Identities, IdentitySource};
use super::seal::{self, UnsealError};
use crate::atomic_file::{self, DirectoryLock};
use crate::{SecretStoreError, StoredKey, private_file};

/// The file of the store that keeps its keys here.
pub(crate) const STORE_FILE: &str = "secrets.age";
/// The file of what a store elsewhere last gave.
pub(crate) const OFFLINE_COPY_FILE: &str = "secrets-copy.age";
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A file of keys and the identity that opens it.
pub(crate) struct AgeFile {
    path: PathBuf,
    identities: Identities,
    writing: Mutex<()>,
}

/// The right to write, within this process and among processes.
pub(crate) struct Writing<'a> {
    _thread: MutexGuard<'a, ()>,
    _process: DirectoryLock,
}

impl AgeFile {
    /// Reads the identity, or makes it on the first start, and removes what a
    /// crashed write left.
    pub(crate) fn open(
        state_directory: &Path,
        name: &str,
        source: &IdentitySource,
    ) -> Result<Self, SecretStoreError> {
        let path = state_directory.join(name);
        let io_error = |error| SecretStoreError::from_io("open", state_directory, &error);
        let _lock = DirectoryLock::acquire(state_directory).map_err(io_error)?;
        atomic_file::remove_leftovers(&path).map_err(io_error)?;
        // An identity is never made while anything exists that another opens.
        let other = if name == STORE_FILE { OFFLINE_COPY_FILE } else { STORE_FILE };
        let files = [path.clone(), state_directory.join(other)];
        let identities = identity::obtain(source, state_directory, &files)?;
        Ok(Self { path, identities, writing: Mutex::new(()) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn recipient(&self) -> String {
        self.identities.recipient().to_string()
    }

    /// Runs `work` where it may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        file: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, SecretStoreError> + Send + 'static,
    ) -> Result<T, SecretStoreError> {
        let shared = Arc::clone(file);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|_| {
            Err(SecretStoreError::Unavailable(format!(
                "the work on {} was ended from outside; try again",
                file.path.display()
            )))
        })
    }

    /// The keys, sorted by id, and when the file was changed; nothing when it
    /// does not exist.
    pub(crate) fn load(&self) -> Result<Option<(Vec<StoredKey>, SystemTime)>, SecretStoreError> {
        let Some(file) = private_file::open(&self.path, OFlags::NOFOLLOW)? else {
            return Ok(None);
        };
        let looked_at = file.metadata().and_then(|metadata| {
            let modified = metadata.modified()?;
            Ok((metadata.len(), modified))
        });
        let (bytes, modified) =
            looked_at.map_err(|error| SecretStoreError::from_io("read", &self.path, &error))?;
        if bytes > FILE_BYTES_MAX {
            return Err(self.corrupt("is larger than 1 GiB"));
        }
        let content = seal::unseal(BufReader::new(file), bytes, self.identities.as_age())
            .map_err(|error| self.unseal_error(error))?;
        let keys = document::read(&content).map_err(|fault| self.corrupt(&fault.to_string()))?;
        Ok(Some((keys, modified)))
    }

    /// Waits for the right to write.
    pub(crate) fn lock(&self) -> Result<Writing<'_>, SecretStoreError> {
        let thread = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = atomic_file::directory_of(&self.path);
        let process = DirectoryLock::acquire(directory)
            .map_err(|error| SecretStoreError::from_io("write", &self.path, &error))?;
        Ok(Writing { _thread: thread, _process: process })
    }

    /// Puts `keys`, which are sorted, in the place of what the file holds, and
    /// dates it.
    pub(crate) fn replace(
        &self,
        keys: &[StoredKey],
        modified: Option<SystemTime>,
    ) -> Result<(), SecretStoreError> {
        for key in keys {
            storable(key)?;
        }
        atomic_file::replace(&self.path, |file| {
            let recipient = self.identities.recipient();
            seal::seal(file, &recipient, document::FILLER, |out| document::write(out, keys))?;
            modified.map_or(Ok(()), |time| file.set_modified(time))
        })
        .map_err(|error| SecretStoreError::from_io("write", &self.path, &error))
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

/// Whether the file could be read with this key.
pub(crate) fn storable(key: &StoredKey) -> Result<(), SecretStoreError> {
    document::check(key).map_err(|what| {
        let id = key.id();
        SecretStoreError::Corrupt(format!("key {id} cannot be stored: {what}; nothing was changed"))
    })
}
