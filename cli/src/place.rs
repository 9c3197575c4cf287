//! Where the files of one node lie, and where its settings are looked for.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use key_server_server::config::Settings;

use crate::failure::Failure;

const DIR_NAME: &str = "key-server";
const IDENTITY_FILE_NAME: &str = "identity.age.txt";
const SYSTEM_SETTINGS_FILE: &str = "/etc/key-server/config.toml";

/// Environment variables, as they were when the program began. Empty ones count
/// as not set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Self {
        Self(std::env::vars_os().filter(|(_, value)| !value.is_empty()).collect())
    }

    /// Lets go of a variable: of what it was in the kernel's own copy, too.
    pub(crate) fn forget(&mut self, name: &str) {
        key_server_sys::wipe_variable(name);
        self.0.remove(OsStr::new(name));
    }

    /// One that holds these.
    #[cfg(test)]
    pub(crate) fn of_pairs(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The variables that are text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (String, String)> {
        let texts = |(name, value): (&OsString, &OsString)| {
            Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()))
        };
        self.0.iter().filter_map(texts)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// A directory of the XDG rules: relative ones are to be ignored.
    fn xdg_dir(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let named = self.get(variable).map(Path::new).filter(|dir| dir.is_absolute());
        let usual = || Some(Path::new(self.get("HOME")?).join(below_home));
        named.map(Path::to_owned).or_else(usual)
    }
}

/// The settings file: the one that the flag names, else the variable
/// `KEY_SERVER_CONFIG`; these must exist. Else the user's or the system's, if
/// there is one.
pub(crate) fn settings_file(flag: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    if let Some(named) = flag.or(environment.get("KEY_SERVER_CONFIG").map(Path::new)) {
        return Some(named.to_owned());
    }
    let user_dir = environment.xdg_dir("XDG_CONFIG_HOME", ".config");
    let user_file = user_dir.map(|dir| dir.join(DIR_NAME).join("config.toml"));
    let usual = user_file.into_iter().chain([PathBuf::from(SYSTEM_SETTINGS_FILE)]);
    usual.into_iter().find(|path| path.exists())
}

/// Where ledger, projection and secret store are.
///
/// # Errors
/// When neither the settings nor the environment say where: a home directory
/// must be known.
pub(crate) fn state_dir(
    settings: &Settings,
    environment: &Environment,
) -> Result<PathBuf, Failure> {
    if settings.state_dir != Path::new("") {
        return Ok(settings.state_dir.clone());
    }
    if let Some(dir) = of_service_manager(environment) {
        return Ok(dir);
    }
    let dir = environment.xdg_dir("XDG_STATE_HOME", ".local/state");
    dir.map(|dir| dir.join(DIR_NAME)).ok_or_else(|| {
        Failure::usage("there is no state directory: HOME is not set")
            .hint("set KEY_SERVER_STATE_DIR, or state_dir in the settings file")
    })
}

/// What systemd made for the service: the first of the list.
fn of_service_manager(environment: &Environment) -> Option<PathBuf> {
    let list = environment.get("STATE_DIRECTORY")?.as_bytes();
    let first = list.split(|byte| *byte == b':').next().filter(|dir| !dir.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(first)))
}

/// The age identity that opens the secret store: the one that the settings
/// name, else a credential of the service manager, else beside the store.
pub(crate) fn identity_file(
    settings: &Settings,
    environment: &Environment,
    state_dir: &Path,
) -> PathBuf {
    if settings.identity_file != Path::new("") {
        return settings.identity_file.clone();
    }
    let credentials = environment.get("CREDENTIALS_DIRECTORY").map(Path::new);
    let credential = credentials.map(|dir| dir.join(IDENTITY_FILE_NAME));
    credential.filter(|path| path.exists()).unwrap_or_else(|| state_dir.join(IDENTITY_FILE_NAME))
}

/// The node's name.
pub(crate) fn node_id(state_dir: &Path) -> PathBuf {
    state_dir.join("node_id")
}

/// The directory of the ledger's segments.
pub(crate) fn ledger_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("ledger")
}

/// The local projection.
pub(crate) fn database(state_dir: &Path) -> PathBuf {
    state_dir.join("state.sqlite")
}

/// The encrypted keys.
pub(crate) fn secret_store(state_dir: &Path) -> PathBuf {
    state_dir.join("secrets.age")
}

#[cfg(test)]
mod tests {
    use key_server_server::config::{Sources, resolve};

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::of_pairs(pairs)
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let flags = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        resolve(&Sources::new(flags, [])).unwrap().0
    }

    #[test]
    fn state_dir_is_where_the_first_that_speaks_says() {
        let all =
            [("STATE_DIRECTORY", "/sd:/other"), ("XDG_STATE_HOME", "/xdg"), ("HOME", "/home/u")];
        let named = settings(&[("state_dir", "/named")]);
        let unnamed = settings(&[]);
        for (settings, variables, dir) in [
            (&named, &all[..], "/named"),
            (&unnamed, &all[..], "/sd"),
            (&unnamed, &all[1..], "/xdg/key-server"),
            (&unnamed, &all[2..], "/home/u/.local/state/key-server"),
            (
                &unnamed,
                &[("XDG_STATE_HOME", "relative"), all[2]],
                "/home/u/.local/state/key-server",
            ),
        ] {
            let found = state_dir(settings, &environment(variables)).unwrap();
            assert_eq!(found, Path::new(dir), "{variables:?}");
        }
        let failure = state_dir(&unnamed, &environment(&[])).unwrap_err();
        assert!(failure.hints[0].contains("KEY_SERVER_STATE_DIR"), "{failure:?}");
    }

    #[test]
    fn identity_is_the_named_one_then_the_credential_then_beside_the_store() {
        let credentials = tempfile::tempdir().unwrap();
        let variables = [("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())];
        let (state, environment) = (Path::new("/state"), environment(&variables));
        let beside = identity_file(&settings(&[]), &environment, state);
        assert_eq!(beside, Path::new("/state/identity.age.txt"));
        let credential = credentials.path().join("identity.age.txt");
        std::fs::write(&credential, "").unwrap();
        assert_eq!(identity_file(&settings(&[]), &environment, state), credential);
        let named = settings(&[("identity_file", "/elsewhere")]);
        assert_eq!(identity_file(&named, &environment, state), Path::new("/elsewhere"));
    }

    #[test]
    fn settings_file_that_is_named_counts_even_when_it_is_missing() {
        let home = tempfile::tempdir().unwrap();
        let variables = [("HOME", home.path().to_str().unwrap())];
        let dir = home.path().join(".config/key-server");
        std::fs::create_dir_all(&dir).unwrap();
        let users = dir.join("config.toml");
        std::fs::write(&users, "").unwrap();
        assert_eq!(settings_file(None, &environment(&variables)), Some(users));
        let named = environment(&[variables[0], ("KEY_SERVER_CONFIG", "/missing")]);
        assert_eq!(settings_file(None, &named), Some("/missing".into()));
        let flag = Path::new("/flag");
        assert_eq!(settings_file(Some(flag), &named), Some(flag.to_owned()));
    }

    #[test]
    fn files_of_a_node_lie_in_its_state_directory() {
        let state = Path::new("/state");
        let files = [node_id(state), ledger_dir(state), database(state), secret_store(state)];
        let names = ["node_id", "ledger", "state.sqlite", "secrets.age"];
        assert!(files.iter().zip(names).all(|(file, name)| *file == state.join(name)));
    }
}
