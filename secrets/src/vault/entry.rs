//! One key as an entry of Vault: written strictly, read liberally, because
//! people edit entries by hand.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;

use key_server_core::{KeyFacts, ModelName, OwnWeight};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::limits::{NAME_BYTES_MAX, NAMES_COUNT_MAX, check_label};
use crate::{SecretKey, StoredKey, key_id};

/// The source of a key that a person entered in Vault without naming one.
const SOURCE: &str = "vault";

/// What stands for an entry's content: equal content, equal digest.
pub(super) type Digest = [u8; 32];

/// What is wrong with an entry, and with which of its fields. Holds nothing
/// of what the entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) what: &'static str,
}

const fn fault(field: &'static str, what: &'static str) -> Fault {
    Fault { field, what }
}

/// An entry's fields as we write them.
#[derive(Serialize)]
struct Fields<'a> {
    provider: &'a str,
    models: Vec<&'a str>,
    weight: Decimal,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_holders: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    sources: Vec<&'a str>,
    api_key: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Decimal {
    Whole(u32),
    Parts(f64),
}

/// The body of a write to KV version 2.
#[derive(Serialize)]
struct VersionedWrite<'a> {
    options: CheckAndSet,
    data: Fields<'a>,
}

#[derive(Serialize)]
struct CheckAndSet {
    cas: u64,
}

impl<'a> Fields<'a> {
    fn of(key: &'a StoredKey) -> Self {
        let facts = &key.facts;
        let thousandths = facts.own_weight.thousandths();
        Self {
            provider: facts.provider(),
            models: facts.models.iter().map(ModelName::as_str).collect(),
            weight: match thousandths % 1_000 {
                0 => Decimal::Whole(thousandths / 1_000),
                _ => Decimal::Parts(f64::from(thousandths) / 1_000.0),
            },
            max_holders: facts.max_holders,
            label: facts.label.as_deref(),
            sources: facts.sources.iter().map(|source| &**source).collect(),
            api_key: key.secret.expose(),
        }
    }
}

/// The body that writes `key` where version `cas` is the newest.
pub(super) fn versioned_body(key: &StoredKey, cas: u64) -> Zeroizing<Vec<u8>> {
    body(key, &VersionedWrite { options: CheckAndSet { cas }, data: Fields::of(key) })
}

/// The body that writes `key` to KV version 1.
pub(super) fn plain_body(key: &StoredKey) -> Zeroizing<Vec<u8>> {
    body(key, &Fields::of(key))
}

pub(super) fn digest(key: &StoredKey) -> Digest {
    Sha256::digest(&*plain_body(key)).into()
}

fn body(key: &StoredKey, content: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let facts = &key.facts;
    let texts = facts.models.iter().map(ModelName::as_str);
    let texts = texts.chain(facts.sources.iter().map(|source| &**source));
    let texts = texts.chain(facts.label.as_deref()).chain([key.secret.expose()]);
    // JSON makes a byte six at most: so the buffer does not grow and leaves no
    // copy behind.
    let bytes_max = 512 + texts.map(|text| 6 * text.len() + 4).sum::<usize>();
    let mut body = Zeroizing::new(Vec::with_capacity(bytes_max));
    serde_json::to_writer(&mut *body, content)
        .expect("text and finite numbers are JSON, and memory takes every write");
    body
}

/// Whether a key can be read back once it is written; else what is wrong.
pub(super) fn check(key: &StoredKey) -> Result<(), Fault> {
    let models = &key.facts.models;
    let provider = models.first().ok_or(fault("models", "is empty"))?.provider();
    if models.iter().any(|model| model.provider() != provider) {
        return Err(fault("models", "names several providers"));
    }
    check_bounds(&key.facts)?;
    check_secret(key.secret.expose())?;
    if key_id(provider, &key.secret) != key.id() {
        return Err(fault("api_key", "does not fit the key's id"));
    }
    Ok(())
}

/// An entry's fields as people write them.
#[derive(Deserialize)]
pub(super) struct Entry<'a> {
    #[serde(default)]
    provider: Value,
    #[serde(default)]
    models: Value,
    #[serde(default)]
    weight: Value,
    #[serde(default)]
    max_holders: Value,
    #[serde(default)]
    label: Value,
    #[serde(default)]
    sources: Value,
    #[serde(borrow, default)]
    api_key: Option<ApiKey<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ApiKey<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
}

