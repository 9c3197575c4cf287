use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Origin, SettingValue};

/// Something wrong with the configuration, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    message: String,
}

impl Problem {
    pub(super) fn new(message: String) -> Self {
        Self { message }
    }
}

/// The texts that settings are read from, the strongest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    flags: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    file: Option<(PathBuf, BTreeMap<String, String>)>,
    problems: Vec<Problem>,
}

impl Sources {
    /// From what the command line set, by name, and the environment.
    pub fn new(
        flags: impl IntoIterator<Item = (String, String)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        Self {
            flags: flags.into_iter().collect(),
            environment: environment.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Adds a settings file: TOML, a name and a value a line.
    pub fn with_file(mut self, path: &Path) -> Self {
        match read_file(path) {
            Ok(table) => {
                let values = table.into_iter().filter_map(|(name, value)| {
                    plain(value).map(|text| (name.clone(), text)).or_else(|| {
                        self.problems.push(not_plain(path, &name));
                        None
                    })
                });
                self.file = Some((path.to_owned(), values.collect()));
            }
            Err(problem) => self.problems.push(problem),
        }
        self
    }

    /// What is wrong with the sources themselves.
    pub(super) fn problems(&self, names: &[&str]) -> Vec<Problem> {
        let flags = self.flags.keys().map(|name| ("--set".to_owned(), name));
        let file = self.file.iter().flat_map(|(path, values)| {
            values.keys().map(move |name| (path.display().to_string(), name))
        });
        let unknown = flags.chain(file).filter(|(_, name)| !names.contains(&name.as_str()));
        let unknown = unknown.map(|(place, name)| unknown_name(&place, name, names));
        self.problems.iter().cloned().chain(unknown).collect()
    }

    /// Variables that look like ours and set nothing, with advice.
    pub fn unknown_variables(&self, known: &[&str]) -> Vec<String> {
        let ours = self.environment.keys().filter(|name| name.starts_with("KEY_SERVER_"));
        let unknown = ours.filter(|name| !known.contains(&name.as_str()));
        unknown.map(|name| format!("{name} sets nothing{}", near(name, known))).collect()
    }

    /// The value of one setting and where it came from; none when it is wrong.
    pub(super) fn value<T: SettingValue>(
        &self,
        name: &str,
        variable: &str,
        default: &str,
        problems: &mut Vec<Problem>,
    ) -> (Option<T>, Origin) {
        let (text, origin) = self.text(name, variable).unwrap_or((default, Origin::Default));
        match T::read(text) {
            Ok(value) => {
                if T::IS_SECRET && value.show() != text {
                    problems.extend(exposed(name, variable, &origin));
                }
                (Some(value), origin)
            }
            Err(wanted) => {
                let place = if origin == Origin::Environment { variable } else { name };
                let text = if T::IS_SECRET { "(hidden)" } else { text };
                problems.push(Problem::new(format!("{place} ({origin}) is {text:?}: {wanted}")));
                (None, origin)
            }
        }
    }

    fn text(&self, name: &str, variable: &str) -> Option<(&str, Origin)> {
        if let Some(text) = self.flags.get(name) {
            return Some((text, Origin::Flag));
        }
        if let Some(text) = self.environment.get(variable).filter(|text| !text.is_empty()) {
            return Some((text, Origin::Environment));
        }
        let (path, values) = self.file.as_ref()?;
        Some((values.get(name)?, Origin::File(path.clone())))
    }
}

/// Why a secret may not come from where it was found; none when it may.
fn exposed(name: &str, variable: &str, origin: &Origin) -> Option<Problem> {
    let message = match origin {
        Origin::Flag => format!(
            "{name} is a secret, and everybody can read the command line: set {variable}, or write it into the settings file"
        ),
        Origin::File(path) => {
            let (place, mode) = (path.display(), open_to_all(path)?);
            format!(
                "{place} holds a secret ({name}) and is open to everyone (mode {mode:04o}): run chmod o= {place}"
            )
        }
        Origin::Environment | Origin::Default => return None,
    };
    Some(Problem::new(message))
}

/// The mode of a file that every user of the machine may read.
fn open_to_all(path: &Path) -> Option<u32> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
    (mode & 0o007 != 0).then_some(mode)
}

fn read_file(path: &Path) -> Result<toml::Table, Problem> {
    let place = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problem::new(format!("{place} cannot be read: {error}")))?;
    toml::from_str(&text).map_err(|error| {
        let what = error.message();
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        Problem::new(format!("{place}, line {line}: {what}"))
    })
}

