//! The groups of a socket's peer.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// What nearly every process has room for; the kernel says when it is more.
const GROUPS: usize = 32;
/// The kernel's own limit for one process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

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

    use super::*;

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

    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = std::fs::File::open("/").unwrap();
        assert!(peer_groups(&file).is_err());
    }
}
