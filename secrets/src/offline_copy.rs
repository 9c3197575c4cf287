//! What another store last gave, kept for when it is away.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::age_file::{AgeFile, IdentitySource, OFFLINE_COPY_FILE};
use crate::{SecretStoreError, StoredKey};

/// The keys that a store elsewhere (Vault) last gave, in an age-encrypted file
/// beside the ledger, `secrets-copy.age`, so that a start without that store
/// has them.
///
/// It is made with the same identity as [`crate::AgeFileStore`] and in the
/// same form. As of when it is stands in the file's time of modification: so
/// that to say "still the same" costs no write of the keys. That time is not
/// protected, as little as an older copy in its place would be noticed.
pub struct OfflineCopy {
    file: Arc<AgeFile>,
}

impl OfflineCopy {
    /// Opens the copy in `state_directory`, as [`crate::AgeFileStore::open`]
    /// opens its file: the identity is read or made, leftovers are removed.
    ///
    /// # Errors
    /// As [`crate::AgeFileStore::open`].
    pub fn open(state_directory: &Path, source: &IdentitySource) -> Result<Self, SecretStoreError> {
        let file = AgeFile::open(state_directory, OFFLINE_COPY_FILE, source)?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Replaces the copy by `keys`, in any order, as they were at
    /// `as_of_unix_ms`. Durable when this returns.
    ///
    /// # Errors
    /// [`SecretStoreError::Corrupt`] when the copy could not be read with one
    /// of the keys; [`SecretStoreError::Unavailable`] on I/O. The old copy
    /// stays then.
    ///
    /// # Cancellation
    /// It may still happen, as a whole.
    pub async fn save(
        &self,
        keys: &[StoredKey],
        as_of_unix_ms: i64,
    ) -> Result<(), SecretStoreError> {
        let mut keys = keys.to_vec();
        keys.sort_by_key(StoredKey::id);
        let replace = move |file: &AgeFile| {
            let _writing = file.lock()?;
            file.replace(&keys, Some(time_of(as_of_unix_ms)))
        };
        AgeFile::blocking(&self.file, replace).await
    }

    /// Says that the copy is still what the store holds, as of
    /// `as_of_unix_ms`. Writes no key; nothing happens when there is no copy.
    ///
    /// # Errors
    /// [`SecretStoreError::Denied`] or [`SecretStoreError::Unavailable`], as
    /// the file system says.
    pub fn touch(&self, as_of_unix_ms: i64) -> Result<(), SecretStoreError> {
        let touched = std::fs::File::open(self.file.path())
            .and_then(|file| file.set_modified(time_of(as_of_unix_ms)));
        match touched {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SecretStoreError::from_io("touch", self.file.path(), &error))
            }
            _ => Ok(()),
        }
    }

    /// The keys, sorted by id, and as of when; nothing when none were saved.
    ///
    /// # Errors
    /// As [`crate::AgeFileStore`]'s load.
    ///
    /// # Cancellation
    /// Harmless.
    pub async fn load(&self) -> Result<Option<(Vec<StoredKey>, i64)>, SecretStoreError> {
        let load = |file: &AgeFile| {
            let Some((keys, modified)) = file.load()? else {
                return Ok(None);
            };
            Ok(Some((keys, unix_ms(modified))))
        };
        AgeFile::blocking(&self.file, load).await
    }
}

fn time_of(unix_ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0))
}

/// What lies before 1970 is as old as 1970.
fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
