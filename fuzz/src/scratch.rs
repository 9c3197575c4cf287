use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::thread_local;

use tempfile::TempDir;

thread_local! {
    static DIR: LazyCell<TempDir> = const { LazyCell::new(dir) };
}

/// Does something in the directory of this thread, where earlier runs left
/// their files.
pub(crate) fn within<T>(work: impl FnOnce(&Path) -> T) -> T {
    DIR.with(|dir| work(dir.path()))
}

/// A directory of its own.
pub(crate) fn dir() -> TempDir {
    tempfile::tempdir().expect("there is room for files")
}

/// Puts bytes into a file of the directory that only we may read.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("there is room for files");
    path
}
