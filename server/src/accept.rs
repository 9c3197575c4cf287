//! The accept loop: who is calling is asked before anything is read, nobody
//! takes more places than one user may, and when all are taken who has the most
//! gives way to who has fewer.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use key_server_ledger::Caller;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::peer;

/// How long to wait when the system has no descriptors or memory left: what
/// waits to be accepted stays, so asking again at once would only burn time.
const BACKOFF: Duration = Duration::from_millis(100);
/// Places beyond the others, for root and the server's own user: whoever looks
/// after it gets in.
const RESERVED: usize = 16;
/// How many may be on their way out at once to make room.
const LEAVING_MAX: usize = 16;
/// Descriptors for all that is not one of the places: those beyond them,
/// ledger, database, log, store, Redis, and files that are open for a moment.
const OTHER_FILES: u64 = 96;
/// How often it is told of one user that he is sent away.
const TELL_EVERY: Duration = Duration::from_secs(60);

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

    /// Whether there is a place for this user where so many are taken.
    fn is_left(self, uid: u32, taken: usize) -> bool {
        let looks_after_it = uid == 0 || uid == geteuid().as_raw();
        taken < self.in_all + if looks_after_it { RESERVED } else { 0 }
    }
}

/// The places for connections.
#[derive(Debug)]
struct Seats {
    room: Room,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_uid: HashMap<u32, OfUser>,
    /// Connections that were not told to go.
    staying_count: usize,
    /// Those that were told, and are still there.
    leaving_count: usize,
    /// What the next place is known by.
    next: u64,
    /// Of whom it was told lately that he is sent away.
    told: HashMap<u32, Instant>,
}

/// The places of one user.
#[derive(Debug, Default)]
struct OfUser {
    /// Those that were told to go among them.
    count: usize,
    /// The others, the oldest first, and what tells them to go.
    staying: BTreeMap<u64, CancellationToken>,
}

/// One place; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    uid: u32,
    number: u64,
    seats: Arc<Seats>,
    /// Cancelled when another user is to have this place.
    pub(crate) give_way: CancellationToken,
}

impl Seats {
    fn new(room: Room) -> Arc<Self> {
        Arc::new(Self { room, taken: Mutex::default() })
    }

    /// A place for a connection of this user, unless he has all of his, or all
    /// are taken and nobody has to give way.
    fn take(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.by_uid.get(&uid).map_or(0, |of_user| of_user.count);
        let why = match () {
            () if count >= self.room.per_uid => "as many as one user may (connections_per_uid)",
            () if self.room.is_left(uid, taken.staying_count) || taken.make_room(uid) => {
                let (number, give_way) = taken.sit(uid);
                return Some(Seat { uid, number, seats: Arc::clone(self), give_way });
            }
            () => "and all places are taken (connections_max)",
        };
        if taken.is_to_be_told(uid) {
            tracing::warn!(
                uid,
                "uid {uid} has {count} connections, {why}: more of his are closed at once"
            );
        }
        None
    }
}

impl Taken {
    /// Tells the oldest connection of whoever has the most to go, if this user
    /// will not have more than he then.
    fn make_room(&mut self, uid: u32) -> bool {
        let own_count = self.by_uid.get(&uid).map_or(0, |of_user| of_user.staying.len());
        let most = self.by_uid.values_mut().max_by_key(|of_user| of_user.staying.len());
        let Some(most) = most.filter(|most| most.staying.len() > own_count + 1) else {
            return false;
        };
        if self.leaving_count >= LEAVING_MAX {
            return false;
        }
        if let Some((_, give_way)) = most.staying.pop_first() {
            give_way.cancel();
            self.staying_count -= 1;
            self.leaving_count += 1;
        }
        true
    }

    fn sit(&mut self, uid: u32) -> (u64, CancellationToken) {
        let (number, give_way) = (self.next, CancellationToken::new());
        self.next += 1;
        self.staying_count += 1;
        let of_user = self.by_uid.entry(uid).or_default();
        of_user.count += 1;
        of_user.staying.insert(number, give_way.clone());
        (number, give_way)
    }

    fn rise(&mut self, uid: u32, number: u64) {
        let Some(of_user) = self.by_uid.get_mut(&uid) else { return };
        of_user.count -= 1;
        match of_user.staying.remove(&number) {
            Some(_) => self.staying_count -= 1,
            None => self.leaving_count -= 1,
        }
        if of_user.count == 0 {
            self.by_uid.remove(&uid);
        }
    }

