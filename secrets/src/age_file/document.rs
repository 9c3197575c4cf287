//! The plaintext of the store: one JSON document, a line per key.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::sync::Arc;

use key_server_core::{KeyFacts, ModelName, OwnWeight};
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::interner::Interner;
use crate::{SecretKey, StoredKey, key_id};

const VERSION: u32 = 1;

/// What may follow a document any number of times: a blank, in JSON.
pub(super) const FILLER: u8 = b' ';

/// Why a plaintext is not a store's. Nothing of the plaintext is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentFault {
    #[error("was written by another version of Key Server (format {0}, this one reads {VERSION})")]
    Version(u32),
    #[error("is not a store's JSON (line {0}, column {1})")]
    Syntax(usize, usize),
    #[error("has a wrong record (number {number}: {what})")]
    Record { number: usize, what: &'static str },
}

/// Writes the document for `keys`, which are sorted.
pub(super) fn write(out: &mut dyn Write, keys: &[StoredKey]) -> io::Result<()> {
    write!(out, "{{\"version\":{VERSION},\"keys\":[")?;
    for (index, key) in keys.iter().enumerate() {
        out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &Record::of(key))?;
    }
    out.write_all(b"\n]}\n")
}

/// Reads a document: its keys, sorted by id.
pub(super) fn read(content: &[u8]) -> Result<Vec<StoredKey>, DocumentFault> {
    let document: Document = serde_json::from_slice(content).map_err(|error| {
        // The error's own text may quote the content; its place does not.
        match serde_json::from_slice::<Head>(content) {
            Ok(head) if head.version != VERSION => DocumentFault::Version(head.version),
            _ => DocumentFault::Syntax(error.line(), error.column()),
        }
    })?;
    if document.version != VERSION {
        return Err(DocumentFault::Version(document.version));
    }
    let mut keys = document.keys.0?;
    keys.sort_by_key(StoredKey::id);
    match keys.windows(2).position(|pair| pair[0].id() == pair[1].id()) {
        Some(index) => Err(DocumentFault::Record { number: index + 2, what: "the same key twice" }),
        None => Ok(keys),
    }
}

/// Whether a key may be in a document: else what is wrong with it.
pub(super) fn check(key: &StoredKey) -> Result<(), &'static str> {
    let models = &key.facts.models;
    let provider = models.first().ok_or("it has no model")?.provider();
    if models.iter().any(|model| model.provider() != provider) {
        return Err("its models are of several providers");
    }
    if key_id(provider, &key.secret) != key.id() {
        return Err("its id is not that of its provider and secret");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    keys: Keys,
}

struct Keys(Result<Vec<StoredKey>, DocumentFault>);

/// One key. Absent fields have their defaults: weight 1, no cap, no label.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    models: Vec<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_thousandths: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_holders: Option<NonZeroU32>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    label: Option<Text<'a>>,
    #[serde(borrow)]
    sources: Vec<Text<'a>>,
    #[serde(borrow)]
    secret: Cow<'a, str>,
}

/// A string that is borrowed where JSON's escapes allow it, also in lists.
#[derive(Deserialize, Serialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Text<'a> {
    fn of(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl<'a> Record<'a> {
    fn of(key: &'a StoredKey) -> Self {
        let facts = &key.facts;
        let weight = facts.own_weight;
        Self {
            id: Cow::Owned(facts.key.to_string()),
            models: facts.models.iter().map(|model| Text::of(model.as_str())).collect(),
            weight_thousandths: (weight != OwnWeight::DEFAULT).then_some(weight.thousandths()),
            max_holders: facts.max_holders,
            label: facts.label.as_deref().map(Text::of),
            sources: facts.sources.iter().map(|source| Text::of(source)).collect(),
            secret: Cow::Borrowed(key.secret.expose()),
        }
    }

    fn into_key(self, interner: &mut Interner) -> Result<StoredKey, &'static str> {
        let models = self.models(interner)?;
        let secret = SecretKey::copy_of(&self.secret);
        let facts = KeyFacts {
            key: self.id.parse().map_err(|_| "its id is not a key id")?,
            own_weight: self.own_weight()?,
            max_holders: self.max_holders,
            label: self.label.as_ref().map(|label| Arc::from(&*label.0)),
            sources: sorted(self.sources.iter().map(|source| interner.source(&source.0))),
            models,
        };
        let key = StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) };
        check(&key).map(|()| key)
    }

    fn models(&self, interner: &mut Interner) -> Result<Vec<ModelName>, &'static str> {
        let models = self.models.iter().map(|model| interner.model(&model.0));
        let models: Vec<_> = models
            .collect::<Result<_, _>>()
            .map_err(|_| "a model is not written provider/model")?;
        Ok(sorted(models.into_iter()))
    }

    fn own_weight(&self) -> Result<OwnWeight, &'static str> {
        let Some(thousandths) = self.weight_thousandths else {
            return Ok(OwnWeight::DEFAULT);
        };
        OwnWeight::from_thousandths(thousandths).ok_or("its weight is above 1,000,000 thousandths")
    }
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(KeysVisitor)
    }
}

