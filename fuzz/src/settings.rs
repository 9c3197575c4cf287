//! The settings file.

use key_server_server::config::{NAMES, Sources, resolve};

use crate::scratch;

/// A settings file of these bytes is taken as a whole, or its problems are
/// named.
pub fn run(bytes: &[u8]) {
    scratch::within(|dir| {
        let path = scratch::write(dir, "config.toml", bytes);
        match resolve(&Sources::default().with_file(&path)) {
            Ok((settings, shown)) => {
                assert_eq!(shown.len(), NAMES.len());
                let _ = (settings.rules(), format!("{settings:?}"));
            }
            Err(problems) => {
                assert!(!problems.is_empty());
                assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
            }
        }
    });
}
