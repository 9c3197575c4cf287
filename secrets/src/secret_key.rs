use key_server_core::KeyId;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const KEY_ID_DOMAIN: &[u8] = b"key-server/key-id/v1";
const MASK: &str = "********";
const MASK_SHOWS_CHARS: usize = 4;
const MASK_SHOWS_FROM_CHARS: usize = 12;

/// The one owner of a credential: wiped when dropped, never copied, printed or
/// serialised.
///
/// Share it by `Arc`. Whoever calls [`SecretKey::expose`] answers for the
/// copy.
///
/// ```
/// let secret = key_server_secrets::SecretKey::copy_of("sk-fake-fake-0001");
/// assert_eq!(secret.masked(), "********0001");
/// ```
/// ```compile_fail
/// let secret = key_server_secrets::SecretKey::copy_of("sk-fake");
/// let copy = secret.clone();
/// ```
/// ```compile_fail
/// let secret = key_server_secrets::SecretKey::copy_of("sk-fake");
/// println!("{secret:?}");
/// ```
/// ```compile_fail
/// let secret = key_server_secrets::SecretKey::copy_of("sk-fake");
/// println!("{secret}");
/// ```
/// ```compile_fail
/// let secret = key_server_secrets::SecretKey::copy_of("sk-fake");
/// serde_json::to_string(&secret);
/// ```
pub struct SecretKey(Box<str>);

impl SecretKey {
    /// Owns a copy of `text`, in an allocation of exactly its size. The
    /// caller wipes `text`.
    pub fn copy_of(text: &str) -> Self {
        Self(Box::from(text))
    }

    /// Owns `text`, whose own allocation is wiped.
    pub fn from_owned(text: String) -> Self {
        Self::copy_of(&Zeroizing::new(text))
    }

    /// The credential itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Out of swap, if the system allows it; the server says so when it does
    /// not. For what opens everything else.
    pub(crate) fn keep_in_ram(&self) {
        let _ = key_server_sys::keep_in_ram(self.0.as_bytes());
    }

    /// What people may see of it: stars, and the last four characters if it
    /// has twelve or more. Says nothing about its length.
    pub fn masked(&self) -> String {
        let count = self.0.chars().count();
        let shown = if count >= MASK_SHOWS_FROM_CHARS { MASK_SHOWS_CHARS } else { 0 };
        let tail = self.0.chars().skip(count - shown);
        MASK.chars().chain(tail).collect()
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for SecretKey {}

/// The id of a credential: the same on every node, without coordination.
///
/// The first 120 bits of SHA-256 over a domain tag, the provider in lower
/// case and the credential, each after its length in bytes (8 bytes, little
/// endian), so that no two different triples meet in one input.
pub fn key_id(provider: &str, secret: &SecretKey) -> KeyId {
    let provider = provider.to_ascii_lowercase();
    let mut hash = Sha256::new();
    for part in [KEY_ID_DOMAIN, provider.as_bytes(), secret.0.as_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    KeyId::from_digest(&hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_id_is_the_same_everywhere_and_for_ever() {
        // Computed with Python's hashlib and base64 from the description above.
        let id = key_id("OpenAI", &SecretKey::copy_of("sk-your-openai-key"));
        assert_eq!(id.to_string(), "k_xwwivygozg4prwh2hbd3yqii");
        assert_eq!(id, key_id("openai", &SecretKey::copy_of("sk-your-openai-key")));
    }

    #[test]
    fn provider_and_secret_do_not_run_into_each_other() {
        let one = key_id("open", &SecretKey::copy_of("aikey"));
        let other = key_id("openai", &SecretKey::copy_of("key"));
        assert_ne!(one, other);
    }

    #[test]
    fn mask_shows_the_last_four_characters_of_a_long_secret_only() {
        for (secret, masked) in [
            ("", "********"),
            ("sk-fake-key", "********"),
            ("sk-fake-key1", "********key1"),
            ("sk-fake-fake-fake-äöüß", "********äöüß"),
        ] {
            assert_eq!(SecretKey::copy_of(secret).masked(), masked);
        }
    }

    #[test]
    fn owned_text_becomes_the_secret() {
        let secret = SecretKey::from_owned(String::from("sk-fake-0001"));
        assert_eq!(secret.expose(), "sk-fake-0001");
    }
}