/// Turns each record into a key at once, so that no list of records is made.
struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of keys")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<Keys, A::Error> {
        let mut interner = Interner::default();
        let mut keys = Vec::new();
        while let Some(record) = records.next_element::<Record<'de>>()? {
            match record.into_key(&mut interner) {
                Ok(key) => keys.push(key),
                Err(what) => {
                    while records.next_element::<IgnoredAny>()?.is_some() {}
                    let number = keys.len() + 1;
                    return Ok(Keys(Err(DocumentFault::Record { number, what })));
                }
            }
        }
        Ok(Keys(Ok(keys)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str, models: &[&str]) -> StoredKey {
        let secret = SecretKey::copy_of(secret);
        let models: Vec<ModelName> = models.iter().map(|model| model.parse().unwrap()).collect();
        let facts = KeyFacts {
            key: key_id(models[0].provider(), &secret),
            models,
            own_weight: OwnWeight::from_thousandths(2_500).unwrap(),
            max_holders: NonZeroU32::new(3),
            label: Some("team \"a\" ä".into()),
            sources: vec!["cli".into(), "csv@node-1".into()],
        };
        StoredKey { facts: Arc::new(facts), secret: Arc::new(secret) }
    }

    fn written(keys: &[StoredKey]) -> String {
        let mut out = Vec::new();
        write(&mut out, keys).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn fault(content: &str) -> String {
        read(content.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn document_is_json_with_a_line_per_key() {
        let text = written(&[key("sk-fake-0001", &["openai/gpt-4o", "openai/o3"])]);
        let id = key_id("openai", &SecretKey::copy_of("sk-fake-0001"));
        let expected = [
            r#"{"version":1,"keys":["#,
            &format!(
                r#"{{"id":"{id}","models":["openai/gpt-4o","openai/o3"],"weight_thousandths":2500,"max_holders":3,"label":"team \"a\" ä","sources":["cli","csv@node-1"],"secret":"sk-fake-0001"}}"#
            ),
            "]}\n",
        ];
        assert_eq!(text, expected.join("\n"));
    }

    #[test]
    fn keys_come_back_as_they_were_written_sorted_by_id() {
        let keys: Vec<_> = (0..50)
            .map(|n| key(&format!("sk-\"\\\u{1F511}-fake-{n}"), &["xai/grok-3-beta"]))
            .collect();
        let back = read(written(&keys).as_bytes()).unwrap();
        assert!(back.is_sorted_by_key(StoredKey::id));
        for key in &keys {
            let same = back.iter().find(|other| other.id() == key.id()).unwrap();
            assert_eq!(same.facts, key.facts);
            assert_eq!(same.secret.expose(), key.secret.expose());
        }
    }

    #[test]
    fn faults_say_where_and_never_what() {
        let secret = "sk-fake-canary-0001";
        let good = written(&[key(secret, &["openai/gpt-4o"])]);
        for (from, to, expected) in [
            (
                "\"version\":1",
                "\"version\":2",
                "was written by another version of Key Server (format 2, this one reads 1)",
            ),
            ("\"secret\":", "\"max_holders\":", "is not a store's JSON (line 2, column 172)"),
            (
                "openai/",
                "openai",
                "has a wrong record (number 1: a model is not written provider/model)",
            ),
            (
                "openai/",
                "xai/",
                "has a wrong record (number 1: its id is not that of its provider and secret)",
            ),
            ("\"k_", "\"x_", "has a wrong record (number 1: its id is not a key id)"),
            (
                "2500",
                "1000001",
                "has a wrong record (number 1: its weight is above 1,000,000 thousandths)",
            ),
            ("[\"openai/gpt-4o\"]", "[]", "has a wrong record (number 1: it has no model)"),
            ("]}\n", "", "is not a store's JSON (line 3, column 0)"),
        ] {
            let text = fault(&good.replace(from, to));
            assert_eq!(text, expected, "{from} -> {to}");
            assert!(!text.contains(secret));
        }
        let record = good.lines().nth(1).unwrap();
        let twice = good.replace(record, &format!("{record},\n{record}"));
        assert_eq!(fault(&twice), "has a wrong record (number 2: the same key twice)");
    }
}
