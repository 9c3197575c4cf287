use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::BASE32_NOPAD;

const KEY_ID_PREFIX: &str = "k_";
const KEY_ID_BYTES: usize = 15;
const KEY_ID_CHARS: usize = 24;

/// The name of one provider credential: `k_` and 24 base32 characters.
///
/// The same credential has the same id on every node; whoever sees the id
/// learns nothing about the credential.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl KeyId {
    /// The id that the first 15 bytes of `digest` stand for.
    pub fn from_digest(digest: &[u8; 32]) -> Self {
        let mut bytes = [0; KEY_ID_BYTES];
        bytes.copy_from_slice(&digest[..KEY_ID_BYTES]);
        Self(bytes)
    }

    /// The 120 bits behind the text form.
    pub const fn as_bytes(&self) -> &[u8; KEY_ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; KEY_ID_CHARS];
        BASE32_NOPAD.encode_mut(&self.0, &mut text);
        text.make_ascii_lowercase();
        let text = std::str::from_utf8(&text).map_err(|_| fmt::Error)?;
        write!(f, "{KEY_ID_PREFIX}{text}")
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let body = text.strip_prefix(KEY_ID_PREFIX).ok_or(IdError::KeyId)?;
        if body.len() != KEY_ID_CHARS || body.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(IdError::KeyId);
        }
        let upper = body.to_ascii_uppercase();
        let mut bytes = [0; KEY_ID_BYTES];
        BASE32_NOPAD.decode_mut(upper.as_bytes(), &mut bytes).map_err(|_| IdError::KeyId)?;
        Ok(Self(bytes))
    }
}

/// The name of a pool: `provider/model`.
///
/// The part before the first `/` is the provider, kept in lower case; the rest
/// is the model, verbatim, and may contain `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(Arc<str>);

impl ModelName {
    /// Joins a provider and a model as a CSV row has them.
    ///
    /// # Errors
    /// As [`ModelName::from_str`]; also when the provider contains a `/`.
    pub fn new(provider: &str, model: &str) -> Result<Self, IdError> {
        if provider.contains('/') {
            return Err(IdError::ProviderWithSlash);
        }
        format!("{provider}/{model}").parse()
    }

    /// `provider/model`, the provider in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first `/`, in lower case.
    pub fn provider(&self) -> &str {
        self.split().0
    }

    /// The part after the first `/`, verbatim.
    pub fn model(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or((&self.0, ""))
    }
}

impl Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (provider, model) = text.split_once('/').ok_or(IdError::NoProvider)?;
        if provider.is_empty() || model.is_empty() {
            return Err(IdError::EmptyPart);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(IdError::Unprintable);
        }
        if provider.bytes().any(|b| b.is_ascii_uppercase()) {
            let provider = provider.to_ascii_lowercase();
            return Ok(Self(format!("{provider}/{model}").into()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a text is not an id. The text itself is not repeated: it may be
/// anything, even a misplaced secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a key id.
    #[error("a key id is k_ and 24 characters of a-z and 2-7")]
    KeyId,
    /// No `/` in a model's name.
    #[error("a model is written provider/model, as in openai/gpt-4o")]
    NoProvider,
    /// Nothing before or after the first `/`.
    #[error("both the provider and the model must be given, as in openai/gpt-4o")]
    EmptyPart,
    /// White space or control characters.
    #[error("a provider or model has no white space or control characters")]
    Unprintable,
    /// A `/` in a provider's name.
    #[error("a provider has no / in its name")]
    ProviderWithSlash,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_is_compared_without_case_and_the_model_verbatim() {
        let name: ModelName = "Together/meta-llama/Meta-Llama-3.1-8B".parse().unwrap();
        assert_eq!(name.as_str(), "together/meta-llama/Meta-Llama-3.1-8B");
        assert_eq!(name.provider(), "together");
        assert_eq!(name.model(), "meta-llama/Meta-Llama-3.1-8B");
    }

    #[test]
    fn key_id_survives_its_text_form() {
        let id = KeyId::from_digest(&[7; 32]);
        let text = id.to_string();
        assert_eq!(text.len(), 26);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse::<KeyId>(), Err(IdError::KeyId));
        assert_eq!("k_".parse::<KeyId>(), Err(IdError::KeyId));
        assert_eq!("k_é".parse::<KeyId>(), Err(IdError::KeyId));
    }

    #[test]
    fn malformed_models_are_refused() {
        for (text, error) in [
            ("gpt-4o", IdError::NoProvider),
            ("/gpt-4o", IdError::EmptyPart),
            ("openai/", IdError::EmptyPart),
            ("openai/gpt 4o", IdError::Unprintable),
            ("openai/gpt\n", IdError::Unprintable),
        ] {
            assert_eq!(text.parse::<ModelName>(), Err(error), "{text:?}");
        }
        assert_eq!(ModelName::new("a/b", "c"), Err(IdError::ProviderWithSlash));
    }
}
