//! What the daemon gives up before it serves.

use std::path::Path;

use key_server_server::config::{RedisMode, Settings};
use key_server_server::program;
use key_server_sys::{Network, SandboxError, limit_calls, limit_files};

use crate::failure::Failure;

/// A sandbox that is half closed: files are limited, calls not yet.
pub(crate) struct Sandbox {
    network: Network,
    files: Result<(), SandboxError>,
}

impl Sandbox {
    /// Limits where this thread and those after it may write. None when the
    /// settings want no sandbox. All directories exist.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn begin(settings: &Settings, state_dir: &Path) -> Result<Option<Self>, Failure> {
        if !settings.sandbox {
            return Ok(None);
        }
        program::look_from_own_thread()
            .map_err(|error| Failure::usage(format!("cannot start: {error}")))?;
        let files = [&settings.socket, &settings.log_file, &settings.identity_file];
        let files = files.into_iter().filter(|file| !file.as_os_str().is_empty());
        let writable: Vec<&Path> = files.map(|file| dir_of(file)).chain([state_dir]).collect();
        let network = network(settings);
        Ok(Some(Self { network, files: limit_files(&writable, network) }))
    }

    /// Limits what all threads may ask of the kernel, now that the socket
    /// listens. Answers what is in force, in words.
    pub(crate) fn close(self) -> String {
        let calls = limit_calls(self.network);
        for error in [&self.files, &calls].into_iter().filter_map(|part| part.as_ref().err()) {
            tracing::warn!("the sandbox is not whole: {error}");
        }
        let files = self.files.map_or_else(
            |error| error.to_string(),
            |()| "no writing but in its own directories".to_owned(),
        );
        let calls = calls.map_or_else(
            |error| error.to_string(),
            |()| "no programs, no debugging, no listening".to_owned(),
        );
        let network = match self.network {
            Network::ConnectsOut => "",
            Network::None => "; no networks",
        };
        format!("{files}; {calls}{network}")
    }
}

/// The directory that a file is made in.
fn dir_of(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Redis and Vault may be on sockets of this machine, too.
fn network(settings: &Settings) -> Network {
    let is_here = |address: &str| address.trim().starts_with("unix:");
    let redis = settings.redis_url.expose().unwrap_or_default();
    let vault = [settings.vault_addr.as_str()];
    let mut addresses = redis.split(',').chain(vault).filter(|address| !address.is_empty());
    let all_are_here = addresses.all(is_here);
    // Sentinels and clusters name further addresses.
    if all_are_here && settings.redis_mode == RedisMode::Single {
        Network::None
    } else {
        Network::ConnectsOut
    }
}

#[cfg(test)]
mod tests {
    use key_server_server::config::{Sources, resolve};

    use super::*;

    #[test]
    fn networks_are_for_those_who_have_somebody_there() {
        for (settings, expected) in [
            (&[][..], Network::None),
            (
                &[("redis_url", "unix:///run/redis.sock"), ("vault_addr", "unix:///v")],
                Network::None,
            ),
            (&[("redis_url", "redis://127.0.0.1")], Network::ConnectsOut),
            (&[("redis_url", "unix:///a,redis://b")], Network::ConnectsOut),
            (&[("vault_addr", "https://vault:8200")], Network::ConnectsOut),
        ] {
            let pairs = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let settings = resolve(&Sources::new(pairs, [])).unwrap().0;
            assert_eq!(network(&settings), expected, "{:?}", settings.redis_url);
        }
    }

    #[test]
    fn a_file_without_a_directory_is_made_here() {
        assert_eq!(dir_of(Path::new("s.sock")), Path::new("."));
        assert_eq!(dir_of(Path::new("/run/s.sock")), Path::new("/run"));
    }
}