fn plain(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn not_plain(path: &Path, name: &str) -> Problem {
    let place = path.display();
    Problem::new(format!("{place}: {name} must be a text or a whole number"))
}

fn unknown_name(place: &str, name: &str, names: &[&str]) -> Problem {
    Problem::new(format!("{place}: there is no setting {name:?}{}", near(name, names)))
}

fn near(name: &str, names: &[&str]) -> String {
    let likeness = |known: &&str| strsim::jaro_winkler(name, known);
    let nearest = names.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|known| likeness(known) > 0.7) {
        Some(known) => format!("; did you mean {known}?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{NAMES, resolve};
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn flag_wins_over_environment_over_file_over_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "session_ttl = \"2h\"\nmodels_max = 3\ncount_max = 4\n").unwrap();
        let flags = [pair("session_ttl", "4h")];
        let environment =
            [pair("KEY_SERVER_SESSION_TTL", "3h"), pair("KEY_SERVER_MODELS_MAX", "5")];
        let (settings, shown) =
            resolve(&Sources::new(flags, environment).with_file(&path)).unwrap();
        assert_eq!(settings.session_ttl.as_secs(), 4 * 3_600);
        assert_eq!(
            (settings.models_max, settings.count_max, settings.page_size_max),
            (5, 4, 1_000)
        );
        let origin = |name| shown.iter().find(|one| one.name == name).unwrap().origin.clone();
        assert_eq!(origin("session_ttl"), Origin::Flag);
        assert_eq!(origin("models_max"), Origin::Environment);
        assert_eq!(origin("count_max"), Origin::File(path));
        assert_eq!(origin("page_size_max"), Origin::Default);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "sesion_ttl = \"2h\"\ncooldown = 5\nsocket = [1]\n").unwrap();
        let environment =
            [pair("KEY_SERVER_MODELS_MAX", "many"), pair("KEY_SERVER_DURABILITY", "yes")];
        let problems = resolve(&Sources::new([], environment).with_file(&path)).unwrap_err();
        let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains("no setting \"sesion_ttl\"; did you mean session_ttl?"), "{text}");
        assert!(text.contains("cooldown"), "{text}");
        assert!(text.contains("socket must be a text"), "{text}");
        assert!(text.contains("KEY_SERVER_MODELS_MAX (environment) is \"many\""), "{text}");
        assert!(text.contains("one of: disk process"), "{text}");
    }

    #[test]
    fn a_file_with_a_secret_is_not_for_everyone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let resolved = |content: &str, mode: u32| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            resolve(&Sources::default().with_file(&path))
        };
        for secret in ["vault_token = \"hvs.fake\"", "redis_url = \"redis://:fake@host\""] {
            let problems = resolved(secret, 0o644).unwrap_err();
            let text = problems[0].to_string();
            assert!(text.contains("holds a secret") && text.contains("chmod o="), "{text}");
            assert!(!text.contains("hvs.fake") && !text.contains(":fake"), "{text}");
            assert!(resolved(secret, 0o640).is_ok());
        }
        for harmless in ["vault_token = \"\"", "redis_url = \"redis://host\"", "models_max = 3"] {
            assert!(resolved(harmless, 0o644).is_ok(), "{harmless}");
        }
    }

    #[test]
    fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
        let resolved = |name, value| resolve(&Sources::new([pair(name, value)], []));
        for (name, value, variable) in [
            ("vault_token", "hvs.fake", "VAULT_TOKEN"),
            ("redis_url", "redis://:fake@host", "KEY_SERVER_REDIS_URL"),
            ("redis_url", "redis://one,rediss://me:fake@two/1", "KEY_SERVER_REDIS_URL"),
            ("redis_url", "unix:///run/r.sock?db=1&pass=fake", "KEY_SERVER_REDIS_URL"),
        ] {
            let problems = resolved(name, value).unwrap_err();
            let text = problems[0].to_string();
            assert!(text.contains(name) && text.contains(variable), "{text}");
            assert!(!text.contains("fake"), "{text}");
        }
        for (name, harmless) in [("vault_token", ""), ("redis_url", "redis://host/1")] {
            assert!(resolved(name, harmless).is_ok(), "{name}");
        }
    }

    #[test]
    fn contradictions_are_problems() {
        let sources = Sources::new([pair("tier_moderate_tokens", "9000")], []);
        let problems = resolve(&sources).unwrap_err();
        assert!(problems[0].to_string().contains("tier_heavy_tokens"));
    }

    #[test]
    fn every_default_can_be_read() {
        let (_, shown) = resolve(&Sources::default()).unwrap();
        assert_eq!(shown.len(), NAMES.len());
    }

    #[test]
    fn unknown_variables_get_a_hint() {
        let sources = Sources::new([], [pair("KEY_SERVER_SESION_TTL", "1h")]);
        let unknown = sources.unknown_variables(super::super::VARIABLES);
        assert_eq!(
            unknown,
            ["KEY_SERVER_SESION_TTL sets nothing; did you mean KEY_SERVER_SESSION_TTL?"]
        );
    }
}
