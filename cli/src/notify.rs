//! What the service manager is told: that the server is ready, how it is, that
//! it is alive, that it stops.
//!
//! *Ready* is what Health calls serving: the socket listens, the ledger takes
//! records and there are keys to give. Units that come `After=` the server need
//! keys; a server that still waits for Vault has none, so it is not ready then,
//! asks for more time to start again and again, and says in its status what it
//! waits for. Once ready it stays so for the manager: what happens later is in
//! the status, and needs no restart.
//!
//! The protocol is lines of text in a datagram. What others wrote for it reads
//! `NOTIFY_SOCKET` from the environment for each message, and can only forget it
//! by changing the environment, which is unsafe beside other threads; here the
//! variables are wiped while there is one thread, and the socket is made and
//! connected before the sandbox closes.
//!
//! # Source
//! sd_notify(3), sd_watchdog_enabled(3), systemd.service(5).

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use key_server_server::observer::{Observer, Seen};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::place::Environment;

/// How often the server is looked at until it is ready, and then.
const LOOK_EVERY_AT_START: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While it is not ready, how often it asks for time, and for how much.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
const EXTEND_BY: Duration = Duration::from_secs(60);
/// What a stop may take beyond the grace of the calls in progress.
const STOP_BEYOND_GRACE: Duration = Duration::from_secs(10);

/// What the manager wrote into the environment; it is gone from there.
pub(crate) struct Variables {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
}

impl Variables {
    /// Takes them, so that nothing else speaks for this process. While there is
    /// one thread.
    pub(crate) fn take(environment: &mut Environment) -> Self {
        let number = |name| environment.get(name)?.to_str()?.parse::<u64>().ok();
        // One that names another process was meant for that.
        let own_pid = u64::from(std::process::id());
        let is_ours =
            environment.get("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(own_pid);
        let usec = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && is_ours);
        let socket = environment.get("NOTIFY_SOCKET").map(OsStr::to_owned);
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            environment.forget(name);
        }
        Self { socket, watchdog: usec.map(Duration::from_micros) }
    }
}

/// How far the manager was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    /// It was told of a reload, and waits for the end of it.
    Reloading,
    /// It is owed the end of a reload.
    Reloaded,
    Stopping,
}

/// The service manager, if there is one.
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    phase: Cell<Phase>,
    is_last_reload_refused: Cell<bool>,
    /// What it was told last.
    status: RefCell<String>,
    alive_told: Cell<Option<Instant>>,
    time_asked: Cell<Option<Instant>>,
    has_warned: Cell<bool>,
}

impl Manager {
    /// Connects to the manager. Where that does not work, the log says so and
    /// nobody is told anything: the server serves all the same.
    pub(crate) fn open(variables: Variables) -> Self {
        let socket = variables.socket.and_then(|name| {
            let connected = connect(&name);
            let warn = |error: &io::Error| {
                let name = name.display();
                tracing::warn!(
                    "the service manager is told nothing: NOTIFY_SOCKET is {name}: {error}"
                );
            };
            connected.inspect_err(warn).ok()
        });
        Self {
            socket,
            watchdog: variables.watchdog,
            phase: Cell::new(Phase::Starting),
            is_last_reload_refused: Cell::new(false),
            status: RefCell::default(),
            alive_told: Cell::new(None),
            time_asked: Cell::new(None),
            has_warned: Cell::new(false),
        }
    }

    /// Looks at the server and tells what is new, for ever. A server whose
    /// engine does not answer is not said to be alive.
    pub(crate) async fn follow(&self, observer: Observer) -> Infallible {
        if self.socket.is_none() {
            return std::future::pending().await;
        }
        loop {
            let observer = observer.clone();
            let look = tokio::task::spawn_blocking(move || observer.look());
            if let Ok(seen) = look.await {
                self.tell(seen);
            }
            tokio::time::sleep(self.look_every()).await;
        }
    }

    fn look_every(&self) -> Duration {
        match self.phase.get() {
            Phase::Starting => LOOK_EVERY_AT_START,
            _ => self.watchdog.map_or(LOOK_EVERY, |time| LOOK_EVERY.min(time / 4)),
        }
    }

    fn tell(&self, seen: Seen) {
        let status = self.words(seen);
        let (phase, now) = (self.phase.get(), Instant::now());
        let is_due = |last: &Cell<Option<Instant>>, every: Duration| {
            last.get().is_none_or(|last| now.duration_since(last) >= every)
        };
        let is_ready = match phase {
            Phase::Starting => seen.is_serving(),
            // However it went, it is over.
            Phase::Reloaded => true,
            Phase::Ready | Phase::Reloading | Phase::Stopping => false,
        };
        let is_ping = self.watchdog.is_some_and(|time| is_due(&self.alive_told, time / 2));
        let asks_for_time =
            phase == Phase::Starting && !is_ready && is_due(&self.time_asked, EXTEND_EVERY);
        let mut lines = Vec::new();
        if is_ready {
            lines.push("READY=1".to_owned());
        }
        if *self.status.borrow() != status && phase != Phase::Stopping {
            lines.push(format!("STATUS={status}"));
        }
        if is_ping {
            lines.push("WATCHDOG=1".to_owned());
        }
        if asks_for_time {
            lines.push(extend_by(EXTEND_BY));
        }
        if lines.is_empty() || !self.send(&lines) {
            return;
        }
        if is_ready {
            self.phase.set(Phase::Ready);
        }
        if is_ping {
            self.alive_told.set(Some(now));
        }
        if asks_for_time {
            self.time_asked.set(Some(now));
        }
        self.status.replace(status);
    }

