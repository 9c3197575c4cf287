//! The Unix socket: claimed with care, born with its mode and group, removed
//! if still ours; or taken over from systemd.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid, chownat, mkdirat, openat, renameat_with,
    statat, unlinkat,
};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{geteuid, umask};

use crate::config::Settings;
use crate::lock_file::{self, Unfit};
use crate::users;

/// What fits into `sockaddr_un`, without the terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Without a `socket_group`, and with one.
const MODE_ALONE: u32 = 0o600;
const MODE_OF_GROUP: u32 = 0o660;

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
    /// Everybody may replace what is in the directory.
    #[error("everybody can replace the socket in {} (mode {mode:04o}, without the sticky bit): choose another directory with KEY_SERVER_SOCKET, or run `chmod +t {}`", dir.display(), dir.display())]
    OpenDirectory {
        /// The directory.
        dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody listens there.
    #[error("a server is listening on {} already ({holder}): stop it, or set KEY_SERVER_SOCKET", path.display())]
    Live {
        /// The path.
        path: PathBuf,
        /// Its process, if the kernel says.
        holder: String,
    },
    /// Somebody has the right to listen there.
    #[error("another server ({holder}) holds {}: stop it, or set KEY_SERVER_SOCKET", lock.display())]
    Locked {
        /// The lock file.
        lock: PathBuf,
        /// Its process, if it says.
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
    /// A user or group that does not exist here.
    #[error("{setting} is {name:?}: {problem}")]
    UnknownName {
        /// The setting.
        setting: &'static str,
        /// Its value.
        name: String,
        /// Why it stands for nobody, and what to do.
        problem: String,
    },
    /// What was inherited is not a socket that applications can connect to.
    #[error(
        "the descriptor that systemd passed is not a listening Unix stream socket: use ListenStream= with one path"
    )]
    NotListening,
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

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Permission bits.
    pub mode: u32,
    /// Whose it is, when not the server's own.
    pub owner: Option<u32>,
    /// Whose members the group's bits are for.
    pub group: Option<u32>,
}

impl Ownership {
    /// As the settings say.
    ///
    /// # Errors
    /// [`SocketError::UnknownName`].
    pub fn of(settings: &Settings) -> Result<Self, SocketError> {
        let owner = id("socket_owner", &settings.socket_owner, users::uid)?;
        let group = id("socket_group", &settings.socket_group, users::gid)?;
        let default = if group.is_some() { MODE_OF_GROUP } else { MODE_ALONE };
        Ok(Self { mode: settings.socket_mode.map_or(default, |mode| mode.0), owner, group })
    }
}

/// The number of what a setting names; none when it names nobody.
fn id(
    setting: &'static str,
    name: &str,
    look_up: fn(&str) -> Result<u32, String>,
) -> Result<Option<u32>, SocketError> {
    if name.is_empty() {
        return Ok(None);
    }
    let unknown = |problem| SocketError::UnknownName { setting, name: name.to_owned(), problem };
    look_up(name).map(Some).map_err(unknown)
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
    _lock: Lock,
}

/// Makes sure that the path is free or holds a dead socket of ours, which is
/// not removed yet. For saying so early.
///
/// # Errors
/// Any [`SocketError`].
pub fn check(path: &Path, ownership: &Ownership) -> Result<(), SocketError> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(SocketError::TooLong { path: path.to_owned(), bytes });
    }
    check_directory(directory(path))?;
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::Io { doing: "look at", path: path.to_owned(), source }),
        Ok(metadata) => check_occupied(path, &metadata, ownership),
    }
}

fn check_directory(dir: &Path) -> Result<(), SocketError> {
    let Some(metadata) = dir.metadata().ok().filter(Metadata::is_dir) else {
        return Err(SocketError::NoDirectory { dir: dir.to_owned() });
    };
    let mode = metadata.mode() & 0o7777;
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(SocketError::OpenDirectory { dir: dir.to_owned(), mode });
    }
    Ok(())
}

/// What is allowed and yet not well: in such a directory somebody else may put
/// a socket of his own while the server is down.
fn warn_of_directory(dir: &Path) {
    let Ok(metadata) = dir.metadata() else { return };
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o022 != 0 {
        tracing::warn!(
            "others can write to the socket's directory {} (mode {mode:04o}): while the server is \
             down, somebody can listen in its place, which clients notice by the server's uid only; \
             a directory of its own is better, such as /run/key-server",
            dir.display(),
        );
    } else if owner != 0 && owner != geteuid().as_raw() {
        tracing::warn!(
            "the socket's directory {} belongs to uid {owner}, who can replace the socket; \
             a directory of its own is better, such as /run/key-server",
            dir.display(),
        );
    }
}

