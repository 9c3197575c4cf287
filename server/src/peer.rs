//! Who is at the other end of a connection, in the kernel's words.
//!
//! The credentials are those that the kernel noted when the socket was
//! connected. Executable and start time are read by the pid, which may be
//! another process's by now; so afterwards the process itself, by a descriptor
//! that can mean no other, is asked whether it lives. If it does not, the
//! record has neither, rather than somebody else's.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use key_server_ledger::Caller;
use key_server_sys::peer_pidfd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixStream;
use tokio::net::unix::UCred;

use crate::program;

/// The peer of `stream`, whose credentials are `credentials`.
pub(crate) fn identify(stream: &UnixStream, credentials: &UCred) -> Caller {
    let pid = credentials.pid().and_then(Pid::from_raw);
    let pidfd = pid.and_then(|pid| pidfd(stream, pid).ok());
    let process = pid.map(Process::look).unwrap_or_default();
    let process = match pidfd {
        Some(pidfd) if lives(&pidfd) => process,
        _ => Process::default(),
    };
    Caller {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs()),
        started_ms: process.started_ms,
        exe: process.exe,
    }
}

/// The peer's process. A kernel before 6.5 gives none for a connection; there
/// it is opened by its number.
fn pidfd(stream: &UnixStream, pid: Pid) -> io::Result<OwnedFd> {
    match peer_pidfd(stream) {
        Err(error) if error.raw_os_error() == Some(Errno::NOPROTOOPT.raw_os_error()) => {
            Ok(pidfd_open(pid, PidfdFlags::empty())?)
        }
        answered => answered,
    }
}

/// A process that has ended is readable, also while nobody has waited for it.
fn lives(pidfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut polled, Some(&now)), Ok(0))
}

/// What `/proc` says about a process.
#[derive(Debug, Default)]
struct Process {
    started_ms: Option<u64>,
    exe: Option<Arc<str>>,
}

impl Process {
    fn look(pid: Pid) -> Self {
        let dir = format!("/proc/{}", pid.as_raw_nonzero());
        let stat = std::fs::read_to_string(format!("{dir}/stat")).ok();
        let exe = program::of(pid.as_raw_nonzero().get().unsigned_abs());
        Self {
            started_ms: stat.as_deref().and_then(started_ms),
            exe: exe.map(|path| path.to_string_lossy().into()),
        }
    }
}

/// When the process of this `/proc/PID/stat` began, in ms since 1970.
///
/// # Source
/// proc_pid_stat(5): field 22, in clock ticks since boot; the second field is
/// a name that may hold anything, in parentheses.
fn started_ms(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(*BOOTED_MS + ticks * 1_000 / ticks_per_second)
}

/// When the machine booted, in ms since 1970. Asked once, so that a process
/// begins at the same moment in every record, whatever is done to the clock.
static BOOTED_MS: LazyLock<u64> = LazyLock::new(|| {
    let ms = |clock| {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let time = Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0));
        u64::try_from(time.as_millis()).unwrap_or(0)
    };
    ms(ClockId::Realtime).saturating_sub(ms(ClockId::Boottime))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_lives_is_named_with_executable_and_start() {
        let (one, _other) = UnixStream::pair().unwrap();
        let caller = identify(&one, &one.peer_cred().unwrap());
        assert_eq!(caller.pid, std::process::id());
        let exe = std::env::current_exe().unwrap();
        assert_eq!(caller.exe.as_deref(), exe.to_str());
        let again = identify(&one, &one.peer_cred().unwrap());
        assert!(caller.started_ms.is_some());
        assert_eq!(again.started_ms, caller.started_ms);
    }

    /// Makes 1,000 connections, each from a process of its own that ends at once
    /// (and whose pid the next process gets, where that can be arranged), or
    /// executes another program, or hands the connection to a child and ends.
    /// Says which process it was, and waits for a line after each.
    const RACES: &str = r#"
