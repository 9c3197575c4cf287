//! Files that only their owner may read.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::{SecretKey, SecretStoreError};

const SECRET_FILE_BYTES_MAX: usize = 256 * 1024;
const MODE_BITS: u32 = 0o7777;
const GROUP_AND_OTHERS: u32 = 0o077;
const OTHERS: u32 = 0o007;

/// Who guarantees that a secret file is private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Its owner and mode: ours, nothing for group and others.
    OwnerAndMode,
    /// The directory it lies in, as with systemd credentials, whose group bits
    /// are the mask of an access list. Others may not read it.
    Directory,
}

/// By what a file is known to be the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileMark {
    inode: u64,
    changed: (i64, i64),
    bytes: u64,
}

impl FileMark {
    /// None when there is no such file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Some(Self { inode: metadata.ino(), changed, bytes: metadata.len() })
    }
}

/// A passphrase or token from a file of ours: UTF-8, at most 256 KiB, one line
/// end at its end removed.
///
/// # Errors
/// [`SecretStoreError::Denied`] when it is missing, is not a regular file,
/// belongs to someone else, or group or others may read it;
/// [`SecretStoreError::Corrupt`] when it is too long, empty or not UTF-8.
pub fn read_secret_file(path: &Path) -> Result<SecretKey, SecretStoreError> {
    let Some(bytes) = read(path, Guard::OwnerAndMode)? else {
        return Err(SecretStoreError::Denied(format!(
            "{} does not exist: create it with mode 0600, or correct the setting that names it",
            path.display()
        )));
    };
    let corrupt = |what| SecretStoreError::Corrupt(format!("{} {what}", path.display()));
    let text = std::str::from_utf8(&bytes).map_err(|_| corrupt("is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(corrupt("is empty: write the secret into it"));
    }
    Ok(SecretKey::copy_of(text))
}

/// The content of a private file; nothing when it does not exist.
pub(crate) fn read(
    path: &Path,
    guard: Guard,
) -> Result<Option<Zeroizing<Vec<u8>>>, SecretStoreError> {
    let Some(file) = open(path, OFlags::empty())? else {
        return Ok(None);
    };
    let metadata =
        file.metadata().map_err(|error| SecretStoreError::from_io("read", path, &error))?;
    check(path, &metadata, guard)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_FILE_BYTES_MAX + 64));
    file.take(SECRET_FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| SecretStoreError::from_io("read", path, &error))?;
    if bytes.len() > SECRET_FILE_BYTES_MAX {
        return Err(SecretStoreError::Corrupt(format!(
            "{} is larger than {SECRET_FILE_BYTES_MAX} bytes: it is not what this setting is for",
            path.display()
        )));
    }
    Ok(Some(bytes))
}

/// Opens a regular file for reading, without waiting on a pipe; nothing when
/// it does not exist.
pub(crate) fn open(path: &Path, flags: OFlags) -> Result<Option<File>, SecretStoreError> {
    let flags = (OFlags::NONBLOCK | flags).bits();
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(path)
        .and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((metadata, file)) if metadata.is_file() => Ok(Some(file)),
        Ok(_) => Err(not_a_regular_file(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Err(not_a_regular_file(path))
        }
        Err(error) => Err(SecretStoreError::from_io("open", path, &error)),
    }
}

fn not_a_regular_file(path: &Path) -> SecretStoreError {
    SecretStoreError::Denied(format!(
        "{} is not a regular file: put the file itself there",
        path.display()
    ))
}

fn check(path: &Path, metadata: &Metadata, guard: Guard) -> Result<(), SecretStoreError> {
    let path = path.display();
    let uid = rustix::process::geteuid().as_raw();
    let mode = metadata.mode() & MODE_BITS;
    let refused = match guard {
        Guard::OwnerAndMode if metadata.uid() != uid => format!(
            "{path} belongs to uid {}, not to uid {uid}, which this server runs as: make a copy that uid {uid} owns",
            metadata.uid()
        ),
        Guard::OwnerAndMode if mode & GROUP_AND_OTHERS != 0 => {
            format!("{path} is open to group or others (mode {mode:04o}): run chmod 600 {path}")
        }
        Guard::Directory if mode & OTHERS != 0 => {
            format!("{path} is open to everyone (mode {mode:04o}): run chmod o= {path}")
        }
        _ => return Ok(()),
    };
    Err(SecretStoreError::Denied(refused))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file_with(content: &[u8], mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn refusal(path: &Path) -> String {
        match read_secret_file(path) {
            Ok(_) => String::from("accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn secret_file_is_read_without_its_line_end() {
        for content in ["fake passphrase", "fake passphrase\n", "fake passphrase\r\n"] {
            let (_dir, path) = file_with(content.as_bytes(), 0o600);
            let secret = read_secret_file(&path).ok().unwrap();
            assert_eq!(secret.expose(), "fake passphrase");
        }
    }

    #[test]
    fn secret_file_open_to_others_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o666] {
            let (_dir, path) = file_with(b"fake", mode);
            let text = refusal(&path);
            assert!(text.contains("is open to group or others"), "{text}");
            assert!(text.contains("chmod 600"), "{text}");
        }
    }

    #[test]
    fn secret_file_of_someone_else_is_refused() {
        let (_dir, mut path) = file_with(b"fake", 0o600);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        } else {
            path = "/etc/passwd".into();
        }
        let text = refusal(&path);
        assert!(text.contains(" belongs to uid "), "{text}");
        assert!(text.contains("make a copy that uid "), "{text}");
    }

    #[test]
    fn group_bits_of_a_credential_are_the_mask_of_its_access_list() {
        let (_dir, path) = file_with(b"fake", 0o440);
        assert!(read(&path, Guard::Directory).unwrap().is_some());
        let (_dir, path) = file_with(b"fake", 0o444);
        assert!(read(&path, Guard::Directory).is_err());
    }

    #[test]
    fn secret_file_that_is_no_text_of_sane_size_is_refused() {
        let (_dir, path) = file_with(b"\n", 0o600);
        assert!(refusal(&path).ends_with("is empty: write the secret into it"));
        let (_dir, path) = file_with(b"\xff\xfe", 0o600);
        assert!(refusal(&path).ends_with("is not UTF-8 text"));
        let (_dir, path) = file_with(&[b'a'; SECRET_FILE_BYTES_MAX + 1], 0o600);
        assert!(refusal(&path).contains("is larger than 262144 bytes"));
        let dir = tempfile::tempdir().unwrap();
        assert!(refusal(dir.path()).contains("is not a regular file"));
        assert!(refusal(&dir.path().join("none")).contains("does not exist"));
    }
}