fn check_occupied(
    path: &Path,
    metadata: &Metadata,
    ownership: &Ownership,
) -> Result<(), SocketError> {
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
            let owner = ownership.owner.unwrap_or_else(|| geteuid().as_raw());
            let is_ours = metadata.uid() == owner || metadata.uid() == geteuid().as_raw();
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
/// The socket is as `ownership` says from the first instant in which anybody can
/// find it. Call it before other threads make files: the umask belongs to the
/// process.
///
/// # Errors
/// Any [`SocketError`].
pub fn listen(path: &Path, ownership: &Ownership) -> Result<(Socket, UnixListener), SocketError> {
    check(path, ownership)?;
    let lock = Lock::take(path)?;
    // Again: who held the lock until now may have left something.
    check(path, ownership)?;
    warn_of_directory(directory(path));
    let io_error = |doing| move |source| SocketError::Io { doing, path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove the dead socket")(error));
        }
        _ => {}
    }
    let listener = match ownership {
        Ownership { mode, owner: None, group: None } => bind_with_mode(path, *mode),
        _ => bind_out_of_sight(path, ownership),
    };
    let listener = listener.map_err(io_error("listen on"))?;
    listener.set_nonblocking(true).map_err(io_error("listen on"))?;
    let metadata = path.symlink_metadata().map_err(io_error("look at"))?;
    let identity = Identity::of(&metadata);
    Ok((Socket { path: path.to_owned(), identity, _lock: lock }, listener))
}

/// Takes over a socket that listens already: who made it says who may connect,
/// and removes it.
///
/// # Errors
/// [`SocketError::NotListening`].
pub fn adopt(descriptor: OwnedFd) -> Result<UnixListener, SocketError> {
    let is_right = socket_domain(&descriptor) == Ok(AddressFamily::UNIX)
        && socket_type(&descriptor) == Ok(SocketType::STREAM)
        && socket_acceptconn(&descriptor) == Ok(true);
    let listener = UnixListener::from(descriptor);
    match listener.set_nonblocking(true) {
        Ok(()) if is_right => Ok(listener),
        _ => Err(SocketError::NotListening),
    }
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

/// Binds where nobody else can look, and moves the finished socket into place.
///
/// A socket is born with its mode, but with the group of whoever makes it: at
/// its path it would for a moment be open to the wrong group, or, with a chmod
/// afterwards, be something else than what was asked for. (To be born with
/// another group the process would have to take it as its own, which only
/// root may; every member may give a file to his group.) So it is made in a
/// directory that only we can enter, given away there, and appears by a rename
/// that does not replace anything. The directory is held by descriptors: who
/// can write beside it cannot put another in its place.
fn bind_out_of_sight(path: &Path, ownership: &Ownership) -> io::Result<UnixListener> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat(CWD, directory(path), dir_flags, Mode::empty())?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let hidden_name = format!(".key-server-{}", HEXLOWER.encode(&random));
    mkdirat(&parent, &hidden_name, Mode::RWXU)?;
    let bound = openat(&parent, &hidden_name, dir_flags | OFlags::NOFOLLOW, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|hidden| {
            let bound = bind_within(&hidden, ownership).and_then(|listener| {
                renameat_with(&hidden, SOCKET, &parent, name, RenameFlags::NOREPLACE)?;
                Ok(listener)
            });
            if bound.is_err() {
                let _ = unlinkat(&hidden, SOCKET, AtFlags::empty());
            }
            bound
        });
    let _ = unlinkat(&parent, &hidden_name, AtFlags::REMOVEDIR);
    bound
}

/// The name of a socket within its hidden directory.
const SOCKET: &str = "socket";

fn bind_within(hidden: &OwnedFd, ownership: &Ownership) -> io::Result<UnixListener> {
    let stat = statat(hidden, "", AtFlags::EMPTY_PATH)?;
    if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Err(io::Error::other("somebody put another directory in the place of ours"));
    }
    let path = format!("/proc/self/fd/{}/{SOCKET}", hidden.as_raw_fd());
    let listener = bind_with_mode(Path::new(&path), ownership.mode)?;
    let (owner, group) = (ownership.owner.map(Uid::from_raw), ownership.group.map(Gid::from_raw));
    chownat(hidden, SOCKET, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| {
        let what = "only root can give it to another user, and only members to a group";
        io::Error::other(format!("cannot give it its owner and group: {error}; {what}"))
    })?;
    Ok(listener)
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

/// The right to listen at a path: a file beside it, locked as long as this
/// lives. Of two servers that find the same dead socket, one removes it.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    /// Locked.
    file: File,
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, SocketError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        loop {
            let mut file = Self::open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::Error(source)) => {
                    return Err(SocketError::Io { doing: "lock", path, source });
                }
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.take(20).read_to_string(&mut holder);
                    let holder = format!("pid {}", holder.trim());
                    return Err(SocketError::Locked { lock: path, holder });
                }
            }
            // Who held it may have removed it after it was opened here: then
            // this lock is on nothing that others can find.
            if is_same(&file, &path) {
                lock_file::sign(&mut file);
                return Ok(Self { path, file });
            }
        }
    }

    fn open(path: &Path) -> Result<File, SocketError> {
        lock_file::open(path).map_err(|unfit| match unfit {
            Unfit::NotOurs(what) => SocketError::NotOurs { path: path.to_owned(), what },
            Unfit::Io(source) => SocketError::Io { doing: "lock", path: path.to_owned(), source },
        })
    }
}

