//! The policy in force, and how it changes: read at the start and with every
//! reload of the keys, all of it or nothing.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use crate::clock::Clock;
use crate::policy::{self, Policy, PolicyError, Source};
use crate::rate::Rates;

/// The policy in force, and what callers have left of its limits.
pub struct Access {
    file: Option<PathBuf>,
    server_uid: u32,
    policy: RwLock<Arc<Policy>>,
    /// What callers have left of the limits in time.
    pub rates: Rates,
    /// What the rates are measured with.
    pub clock: Arc<dyn Clock>,
}

impl Access {
    /// By the policy of `file`; by the one without a file when there is none.
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub fn open(
        file: Option<PathBuf>,
        server_uid: u32,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PolicyError> {
        let source = source(file.as_ref(), server_uid)?;
        let source = source.unwrap_or(Source::None { socket_uid: None, socket_gid: None });
        let policy = RwLock::new(Arc::new(Policy { server_uid, source }));
        Ok(Self { file, server_uid, policy, rates: Rates::default(), clock })
    }

    /// The policy that a call is decided by, from its beginning to its end.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets in the socket's owner, and the group that it is open to, where no
    /// file says who.
    pub(crate) fn socket_is_of(&self, owner: u32, group: Option<u32>) {
        if self.file.is_none() {
            self.put(Source::None { socket_uid: Some(owner), socket_gid: group });
        }
    }

    /// Reads the file again; none without a file.
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub(crate) fn read_again(&self) -> Result<Option<Source>, PolicyError> {
        source(self.file.as_ref(), self.server_uid)
    }

    /// Calls that begin from now on are decided by this.
    pub(crate) fn put(&self, source: Source) {
        let policy = Arc::new(Policy { server_uid: self.server_uid, source });
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

fn source(file: Option<&PathBuf>, server_uid: u32) -> Result<Option<Source>, PolicyError> {
    let Some(path) = file else { return Ok(None) };
    let rules = policy::load(path, server_uid)?;
    Ok(Some(Source::File { path: path.clone(), rules }))
}
