//! One encrypted file of keys: read as a whole, replaced as a whole.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
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
/// How often a file is read whose identity is just being replaced.
const TRIES_MAX: u32 = 3;
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A file of keys and the identity that opens it.
pub(crate) struct AgeFile {
    path: PathBuf,
    source: IdentitySource,
    identities: RwLock<Arc<Identities>>,
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
        let identities = RwLock::new(Arc::new(identities));
        Ok(Self { path, source: source.clone(), identities, writing: Mutex::new(()) })
    }

    /// Those that are in force: somebody may have replaced them meanwhile.
    /// While [`Writing`] is held nobody does.
    fn identities(&self) -> Result<Arc<Identities>, SecretStoreError> {
        let known = self.known();
        if known.are_current() {
            return Ok(known);
        }
        let directory = atomic_file::directory_of(&self.path);
        let Some(read) = identity::read(&self.source, directory)? else { return Ok(known) };
        tracing::info!("{} was replaced; it is in force", read.origin().display());
        let read = Arc::new(read);
        *self.identities.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&read);
        Ok(read)
    }

    fn known(&self) -> Arc<Identities> {
        Arc::clone(&self.identities.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn recipient(&self) -> String {
        self.known().recipient().to_string()
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
        for _ in 1..TRIES_MAX {
            let identities = self.identities()?;
            match Self::load_at(&self.path, &identities) {
                // Identity and file were replaced between the two looks.
                Err(_) if !identities.are_current() => {}
                loaded => return loaded,
            }
        }
        Self::load_at(&self.path, &*self.identities()?)
    }

    /// As [`AgeFile::load`], with these identities.
    pub(super) fn load_at(
        path: &Path,
        identities: &Identities,
    ) -> Result<Option<(Vec<StoredKey>, SystemTime)>, SecretStoreError> {
        let Some(file) = private_file::open(path, OFlags::NOFOLLOW)? else {
            return Ok(None);
        };
        let looked_at = file.metadata().and_then(|metadata| {
            let modified = metadata.modified()?;
            Ok((metadata.len(), modified))
        });
        let (bytes, modified) =
            looked_at.map_err(|error| SecretStoreError::from_io("read", path, &error))?;
        if bytes > FILE_BYTES_MAX {
            return Err(corrupt(path, "is larger than 1 GiB"));
        }
        let content = seal::unseal(BufReader::new(file), bytes, identities.as_age())
            .map_err(|error| unseal_error(path, error, identities))?;
        let keys = document::read(&content).map_err(|fault| corrupt(path, &fault.to_string()))?;
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
        Self::replace_at(&self.path, keys, &*self.identities()?, modified)
    }

    /// As [`AgeFile::replace`], for the first of these identities.
    pub(super) fn replace_at(
        path: &Path,
        keys: &[StoredKey],
        identities: &Identities,
        modified: Option<SystemTime>,
    ) -> Result<(), SecretStoreError> {
        for key in keys {
            storable(key)?;
        }
        let recipient = identities.recipient();
        atomic_file::replace(path, |file| {
            seal::seal(file, &recipient, document::FILLER, |out| document::write(out, keys))?;
            modified.map_or(Ok(()), |time| file.set_modified(time))
        })
        .map_err(|error| SecretStoreError::from_io("write", path, &error))
    }
}

fn unseal_error(path: &Path, error: UnsealError, identities: &Identities) -> SecretStoreError {
    match error {
        UnsealError::Io(error) => SecretStoreError::from_io("read", path, &error),
        UnsealError::WrongIdentity => SecretStoreError::Denied(format!(
            "{} was written for another identity than {} (or its first bytes are damaged): \
             put the identity back that belongs to it, or both from one backup",
            path.display(),
            identities.origin().display(),
        )),
        UnsealError::Damaged => corrupt(path, "fails its check: it was changed or cut"),
        UnsealError::NotAge => corrupt(path, "is not an age file of a known version"),
    }
}

fn corrupt(path: &Path, what: &str) -> SecretStoreError {
    SecretStoreError::Corrupt(format!(
        "{} {what}; put it back from a backup, or move it away and import the keys again",
        path.display()
    ))
}

/// Whether the file could be read with this key.
pub(crate) fn storable(key: &StoredKey) -> Result<(), SecretStoreError> {
    document::check(key).map_err(|what| {
        let id = key.id();
        SecretStoreError::Corrupt(format!("key {id} cannot be stored: {what}; nothing was changed"))
    })
}
