//! The rows as they stand in Redis: compact JSON, instants in milliseconds of
//! the fleet's clock, what is zero or empty left out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use key_server_core::{
    AllocationRow, IdError, KeyId, KeyRow, ModelName, NodeKeyRow, NodeRows, SessionRef, SessionRow,
    Tokens, Usage,
};
use serde::{Deserialize, Serialize};

use crate::redis::clock::Offset;

const ENDLESS: &str = "a session ends, or has ended";
const NOT_A_SESSION: &str = "a session is named <uid>/<id>";

/// A key, as the value of its id.
#[derive(Serialize, Deserialize)]
struct KeyValue<'row> {
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    models: Vec<Cow<'row, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    label: Option<Cow<'row, str>>,
    #[serde(default, skip_serializing_if = "is_default")]
    retired: bool,
    #[serde(flatten)]
    usage: UsageValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    window: Vec<(u32, u64)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cooling: BTreeMap<Cow<'row, str>, u64>,
}

/// A session, as the value of its name: a live one, or one that came from
/// another node, which has to learn that it has ended.
#[derive(Serialize, Deserialize)]
struct SessionValue<'row> {
    user: i32,
    opened: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    term: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    base: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    holds: BTreeMap<Cow<'row, str>, Vec<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    gave: BTreeMap<Cow<'row, str>, Vec<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    spent: BTreeMap<Cow<'row, str>, BTreeMap<String, UsageValue>>,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct UsageValue {
    #[serde(default, skip_serializing_if = "is_default")]
    requests: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    failures: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    input: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    output: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    cached: u64,
}

/// The name of a session: `<uid>/<id>`.
pub(crate) fn session_name(session: &SessionRef) -> String {
    format!("{}/{}", session.owner, session.id)
}

/// The session of that name.
pub(crate) fn session_of(name: &str) -> Option<SessionRef> {
    let (owner, id) = name.split_once('/')?;
    Some(SessionRef { owner: owner.parse().ok()?, id: id.into() })
}

/// The value of a key.
pub(crate) fn key_value(row: &KeyRow, offset: Offset) -> String {
    let facts = &row.facts;
    let cooling = row.cooling.iter();
    let window = row.window.iter();
    json(&KeyValue {
        models: facts.models.iter().map(|model| model.as_str().into()).collect(),
        label: facts.label.as_deref().map(Cow::from),
        retired: row.retired,
        usage: row.lifetime.into(),
        used: row.last_used.map(|used| offset.to_fleet(used)),
        window: window.map(|&(at, tokens)| (offset.minute_to_fleet(at), tokens)).collect(),
        cooling: cooling.map(|(name, at)| (name.as_str().into(), offset.to_fleet(*at))).collect(),
    })
}

/// The value of a session; what it spent with what it gave back is left out.
pub(crate) fn session_value(row: &SessionRow, offset: Offset) -> String {
    let mut holds: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut gave: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut spent: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for allocation in &row.allocations {
        let (model, key) = (Cow::from(allocation.model.as_str()), allocation.key.to_string());
        if !allocation.held || row.ended {
            gave.entry(model).or_default().push(key);
            continue;
        }
        let usage = UsageValue::from(allocation.usage);
        if usage != UsageValue::default() {
            spent.entry(model.clone()).or_default().insert(key.clone(), usage);
        }
        holds.entry(model).or_default().push(key);
    }
    let (opened, end) = (offset.to_fleet(row.opened), offset.to_fleet(row.end));
    let (ends, ended) = if row.ended { (None, Some(end)) } else { (Some(end), None) };
    let (user, term, base) = (row.user, row.term, row.base);
    json(&SessionValue { user, opened, ends, ended, term, base, holds, gave, spent })
}

/// The key that id and value stand for.
///
/// # Errors
/// What is wrong with the value.
pub(crate) fn key_row(id: &str, value: &str, offset: Offset) -> Result<NodeKeyRow, String> {
    read_key(id, serde_json::from_str(value).map_err(|error| error.to_string())?, offset)
}

fn read_key(id: &str, value: KeyValue<'_>, offset: Offset) -> Result<NodeKeyRow, String> {
    let key = id.parse().map_err(|error: IdError| error.to_string())?;
    let cooling = value.cooling.iter().map(|(name, at)| Ok((model(name)?, offset.to_node(*at))));
    Ok(NodeKeyRow {
        key,
        lifetime: value.usage.into(),
        last_used: value.used.map(|used| offset.to_node(used)),
        cooling: cooling.collect::<Result<_, String>>()?,
        window: value.window.iter().map(|&(at, n)| (offset.minute_to_node(at), n)).collect(),
    })
}

/// The session that name and value stand for.
///
/// # Errors
/// What is wrong with the value.
pub(crate) fn session_row(name: &str, value: &str, offset: Offset) -> Result<SessionRow, String> {
    read_session(name, &serde_json::from_str(value).map_err(|error| error.to_string())?, offset)
}

fn read_session(
    name: &str,
    value: &SessionValue<'_>,
    offset: Offset,
) -> Result<SessionRow, String> {
    let session = session_of(name).ok_or(NOT_A_SESSION)?;
    Ok(SessionRow {
        session,
        user: value.user,
        opened: offset.to_node(value.opened),
        end: offset.to_node(value.ended.or(value.ends).ok_or(ENDLESS)?),
        ended: value.ended.is_some(),
        term: value.term,
        base: value.base,
        allocations: allocations(value)?,
    })
}

