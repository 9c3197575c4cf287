//! The units for systemd, as far as they can be acted upon without systemd:
//! command line, environment, directories and socket are the ones that stand
//! there.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use key_server_testkit::process::{Home, ServerProcess};

use crate::door::within_shell;
use crate::support::{CSV, Ended, PROGRAM, home, is_root, run, skip};

/// Who the server is; its own group is the one whose members may connect.
const SERVER: u32 = 65_534;
const APPLICATION: u32 = 65_533;
const GROUP: u32 = 70_123;

/// What a unit says.
struct Unit(String);

impl Unit {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd").join(name);
        Self(fs::read_to_string(path).unwrap())
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
    }

    fn value<'a>(&'a self, name: &'a str) -> &'a str {
        self.values(name).next().unwrap_or_else(|| panic!("the unit has no {name}"))
    }
}

/// A machine in a directory: what is below `/etc` and `/run` is below it.
struct Machine {
    home: Home,
    service: Unit,
}

impl Machine {
    fn new() -> Self {
        let home = home(CSV);
        let service = Unit::read("key-server.service");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // As the tmpfiles have it.
        for (dir, mode, uid, gid) in [
            ("etc/key-server", 0o750, 0, GROUP),
            ("var/lib/key-server", 0o700, SERVER, GROUP),
            ("run/key-server", 0o755, 0, 0),
        ] {
            let dir = home.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        let etc = home.path().join("etc/key-server");
        for (file, text, mode, uid) in
            [("config.toml", "", 0o640, 0), ("api_keys.csv", CSV, 0o600, SERVER)]
        {
            fs::write(etc.join(file), text).unwrap();
            fs::set_permissions(etc.join(file), fs::Permissions::from_mode(mode)).unwrap();
            chown(etc.join(file), Some(uid), Some(GROUP)).unwrap();
        }
        Self { home, service }
    }

    fn at(&self, text: &str) -> String {
        let root = self.home.path().display();
        text.replace("/etc/", &format!("{root}/etc/")).replace("/run/", &format!("{root}/run/"))
    }

    /// A command of the service, as its user.
    fn command(&self, name: &str) -> Command {
        let line = self.service.value(name).replace("/usr/bin/key-server", PROGRAM);
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOME", self.home.path().join("var/lib/key-server"));
        command.env("STATE_DIRECTORY", self.home.path().join("var/lib/key-server"));
        for one in self.service.values("Environment") {
            let (name, value) = one.split_once('=').unwrap();
            command.env(name, self.at(value));
        }
        command.current_dir(self.at(self.service.value("WorkingDirectory")));
        command
    }

    fn as_server(&self, name: &str) -> Ended {
        let mut command = self.command(name);
        command.uid(SERVER).gid(GROUP);
        run(command)
    }

    fn socket(&self) -> String {
        self.at(Unit::read("key-server.socket").value("ListenStream"))
    }
}

#[test]
fn the_service_starts_reloads_and_serves_its_group_as_the_units_say() {
    let name = "the_service_starts_reloads_and_serves_its_group_as_the_units_say";
    if !is_root() {
        return skip(name, "only root can do what systemd does");
    }
    let machine = Machine::new();
    let unit = Unit::read("key-server.socket");
    let listener = UnixListener::bind(machine.socket()).unwrap();
    let mode = u32::from_str_radix(unit.value("SocketMode"), 8).unwrap();
    fs::set_permissions(machine.socket(), fs::Permissions::from_mode(mode)).unwrap();
    assert_eq!((unit.value("SocketUser"), unit.value("SocketGroup")), ("root", "key-server"));
    chown(machine.socket(), Some(0), Some(GROUP)).unwrap();
    let manager = machine.home.path().join("notify");
    let notified = UnixDatagram::bind(&manager).unwrap();
    fs::set_permissions(&manager, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(machine.service.value("Type"), "notify");
    let first = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$";
    let mut command = machine.command("ExecStart");
    command.env("NOTIFY_SOCKET", &manager).env("WATCHDOG_USEC", "60000000");
    let mut command = within_shell(first, &command);
    let log = fs::File::create(machine.home.path().join("server.stderr")).unwrap();
    command.stdin(OwnedFd::from(listener)).stderr(log).uid(SERVER).gid(GROUP);
    let _server = ServerProcess::of(command.spawn().unwrap());
    notified.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut told = String::new();
    while !told.contains("READY=1") {
        let mut bytes = [0; 1_024];
        let received = notified.recv(&mut bytes);
        let length = received.unwrap_or_else(|_| panic!("{told} {}", machine.home.words()));
        told.push_str(str::from_utf8(&bytes[..length]).unwrap());
    }
    let reloaded = machine.as_server("ExecReload");
    assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
    // The CSV may go: nobody misses it.
    fs::remove_file(machine.at("/etc/key-server/api_keys.csv")).unwrap();
    let reloaded = machine.as_server("ExecReload");
    assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
    let call = |uid: u32, gid: u32, args: &[&str]| {
        let mut command = Command::new("setpriv");
        let (uid, gid) = (uid.to_string(), gid.to_string());
        command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups", PROGRAM]).args(args);
        command.env_clear().env("KEY_SERVER_SOCKET", machine.socket());
        run(command)
    };
    let health = call(0, 0, &["health"]);
    assert!(health.output.starts_with("ok: "), "{health:?}");
    let select = ["select", "--session", "s1", "--user", "1", "--model", "openai/gpt-4o"];
    let member = call(APPLICATION, GROUP, &select);
    assert_eq!(member.code, Some(0), "{member:?}");
    let stranger = call(APPLICATION, APPLICATION, &select);
    assert_eq!(stranger.code, Some(3), "{stranger:?}");
    assert!(stranger.error.contains("Permission denied"), "{stranger:?}");
}
