//! The files of one node: private, and of one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::lock_file::{self, Unfit};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Somebody works in it.
    #[error("another server ({holder}) works in {}: stop it, or set KEY_SERVER_STATE_DIR", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Its process.
        holder: String,
    },
    /// Others may look into it.
    #[error("{} can be read by other users (mode {mode:04o}): run `chmod 700 {}`", dir.display(), dir.display())]
    NotPrivate {
        /// The directory.
        dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else is in the place of its lock.
    #[error("{} is {what}: nothing was changed; move it away", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A state directory that this process works in.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Made once, kept with the files.
    pub node_id: String,
    /// Locked while this lives.
    _lock: File,
}

impl StateDir {
    /// Takes the directory, making what is not there yet.
    ///
    /// # Errors
    /// Any [`StateDirError`].
    pub fn claim(path: &Path) -> Result<Self, StateDirError> {
        let io_error = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| StateDirError::Io { doing, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io_error("make", path))?;
        let metadata = path.metadata().map_err(io_error("look at", path))?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateDirError::NotPrivate { dir: path.to_owned(), mode });
        }
        let lock = lock(path)?;
        let file = path.join("node_id");
        let node_id = node_id(&file).map_err(io_error("read or make", &file))?;
        Ok(Self { path: path.to_owned(), node_id, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the ledger's segments are.
    pub fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }
}

fn lock(dir: &Path) -> Result<File, StateDirError> {
    let path = dir.join("lock");
    let io_error = |source| StateDirError::Io { doing: "lock", path: path.clone(), source };
    let mut file = lock_file::open(&path).map_err(|unfit| match unfit {
        Unfit::NotOurs(what) => StateDirError::NotOurs { path: path.clone(), what },
        Unfit::Io(source) => io_error(source),
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(source)) => return Err(io_error(source)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.take(20).read_to_string(&mut holder);
            let holder = format!("pid {}", holder.trim());
            return Err(StateDirError::InUse { dir: dir.to_owned(), holder });
        }
    }
    lock_file::sign(&mut file);
    Ok(file)
}

fn node_id(file: &Path) -> io::Result<String> {
    match std::fs::read_to_string(file) {
        Ok(id) if is_node_id(id.trim()) => return Ok(id.trim().to_owned()),
        Ok(_) => return Err(io::Error::other("it does not hold a node id; restore it")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let mut bytes = [0; 10];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let id = format!("n_{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase());
    let new = file.with_extension("new");
    let mut writing = OpenOptions::new();
    let writing = writing.write(true).create(true).truncate(true).mode(0o600);
    let mut writing = writing.open(&new)?;
    writeln!(writing, "{id}")?;
    writing.sync_all()?;
    std::fs::rename(&new, file)?;
    Ok(id)
}

fn is_node_id(id: &str) -> bool {
    let body = id.strip_prefix("n_").unwrap_or_default();
    !body.is_empty() && body.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn node_id_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let id = StateDir::claim(&path).unwrap().node_id;
        assert_eq!(StateDir::claim(&path).unwrap().node_id, id);
    }

    #[test]
    fn a_second_server_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let _first = StateDir::claim(&path).unwrap();
        let error = StateDir::claim(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_directory_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::create_dir(&path).unwrap();
        // Not by the mode at its making: other tests change the umask meanwhile.
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let error = StateDir::claim(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }
}
