//! The encrypted store: what lies in its file, and what is sealed in it.

use std::io::Write;
use std::sync::LazyLock;
use std::{iter, thread_local};

use age::secrecy::ExposeSecret;
use age::x25519;
use key_server_secrets::{AgeFileStore, IdentitySource, SecretStore, SecretStoreError};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::scratch;

static IDENTITY: LazyLock<x25519::Identity> = LazyLock::new(x25519::Identity::generate);

thread_local! {
    static PLACE: (TempDir, Runtime) = (scratch::dir(), runtime());
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The first byte says whether the rest is the file or what is sealed in it.
/// Either is read as keys with ids of their own, or refused.
pub fn run(bytes: &[u8]) {
    let Some((kind, content)) = bytes.split_first() else { return };
    let file = if kind.is_multiple_of(2) { content.to_vec() } else { sealed(content) };
    PLACE.with(|(dir, runtime)| {
        let text = IDENTITY.to_string();
        let identity = scratch::write(dir.path(), "identity.txt", text.expose_secret().as_bytes());
        private(&identity);
        private(&scratch::write(dir.path(), "secrets.age", &file));
        let store = AgeFileStore::open(dir.path(), &IdentitySource::File(identity));
        let loaded = store.map(|store| runtime.block_on(store.load()));
        match loaded.expect("the identity is right") {
            Ok(keys) => {
                let ids: Vec<_> = keys.iter().map(key_server_secrets::StoredKey::id).collect();
                assert!(ids.is_sorted_by(|a, b| a < b), "each key once, in order");
            }
            Err(SecretStoreError::Corrupt(text) | SecretStoreError::Denied(text)) => {
                assert!(text.contains("secrets.age"), "{text}");
            }
            Err(error) => panic!("{error}"),
        }
    });
}

fn private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).expect("it is ours");
}

fn sealed(content: &[u8]) -> Vec<u8> {
    let recipient = IDENTITY.to_public();
    let recipients = iter::once(&recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).expect("there is a recipient");
    let mut file = Vec::new();
    let mut writer = encryptor.wrap_output(&mut file).expect("memory takes it");
    writer.write_all(content).expect("memory takes it");
    writer.finish().expect("memory takes it");
    file
}
