//! Pages that show what the program prints stay true.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::{TempDir, tempdir};

use crate::case_file::is_overwriting;
use crate::scripted::{Play, Scripted};
use crate::{moment, sample};

#[test]
fn the_settings_page_is_the_one_of_this_version() {
    let page = Command::new(env!("CARGO_BIN_EXE_key-server"))
        .args(["config", "reference"])
        .env_clear()
        .output()
        .unwrap();
    let committed = fs::read_to_string("../docs/settings.md").unwrap();
    let hint = "run `cargo run -p key-server -- config reference > docs/settings.md`";
    assert_eq!(String::from_utf8(page.stdout).unwrap(), committed, "{hint}");
}

/// `CASES=overwrite cargo test -p key-server` takes what is printed now.
#[test]
fn every_output_in_the_command_page_is_a_real_one() {
    let page = Path::new("../docs/cli.md");
    let committed = fs::read_to_string(page).unwrap();
    let printed = World::new().replay(&committed);
    if moment::replace(&printed, "") != moment::replace(&committed, "") {
        assert!(
            is_overwriting(),
            "docs/cli.md should be:
{printed}"
        );
        fs::write(page, printed).unwrap();
    }
}

/// The policy that stands on the page is in force; users and groups that only
/// its readers have are ones that every machine has.
#[test]
fn every_output_in_the_policy_page_is_a_real_one() {
    let page = Path::new("../docs/policy.md");
    let committed = fs::read_to_string(page).unwrap();
    let (_, policy) = committed.split_once("```toml\n").unwrap();
    let (policy, _) = policy.split_once("```").unwrap();
    let policy = policy.replace("user = \"gateway\"", "user = \"daemon\"");
    let policy = policy.replace("user = \"ops\"", "user = \"bin\"");
    let policy = policy.replace("group = \"research\"", "group = \"users\"");
    let world = World::new();
    let file = world.work.path().join("policy.toml");
    fs::write(&file, policy).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let printed = world.replay(&committed);
    let printed = printed.replace(file.to_str().unwrap(), "/etc/key-server/policy.toml");
    if printed != committed {
        assert!(is_overwriting(), "docs/policy.md should be:\n{printed}");
        fs::write(page, printed).unwrap();
    }
}

/// A server and a node's files, with the names that the page has for them.
struct World {
    server: Scripted,
    state: TempDir,
    work: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            server: Scripted::start(Play::Well),
            state: tempdir().unwrap(),
            work: tempdir().unwrap(),
        };
        sample::ledger(world.state.path());
        sample::database(world.state.path());
        world
    }

    /// The page with what its commands print.
    fn replay(&self, page: &str) -> String {
        let (mut replayed, mut in_console) = (String::new(), false);
        for line in page.lines() {
            let command = line.strip_prefix("$ key-server").filter(|_| in_console);
            if line.starts_with("```") {
                in_console = line == "```console";
            } else if in_console && command.is_none() && !line.is_empty() {
                // Output of the command above, which was printed with it.
                continue;
            } else if in_console && line.is_empty() && !replayed.ends_with("```\n") {
                continue;
            }
            replayed.extend([line, "\n"]);
            if let Some(args) = command {
                replayed.push_str(&self.print(args));
            }
        }
        replayed
    }

    /// What a command prints, on both streams.
    fn print(&self, args: &str) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_key-server"));
        command.args(args.split_whitespace()).env_clear().env("COLUMNS", "100");
        command.current_dir(self.work.path()).env("HOME", "/home/you");
        command.env("KEY_SERVER_SOCKET", self.server.socket());
        command.env("KEY_SERVER_STATE_DIR", self.state.path());
        let policy = self.work.path().join("policy.toml");
        if policy.exists() {
            command.env("KEY_SERVER_POLICY_FILE", policy);
        }
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut child = command.spawn().unwrap();
        // It holds the writing ends of the pipe.
        drop(command);
        let mut printed = String::new();
        reader.read_to_string(&mut printed).unwrap();
        child.wait().unwrap();
        let socket = self.server.socket();
        let printed = printed.replace(socket.to_str().unwrap(), "/tmp/keyserver.sock");
        printed.replace(self.state.path().to_str().unwrap(), "/var/lib/key-server")
    }
}
