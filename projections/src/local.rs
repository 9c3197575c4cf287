use key_server_core::{Rules, State};

use crate::error::ProjectionError;
use crate::projection::{Mark, Projection};
use crate::sqlite::SqliteProjection;

/// A projection that a node starts from.
pub trait LocalProjection: Projection {
    /// The state that it holds, and how far it has come; none when nothing was
    /// ever written.
    ///
    /// # Errors
    /// As for [`Projection::write`].
    fn load(&mut self, rules: &Rules) -> Result<Option<(Mark, State)>, ProjectionError>;

    /// Forgets usage of hours before `hour` (of the timeline); answers how many
    /// rows went.
    ///
    /// # Errors
    /// As for [`Projection::write`].
    fn prune_usage(&mut self, hour: u32) -> Result<usize, ProjectionError>;
}

impl LocalProjection for SqliteProjection {
    fn load(&mut self, rules: &Rules) -> Result<Option<(Mark, State)>, ProjectionError> {
        SqliteProjection::load(self, rules.clone())
    }

    fn prune_usage(&mut self, hour: u32) -> Result<usize, ProjectionError> {
        SqliteProjection::prune_usage(self, hour)
    }
}