import os, random, socket, sys
path, rounds = sys.argv[1], int(sys.argv[2])
random.seed(7)
def connect():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection
def impostor(pid):
    """Begins a process of another program that has this pid, if it can."""
    try:
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(pid - 1))
    except OSError:
        return None
    child = os.fork()
    if child == 0:
        os.execv("/bin/sleep", ["sleep", "60"])
    return child
print(os.readlink("/proc/self/exe"), flush=True)
for _ in range(rounds):
    kind = random.choice(["ends", "execs", "hands over"])
    child = os.fork()
    if child == 0:
        connection = connect()
        if kind == "execs":
            os.execv("/bin/sleep", ["sleep", random.choice(["0", "0.01"])])
        if kind == "hands over" and os.fork() == 0:
            sys.stdin.close()
            connection.recv(1)
        os._exit(0)
    other = None
    if kind == "ends":
        os.waitpid(child, 0)
        other = impostor(child)
    print(kind, child, int(other == child), flush=True)
    sys.stdin.readline()
    if other is not None:
        os.kill(other, 9)
        os.waitpid(other, 0)
    if kind != "ends":
        os.waitpid(child, 0)
"#;

    #[tokio::test]
    async fn in_1000_races_no_record_names_another_process() {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};
        const ROUNDS: usize = 1_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let mut races = Command::new("python3");
        races.args(["-c", RACES]).arg(&path).arg(ROUNDS.to_string());
        let races = races.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut races) = races else {
            // Past the capture of the test's output.
            let line = b"skipped: in_1000_races_no_record_names_another_process: no python3\n";
            return std::io::stderr().write_all(line).unwrap();
        };
        let mut words = BufReader::new(races.stdout.take().unwrap()).lines();
        let mut go_on = races.stdin.take().unwrap();
        let python = words.next().unwrap().unwrap();
        let sleep = std::fs::canonicalize("/bin/sleep").unwrap().display().to_string();
        let (mut named, mut impostors) = (0, 0);
        for round in 0..ROUNDS {
            let (stream, _) = listener.accept().await.unwrap();
            // Half of them are looked at while they are still at it.
            let early = round % 2 == 0;
            let looked = early.then(|| identify(&stream, &stream.peer_cred().unwrap()));
            let line = words.next().unwrap().unwrap();
            let mut line = line.rsplitn(3, ' ');
            let is_impostor = line.next() == Some("1");
            let pid: u32 = line.next().unwrap().parse().unwrap();
            let kind = line.next().unwrap();
            let was_there = looked.is_some();
            let caller = looked.unwrap_or_else(|| identify(&stream, &stream.peer_cred().unwrap()));
            assert_eq!(caller.pid, pid, "round {round}");
            let exe = caller.exe.as_deref();
            let may_be: &[&str] = match kind {
                "execs" => &[&python, &sleep],
                "ends" if !was_there => &[],
                _ => &[&python],
            };
            assert!(exe.is_none_or(|exe| may_be.contains(&exe)), "round {round}, {kind}: {exe:?}");
            assert!(exe.is_none() || caller.started_ms.is_some());
            named += usize::from(exe.is_some());
            impostors += usize::from(is_impostor && !was_there);
            writeln!(go_on).unwrap();
        }
        drop(go_on);
        assert!(races.wait().unwrap().success());
        assert!(named > 0, "some are there to be named");
        // Root can arrange it, unless it is in a container that may not.
        let can_be_arranged =
            std::fs::OpenOptions::new().write(true).open("/proc/sys/kernel/ns_last_pid").is_ok();
        assert!(impostors > 0 || !can_be_arranged, "another process had the same pid");
    }

    #[test]
    fn the_name_of_a_process_does_not_move_its_start() {
        let fields = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12300 99 99";
        let plain = started_ms(&format!("1 (a) {fields}"));
        assert!(plain.is_some());
        assert_eq!(started_ms(&format!("1 (a) 1 2) b (c) {fields}")), plain);
        assert_eq!(started_ms("1 (a) S 1"), None);
        assert_eq!(started_ms(""), None);
    }
}
