//! Files that are locked: opened so that nothing is changed that is not ours.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// Why a file cannot be locked.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// Something else is there; what, in words.
    NotOurs(&'static str),
    /// The system said no.
    Io(io::Error),
}

/// Opens the file at `path`, making it if it is not there. It is not changed,
/// and is a file of ours without another name.
pub(crate) fn open(path: &Path) -> Result<File, Unfit> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // Not through a symbolic link, and not waiting at a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match options.custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => file,
        Err(_) if path.is_symlink() => return Err(Unfit::NotOurs("a symbolic link")),
        Err(error) => return Err(Unfit::Io(error)),
    };
    match file.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(Unfit::NotOurs("not a file")),
        Ok(metadata) if metadata.uid() != geteuid().as_raw() => {
            Err(Unfit::NotOurs("the lock file of another user"))
        }
        // Without any name it was removed a moment ago, by who had it locked.
        Ok(metadata) if metadata.nlink() > 1 => {
            Err(Unfit::NotOurs("a hard link, another name of some file"))
        }
        Ok(_) => Ok(file),
        Err(error) => Err(Unfit::Io(error)),
    }
}

/// Writes down whose it is. Only for people; on a full disk it is left out.
pub(crate) fn sign(file: &mut File) {
    let _ = file.set_len(0).and_then(|()| file.rewind());
    let _ = write!(file, "{}", std::process::id());
}
