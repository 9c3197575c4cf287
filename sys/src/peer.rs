//! Who is at the other end of a Unix socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What nearly every process has room for; the kernel says when it is more.
const GROUPS: usize = 32;
/// The kernel's own limit for one process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// The process that connected to (or listens on) the other end of a connected
/// Unix socket, as a descriptor that goes on to mean this process and no other,
/// whoever gets its pid next. It is closed on exec.
///
/// # Errors
/// `ENOPROTOOPT` when the kernel does not have the question (Linux before
/// 6.5); others, mostly `ESRCH` and `EINVAL`, when the process is gone.
///
/// # Source
/// unix(7), `SO_PEERPIDFD`; the kernel's `net/core/sock.c`.
pub fn peer_pidfd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut pidfd: RawFd = -1;
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the sizes that are given, which
    // live until the call returns; the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if pidfd < 0 || length as usize != size_of::<RawFd>() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel has just made this descriptor for this call; nobody
    // else knows its number yet.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// The supplementary groups of the process at the other end of a Unix socket,
/// as they were when it connected.
///
/// # Errors
/// As the kernel says; one that is older than 4.13 cannot tell.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; GROUPS];
    loop {
        let size = groups.len() * size_of::<u32>();
        let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open, for it is borrowed; the kernel writes
        // at most `length` bytes to `groups`, which has as many, and any bytes
        // are numbers; `length` is a variable of ours.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX
        {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[cfg_attr(miri, ignore = "Miri has no questions to sockets")]
    #[test]
    fn the_peer_of_a_pair_is_this_process_and_lives() {
        let (one, _other) = UnixStream::pair().unwrap();
        let pidfd = match peer_pidfd(&one) {
            Ok(pidfd) => pidfd,
            // A kernel without the question says so, and nothing else.
            Err(error) => return assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
        };
        let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let info = std::fs::read_to_string(path).unwrap();
        let pid = format!("Pid:\t{}\n", std::process::id());
        assert!(info.contains(&pid), "{info}");
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut polled, Some(&now)).unwrap(), 0);
    }

    #[cfg_attr(miri, ignore = "Miri has no questions to sockets")]
    #[test]
    fn what_is_no_socket_is_an_error() {
        assert!(peer_pidfd(tempfile_like()).is_err());
    }

    fn tempfile_like() -> std::fs::File {
        std::fs::File::open("/dev/null").unwrap()
    }
    #[cfg_attr(miri, ignore = "Miri has no questions to sockets")]
    #[test]
    fn the_peers_groups_are_those_of_its_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut groups = peer_groups(&one).unwrap();
        let own = rustix::process::getgroups().unwrap();
        let mut own: Vec<u32> = own.into_iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
    }

    #[cfg_attr(miri, ignore = "Miri has no questions to sockets")]
    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = std::fs::File::open("/").unwrap();
        assert!(peer_groups(&file).is_err());
    }
}
