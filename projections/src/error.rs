use std::borrow::Cow;
use std::path::PathBuf;

/// Why a projection did not do what it was asked; by what the caller can do.
/// What a person can do stands in `advice`, for each store knows its own.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The store cannot be used now: disk full, locked, not writable, away.
    /// Nothing changed; the same call may be made again.
    #[error("{store} cannot be used now ({reason}): {advice}; the same call is tried again")]
    Unavailable {
        /// Which file or server.
        store: String,
        /// What it said.
        reason: String,
        /// What to do.
        advice: Cow<'static, str>,
    },
    /// What is stored does not fit together, or not to what is written.
    #[error("{store} is damaged ({reason}): {advice}")]
    Corrupt {
        /// Which file or server.
        store: String,
        /// What does not fit.
        reason: String,
        /// What to do.
        advice: Cow<'static, str>,
    },
    /// The store is not this version's: something else's, or a newer one's.
    #[error("{store} is not used: {reason}")]
    Foreign {
        /// Which file or server.
        store: String,
        /// Whose it is, and what to do.
        reason: String,
    },
    /// There is no such file. Only reports say so: a projection is made when
    /// it is opened.
    #[error("{} is not there: name the state directory of a server that has run (KEY_SERVER_STATE_DIR), or start the server once", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
}