    /// Everybody on the machine may read it (`systemctl status`).
    fn words(&self, seen: Seen) -> String {
        let mut words = match seen {
            Seen::Serving => "serving",
            Seen::Degraded => "serving, degraded: `key-server status` says why",
            Seen::WaitsForKeys => "no keys to give yet: waiting for their store",
            Seen::KeysTooOld => "no keys to give: the copy is too old and their store is away",
            Seen::CannotRecord => "no keys are given: the ledger takes no records",
        }
        .to_owned();
        if self.is_last_reload_refused.get() {
            words.push_str("; the last reload was refused, the log says why");
        }
        words
    }

    /// What comes before there is a server to look at.
    pub(crate) fn opening(&self) {
        self.send(&["STATUS=opening the ledger and the keys".to_owned()]);
    }

    /// A reload begins. To a server that was never ready it is part of the
    /// start.
    pub(crate) fn reloading(&self) {
        if self.phase.get() != Phase::Ready {
            return;
        }
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        let lines = [
            "RELOADING=1".to_owned(),
            format!("MONOTONIC_USEC={usec}"),
            "STATUS=reading policy and keys again".to_owned(),
        ];
        if self.send(&lines) {
            self.phase.set(Phase::Reloading);
            self.status.replace(String::new());
        }
    }

    /// It is over; the next look tells.
    pub(crate) fn reloaded(&self, is_refused: bool) {
        self.is_last_reload_refused.set(is_refused);
        if self.phase.get() == Phase::Reloading {
            self.phase.set(Phase::Reloaded);
        }
    }

    /// The server stops, and calls in progress may take `grace`.
    pub(crate) fn stopping(&self, grace: Duration) {
        self.phase.set(Phase::Stopping);
        self.send(&[
            "STOPPING=1".to_owned(),
            "STATUS=stopping: calls in progress finish".to_owned(),
            extend_by(grace + STOP_BEYOND_GRACE),
        ]);
    }

    /// Whether it was told.
    fn send(&self, lines: &[String]) -> bool {
        let Some((socket, address)) = &self.socket else { return false };
        let message = lines.join("\n");
        // A manager that began anew listens anew.
        let sent = socket.send(message.as_bytes()).or_else(|_| {
            socket.connect_addr(address).and_then(|()| socket.send(message.as_bytes()))
        });
        match sent {
            Ok(_) => self.has_warned.set(false),
            // It has much to read: the next look tells it again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                if !self.has_warned.replace(true) {
                    tracing::warn!("the service manager cannot be told how the server is: {error}");
                }
                return false;
            }
        }
        true
    }
}

fn extend_by(time: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", time.as_micros())
}

fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            let what = "neither a whole path nor @ and an abstract name";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read holds nobody up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pairs: &[(&str, &str)]) -> Variables {
        Variables::take(&mut Environment::of_pairs(pairs))
    }

    #[test]
    fn a_watchdog_counts_that_is_meant_for_this_process() {
        let own = std::process::id().to_string();
        for (pairs, seconds) in [
            (&[][..], None),
            (&[("WATCHDOG_USEC", "30000000")], Some(30)),
            (&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", own.as_str())], Some(30)),
            (&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")], None),
            (&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "?")], None),
            (&[("WATCHDOG_USEC", "0")], None),
            (&[("WATCHDOG_USEC", "soon")], None),
        ] {
            assert_eq!(taken(pairs).watchdog, seconds.map(Duration::from_secs), "{pairs:?}");
        }
    }

    #[test]
    fn variables_are_taken_once() {
        let mut environment = Environment::of_pairs(&[("NOTIFY_SOCKET", "/run/n")]);
        assert_eq!(Variables::take(&mut environment).socket, Some("/run/n".into()));
        assert_eq!(Variables::take(&mut environment).socket, None);
    }

    /// The end of a reload is told whatever the server looks like then; the
    /// start is over when it serves.
    #[test]
    fn ready_is_told_at_the_first_serving_and_after_each_reload() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut manager = Manager::open(taken(&[]));
        let nobody = SocketAddr::from_abstract_name(b"key-server-test-nobody").unwrap();
        manager.socket = Some((ours, nobody));
        theirs.set_nonblocking(true).unwrap();
        let heard = || {
            let mut bytes = [0; 1_024];
            let length = theirs.recv(&mut bytes).unwrap_or(0);
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        manager.tell(Seen::WaitsForKeys);
        let waits = heard();
        assert!(waits.contains("EXTEND_TIMEOUT_USEC=60000000"), "{waits}");
        assert!(waits.contains("waiting for their store") && !waits.contains("READY"), "{waits}");
        manager.tell(Seen::WaitsForKeys);
        assert_eq!(heard(), "", "it was told just now");
        manager.reloading();
        assert_eq!(heard(), "", "a start is no reload");
        manager.tell(Seen::Serving);
        assert_eq!(heard(), "READY=1\nSTATUS=serving");
        manager.tell(Seen::CannotRecord);
        assert_eq!(heard(), "STATUS=no keys are given: the ledger takes no records");
        manager.reloading();
        assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        manager.reloaded(true);
        manager.tell(Seen::CannotRecord);
        let told = heard();
        assert!(told.starts_with("READY=1\nSTATUS=no keys are given"), "{told}");
        assert!(told.ends_with("the last reload was refused, the log says why"), "{told}");
        manager.reloaded(false);
        manager.tell(Seen::Serving);
        assert_eq!(heard(), "STATUS=serving");
        manager.stopping(Duration::from_secs(8));
        let told = heard();
        assert!(told.starts_with("STOPPING=1\n") && told.ends_with("USEC=18000000"), "{told}");
        manager.tell(Seen::Serving);
        assert_eq!(heard(), "", "whoever stops is not said to serve");
    }
}
