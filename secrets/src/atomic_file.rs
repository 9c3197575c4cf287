//! Files that are always whole: old or new content, never a part of either.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

const PRIVATE_MODE: u32 = 0o600;
const TEMPORARY_SUFFIX: &str = ".tmp";
const TOKEN_CHARS: usize = 16;
const LOCK_TRIES: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The right to write files of one directory, among all processes that ask
/// for it; given back on drop, and by the kernel when the process ends.
pub(crate) struct DirectoryLock {
    _directory: File,
}

impl DirectoryLock {
    /// Waits up to five seconds for the right.
    ///
    /// A file system without such locks gives it to everyone: the server's
    /// own lock file is what keeps a second server out.
    ///
    /// # Errors
    /// `ResourceBusy` when another process keeps it.
    pub(crate) fn acquire(directory: &Path) -> io::Result<Self> {
        let file = File::open(directory)?;
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
                _ => return Ok(Self { _directory: file }),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process is changing this directory; try again when it is done",
        ))
    }
}

/// Puts a new file, of mode 0600, in the place of `path`.
///
/// `write` fills it. The content and the name are on the disk when this
/// returns; on an error the old file is untouched.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let temporary = Temporary::create(path)?;
    write(&temporary.file)?;
    temporary.file.sync_all()?;
    fs::rename(&temporary.path, path)?;
    sync_directory(path)
}

/// Makes a file of mode 0600 with `content` at `path`, where none may be.
///
/// # Errors
/// `AlreadyExists` when something is there.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = Temporary::create(path)?;
    io::Write::write_all(&mut &temporary.file, content)?;
    temporary.file.sync_all()?;
    fs::hard_link(&temporary.path, path)?;
    drop(temporary);
    sync_directory(path)
}

/// Removes what crashed writers of `path` left behind: regular files of ours
/// with exactly our names. The caller holds the [`DirectoryLock`].
pub(crate) fn remove_leftovers(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory_of(path))? {
        let entry = entry?;
        if is_leftover(path, &entry) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The directory that `path` lies in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

fn is_leftover(path: &Path, entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let token = path
        .file_name()
        .and_then(|file| name.as_encoded_bytes().strip_prefix(file.as_encoded_bytes()))
        .and_then(|rest| rest.strip_prefix(b"."))
        .and_then(|rest| rest.strip_suffix(TEMPORARY_SUFFIX.as_bytes()));
    token.is_some_and(is_token) && entry.file_type().is_ok_and(|kind| kind.is_file())
}

fn is_token(text: &[u8]) -> bool {
    text.len() == TOKEN_CHARS && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A file beside its future place, removed on drop unless renamed.
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn create(path: &Path) -> io::Result<Self> {
        let token = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{token:016x}{TEMPORARY_SUFFIX}"));
        let path = directory_of(path).join(name);
        let file =
            OpenOptions::new().write(true).create_new(true).mode(PRIVATE_MODE).open(&path)?;
        Ok(Self { file, path })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; after a failure the
        // next start tries again.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaced_file_is_private_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in ["one", "two"] {
            replace(&path, |mut file| file.write_all(content.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn failed_write_leaves_the_old_content_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let failed = replace(&path, |mut file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no room"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn create_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        create(&path, b"first").unwrap();
        let again = create(&path, b"second").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn only_our_own_leftovers_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let kept = [
            "file",
            "file.0123456789abcdeX.tmp",
            "file.0123456789abcdef",
            "file.tmp",
            "other.0123456789abcdef.tmp",
        ];
        for name in kept.iter().chain(&["file.0123456789abcdef.tmp"]) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("file.00000000000000aa.tmp")).unwrap();
        remove_leftovers(&path).unwrap();
        let mut expected = kept.to_vec();
        expected.push("file.00000000000000aa.tmp");
        expected.sort_unstable();
        assert_eq!(names(dir.path()), expected);
    }
}
