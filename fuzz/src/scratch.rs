use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory of this process.
pub(crate) fn dir() -> TempDir {
    tempfile::tempdir().expect("there is room for files")
}

/// Puts bytes into a file of the directory that only we may read.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("there is room for files");
    path
}