impl Entry<'_> {
    /// The key that the fields stand for, its id computed anew.
    pub(super) fn into_key(self) -> Result<StoredKey, Fault> {
        let secret = match self.api_key {
            Some(ApiKey::Text(Cow::Borrowed(text))) => SecretKey::copy_of(text),
            Some(ApiKey::Text(Cow::Owned(text))) => SecretKey::from_owned(text),
            Some(ApiKey::Other(_)) => return Err(fault("api_key", "is not a text")),
            None => return Err(fault("api_key", "is missing")),
        };
        check_secret(secret.expose())?;
        let models = models(&self.provider, &self.models)?;
        let facts = KeyFacts {
            key: key_id(models[0].provider(), &secret),
            models,
            own_weight: weight(&self.weight)?,
            max_holders: max_holders(&self.max_holders)?,
            label: label(&self.label)?,
            sources: sources(&self.sources)?,
        };
        check_bounds(&facts)?;
        Ok(StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) })
    }
}

/// What a CSV could not bring either.
fn check_bounds(facts: &KeyFacts) -> Result<(), Fault> {
    let is_long = |name: &str| name.len() > NAME_BYTES_MAX;
    let models = &facts.models;
    if models.len() > NAMES_COUNT_MAX {
        return Err(fault("models", "has more than 4096 names"));
    }
    if models.iter().any(|model| is_long(model.provider()) || is_long(model.model())) {
        return Err(fault("models", "has a name that is longer than 256 bytes"));
    }
    if facts.sources.len() > NAMES_COUNT_MAX {
        return Err(fault("sources", "has more than 4096 names"));
    }
    if facts.sources.iter().any(|source| is_long(source)) {
        return Err(fault("sources", "has a name that is longer than 256 bytes"));
    }
    let label = facts.label.as_deref().unwrap_or_default();
    check_label(label).map_err(|what| fault("label", what))
}

fn check_secret(secret: &str) -> Result<(), Fault> {
    if secret.is_empty() {
        return Err(fault("api_key", "is empty"));
    }
    if secret.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(fault("api_key", "has white space in it; copy the key again, without any"));
    }
    Ok(())
}

/// At least one model, all of one provider, sorted.
fn models(provider: &Value, models: &Value) -> Result<Vec<ModelName>, Fault> {
    let provider = match provider {
        Value::Null => "",
        Value::String(text) => text.trim(),
        _ => return Err(fault("provider", "is not a text as in openai")),
    };
    if provider.contains('/') {
        return Err(fault("provider", "has a / in it; write it as in openai"));
    }
    let names = texts(models).ok_or(fault(
        "models",
        "is neither a list nor a text with commas, as in openai/gpt-4o, openai/o3",
    ))?;
    let names: Option<Vec<_>> = names.into_iter().map(|name| model(provider, name)).collect();
    let mut names = names.ok_or(fault("models", "has a name that is not provider/model"))?;
    names.sort_unstable();
    names.dedup();
    match names.first() {
        None => Err(fault("models", "is empty or missing")),
        Some(first) if names.iter().any(|name| name.provider() != first.provider()) => {
            Err(fault("models", "names several providers; make an entry for each"))
        }
        Some(_) => Ok(names),
    }
}

/// `gpt-4o` and `openai/gpt-4o` are the same for provider `openai`.
fn model(provider: &str, name: &str) -> Option<ModelName> {
    let first = name.split_once('/').map_or("", |(first, _)| first);
    match provider.is_empty() || first.eq_ignore_ascii_case(provider) {
        true => name.parse().ok(),
        false => ModelName::new(provider, name).ok(),
    }
}

fn weight(value: &Value) -> Result<OwnWeight, Fault> {
    let wrong = fault("weight", "is not a decimal from 0 to 1000, as in 0.5");
    let number: f64 = match value {
        Value::Null => return Ok(OwnWeight::DEFAULT),
        Value::String(text) if text.trim().is_empty() => return Ok(OwnWeight::DEFAULT),
        Value::String(text) => text.trim().parse().map_err(|_| wrong)?,
        Value::Number(number) => number.as_f64().ok_or(wrong)?,
        _ => return Err(wrong),
    };
    let thousandths = (number * 1_000.0).round();
    if !(0.0..=f64::from(OwnWeight::MAX.thousandths())).contains(&thousandths) {
        return Err(wrong);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 0 to 1,000,000, as was just seen"
    )]
    OwnWeight::from_thousandths(thousandths as u32).ok_or(wrong)
}

