//! The policy file: whose it must be.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Rule;
use super::parse::{Names, parse};
use crate::users::{gid_of, uid_of};

/// A policy is written by people.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Something wrong with a policy, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct Problem {
    /// Counted from 1; none when the file as a whole is meant.
    pub line: Option<u32>,
    /// In words.
    pub message: String,
}

/// A policy that cannot be in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy {} is wrong:\n{}", path.display(), lines(problems))]
pub struct PolicyError {
    /// The file.
    pub path: PathBuf,
    /// All that is wrong.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads a policy file, which must belong to root or to `server_uid` and be
/// writable by nobody else.
///
/// # Errors
/// All that is wrong.
pub fn load(path: &Path, server_uid: u32) -> Result<Vec<Rule>, PolicyError> {
    let wrong = |problems| PolicyError { path: path.to_owned(), problems };
    let text =
        read(path, server_uid).map_err(|message| wrong(vec![Problem { line: None, message }]))?;
    parse(&text, &Names { user: &uid_of, group: &gid_of }).map_err(wrong)
}

/// The file that was opened is the one that is looked at.
fn read(path: &Path, server_uid: u32) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
    // Not waiting at a pipe.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let mut file = file.map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let owner = metadata.uid();
    if owner != 0 && owner != server_uid {
        return Err(format!(
            "it belongs to uid {owner}, who could change it: run chown root {}",
            path.display()
        ));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(format!(
            "others than its owner may write to it (mode {mode:04o}): run chmod go-w {}",
            path.display()
        ));
    }
    let mut text = String::new();
    let read = (&mut file).take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    match read.map_err(unreadable)? as u64 {
        0..=FILE_BYTES_MAX => Ok(text),
        _ => Err(format!("it has more than {FILE_BYTES_MAX} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    const RULE: &str = "[[rule]]\nname = \"a\"\nuser = \"root\"\nproviders = \"*\"\n";

    fn with_mode(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, RULE).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn own_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn a_file_that_others_could_change_is_refused() {
        for (mode, is_taken) in
            [(0o600, true), (0o644, true), (0o640, true), (0o620, false), (0o602, false)]
        {
            let (_dir, path) = with_mode(mode);
            let loaded = load(&path, own_uid());
            assert_eq!(loaded.is_ok(), is_taken, "{mode:o}: {loaded:?}");
            if let Err(error) = loaded {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let (_dir, path) = with_mode(0o644);
        if !rustix::process::geteuid().is_root() {
            // It belongs to us, and the server would be somebody else.
            assert!(load(&path, own_uid() + 1).is_err());
            return;
        }
        chown(&path, Some(1_234), None).unwrap();
        let error = load(&path, 0).unwrap_err().to_string();
        assert!(error.contains("belongs to uid 1234"), "{error}");
        assert!(load(&path, 1_234).is_ok(), "the server's own");
        chown(&path, Some(0), None).unwrap();
        assert!(load(&path, 1_234).is_ok(), "root's");
    }

    #[test]
    fn a_directory_a_pipe_and_nothing_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(load(&pipe, own_uid()).unwrap_err().to_string().contains("no regular file"));
        assert!(load(dir.path(), own_uid()).unwrap_err().to_string().contains("no regular file"));
        let missing = load(&dir.path().join("missing"), own_uid());
        assert!(missing.unwrap_err().to_string().contains("cannot be read"));
    }
}
