//! From the command line, the environment and the settings file to one
//! [`Settings`].

use std::path::{Path, PathBuf};

use clap::Args;
use key_server_server::config::{self, Settings, Shown, Sources};

use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::place::{self, Environment};

/// What the settings table calls the socket, and its variable.
const SOCKET: &str = "socket";
const SOCKET_VARIABLE: &str = "KEY_SERVER_SOCKET";
pub(crate) const TRUSTED_VARIABLE: &str = "KEY_SERVER_TRUSTED_USERS";
/// Variables of this program that are not settings.
const OTHER_VARIABLES: [&str; 2] = ["KEY_SERVER_CONFIG", "KEY_SERVER_BIN"];

/// Settings on the command line.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SettingsArgs {
    /// The CSV with the keys [env: KEY_CONFIG_FILE]
    #[arg(long, value_name = "CSV")]
    pub(crate) keys: Option<String>,
    #[command(flatten)]
    pub(crate) state_dir: StateDirArg,
    /// Any setting by its name, as in --set session_ttl=2h; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub(crate) set: Vec<(String, String)>,
}

/// For commands that read a node's files.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StateDirArg {
    /// The directory with the node's files [env: KEY_SERVER_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<String>,
}

/// Every setting, and where they were looked for.
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    pub(crate) shown: Vec<Shown>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) environment: Environment,
    /// What was ignored and why, one line each.
    pub(crate) warnings: Vec<String>,
}

impl Resolved {
    /// Wipes what came by the environment and is secret, now that the settings
    /// have it. Before other threads begin.
    pub(crate) fn forget_secrets(&mut self) {
        config::secret_variables().for_each(|variable| self.environment.forget(variable));
    }

    /// The directory with the node's files.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Failure> {
        place::state_dir(&self.settings, &self.environment)
    }
}

/// Resolves every setting.
///
/// # Errors
/// All problems at once; exit code 2.
pub(crate) fn resolve(global: &GlobalArgs, args: &SettingsArgs) -> Result<Resolved, Failure> {
    let environment = Environment::of_process();
    let file = place::settings_file(global.config.as_deref(), &environment);
    let texts = environment.texts().map(|(name, value)| match name.as_str() {
        SOCKET_VARIABLE => (name, socket_path(&value).to_owned()),
        _ => (name, value),
    });
    let mut sources = Sources::new(flags(global, args), texts);
    if let Some(file) = &file {
        sources = sources.with_file(file);
    }
    let known: Vec<_> = config::VARIABLES.iter().copied().chain(OTHER_VARIABLES).collect();
    let warnings = sources.unknown_variables(&known);
    match config::resolve(&sources) {
        Ok((settings, shown)) => Ok(Resolved { settings, shown, file, environment, warnings }),
        Err(problems) => Err(wrong(&problems, file.as_deref())),
    }
}

/// Later pairs win over earlier ones.
fn flags(global: &GlobalArgs, args: &SettingsArgs) -> Vec<(String, String)> {
    let socket = global.socket.as_deref().map(|socket| socket_path(socket).to_owned());
    let named = [
        (SOCKET, socket),
        ("key_config_file", args.keys.clone()),
        ("state_dir", args.state_dir.state_dir.clone()),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    args.set.iter().cloned().chain(named).collect()
}

fn wrong(problems: &[config::Problem], file: Option<&Path>) -> Failure {
    let failure = match problems {
        [problem] => Failure::usage(problem.to_string()),
        _ => Failure::usage(format!("the configuration has {} problems", problems.len())),
    };
    let details = problems.iter().filter(|_| problems.len() > 1).map(ToString::to_string);
    let failure = details.fold(failure, Failure::detail);
    match file {
        Some(file) => failure.hint(format!("the settings file in force is {}", file.display())),
        None => failure.hint("docs/settings.md lists every setting"),
    }
}

/// The socket to connect to: flag, then environment, then settings. A settings
/// file that is wrong elsewhere does not matter when one of the first two speaks.
pub(crate) fn socket(global: &GlobalArgs) -> Result<PathBuf, Failure> {
    let environment = Environment::of_process();
    let variable = environment.get(SOCKET_VARIABLE).and_then(|value| value.to_str());
    if let Some(socket) = global.socket.as_deref().or(variable) {
        return Ok(socket_path(socket).into());
    }
    let resolved = resolve(global, &SettingsArgs::default())?;
    Ok(resolved.settings.socket)
}

/// Who may run the server, as it is written: environment, then settings. What
/// a wrong settings file might say does not count: fewer are trusted then.
pub(crate) fn trusted_users(global: &GlobalArgs) -> String {
    let environment = Environment::of_process();
    if let Some(users) = environment.get(TRUSTED_VARIABLE) {
        return users.to_string_lossy().into_owned();
    }
    let resolved = resolve(global, &SettingsArgs::default());
    resolved.map(|resolved| resolved.settings.trusted_users).unwrap_or_default()
}

/// `unix:PATH` and `unix://PATH`, as gRPC writes them, are PATH.
fn socket_path(text: &str) -> &str {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    path.strip_prefix("//").map_or(path, |absolute| if text == path { path } else { absolute })
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, as in session_ttl=2h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_may_be_written_as_grpc_does() {
        for text in ["/tmp/k.sock", "unix:/tmp/k.sock", "unix:///tmp/k.sock"] {
            assert_eq!(socket_path(text), "/tmp/k.sock", "{text}");
        }
        assert_eq!(socket_path("unix:k.sock"), "k.sock");
        assert_eq!(socket_path("//tmp/k.sock"), "//tmp/k.sock");
    }

    #[test]
    fn a_setting_is_written_with_its_name() {
        assert_eq!(name_and_value("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(name_and_value("=b").is_err());
        assert!(name_and_value("a").is_err());
    }
}
