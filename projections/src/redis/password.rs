use std::fmt;
use std::path::Path;

use crate::redis::fault::Fault;

/// A password of Redis; no text shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<str>);

impl Password {
    /// The password in `text`.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The password in a file; line ends after it are no part of it.
    pub(crate) fn read(path: &Path) -> Result<Self, Fault> {
        let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
        Ok(Self(text.trim_end_matches(['\n', '\r']).into()))
    }

    /// The password itself; only for the connection.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
