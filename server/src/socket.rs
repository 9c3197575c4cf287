//! The Unix socket: claimed with care, born with its mode, removed if still
//! ours.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::Mode;
use rustix::process::{geteuid, umask};

/// What fits into `sockaddr_un`, without the terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why the socket cannot be ours.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit.
    #[error("the socket path has {bytes} bytes, the system takes {SOCKET_PATH_BYTES_MAX}: choose a shorter one ({})", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The directory is missing or none.
    #[error("the socket's directory {} does not exist: create it, or set KEY_SERVER_SOCKET", dir.display())]
    NoDirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// Somebody listens there.
    #[error("a server is listening on {} already ({holder}): stop it, or set KEY_SERVER_SOCKET", path.display())]
    Live {
        /// The path.
        path: PathBuf,
        /// Its process, if the kernel says.
        holder: String,
    },
    /// Something else is there.
    #[error("{} is {what}: nothing was removed; move it away, or set KEY_SERVER_SOCKET", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// By what a socket is known again: device, inode, and when it was made, since
/// the inode of a removed socket may be given to the next.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    made: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        let made = (metadata.mtime(), metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), made }
    }
}

/// A listening socket at a path.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    identity: Identity,
}

/// Makes sure that the path is free or holds a dead socket of ours, which is
/// not removed yet. For saying so early.
///
/// # Errors
/// Any [`SocketError`].
pub fn check(path: &Path) -> Result<(), SocketError> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(SocketError::TooLong { path: path.to_owned(), bytes });
    }
    let dir = directory(path);
    if !dir.is_dir() {
        return Err(SocketError::NoDirectory { dir: dir.to_owned() });
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::Io { doing: "look at", path: path.to_owned(), source }),
        Ok(metadata) => check_occupied(path, &metadata),
    }
}

fn check_occupied(path: &Path, metadata: &Metadata) -> Result<(), SocketError> {
    let not_ours = |what| Err(SocketError::NotOurs { path: path.to_owned(), what });
    let kind = metadata.file_type();
    if kind.is_dir() {
        return not_ours("a directory");
    } else if kind.is_symlink() {
        return not_ours("a symbolic link");
    } else if !kind.is_socket() {
        return not_ours("not a socket");
    }
    match UnixStream::connect(path) {
        Ok(stream) => Err(SocketError::Live { path: path.to_owned(), holder: holder(&stream) }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let is_ours = metadata.uid() == geteuid().as_raw();
            if is_ours { Ok(()) } else { not_ours("a dead socket of another user") }
        }
        Err(source) => Err(SocketError::Io { doing: "connect to", path: path.to_owned(), source }),
    }
}

fn holder(stream: &UnixStream) -> String {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) => format!("pid {}", peer.pid.as_raw_nonzero()),
        Err(_) => "its process is unknown".to_owned(),
    }
}

/// Listens at the path; a dead socket of ours that is in the way is removed.
/// The socket has `mode` from its first instant. Call it before other threads
/// make files: the umask belongs to the process.
///
/// # Errors
/// Any [`SocketError`].
pub fn listen(path: &Path, mode: u32) -> Result<(Socket, UnixListener), SocketError> {
    check(path)?;
    let io_error = |doing| move |source| SocketError::Io { doing, path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove the dead socket")(error));
        }
        _ => {}
    }
    let listener = bind_with_mode(path, mode).map_err(io_error("listen on"))?;
    listener.set_nonblocking(true).map_err(io_error("listen on"))?;
    let metadata = path.symlink_metadata().map_err(io_error("look at"))?;
    let identity = Identity::of(&metadata);
    Ok((Socket { path: path.to_owned(), identity }, listener))
}

/// The umask belongs to the process: one at a time, and put back at once.
fn bind_with_mode(path: &Path, mode: u32) -> io::Result<UnixListener> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = umask(Mode::from_raw_mode(0o777 & !mode));
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

impl Drop for Socket {
    /// Removes the socket, unless something else is there by now.
    fn drop(&mut self) {
        let found = self.path.symlink_metadata();
        if found.is_ok_and(|metadata| Identity::of(&metadata) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn born_with_its_mode_and_removed_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (socket, _listener) = listen(&path, 0o660).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_another_took_over_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (socket, listener) = listen(&path, 0o600).unwrap();
        drop(listener);
        let (_other, _other_listener) = listen(&path, 0o600).unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn what_is_not_ours_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        let live = dir.path().join("live");
        let (_socket, _listener) = listen(&live, 0o600).unwrap();
        let pid = format!("pid {}", std::process::id());
        for (path, what) in [
            (file, "not a socket"),
            (link, "a symbolic link"),
            (dir.path().to_owned(), "a directory"),
            (live, pid.as_str()),
            (dir.path().join("missing/s.sock"), "does not exist"),
            (dir.path().join("long".repeat(40)), "bytes"),
        ] {
            let existed = path.exists();
            let error = listen(&path, 0o600).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
            assert_eq!(path.exists(), existed);
        }
    }
}