fn max_holders(value: &Value) -> Result<Option<NonZeroU32>, Fault> {
    let wrong = fault("max_holders", "is not a whole number from 1 on; leave it out for no cap");
    let number = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => text.trim().parse().map_err(|_| wrong)?,
        Value::Number(number) => number.as_u64().ok_or(wrong)?,
        _ => return Err(wrong),
    };
    u32::try_from(number).ok().and_then(NonZeroU32::new).map(Some).ok_or(wrong)
}

fn label(value: &Value) -> Result<Option<Arc<str>>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok((!text.is_empty()).then(|| text.as_str().into())),
        _ => Err(fault("label", "is not a text")),
    }
}

/// An entry without the field was made by a person, in Vault; one with an
/// empty list has no sources.
fn sources(value: &Value) -> Result<Vec<Arc<str>>, Fault> {
    if value.is_null() {
        return Ok(vec![SOURCE.into()]);
    }
    let names = texts(value)
        .ok_or(fault("sources", "is neither a list nor a text with commas, as in vault, cli"))?;
    let mut names: Vec<Arc<str>> = names.into_iter().map(Arc::from).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The texts of a JSON list, of a text with commas, or of a JSON list within
/// a text, as Vault's UI and command line make of one.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) => {
            let text = text.trim();
            let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
            let parts = inner.unwrap_or(text).split(',').map(str::trim);
            let parts =
                parts.map(|part| if inner.is_some() { part.trim_matches('"') } else { part });
            Some(parts.filter(|part| !part.is_empty()).collect())
        }
        Value::Array(values) => values.iter().map(|value| value.as_str().map(str::trim)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<StoredKey, Fault> {
        serde_json::from_slice::<Entry<'_>>(content).unwrap().into_key()
    }

    fn read_text(text: &str) -> StoredKey {
        read(text.as_bytes()).unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
    }

    fn models_of(key: &StoredKey) -> Vec<String> {
        key.facts.models.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entry_is_written_with_readable_fields() {
        let key = read_text(
            r#"{"models":["openai/gpt-4o"],"weight":0.125,"max_holders":2,"label":"team a",
                "sources":["cli"],"api_key":"sk-fake-0001"}"#,
        );
        let expected = r#"{"provider":"openai","models":["openai/gpt-4o"],"weight":0.125,"max_holders":2,"label":"team a","sources":["cli"],"api_key":"sk-fake-0001"}"#;
        assert_eq!(std::str::from_utf8(&plain_body(&key)).unwrap(), expected);
        let versioned = versioned_body(&key, 7);
        let expected = format!(r#"{{"options":{{"cas":7}},"data":{expected}}}"#);
        assert_eq!(std::str::from_utf8(&versioned).unwrap(), expected);
    }

    #[test]
    fn every_weight_comes_back_as_it_was_written() {
        let key = read_text(r#"{"models":"openai/o3","api_key":"sk-fake-0001"}"#);
        for thousandths in (0..=10_000).chain([999_999, 1_000_000]) {
            let mut facts = KeyFacts::clone(&key.facts);
            facts.own_weight = OwnWeight::from_thousandths(thousandths).unwrap();
            let key = StoredKey { facts: Arc::new(facts), secret: Arc::clone(&key.secret) };
            assert_eq!(read(&plain_body(&key)).unwrap().facts, key.facts);
        }
    }

    #[test]
    fn entry_by_hand_needs_models_and_a_key_only() {
        let key = read_text(r#"{"models":"OpenAI/gpt-4o, openai/o3 ,","api_key":"sk-fake-0001"}"#);
        assert_eq!(models_of(&key), ["openai/gpt-4o", "openai/o3"]);
        assert_eq!(key.id(), key_id("openai", &SecretKey::copy_of("sk-fake-0001")));
        assert_eq!(key.facts.own_weight, OwnWeight::DEFAULT);
        assert_eq!((key.facts.max_holders, key.facts.label.as_deref()), (None, None));
        assert_eq!(key.facts.sources, [Arc::from("vault")]);
    }

    #[test]
    fn model_may_leave_the_provider_out_when_the_entry_names_it() {
        for models in
            [r#""gpt-4o,o3""#, r#"["openai/gpt-4o","o3"]"#, r#""[\"gpt-4o\", \"OPENAI/o3\"]""#]
        {
            let text =
                format!(r#"{{"provider":"openai","models":{models},"api_key":"sk-fake-0001"}}"#);
            assert_eq!(models_of(&read_text(&text)), ["openai/gpt-4o", "openai/o3"]);
        }
        let text = r#"{"provider":"openrouter","models":"openai/gpt-4o","api_key":"sk-fake-0001"}"#;
        assert_eq!(models_of(&read_text(text)), ["openrouter/openai/gpt-4o"]);
    }

    #[test]
    fn numbers_may_be_texts_and_a_list_of_sources_may_be_empty() {
        let key = read_text(
            r#"{"models":"xai/grok-3","api_key":"sk-fake-1","weight":"2.5","max_holders":"3","sources":[]}"#,
        );
        assert_eq!(key.facts.own_weight.thousandths(), 2_500);
        assert_eq!(key.facts.max_holders, NonZeroU32::new(3));
        assert!(key.facts.sources.is_empty());
    }

    #[test]
    fn escaped_key_is_read_to_the_byte() {
        let key = read_text(r#"{"models":"xai/grok-3","api_key":"sk-\"\\\u0041"}"#);
        assert_eq!(key.secret.expose(), "sk-\"\\A");
    }

    #[test]
    fn broken_entry_names_the_field_and_nothing_of_its_content() {
        let good = r#"{"models":"openai/o3","api_key":"sk-fake-0001"}"#;
        for (from, to, field) in [
            ("api_key", "key", "api_key"),
            ("\"sk-fake-0001\"", "7", "api_key"),
            ("sk-fake-0001", "", "api_key"),
            ("sk-fake-0001", "sk-fake 0001", "api_key"),
            ("sk-fake-0001", "sk-fake-0001\\n", "api_key"),
            ("models", "model", "models"),
            ("openai/o3", "o3", "models"),
            ("openai/o3", "openai/o3,xai/grok-3", "models"),
            ("\"openai/o3\"", "{}", "models"),
            ("\"models\"", "\"provider\":7,\"models\"", "provider"),
            ("\"models\"", "\"weight\":\"heavy\",\"models\"", "weight"),
            ("\"models\"", "\"weight\":-1,\"models\"", "weight"),
            ("\"models\"", "\"weight\":\"NaN\",\"models\"", "weight"),
            ("\"models\"", "\"weight\":1001,\"models\"", "weight"),
            ("\"models\"", "\"max_holders\":0,\"models\"", "max_holders"),
            ("\"models\"", "\"max_holders\":1.5,\"models\"", "max_holders"),
            ("\"models\"", "\"label\":[],\"models\"", "label"),
            ("\"models\"", "\"sources\":7,\"models\"", "sources"),
        ] {
            let fault = read(good.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(fault.field, field, "{from} -> {to}: {fault:?}");
        }
    }

    #[test]
    fn fields_are_bounded_as_those_of_a_csv() {
        let entry = |field: &str, text: &str| {
            let value = serde_json::json!({ "models": "openai/o3", "api_key": "sk-fake-0001", field: text });
            read(value.to_string().as_bytes()).map_err(|fault| fault.field)
        };
        let models = |count: usize| {
            (0..count).map(|number| format!("openai/m{number}")).collect::<Vec<_>>().join(",")
        };
        for (field, good, wrong) in [
            ("label", "ä".repeat(128), "ä".repeat(129)),
            ("label", "team a".into(), "team\na".into()),
            ("sources", "s".repeat(256), "s".repeat(257)),
            (
                "models",
                format!("openai/{}", "m".repeat(256)),
                format!("openai/{}", "m".repeat(257)),
            ),
            ("models", models(4_096), models(4_097)),
            ("sources", models(4_096), models(4_097)),
        ] {
            entry(field, &good).unwrap();
            assert_eq!(entry(field, &wrong).unwrap_err(), field);
        }
    }
}
