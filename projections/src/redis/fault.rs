use std::borrow::Cow;
use std::path::{Path, PathBuf};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::ProjectionError;

const ADVICE_CORRUPT: &str =
    "clear what this node published there and publish it again; nothing is lost but time";
/// A server may say as much as it likes, or repeat what somebody stored there.
const REASON_CHARS_MAX: usize = 300;
const ADVICE_AWAY: &str = "check that it runs and can be reached from here";

/// What went wrong with Redis, before it is known which one it was.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// What the server or the connection said.
    Redis(RedisError),
    /// No answer in time.
    Late,
    /// A file of the settings cannot be read.
    File(PathBuf, String),
    /// Cannot be used now, and what to do.
    Unavailable(String, Cow<'static, str>),
    /// What is stored is not what was written.
    Corrupt(String),
    /// What another node published under this name is not what was written,
    /// and why.
    Unreadable(String, String),
    /// A server that is not used.
    Foreign(String),
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<redis::ParsingError> for Fault {
    fn from(error: redis::ParsingError) -> Self {
        Self::Corrupt(format!("an answer is not of its form: {error}"))
    }
}

impl Fault {
    /// A file of the settings that cannot be read.
    pub(crate) fn file(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::File(path.to_owned(), error.to_string())
    }

    /// The fault, when it was met in what another node published under `name`.
    pub(crate) fn in_what_is_called(self, name: &str) -> Self {
        match self {
            Self::Corrupt(reason) => Self::Unreadable(name.to_owned(), reason),
            Self::Redis(error) if code(&error) == "WRONGTYPE" => {
                Self::Unreadable(name.to_owned(), said(&error))
            }
            other => other,
        }
    }

    /// Whether the server did not know the script, and did nothing.
    pub(crate) fn is_unknown_script(&self) -> bool {
        self.kind() == Some(ErrorKind::Server(ServerErrorKind::NoScript))
    }

    /// Whether another server of the cluster has the keys; nothing was done.
    pub(crate) fn is_redirection(&self) -> bool {
        let Some(ErrorKind::Server(kind)) = self.kind() else { return false };
        matches!(kind, ServerErrorKind::Moved | ServerErrorKind::Ask)
    }

    /// Whether the server does not allow what was asked, or does not have it.
    pub(crate) fn is_not_offered(&self) -> bool {
        let Self::Redis(error) = self else { return false };
        error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
            || error.detail().is_some_and(|detail| detail.starts_with("unknown command"))
    }

    /// Whether the connection broke: what was asked is done or not.
    pub(crate) fn is_broken(&self) -> bool {
        self.kind() == Some(ErrorKind::Io)
    }

    fn kind(&self) -> Option<ErrorKind> {
        if let Self::Redis(error) = self { Some(error.kind()) } else { None }
    }

    /// The error for the caller, with the server's name.
    pub(crate) fn at(self, store: &str) -> ProjectionError {
        let store = store.to_owned();
        let (reason, advice) = match self {
            Self::Corrupt(reason) => {
                let (reason, advice) = (short(reason), ADVICE_CORRUPT.into());
                return ProjectionError::Corrupt { store, reason, advice };
            }
            Self::Unreadable(name, reason) => {
                let reason = short(format!("{name}: {reason}"));
                let advice = format!(
                    "run redis-cli del '{name}' there; its node, if it runs, writes it again"
                )
                .into();
                return ProjectionError::Corrupt { store, reason, advice };
            }
            Self::Foreign(reason) => {
                return ProjectionError::Foreign { store, reason: short(reason) };
            }
            Self::Redis(error) => (said(&error), advice(&error).into()),
            Self::Late => ("it does not answer in time".to_owned(), ADVICE_AWAY.into()),
            Self::File(path, error) => {
                let advice = format!("check {}", path.display());
                (format!("a file of its settings: {error}"), advice.into())
            }
            Self::Unavailable(reason, advice) => (reason, advice),
        };
        ProjectionError::Unavailable { store, reason: short(reason), advice }
    }
}

fn short(reason: String) -> String {
    match reason.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}

/// What the server said; without arguments of a command that it repeats, for
/// there may be a password among them.
fn said(error: &RedisError) -> String {
    let text = error.to_string();
    let end = text.find("with args").unwrap_or(text.len());
    text[..end].trim_end_matches([',', ' ']).to_owned()
}

/// What to do about it.
fn advice(error: &RedisError) -> &'static str {
    match code(error) {
        "READONLY" => "it is a read-only replica: name its master, or its sentinels",
        "OOM" => "it is full: give it more memory (maxmemory), or other data another place",
        "LOADING" => "it is still reading its data from disk: wait",
        "MASTERDOWN" => "it is a replica without its master: bring the master back",
        "MISCONF" => "it cannot save to its disk: see its log",
        "CLUSTERDOWN" => "not all slots of the cluster are served: see CLUSTER INFO",
        "MOVED" | "ASK" | "CROSSSLOT" => {
            "it is part of a cluster: set redis_mode = cluster (KEY_SERVER_REDIS_MODE)"
        }
        "WRONGTYPE" => "something else has a key of that name: delete it, or use another database",
        "NOPERM" => "give its user the rights that docs/redis.md lists",
        "WRONGPASS" | "NOAUTH" => {
            "check user and password (KEY_SERVER_REDIS_URL, KEY_SERVER_REDIS_PASSWORD_FILE)"
        }
        _ if error.kind() == ErrorKind::InvalidClientConfig => "check its settings",
        _ if is_tls(error) => {
            "check its certificate and KEY_SERVER_REDIS_CA_CERT, KEY_SERVER_REDIS_CLIENT_CERT"
        }
        _ => ADVICE_AWAY,
    }
}

/// The first word of what the server said; of what a script or one of several
/// commands met, it stands in the middle.
fn code(error: &RedisError) -> &str {
    match error.kind() {
        ErrorKind::AuthenticationFailed => return "WRONGPASS",
        ErrorKind::Server(ServerErrorKind::NoPerm) => return "NOPERM",
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => return "MOVED",
        ErrorKind::Io => return "",
        _ => {}
    }
    let text = error.to_string();
    let codes = [
        "READONLY",
        "OOM",
        "NOPERM",
        "WRONGPASS",
        "NOAUTH",
        "MISCONF",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "WRONGTYPE",
        "CROSSSLOT",
    ];
    let named = codes.into_iter().find(|code| text.contains(code));
    let is_refused_script = text.contains("user executing the script");
    named.or(is_refused_script.then_some("NOPERM")).or(error.code()).unwrap_or("")
}

fn is_tls(error: &RedisError) -> bool {
    let text = error.to_string().to_lowercase();
    ["certificate", "tls", "handshake", "fatal alert", "corrupt message"]
        .iter()
        .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_server_says_at_length_the_beginning_is_told() {
        let long = "é".repeat(100_000);
        for fault in [
            Fault::Corrupt(long.clone()),
            Fault::Foreign(long.clone()),
            Fault::Unavailable(long, "wait".into()),
        ] {
            let text = fault.at("Redis").to_string();
            assert!(text.contains("éé") && text.chars().count() < 600, "{}", text.len());
        }
        assert_eq!(short("short".into()), "short");
    }
}