impl Drop for Lock {
    /// Removes the file while it is still locked; see [`Lock::take`].
    fn drop(&mut self) {
        if is_same(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(here), Ok(there)) = (file.metadata(), path.symlink_metadata()) else { return false };
    (here.dev(), here.ino()) == (there.dev(), there.ino())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const fn of_mode(mode: u32) -> Ownership {
        Ownership { mode, owner: None, group: None }
    }

    #[test]
    fn born_with_its_mode_and_removed_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (socket, _listener) = listen(&path, &of_mode(0o660)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        drop(socket);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_socket_for_a_group_is_moved_into_place_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let own = rustix::process::getegid().as_raw();
        let ownership = Ownership { mode: 0o660, owner: None, group: Some(own) };
        let (socket, _listener) = listen(&path, &ownership).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, own));
        UnixStream::connect(&path).unwrap();
        let names = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["s.sock", "s.sock.lock"]);
        drop(socket);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn what_appears_in_the_last_moment_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        std::fs::write(&path, "x").unwrap();
        let ownership = Ownership { mode: 0o660, owner: None, group: Some(0) };
        let ownership = Ownership { group: Some(rustix::process::getegid().as_raw()), ..ownership };
        let error = bind_out_of_sight(&path, &ownership).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_socket_that_another_put_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (socket, _listener) = listen(&path, &of_mode(0o600)).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn a_path_has_one_server_also_while_its_socket_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (socket, listener) = listen(&path, &of_mode(0o600)).unwrap();
        drop(listener);
        for _ in 0..2 {
            let error = listen(&path, &of_mode(0o600)).unwrap_err().to_string();
            assert!(error.contains(&format!("another server (pid {})", std::process::id())));
            let _ = std::fs::remove_file(&path);
        }
        drop(socket);
        listen(&path, &of_mode(0o600)).unwrap();
    }

    #[test]
    fn a_lock_file_that_is_not_ours_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let lock = dir.path().join("s.sock.lock");
        let refused = |what: &str| {
            let error = listen(&path, &of_mode(0o600)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
            assert!(lock.symlink_metadata().is_ok() && !path.exists());
        };
        symlink(dir.path().join("elsewhere"), &lock).unwrap();
        refused("a symbolic link");
        assert!(!dir.path().join("elsewhere").exists());
        std::fs::remove_file(&lock).unwrap();
        std::fs::write(&lock, "1").unwrap();
        if geteuid().is_root() {
            chown(&lock, Some(65_533), None).unwrap();
            refused("the lock file of another user");
            chown(&lock, Some(0), None).unwrap();
        }
        listen(&path, &of_mode(0o600)).unwrap();
    }

    #[test]
    fn a_directory_in_which_everybody_can_replace_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let with_mode = |mode| {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            listen(&path, &of_mode(0o600))
        };
        let error = with_mode(0o777).unwrap_err().to_string();
        assert!(error.contains("chmod +t") && error.contains("0777"), "{error}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        with_mode(0o1777).unwrap();
        with_mode(0o770).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        let live = dir.path().join("live");
        let (_socket, _listener) = listen(&live, &of_mode(0o600)).unwrap();
        let to_live = dir.path().join("to_live");
        symlink(&live, &to_live).unwrap();
        let pid = format!("pid {}", std::process::id());
        for (path, what) in [
            (file, "not a socket"),
            (link, "a symbolic link"),
            (to_live, "a symbolic link"),
            (dir.path().to_owned(), "a directory"),
            (live, pid.as_str()),
            (dir.path().join("missing/s.sock"), "does not exist"),
            (dir.path().join("long".repeat(40)), "bytes"),
        ] {
            let existed = path.exists();
            let error = listen(&path, &of_mode(0o600)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
            assert_eq!(path.exists(), existed);
        }
    }

    #[test]
    fn only_a_listening_unix_socket_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s.sock")).unwrap();
        adopt(listener.into()).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(matches!(adopt(stream.into()), Err(SocketError::NotListening)));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(adopt(tcp.into()), Err(SocketError::NotListening)));
    }

    #[test]
    fn a_setting_that_names_nobody_is_named() {
        assert_eq!(id("socket_group", "", users::gid).unwrap(), None);
        assert_eq!(id("socket_group", "4711", users::gid).unwrap(), Some(4_711));
        let error = id("socket_group", "no-such-group", users::gid).unwrap_err().to_string();
        assert!(error.contains("socket_group") && error.contains("write its gid"), "{error}");
    }
}
