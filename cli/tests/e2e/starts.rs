//! Starts that must fail, with what is wrong and what to do, and starts that
//! must not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use key_server_testkit::picture::picture;
use key_server_testkit::process::{Home, ServerProcess};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{
    CSV, Ended, OPENAI, home, is_root, ledger_text, run, select, selected, skip, verify,
};

/// In every CSV that must not be imported.
const SECRET: &str = "sk-fake-never-shown-93kq7";

/// What is wrong with a start: the arrangement, and what the daemon must say.
struct Case {
    name: &'static str,
    arrange: fn(Home) -> Home,
    texts: &'static [&'static str],
}

fn check(cases: &[Case]) {
    for Case { name, arrange, texts } in cases {
        let home = arrange(home(CSV));
        assert_fails(name, &home, run(home.command(&["serve"])), texts);
    }
}

fn assert_fails(name: &str, home: &Home, ended: Ended, texts: &[&str]) {
    assert_eq!(ended.code, Some(2), "{name}: {ended:?}");
    let dir = home.path().display().to_string();
    for text in texts {
        let text = text.replace("[HOME]", &dir);
        assert!(ended.error.contains(&text), "{name}: no {text:?} in\n{}", ended.error);
    }
    let said = format!("{}{}", ended.output, ended.error);
    assert!(!said.contains("sk-fake") && !said.contains("93kq7"), "{name}: {said}");
    assert!(!home.socket().is_file(), "{name}");
}

fn with_csv(home: Home, bytes: impl AsRef<[u8]>) -> Home {
    fs::write(home.path().join("api_keys.csv"), bytes).expect("it can be written");
    home
}

#[test]
fn a_csv_that_cannot_be_read_stops_a_start_without_keys() {
    check(&[
        Case {
            name: "missing",
            arrange: |home| {
                fs::remove_file(home.path().join("api_keys.csv")).unwrap();
                home
            },
            texts: &["there are no keys", "api_keys.csv does not exist", "KEY_CONFIG_FILE"],
        },
        Case {
            name: "missing though named",
            arrange: |home| home.with("KEY_CONFIG_FILE", "elsewhere.csv"),
            texts: &["elsewhere.csv: error: does not exist"],
        },
        Case {
            name: "empty",
            arrange: |home| with_csv(home, ""),
            texts: &["api_keys.csv: error: is empty", "provider,model,api_key"],
        },
        Case {
            name: "a directory",
            arrange: |home| {
                fs::create_dir(home.path().join("keys")).unwrap();
                home.with("KEY_CONFIG_FILE", "keys")
            },
            texts: &["keys: error: is a directory"],
        },
        Case {
            name: "huge",
            arrange: |home| {
                let row = format!("OpenAI,gpt-4o,{SECRET}\n");
                with_csv(home, format!("provider,model,api_key\n{}", row.repeat(100)))
                    .with("KEY_SERVER_CSV_BYTES_MAX", 1_000)
            },
            texts: &["api_keys.csv: error: ", "bytes", "1000"],
        },
        Case {
            name: "binary",
            arrange: |home| with_csv(home, format!("provider,model,api_key\n\0\u{1}{SECRET}\n")),
            texts: &["api_keys.csv:2: error: holds a zero byte", "UTF-8"],
        },
        Case {
            name: "not UTF-8",
            arrange: |home| with_csv(home, b"provider,model,api_key\nOpenAI,gpt-4o,\xff\xfe\n"),
            texts: &["api_keys.csv:2: error: is not UTF-8 text"],
        },
        Case {
            name: "a spreadsheet",
            arrange: |home| with_csv(home, b"PK\x03\x04xlsx"),
            texts: &["api_keys.csv: error: is a spreadsheet"],
        },
        Case {
            name: "UTF-16",
            arrange: |home| {
                let text = format!("\u{feff}provider,model,api_key\r\nOpenAI,gpt-4o,{SECRET}\r\n");
                with_csv(home, text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>())
            },
            texts: &["api_keys.csv: error: is UTF-16 text; save it as CSV UTF-8"],
        },
    ]);
}

