use std::path::Path;

use key_server_core::RestoreError;
use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::error::ProjectionError;

/// What to do about a file that cannot be used now.
const UNAVAILABLE: &str = "free disk space, check its permissions and who else has it open";
/// What to do about a damaged file.
const CORRUPT: &str = "delete it while the server is stopped; nothing is lost but time, it is filled again from the ledger";

/// What went wrong inside, before it is known which file it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A row is not as it was written, or rows do not fit together.
    #[error("{0}")]
    Content(String),
    /// Not our file, or not of a version that we know.
    #[error("{0}")]
    Foreign(String),
}

impl Fault {
    pub(crate) fn content(what: impl Into<String>) -> Self {
        Self::Content(what.into())
    }

    /// The error for the caller, with the file's name.
    pub(crate) fn at(self, path: &Path) -> ProjectionError {
        let store = path.display().to_string();
        let reason = self.to_string();
        match self {
            Self::Foreign(_) => ProjectionError::Foreign { store, reason },
            Self::File(_) => unavailable(store, reason),
            Self::Sqlite(error) if is_passing(&error) => unavailable(store, reason),
            Self::Sqlite(_) | Self::Restore(_) | Self::Content(_) => {
                ProjectionError::Corrupt { store, reason, advice: CORRUPT.into() }
            }
        }
    }
}

fn unavailable(store: String, reason: String) -> ProjectionError {
    ProjectionError::Unavailable { store, reason, advice: UNAVAILABLE.into() }
}

/// Whether the file may be whole and only not usable now. All else that our
/// own fixed statements can meet (a missing column, a value of another type, a
/// broken constraint) means that the file is not as we wrote it.
fn is_passing(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return false };
    let is_short = matches!(
        failure.extended_code,
        ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA
    );
    let is_passing = matches!(
        failure.code,
        ErrorCode::CannotOpen
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::NoLargeFileSupport
            | ErrorCode::OperationAborted
            | ErrorCode::OperationInterrupted
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure
    );
    is_passing && !is_short
}
