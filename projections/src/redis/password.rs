use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::redis::fault::Fault;

const MODE_BITS: u32 = 0o7777;
const OTHERS: u32 = 0o007;

/// A password of Redis; no text shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<str>);

impl Password {
    /// The password in `text`.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The password in a file that not everyone may read; line ends after it
    /// are no part of it.
    pub(crate) fn read(path: &Path) -> Result<Self, Fault> {
        let mut file = File::open(path).map_err(|error| Fault::file(path, error))?;
        let metadata = file.metadata().map_err(|error| Fault::file(path, error))?;
        if metadata.mode() & OTHERS != 0 {
            let mode = metadata.mode() & MODE_BITS;
            let open = format!("it is open to everyone (mode {mode:04o}): run chmod o= on it");
            return Err(Fault::file(path, open));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| Fault::file(path, error))?;
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
