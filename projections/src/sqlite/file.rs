use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::sqlite::fault::Fault;

/// For the owner only.
const MODE: u32 = 0o600;

/// How long a call waits for somebody else's lock (a person's shell).
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of the connection that writes.
///
/// WAL and NORMAL: a commit is not synced, so a power cut may take the last
/// ones, whole and from the end; the ledger has them. The page cache takes at
/// most 4 MiB. The log is folded into the file when it has 8,192 pages
/// (32 MiB). Foreign keys are for readers of the schema; `load` checks them.
const WRITER: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA foreign_keys = OFF;
    PRAGMA cache_size = -4096;
    PRAGMA wal_autocheckpoint = 8192;
    PRAGMA journal_size_limit = 33554432;
    PRAGMA temp_store = MEMORY;
    PRAGMA trusted_schema = OFF;
";

/// Settings of connections that only read.
const READER: &str = "
    PRAGMA query_only = ON;
    PRAGMA cache_size = -1024;
    PRAGMA temp_store = MEMORY;
    PRAGMA trusted_schema = OFF;
";

/// The file and the two that SQLite keeps beside it.
pub(crate) fn files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    })
}

/// Opens the file for writing; makes it, with mode 0600, when it is not there.
///
/// SQLite gives `-wal` and `-shm` the mode of the file, so that they are never
/// more open than it is. A file that was opened up since is closed again.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, Fault> {
    create(path)?;
    for file in files(path) {
        claim(&file)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(WRITER)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Opens the file for reading, beside the server or without one.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(READER)?;
    Ok(connection)
}

fn create(path: &Path) -> Result<(), Fault> {
    match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Refuses what is not a regular file of ours, and closes it to others. The
/// file is not opened for it: closing a descriptor would end the locks that
/// SQLite holds elsewhere in this process.
fn claim(path: &Path) -> Result<(), Fault> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Fault::Foreign(
            "it is not a regular file of this user: move it away, or name another state directory"
                .into(),
        ));
    }
    if metadata.mode() & 0o777 != MODE {
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
    }
    Ok(())
}
