//! The accept loop: who is calling is asked before anything is read, and
//! nobody takes more places than one user may.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use key_server_ledger::Caller;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::peer;

/// How long to wait when the system has no descriptors or memory left: what
/// waits to be accepted stays, so asking again at once would only burn time.
const BACKOFF: Duration = Duration::from_millis(100);
/// Descriptors for all that is not a connection: ledger, database, log, store,
/// Redis, and files that are open for a moment.
const OTHER_FILES: u64 = 64;

/// How many connections may be there at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    in_all: usize,
    per_uid: usize,
}

impl Room {
    /// What the settings say, or less where the process may not open as many
    /// files. The soft limit is raised as far as the hard one allows.
    pub(crate) fn of(settings: &Settings) -> Self {
        let wanted = Self {
            in_all: settings.connections_max,
            per_uid: settings.connections_per_uid.min(settings.connections_max),
        };
        let needed = OTHER_FILES + u64::try_from(wanted.in_all).unwrap_or(u64::MAX - OTHER_FILES);
        let limit = getrlimit(Resource::Nofile);
        let is_short = |limit: Option<u64>| limit.is_some_and(|files| files < needed);
        if !is_short(limit.current) {
            return wanted;
        }
        let current = Some(limit.maximum.map_or(needed, |hard| hard.min(needed)));
        let raised = Rlimit { current, maximum: limit.maximum };
        let files =
            if setrlimit(Resource::Nofile, raised).is_ok() { current } else { limit.current };
        match files {
            Some(files) if files < needed => {
                let room = wanted.within(files);
                tracing::warn!(
                    "this process may open {files} files: {} connections at once instead of {}, \
                     {} of one user; raise its limit (LimitNOFILE= in a systemd unit)",
                    room.in_all,
                    wanted.in_all,
                    room.per_uid,
                );
                room
            }
            _ => wanted,
        }
    }

    /// What fits beside the other files; one user then has half of it at most.
    fn within(self, files: u64) -> Self {
        let in_all = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
        let in_all = in_all.clamp(2, self.in_all.max(2));
        Self { in_all, per_uid: self.per_uid.min(in_all / 2) }
    }
}

/// The places for connections, by user.
#[derive(Debug)]
struct Seats {
    per_uid: usize,
    taken: Mutex<HashMap<u32, Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    /// Whether it was told that this user has too many.
    is_told: bool,
}

/// One place; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    uid: u32,
    seats: Arc<Seats>,
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    /// A place for a connection of this user, unless he has all of his.
    fn take(self: &Arc<Self>, uid: u32, permit: OwnedSemaphorePermit) -> Option<Seat> {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(uid).or_default();
        if taken.count >= self.per_uid {
            if !std::mem::replace(&mut taken.is_told, true) {
                tracing::warn!(
                    uid,
                    "uid {uid} has {} connections, as many as one user may \
                     (connections_per_uid): more of his are closed at once",
                    taken.count,
                );
            }
            return None;
        }
        taken.count += 1;
        Some(Seat { uid, seats: Arc::clone(self), _permit: permit })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = all.get_mut(&self.uid) {
            taken.count -= 1;
            // Told again only after it was well again, so that a user at the
            // limit does not fill the log.
            taken.is_told &= taken.count > self.seats.per_uid / 2;
            if taken.count == 0 {
                all.remove(&self.uid);
            }
        }
    }
}

/// Accepts until `stop`; each connection, its caller and its place go to
/// `serve`, which must not wait.
///
/// # Errors
/// When the listener itself is broken.
pub(crate) async fn accept(
    listener: UnixListener,
    room: Room,
    stop: CancellationToken,
    mut serve: impl FnMut(UnixStream, Caller, Seat),
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(room.in_all));
    let seats = Arc::new(Seats { per_uid: room.per_uid, taken: Mutex::default() });
    let mut failures: u64 = 0;
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?.0, permit))
        };
        let Some(accepted) = stop.run_until_cancelled(next).await else { return Ok(()) };
        match accepted {
            Ok((stream, permit)) => {
                if failures > 0 {
                    tracing::info!("connections are accepted again, after {failures} failures");
                    failures = 0;
                }
                if let Some((caller, seat)) = welcome(&stream, permit, &seats) {
                    serve(stream, caller, seat);
                }
            }
            Err(error) if passes(&error) => {
                if failures == 0 {
                    tracing::warn!("cannot accept a connection, and goes on trying: {error}");
                }
                failures += 1;
                let _ = stop.run_until_cancelled(tokio::time::sleep(BACKOFF)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether waiting helps: everything but a listener that is none.
fn passes(error: &io::Error) -> bool {
    let broken = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP];
    !broken.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The place is looked for first: that costs least, and those who have too
/// many are those who come often. A peer that the kernel does not name is
/// dropped.
fn welcome(
    stream: &UnixStream,
    permit: OwnedSemaphorePermit,
    seats: &Arc<Seats>,
) -> Option<(Caller, Seat)> {
    let credentials = match stream.peer_cred() {
        Ok(credentials) => credentials,
        Err(error) => {
            tracing::warn!("dropped a connection whose peer is unknown: {error}");
            return None;
        }
    };
    let seat = seats.take(credentials.uid(), permit)?;
    Some((peer::identify(stream, &credentials), seat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_gets_his_places_and_another_still_gets_one() {
        let permits = Arc::new(Semaphore::new(9));
        let permit = async || Arc::clone(&permits).acquire_owned().await.unwrap();
        let seats = Arc::new(Seats { per_uid: 2, taken: Mutex::default() });
        let first = seats.take(1, permit().await).unwrap();
        let _second = seats.take(1, permit().await).unwrap();
        assert!(seats.take(1, permit().await).is_none());
        let other = seats.take(2, permit().await).unwrap();
        drop(first);
        assert!(seats.take(1, permit().await).is_some());
        drop(other);
        assert!(!seats.taken.lock().unwrap().contains_key(&2));
        assert_eq!(permits.available_permits(), 8);
    }

    #[test]
    fn few_open_files_make_little_room_and_half_of_it_for_one_user() {
        let wanted = Room { in_all: 1_024, per_uid: 512 };
        assert_eq!(wanted.within(256), Room { in_all: 192, per_uid: 96 });
        assert_eq!(wanted.within(10), Room { in_all: 2, per_uid: 1 });
        assert_eq!(wanted.within(5_000), wanted);
    }

    #[test]
    fn no_descriptors_left_passes_and_a_broken_listener_does_not() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED] {
            assert!(passes(&error(errno)));
        }
        assert!(!passes(&error(Errno::BADF)));
        assert!(!passes(&error(Errno::INVAL)));
    }
}
