//! Descriptors that whoever started this process left open for it.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The first descriptor that is passed, by the convention of systemd.
const FIRST: RawFd = 3;

/// Takes descriptor 3, which the process was started with; closed on exec from
/// now on. Call it before anything else opens files: whoever says that
/// descriptor 3 was passed is believed.
///
/// # Errors
/// `AlreadyExists` the second time; `EBADF` when it is not open.
///
/// # Source
/// sd_listen_fds(3).
pub fn take_inherited() -> io::Result<OwnedFd> {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    if IS_TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "descriptor 3 was taken before"));
    }
    // SAFETY: it is only asked for its flags, which is an error when it is not
    // open, and does nothing to it otherwise.
    let borrowed = unsafe { BorrowedFd::borrow_raw(FIRST) };
    fcntl_getfd(borrowed)?;
    // SAFETY: it is open, was so when this process began (the caller's word),
    // so nothing in this process owns it; and it is given out once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(FIRST) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    Ok(descriptor)
}