#[test]
fn a_csv_that_the_daemon_may_not_read_stops_a_start_without_keys() {
    let home = home(CSV);
    let csv = home.path().join("api_keys.csv");
    fs::set_permissions(&csv, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = home.command(&["serve"]);
    if is_root() {
        // Root may read everything.
        chown(home.path(), Some(65_534), Some(65_534)).unwrap();
        command.uid(65_534).gid(65_534);
    }
    let texts = ["api_keys.csv: error: ", "ermission"];
    assert_fails("unreadable", &home, run(command), &texts);
}

#[test]
fn every_bad_row_is_named_and_no_secret_is() {
    check(&[
        Case {
            name: "rows",
            arrange: |home| {
                let rows = [
                    "provider,model,api_key,weight,max_holders".to_owned(),
                    format!("OpenAI,gpt-4o,{SECRET}"),
                    "OpenAI,gpt-4o,".to_owned(),
                    format!(",gpt-4o,{SECRET}"),
                    format!("OpenAI,,{SECRET}"),
                    format!("OpenAI,gpt-4o,{SECRET} and more"),
                    format!("OpenAI,gpt-4o,{SECRET},{SECRET}"),
                    format!("OpenAI,gpt-4o,{SECRET},1,{SECRET}"),
                    format!("OpenAI,gpt-4o,\"{SECRET}"),
                ];
                with_csv(home, rows.join("\n"))
            },
            texts: &[
                "the keys cannot be imported, and the store is empty",
                "api_keys.csv:3: error: api_key: is empty",
                "api_keys.csv:4: error: provider: is empty",
                "api_keys.csv:5: error: model: is empty",
                "api_keys.csv:6: error: api_key: has white space",
                "api_keys.csv:7: error: weight: is not a decimal",
                "api_keys.csv:8: error: max_holders: is not a whole number",
                "api_keys.csv:9: error: a quote opens here",
            ],
        },
        Case {
            name: "no header",
            arrange: |home| with_csv(home, format!("OpenAI,gpt-4o,{SECRET}\n")),
            texts: &["api_keys.csv:1: error: the header has no column provider, model, api_key"],
        },
        Case {
            name: "key and model swapped",
            arrange: |home| {
                with_csv(home, format!("provider,model,api_key\nOpenAI,{SECRET},gpt-4o\n"))
            },
            texts: &["api_keys.csv:2: error: model: "],
        },
        Case {
            name: "key and provider swapped",
            arrange: |home| {
                with_csv(home, format!("provider,model,api_key\n{SECRET},gpt-4o,openai\n"))
            },
            texts: &["api_keys.csv:2: error: provider: "],
        },
    ]);
}

#[test]
fn settings_that_cannot_be_used_stop_a_start() {
    check(&[
        Case {
            name: "Vault without a sign-in",
            arrange: |home| home.with("VAULT_ADDR", "http://127.0.0.1:8200"),
            texts: &["VAULT_ADDR is set, but nothing to sign in with", "unset VAULT_ADDR"],
        },
        Case {
            name: "an address that is none of Redis",
            arrange: |home| home.with("KEY_SERVER_REDIS_URL", "http://me:sk-fake-93kq7@host"),
            texts: &["KEY_SERVER_REDIS_URL cannot be used", "rediss:// (TLS)"],
        },
        Case {
            name: "many problems",
            arrange: |home| {
                let file = home.path().join("config.toml");
                fs::write(&file, "sesion_ttl = \"2h\"\ncooldown = 5\n").unwrap();
                home.with("KEY_SERVER_CONFIG", file.display())
                    .with("KEY_SERVER_MODELS_MAX", "many")
                    .with("KEY_SERVER_DURABILITY", "yes")
                    .with("KEY_SERVER_SOCKET_MODE", "0999")
            },
            texts: &[
                "5 problems",
                "there is no setting \"sesion_ttl\"; did you mean session_ttl?",
                "cooldown",
                "KEY_SERVER_MODELS_MAX (environment) is \"many\"",
                "KEY_SERVER_DURABILITY (environment) is \"yes\": write one of: disk process",
                "KEY_SERVER_SOCKET_MODE (environment) is \"0999\"",
                "[HOME]/config.toml",
            ],
        },
        Case {
            name: "contradictions",
            arrange: |home| home.with("KEY_SERVER_TIER_MODERATE_TOKENS", 9_000),
            texts: &["tier_moderate_tokens is above tier_heavy_tokens"],
        },
        Case {
            name: "no such file",
            arrange: |home| home.with("KEY_SERVER_CONFIG", "/missing/config.toml"),
            texts: &["/missing/config.toml cannot be read"],
        },
        Case {
            name: "no such log level",
            arrange: |home| home.with("KEY_SERVER_LOG_LEVEL", "key_server=loud"),
            texts: &["log_level is \"key_server=loud\""],
        },
        Case {
            name: "no place for the log",
            arrange: |home| home.with("KEY_SERVER_LOG_FILE", "/proc/keyserver.log"),
            texts: &["the log file /proc/keyserver.log cannot be opened", "KEY_SERVER_LOG_FILE"],
        },
    ]);
}

fn make(path: &Path, kind: FileType) {
    mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_log_that_is_no_file_or_that_others_could_put_there_stops_a_start() {
    check(&[
        Case {
            name: "a pipe that nobody reads",
            arrange: |home| {
                make(&home.path().join("log"), FileType::Fifo);
                home.with("KEY_SERVER_LOG_FILE", "log")
            },
            texts: &["the log file log cannot be opened"],
        },
        Case {
            name: "a socket",
            arrange: |home| {
                make(&home.path().join("log"), FileType::Socket);
                home.with("KEY_SERVER_LOG_FILE", "log")
            },
            texts: &["the log file log cannot be opened"],
        },
        Case {
            name: "a link where others can write",
            arrange: |home| {
                symlink(home.path().join("mine"), open_dir(&home).join("log")).unwrap();
                home.with("KEY_SERVER_LOG_FILE", "open/log")
            },
            texts: &["the log file open/log cannot be opened", "symbolic link"],
        },
        Case {
            name: "a hard link where others can write",
            arrange: |home| {
                fs::hard_link(home.path().join("api_keys.csv"), open_dir(&home).join("log"))
                    .unwrap();
                home.with("KEY_SERVER_LOG_FILE", "open/log")
            },
            texts: &["the log file open/log cannot be opened", "hard link"],
        },
    ]);
}

fn open_dir(home: &Home) -> PathBuf {
    let dir = home.path().join("open");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    dir
}

#[test]
fn a_lock_that_is_another_name_of_a_file_stops_a_start_and_the_file_stays() {
    let locks: [fn(&Home) -> PathBuf; 2] = [
        |home| home.path().join("s.sock.lock"),
        |home| {
            fs::create_dir(home.state()).unwrap();
            fs::set_permissions(home.state(), fs::Permissions::from_mode(0o700)).unwrap();
            home.state().join("lock")
        },
    ];
    for lock in locks {
        for (text, link) in [
            ("a hard link", fs::hard_link::<PathBuf, PathBuf> as fn(_, _) -> _),
            ("a symbolic link", symlink::<PathBuf, PathBuf>),
        ] {
            let home = home(CSV);
            let other = home.path().join("other");
            fs::write(&other, "mine").unwrap();
            link(other.clone(), lock(&home)).unwrap();
            let texts = [text, "move it away"];
            assert_fails(text, &home, run(home.command(&["serve"])), &texts);
            assert_eq!(fs::read_to_string(&other).unwrap(), "mine", "{text}");
        }
    }
}

#[test]
fn a_secret_on_the_command_line_stops_every_command_that_takes_settings() {
    let commands: [&[&str]; 4] =
        [&["serve"], &["config", "check"], &["config", "show"], &["store", "rotate-identity"]];
    for (setting, variable) in [
        (format!("vault_token={SECRET}"), "VAULT_TOKEN"),
        (format!("redis_url=redis://:{SECRET}@localhost/1"), "KEY_SERVER_REDIS_URL"),
    ] {
        for command in commands {
            let home = home(CSV);
            let ended = run(home.command(&[command, &["--set", &setting]].concat()));
            let texts = ["everybody can read the command line", variable];
            assert_fails("a secret argument", &home, ended, &texts);
        }
    }
}

#[test]
fn a_socket_path_that_is_not_ours_stops_a_start() {
    check(&[
        Case {
            name: "too long",
            arrange: |home| home.with("KEY_SERVER_SOCKET", format!("/tmp/{}", "x".repeat(110))),
            texts: &["has 115 bytes", "takes 107", "choose a shorter one"],
        },
        Case {
            name: "no directory",
            arrange: |home| home.with("KEY_SERVER_SOCKET", "/missing/s.sock"),
            texts: &["directory /missing does not exist", "KEY_SERVER_SOCKET"],
        },
    ]);
}

#[test]
fn what_is_at_the_socket_path_stays_there() {
    type Put = fn(&Path);
    let cases: [(&str, Put); 4] = [
        ("is not a socket", |path| fs::write(path, "mine").unwrap()),
        ("is a directory", |path| fs::create_dir(path).unwrap()),
        ("is a symbolic link", |path| symlink("/dev/null", path).unwrap()),
        ("is a symbolic link", |path| symlink("/missing", path).unwrap()),
    ];
    for (text, put) in cases {
        let home = home(CSV).with("KEY_SERVER_SOCKET", "taken");
        let path = home.path().join("taken");
        put(&path);
        let before = path.symlink_metadata().unwrap();
        assert_fails(text, &home, run(home.command(&["serve"])), &[text, "nothing was removed"]);
        let after = path.symlink_metadata().unwrap();
        assert_eq!(after.modified().unwrap(), before.modified().unwrap(), "{text}");
        assert_eq!(after.file_type(), before.file_type(), "{text}");
    }
}

#[test]
fn a_listening_socket_is_left_to_the_process_that_is_named() {
    let home = home(CSV);
    let _listener = UnixListener::bind(home.socket()).unwrap();
    let pid = format!("pid {}", std::process::id());
    let ended = run(home.command(&["serve"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains("a server is listening on"), "{ended:?}");
    assert!(ended.error.contains(&pid), "{ended:?}");
    assert!(home.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_is_taken_over() {
    let home = home(CSV);
    drop(UnixListener::bind(home.socket()).unwrap());
    assert!(home.socket().exists());
    let (server, mut client) = home.start().await.unwrap();
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    let mode = home.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.kill().unwrap();
    assert!(home.socket().exists(), "a killed server leaves it");
    let (server, _client) = home.start().await.unwrap();
    assert!(server.terminate().unwrap().success());
    assert!(!home.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_is_refused_with_the_pid_of_the_first() {
    let home = home(CSV);
    let (server, mut client) = home.start().await.unwrap();
    let pid = format!("pid {}", server.pid());
    // On the same socket, which is asked first.
    let ended = run(home.command(&["serve"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains(&pid) && ended.error.contains("listening"), "{ended:?}");
    // On another socket, but in the same state directory.
    let mut command = home.command(&["serve"]);
    command.env("KEY_SERVER_SOCKET", home.path().join("other.sock"));
    let ended = run(command);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.error.contains(&pid) && ended.error.contains("works in"), "{ended:?}");
    assert!(!home.path().join("other.sock").exists());
    selected(&mut client, select("s1", &[OPENAI], 1)).await;
    assert!(server.terminate().unwrap().success());
}

#[test]
fn a_state_directory_that_others_may_read_stops_a_start() {
    for mode in [0o755, 0o750, 0o701] {
        let home = home(CSV);
        fs::create_dir(home.state()).unwrap();
        fs::set_permissions(home.state(), fs::Permissions::from_mode(mode)).unwrap();
        let mode = format!("(mode {mode:04o})");
        let texts = ["can be read by other users", &mode, "chmod 700 [HOME]/state"];
        assert_fails("open state directory", &home, run(home.command(&["serve"])), &texts);
    }
}

/// A home in which a server has worked and was ended.
async fn used_home() -> Home {
    let home = home(CSV);
    let (server, mut client) = home.start().await.unwrap();
    for session in ["s1", "s2", "s3"] {
        selected(&mut client, select(session, &[OPENAI], 2)).await;
    }
    assert!(server.terminate().unwrap().success());
    home
}

fn segment(home: &Home) -> PathBuf {
    home.state().join("ledger/00000000000000000001.jsonl")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_line_of_the_ledger_stops_a_start_with_its_position() {
    let home = used_home().await;
    let text = ledger_text(&home);
    let line = text.lines().nth(5).unwrap();
    let offset = text.find(line).unwrap();
    let changed = text.replacen("\"event\":\"key.added\"", "\"event\":\"key.adder\"", 4);
    assert_ne!(changed, text);
    fs::write(segment(&home), changed.replacen("key.adder", "key.added", 3)).unwrap();
    // The whole of it is read when there is no database.
    remove_database(&home);
    let place = format!("byte {offset}, sequence number 6");
    let texts = [
        "ledger segment [HOME]/state/ledger/00000000000000000001.jsonl",
        &place,
        "change nothing, copy the ledger's directory",
        "restore the segment from a backup",
    ];
    assert_fails("changed line", &home, run(home.command(&["serve"])), &texts);
    let ended = run(home.command(&["audit", "verify"]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.error.contains("at sequence number 6"), "{ended:?}");
    fs::write(segment(&home), text).unwrap();
    let (server, _client) = home.start().await.unwrap();
    assert!(server.terminate().unwrap().success());
}

fn remove_database(home: &Home) {
    for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        let _ = fs::remove_file(home.state().join(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_line_is_cut_and_reported() {
    let home = home(CSV);
    let (server, mut client) = home.start().await.unwrap();
    let keys = selected(&mut client, select("s1", &[OPENAI], 2)).await;
    let before = picture(&mut client).await;
    server.kill().unwrap();
    let whole = ledger_text(&home);
    let torn = format!("{whole}{{\"v\":1,\"seq\":{},\"ti", whole.lines().count() + 1);
    fs::write(segment(&home), torn).unwrap();
    let (server, mut client) = home.start().await.unwrap();
    assert!(home.words().contains("the ledger ended in the middle of a write"), "{}", home.words());
    assert!(ledger_text(&home).starts_with(&whole));
    assert_eq!(picture(&mut client).await, before);
    let again = selected(&mut client, select("s1", &[OPENAI], 2)).await;
    assert_eq!(again[0].key_id, keys[0].key_id);
    assert!(server.terminate().unwrap().success());
    verify(&home);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_secret_store_stops_a_start() {
    let home = used_home().await;
    let store = home.state().join("secrets.age");
    let whole = fs::read(&store).unwrap();
    for place in [0, 30, 150, 200, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        fs::write(&store, flipped).unwrap();
        let name = format!("byte {place}");
        let texts = ["[HOME]/state/secrets.age", "backup"];
        assert_fails(&name, &home, run(home.command(&["serve"])), &texts);
    }
    fs::write(&store, &whole[..whole.len() - 1]).unwrap();
    assert_fails("cut", &home, run(home.command(&["serve"])), &["secrets.age", "backup"]);
    fs::write(&store, whole).unwrap();
    let (server, _client) = home.start().await.unwrap();
    assert!(server.terminate().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_identity_stops_a_start_while_the_store_exists() {
    let home = used_home().await;
    let identity = home.state().join("identity.age.txt");
    let away = home.path().join("identity.away");
    fs::rename(&identity, &away).unwrap();
    let texts = ["secrets.age exists but its identity", "identity.age.txt", "backup"];
    assert_fails("no identity", &home, run(home.command(&["serve"])), &texts);
    assert!(!identity.exists(), "no other one is made");
    fs::rename(&away, &identity).unwrap();
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    let texts = ["is open to group or others (mode 0644)", "chmod 600"];
    assert_fails("open identity", &home, run(home.command(&["serve"])), &texts);
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();
    let (server, _client) = home.start().await.unwrap();
    assert!(server.terminate().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_damaged_database_is_made_anew() {
    let home = used_home().await;
    let (server, mut client) = home.start().await.unwrap();
    let before = picture(&mut client).await;
    server.kill().unwrap();
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 4] = [
        ("deleted", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("garbage", |path| fs::write(path, "x".repeat(100_000)).unwrap()),
        ("garbage within", |path| {
            let mut bytes = fs::read(path).unwrap();
            let length = bytes.len();
            bytes[200..length].fill(0xaa);
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (name, damage) in cases {
        let database = home.state().join("state.sqlite");
        for rest in ["state.sqlite-wal", "state.sqlite-shm"] {
            let _ = fs::remove_file(home.state().join(rest));
        }
        damage(&database);
        let (server, mut client) =
            home.start().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(picture(&mut client).await, before, "{name}");
        assert!(server.terminate().unwrap().success());
    }
    verify(&home);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_of_another_user_stops_a_start() {
    if !is_root() {
        skip("a_dead_socket_of_another_user_stops_a_start", "only root can give files away");
        return;
    }
    let home = home(CSV);
    drop(UnixListener::bind(home.socket()).unwrap());
    chown(home.socket(), Some(65_533), None).unwrap();
    let texts = ["is a dead socket of another user", "nothing was removed"];
    assert_fails("another's", &home, run(home.command(&["serve"])), &texts);
    assert!(home.socket().exists());
    fs::remove_file(home.socket()).unwrap();
    let server: ServerProcess = home.start().await.unwrap().0;
    assert!(server.terminate().unwrap().success());
}