    /// Whether it is time to say so again: who comes often does not fill the
    /// log.
    fn is_to_be_told(&mut self, uid: u32) -> bool {
        self.told.retain(|_, told| told.elapsed() < TELL_EVERY);
        let is_new = !self.told.contains_key(&uid);
        if is_new {
            self.told.insert(uid, Instant::now());
        }
        is_new
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.rise(self.uid, self.number);
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
    let seats = Seats::new(room);
    let mut failures: u64 = 0;
    loop {
        let next = listener.accept();
        let Some(accepted) = stop.run_until_cancelled(next).await else { return Ok(()) };
        match accepted {
            Ok((stream, _)) => {
                if failures > 0 {
                    tracing::info!("connections are accepted again, after {failures} failures");
                    failures = 0;
                }
                if let Some((caller, seat)) = welcome(&stream, &seats) {
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
fn welcome(stream: &UnixStream, seats: &Arc<Seats>) -> Option<(Caller, Seat)> {
    let credentials = match stream.peer_cred() {
        Ok(credentials) => credentials,
        Err(error) => {
            tracing::warn!("dropped a connection whose peer is unknown: {error}");
            return None;
        }
    };
    let seat = seats.take(credentials.uid())?;
    Some((peer::identify(stream, &credentials), seat))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of nobody who looks after a server.
    const FIRST: u32 = 4_000_001;
    const SECOND: u32 = 4_000_002;
    const THIRD: u32 = 4_000_003;

    fn seats(in_all: usize, per_uid: usize) -> Arc<Seats> {
        Seats::new(Room { in_all, per_uid })
    }

    fn take(seats: &Arc<Seats>, uid: u32, count: usize) -> Vec<Seat> {
        (0..count).map_while(|_| seats.take(uid)).collect()
    }

    #[test]
    fn one_user_gets_his_places_and_another_still_gets_one() {
        let seats = seats(9, 2);
        let mut his = take(&seats, FIRST, 3);
        assert_eq!(his.len(), 2);
        let other = seats.take(SECOND).unwrap();
        his.pop();
        assert!(seats.take(FIRST).is_some());
        drop((other, his));
        let taken = seats.taken.lock().unwrap();
        assert!(taken.by_uid.is_empty());
        assert_eq!((taken.staying_count, taken.leaving_count), (0, 0));
    }

    #[test]
    fn who_has_the_most_gives_way_with_the_oldest() {
        let seats = seats(8, 5);
        let (first, second) = (take(&seats, FIRST, 5), take(&seats, SECOND, 5));
        assert_eq!((first.len(), second.len()), (5, 4), "the last has not fewer than the first");
        let third = take(&seats, THIRD, 5);
        assert_eq!(third.len(), 2, "until nobody has more");
        let leaving = |seats: &[Seat]| -> Vec<bool> {
            seats.iter().map(|seat| seat.give_way.is_cancelled()).collect()
        };
        assert_eq!(leaving(&first), [true, true, false, false, false]);
        assert_eq!(leaving(&second), [true, false, false, false]);
        assert!(seats.take(FIRST).is_none(), "he has all of his until they are gone");
        drop((first, second, third));
        assert_eq!(take(&seats, FIRST, 9).len(), 5);
    }

    #[tokio::test]
    async fn few_are_on_their_way_out_at_once() {
        let seats = seats(100, 100);
        let first = take(&seats, FIRST, 100);
        assert_eq!(take(&seats, SECOND, 40).len(), LEAVING_MAX);
        drop(first);
        assert_eq!(take(&seats, SECOND, 40).len(), 40);
    }

    #[test]
    fn who_looks_after_the_server_gets_in_when_all_places_are_taken() {
        let seats = seats(2, 100);
        let _others = (seats.take(FIRST).unwrap(), seats.take(SECOND).unwrap());
        assert!(seats.take(THIRD).is_none());
        assert_eq!(take(&seats, 0, RESERVED + 1).len(), RESERVED);
    }

    #[test]
    fn who_is_sent_away_often_is_told_of_once_a_minute() {
        let mut taken = Taken::default();
        assert_eq!([(); 3].map(|()| taken.is_to_be_told(FIRST)), [true, false, false]);
        assert!(taken.is_to_be_told(SECOND));
    }

    #[test]
    fn few_open_files_make_little_room_and_half_of_it_for_one_user() {
        let wanted = Room { in_all: 1_024, per_uid: 512 };
        assert_eq!(wanted.within(256), Room { in_all: 160, per_uid: 80 });
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
