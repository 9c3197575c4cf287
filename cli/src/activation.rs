//! A socket that systemd opened before it started this process.

use std::os::fd::OwnedFd;

use crate::failure::{Exit, Failure};
use crate::place::Environment;

/// The socket, if one was passed to this very process.
///
/// # Errors
/// When several were passed, or none is there.
///
/// # Source
/// sd_listen_fds(3).
pub(crate) fn inherited(environment: &Environment) -> Result<Option<OwnedFd>, Failure> {
    let number = |name| environment.get(name)?.to_str()?.parse::<u32>().ok();
    // Variables that were meant for the process that started this one.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => key_server_sys::take_inherited().map(Some).map_err(|error| {
            let message = format!("LISTEN_FDS says that a socket was passed: {error}");
            Failure::of_lines(Exit::Usage, &message)
        }),
        Some(count) => {
            let message = format!(
                "{count} sockets were passed (LISTEN_FDS), and the server has one: \
                 name one in the socket unit (ListenStream=)"
            );
            Err(Failure::of_lines(Exit::Usage, &message))
        }
    }
}
