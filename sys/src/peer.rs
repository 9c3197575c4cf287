//! Who is at the other end of a Unix socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

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

    #[test]
    fn what_is_no_socket_is_an_error() {
        assert!(peer_pidfd(tempfile_like()).is_err());
    }

    fn tempfile_like() -> std::fs::File {
        std::fs::File::open("/dev/null").unwrap()
    }
}