fn allocations(value: &SessionValue<'_>) -> Result<Vec<AllocationRow>, String> {
    let mut rows = Vec::new();
    for (name, keys) in &value.holds {
        let model = model(name)?;
        for key in keys {
            let usage = value.spent.get(name).and_then(|spent| spent.get(key));
            let usage = usage.copied().unwrap_or_default().into();
            let key: KeyId = key.parse().map_err(|error: IdError| error.to_string())?;
            rows.push(AllocationRow { key, model: model.clone(), held: true, usage });
        }
    }
    for (name, keys) in &value.gave {
        let model = model(name)?;
        for key in keys {
            let key: KeyId = key.parse().map_err(|error: IdError| error.to_string())?;
            let (model, usage) = (model.clone(), Usage::default());
            rows.push(AllocationRow { key, model, held: false, usage });
        }
    }
    Ok(rows)
}

fn model(name: &str) -> Result<ModelName, String> {
    name.parse().map_err(|error: IdError| error.to_string())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names are texts, so it has a JSON form")
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<Usage> for UsageValue {
    fn from(usage: Usage) -> Self {
        let Tokens { input, output, cached_input: cached } = usage.tokens;
        Self { requests: usage.requests, failures: usage.failures, input, output, cached }
    }
}

impl From<UsageValue> for Usage {
    fn from(value: UsageValue) -> Self {
        let UsageValue { requests, failures, input, output, cached } = value;
        Self { requests, failures, tokens: Tokens { input, output, cached_input: cached } }
    }
}

/// News, as they come over a channel.
#[derive(Deserialize)]
struct NewsValue<'news> {
    from: Option<u64>,
    to: u64,
    #[serde(borrow, default)]
    keys: BTreeMap<Cow<'news, str>, KeyValue<'news>>,
    #[serde(borrow, default)]
    sessions: BTreeMap<Cow<'news, str>, SessionValue<'news>>,
    #[serde(default)]
    ended: Vec<String>,
}

/// What a node published: from where to where, and the rows.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn news(text: &str, offset: Offset) -> Result<(Option<u64>, u64, NodeRows), String> {
    let news: NewsValue<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let keys = news.keys.into_iter().map(|(id, value)| read_key(&id, value, offset));
    let sessions = news.sessions.iter().map(|(name, value)| read_session(name, value, offset));
    let ended = news.ended.iter().map(|name| session_of(name).ok_or(NOT_A_SESSION.to_owned()));
    let rows = NodeRows {
        keys: keys.collect::<Result<_, _>>()?,
        sessions: sessions.collect::<Result<_, _>>()?,
        ended: ended.collect::<Result<_, _>>()?,
    };
    Ok((news.from, news.to, rows))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use key_server_core::{KeyFacts, OwnWeight, Time};

    use super::*;

    const HOUR: Offset = Offset::from_ms(3_600_000);

    fn key() -> KeyRow {
        let facts = KeyFacts {
            key: KeyId::from_digest(&[1; 32]),
            models: vec!["openai/gpt-4o".parse().unwrap()],
            own_weight: OwnWeight::DEFAULT,
            max_holders: None,
            label: Some("with \"quotes\"".into()),
            sources: Vec::new(),
        };
        let tokens = Tokens { input: 9, output: 0, cached_input: u64::MAX };
        KeyRow {
            facts: Arc::new(facts),
            retired: false,
            lifetime: Usage { requests: 2, failures: 0, tokens },
            last_used: Some(Time::from_ms(5)),
            window: vec![(10, 9)],
            cooling: vec![("openai/gpt-4o".parse().unwrap(), Time::from_ms(7))],
        }
    }

    #[test]
    fn a_key_says_what_is_not_zero_in_the_fleets_clock() {
        let row = key();
        let value = key_value(&row, HOUR);
        assert_eq!(
            value,
            r#"{"models":["openai/gpt-4o"],"label":"with \"quotes\"","requests":2,"input":9,"cached":18446744073709551615,"used":3600005,"window":[[70,9]],"cooling":{"openai/gpt-4o":3600007}}"#
        );
        let read = key_row(&row.facts.key.to_string(), &value, HOUR).unwrap();
        assert_eq!((read.lifetime, read.last_used), (row.lifetime, row.last_used));
        assert_eq!((read.window, read.cooling), (row.window, row.cooling));
    }

    #[test]
    fn a_session_comes_back_without_what_it_gave_back() {
        let allocation = |n: u8, held| AllocationRow {
            key: KeyId::from_digest(&[n; 32]),
            model: "openai/gpt-4o".parse().unwrap(),
            held,
            usage: Usage { requests: u64::from(n - 1), ..Usage::default() },
        };
        let mut row = SessionRow {
            session: SessionRef { owner: 7, id: "a/\"b\"".into() },
            user: -1,
            opened: Time::from_ms(1),
            end: Time::from_ms(2),
            ended: false,
            term: 3,
            base: 2,
            allocations: vec![allocation(1, true), allocation(2, true), allocation(3, false)],
        };
        let name = session_name(&row.session);
        let read = session_row(&name, &session_value(&row, HOUR), HOUR).unwrap();
        row.allocations.pop();
        assert_eq!(read, row);
        row.ended = true;
        let read = session_row(&name, &session_value(&row, HOUR), HOUR).unwrap();
        row.allocations.clear();
        assert_eq!(read, row);
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_words() {
        assert!(key_row("k_", "{}", HOUR).is_err());
        let id = KeyId::from_digest(&[1; 32]).to_string();
        assert!(key_row(&id, "{\"used\":\"x\"}", HOUR).is_err());
        assert!(session_row("7", "{}", HOUR).is_err());
        assert!(session_row("7/a", "{}", HOUR).is_err());
    }
}
