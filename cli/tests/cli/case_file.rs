//! A case file: arguments, environment, and what must come of them.
//!
//! ```toml
//! args = ["health", "--json"]
//! env.COLUMNS = "80"          # besides what the world sets, and nothing else
//! status = 0
//! stdout = '''...'''
//! stderr = '''...'''
//! ```
//!
//! In the outputs a line `...` stands for any lines, `[..]` for any text within
//! a line, and a name such as `[STATE]` for a path of the world.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::moment;

const ANY_LINES: &str = "...";
const ANY_TEXT: &str = "[..]";

/// The environment of a case, and what its paths are called in it.
#[derive(Default)]
pub(crate) struct World {
    env: BTreeMap<String, String>,
    names: Vec<(&'static str, String)>,
}

impl World {
    /// Sets `variable` to `path`, which outputs call `name`.
    pub(crate) fn path(mut self, variable: &str, name: &'static str, path: &Path) -> Self {
        let path = path.to_str().unwrap().to_owned();
        self.env.insert(variable.to_owned(), path.clone());
        self.names.push((name, path));
        self
    }

    /// Runs every case file in `tests/cmd/<dir>`.
    pub(crate) fn run(&self, dir: &str) {
        let dir = Path::new("tests/cmd").join(dir);
        let files = dir.read_dir().unwrap().map(|file| file.unwrap().path());
        let files: Vec<_> =
            files.filter(|file| file.extension().is_some_and(|e| e == "toml")).collect();
        assert!(!files.is_empty(), "no case in {}", dir.display());
        let wrong: Vec<_> = files.iter().filter_map(|file| self.check(file, &dir)).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// What is wrong with a case, if something is.
    fn check(&self, file: &Path, dir: &Path) -> Option<String> {
        let text = fs::read_to_string(file).unwrap();
        let case: toml::Table = toml::from_str(&text).unwrap();
        let actual = self.act(&case, dir);
        let expected = Ended::of_case(&case);
        if expected.allows(&actual) {
            return None;
        }
        if is_overwriting() {
            let head = text.split("status = ").next().unwrap_or("");
            fs::write(file, format!("{head}{}", actual.as_case())).unwrap();
            return None;
        }
        let hint = "CASES=overwrite takes what is there";
        Some(format!("{} should be ({hint}):\n{}", file.display(), actual.as_case()))
    }

    fn act(&self, case: &toml::Table, dir: &Path) -> Ended {
        let args = case["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_key-server"));
        command.args(args).current_dir(dir).stdin(Stdio::null());
        command.env_clear().envs(&self.env);
        let env = case.get("env").and_then(toml::Value::as_table);
        command
            .envs(env.into_iter().flatten().map(|(name, value)| (name, value.as_str().unwrap())));
        let output = command.output().unwrap();
        let named = |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            self.names.iter().fold(text, |text, (name, path)| text.replace(path, name))
        };
        let status = output.status.code().unwrap();
        Ended { status, stdout: named(output.stdout), stderr: named(output.stderr) }
    }
}

/// Whether the pages and case files are to be written anew.
pub(crate) fn is_overwriting() -> bool {
    let wanted = (OsString::from("CASES"), OsString::from("overwrite"));
    std::env::vars_os().any(|one| one == wanted)
}

/// How a command ended.
struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// What a case expects; a new one expects nothing yet.
    fn of_case(case: &toml::Table) -> Self {
        let text = |name| case.get(name).map_or("", |text| text.as_str().unwrap()).to_owned();
        let status = case.get("status").map_or(-1, |status| status.as_integer().unwrap() as i32);
        Self { status, stdout: text("stdout"), stderr: text("stderr") }
    }

    fn allows(&self, actual: &Self) -> bool {
        self.status == actual.status
            && is_like(&self.stdout, &actual.stdout)
            && is_like(&self.stderr, &actual.stderr)
    }

    fn as_case(&self) -> String {
        let mut case = format!("status = {}\n", self.status);
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let text = moment::replace(text, ANY_TEXT);
            let needs_escapes =
                text.contains("'''") || text.contains(|c: char| c != '\n' && c.is_control());
            let text = match needs_escapes {
                true => toml::Value::from(text).to_string(),
                false => format!("'''\n{text}'''"),
            };
            writeln!(case, "{name} = {text}").unwrap();
        }
        case
    }
}

fn is_like(expected: &str, actual: &str) -> bool {
    let (expected, actual): (Vec<_>, Vec<_>) =
        (expected.split('\n').collect(), actual.split('\n').collect());
    are_like(&expected, &actual)
}

fn are_like(expected: &[&str], actual: &[&str]) -> bool {
    match (expected, actual) {
        ([ANY_LINES, expected @ ..], _) => {
            (0..=actual.len()).any(|skipped| are_like(expected, &actual[skipped..]))
        }
        ([], []) => true,
        ([expected, more_expected @ ..], [actual, more_actual @ ..]) => {
            line_is_like(expected, actual) && are_like(more_expected, more_actual)
        }
        _ => false,
    }
}

fn line_is_like(expected: &str, actual: &str) -> bool {
    let Some((start, rest)) = expected.split_once(ANY_TEXT) else { return expected == actual };
    let Some(actual) = actual.strip_prefix(start) else { return false };
    let ends = actual.char_indices().map(|(index, _)| index).chain([actual.len()]);
    ends.into_iter().any(|index| line_is_like(rest, &actual[index..]))
}

#[test]
fn outputs_may_leave_texts_and_lines_open() {
    for (expected, actual, like) in [
        ("a\nb\n", "a\nb\n", true),
        ("a\n", "a", false),
        ("a [..] c", "a b b c", true),
        ("a [..] c", "a b b", false),
        ("[..]\n", "\n", true),
        ("a\n...\nd\n", "a\nb\nc\nd\n", true),
        ("a\n...\nd\n", "a\nd\n", true),
        ("a\n...\nd\n", "a\nb\n", false),
    ] {
        assert_eq!(is_like(expected, actual), like, "{expected:?} {actual:?}");
    }
}
