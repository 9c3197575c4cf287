//! What comes back from an address where a Redis should be, and what a node
//! learns of others by it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread_local;
use std::time::Duration;

use key_server_core::{Expire, KeyId, NodeRows, Select, SessionRef, Settle, SyncKeys, Time};
use key_server_projections::redis::{RedisSettings, RedisUrl};
use key_server_projections::{
    Fleet, Hold, News, NodeStatus, ProjectionError, RedisFleet, RedisProjection, Reservation,
    ReservationForModel,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::bear_broken_pipes;
use crate::node::{KEYS, MODELS, Node, facts, key_id, model};

const OWN: &str = "here";
const OTHER: &str = "there";
const NOW: Time = Time::from_ms(100 * 3_600_000);
const SESSION: (u32, &str) = (1, "a");
/// No answer is waited for: the server says something, or is gone.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The first byte says which question is answered with the rest; to the others
/// the server answers what a Redis would. What is learned by it gives nobody a
/// key that may not be given.
pub fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let question = Question::ALL[usize::from(*choice) % Question::ALL.len()];
    PLACE.with(|place| {
        let script = Script { question, bytes: bytes.to_vec() };
        *place.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
        place.runtime.block_on(place.ask(question));
    });
}

/// What the bytes are the answer to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Everything, as they are.
    All,
    /// `INFO`, as its text.
    Info,
    /// Which nodes there are, a name a line.
    Nodes,
    /// How a node is, a field a line.
    Node,
    /// An announcement: a number, then texts, a line each.
    Announcement,
    /// Another node's keys: an id, and after the first line its row.
    Keys,
    /// Another node's sessions: a name, and after the first line its row.
    Sessions,
    /// Nothing: they are published by another node.
    News,
    /// A reservation: a number a byte.
    Reservation,
}

impl Question {
    const ALL: [Self; 9] = [
        Self::All,
        Self::Info,
        Self::Nodes,
        Self::Node,
        Self::Announcement,
        Self::Keys,
        Self::Sessions,
        Self::News,
        Self::Reservation,
    ];
}

#[derive(Clone)]
struct Script {
    question: Question,
    bytes: Vec<u8>,
}

struct Place {
    script: Arc<Mutex<Script>>,
    runtime: Runtime,
    socket: PathBuf,
    _dir: TempDir,
}

thread_local! {
    static PLACE: Place = Place::new();
}

impl Place {
    fn new() -> Self {
        let dir = crate::scratch::dir();
        let socket = dir.path().join("redis.sock");
        let listener = UnixListener::bind(&socket).expect("nobody else is here");
        let script = Script { question: Question::All, bytes: Vec::new() };
        let script = Arc::new(Mutex::new(script));
        let shared = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &script));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        bear_broken_pipes(&runtime);
        Self { script, runtime, socket, _dir: dir }
    }

    fn fleet(&self) -> Arc<RedisFleet> {
        let url = format!("unix://{}", self.socket.display());
        let urls = RedisUrl::list(&url).expect("it is a path");
        let settings = RedisSettings {
            timeout: TIMEOUT,
            ..RedisSettings::single(urls.into_iter().next().expect("it is one"), OWN)
        };
        RedisProjection::new(settings, self.runtime.handle().clone()).fleet()
    }

    async fn ask(&self, question: Question) {
        let fleet = self.fleet();
        let mut node = Node::new();
        node.pass_to(NOW.as_ms());
        let desired = (0..KEYS).map(|number| facts(number, number.wrapping_mul(41))).collect();
        let Ok(_) = node.run(&SyncKeys { desired });
        match question {
            Question::Info | Question::Announcement => announce(&*fleet).await,
            Question::Nodes | Question::Node => others(&*fleet).await,
            Question::Keys | Question::Sessions => read(&*fleet, &mut node).await,
            Question::News => listen(&*fleet, &mut node).await,
            Question::Reservation => reserve(&*fleet, &mut node).await,
            Question::All => {
                announce(&*fleet).await;
                others(&*fleet).await;
                read(&*fleet, &mut node).await;
                reserve(&*fleet, &mut node).await;
                listen(&*fleet, &mut node).await;
            }
        }
    }
}

async fn announce(fleet: &dyn Fleet) {
    let status = NodeStatus {
        version: "1",
        started: NOW,
        now: NOW,
        keys: 0,
        sessions_live: 0,
        pools: Some(Vec::new()),
    };
    match fleet.announce(&status).await {
        Ok(announced) => assert!(announced.warnings.len() <= 3),
        Err(error) => bear(&error),
    }
}

/// An error says something, and not everything that it was told.
fn bear(error: &ProjectionError) {
    let chars = error.to_string().chars().count();
    assert!((1..1_000).contains(&chars), "{error}");
}

async fn others(fleet: &dyn Fleet) {
    match fleet.others().await {
        Ok(others) => assert!(others.iter().all(|other| &*other.node != OWN)),
        Err(error) => bear(&error),
    }
}

async fn read(fleet: &dyn Fleet, node: &mut Node) {
    let mut pages = Vec::new();
    if fleet.read(OTHER, &mut |page| pages.push(page)).await.is_ok() {
        node.state.learn_all(OTHER);
        pages.iter().for_each(|page| learn(node, page));
        let mut place = Some(0);
        while let Some(from) = place {
            place = node.state.learned_all(OTHER, from, 1);
        }
        check(node);
    }
}

async fn listen(fleet: &dyn Fleet, node: &mut Node) {
    let Ok(mut subscription) = fleet.listen().await else { return };
    if subscription.follow(OTHER).await.is_err() {
        return;
    }
    while let Ok(news) = subscription.next().await {
        if let News::Rows { rows, .. } = news {
            learn(node, &rows);
            check(node);
        }
    }
}

async fn reserve(fleet: &dyn Fleet, node: &mut Node) {
    let mut select = select();
    let wishes = node.state.wishes(&select, NOW, 1);
    let models = wishes.iter().map(|wish| ReservationForModel {
        model: wish.model.clone(),
        count: wish.count,
        is_needed: wish.is_needed,
        keys: wish.keys.clone(),
    });
    let reservation = Reservation { session: select.session.clone(), models: models.collect() };
    if let Ok(given) = fleet.reserve(&reservation).await {
        let models = wishes.iter().map(|wish| wish.model.clone());
        select.reserved = Some(models.zip(given).collect());
        take(node, &select);
    }
    let (owner, id) = SESSION;
    let session = SessionRef { owner, id: id.into() };
    let hold =
        Hold { key: key_id(0), session, until: Some(NOW), came_from: None, is_reserving: false };
    let _ = fleet.hold(&[hold]).await;
}

/// As a node does with what another one published: sessions that moved away
/// move here, too.
fn learn(node: &mut Node, rows: &NodeRows) {
    node.state.learn(OTHER, rows);
    let displaced = node.state.take_displaced();
    let Ok(_) = node.run(&Settle { sessions: displaced, wanted: false });
    let named = rows.sessions.iter().map(|row| row.session.clone()).collect();
    let Ok(_) = node.run(&Settle { sessions: named, wanted: true });
}

/// Takes keys, and lets a day pass.
fn check(node: &mut Node) {
    take(node, &select());
    let _ = (node.state.node_totals(), node.state.key_by_node(key_id(0)));
    node.pass_to(NOW.as_ms() + 24 * 3_600_000);
    let Ok(_) = node.run(&Expire { first: None, sessions_max: 100 });
    node.check_rows();
}

fn select() -> Select {
    let (owner, id) = SESSION;
    Select {
        session: SessionRef { owner, id: id.into() },
        user: 1,
        models: MODELS[..3].iter().map(|name| model(name)).collect(),
        count: 2,
        reserved: None,
        owner_sessions_max: None,
    }
}

/// Keys that are given serve the model, each once, and no more than wanted.
fn take(node: &mut Node, select: &Select) {
    let Ok(selected) = node.run(select) else { return };
    for model in &select.models {
        let picks = selected.picks.iter().filter(|pick| pick.model == *model);
        let keys: Vec<KeyId> = picks.map(|pick| pick.key).collect();
        assert!(keys.len() <= select.count as usize, "{selected:?}");
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len(), "{selected:?}");
        let serves = |key: &KeyId| {
            node.state.key_stats(*key).is_some_and(|stats| stats.facts.models.contains(model))
        };
        assert!(keys.iter().all(serves), "{selected:?}");
    }
}

/// Answers until the other side is gone, or cannot make sense of the answer.
fn serve(stream: UnixStream, script: &Mutex<Script>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let words = request(&mut reader)?;
        let script = script.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reply = script.reply(&words);
        writer.write_all(&reply.bytes).ok()?;
        if reply.is_the_last {
            return None;
        }
    }
}

/// The words of a command.
fn request(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let count = header(reader, '*')?;
    let words = (0..count).map(|_| {
        let mut word = vec![0; header(reader, '$')? + 2];
        reader.read_exact(&mut word).ok()?;
        word.truncate(word.len() - 2);
        Some(String::from_utf8_lossy(&word).into_owned())
    });
    words.collect()
}

fn header(reader: &mut impl BufRead, kind: char) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    line.strip_prefix(kind)?.trim_end().parse().ok()
}

struct Reply {
    bytes: Vec<u8>,
    /// Whether the server hangs up after it.
    is_the_last: bool,
}

impl Script {
    fn reply(&self, words: &[String]) -> Reply {
        if self.question == Question::All {
            return Reply { bytes: self.bytes.clone(), is_the_last: true };
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let bytes = match words[..] {
            ["HELLO", ..] => b"%1\r\n+proto\r\n:3\r\n".to_vec(),
            ["TIME"] => array(&[b"360000".into(), b"0".into()]),
            ["INFO"] if self.question == Question::Info => text(&self.bytes),
            ["INFO"] => text(b"redis_version:7.0.0\r\nrole:master\r\naof_enabled:1\r\n"),
            ["SMEMBERS", "keys:nodes"] if self.question == Question::Nodes => array(&self.lines()),
            ["SMEMBERS", "keys:nodes"] => array(&[OTHER.into()]),
            ["HMGET", ..] if self.question == Question::Node => array(&self.lines()),
            ["HMGET", ..] => array(&[b"1".into(), b"1".into(), b"1".into(), Vec::new()]),
            ["HGET", _, "offset" | "seq"] => text(b"0"),
            ["HSCAN", name, ..] => self.page(name),
            ["EVALSHA" | "EVAL", ..] => self.script(),
            ["SUBSCRIBE", channel] => return self.subscribed(channel),
            ["SMEMBERS", ..] => array(&[]),
            ["CONFIG", ..] => array(&[b"save".into(), Vec::new()]),
            _ => b"+OK\r\n".to_vec(),
        };
        Reply { bytes, is_the_last: false }
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        self.bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    /// A page of one row: its field, and after the first line its value.
    fn page(&self, name: &str) -> Vec<u8> {
        let is_asked = match self.question {
            Question::Keys => name.starts_with("keys:keys:"),
            Question::Sessions => name.starts_with("keys:sessions:"),
            _ => false,
        };
        let mut rows = Vec::new();
        if is_asked {
            let mut parts = self.bytes.splitn(2, |byte| *byte == b'\n').map(<[u8]>::to_vec);
            rows.extend([parts.next().unwrap_or_default(), parts.next().unwrap_or_default()]);
        }
        [b"*2\r\n$1\r\n0\r\n".to_vec(), array(&rows)].concat()
    }

    fn script(&self) -> Vec<u8> {
        match self.question {
            Question::Reservation => {
                let places = self.bytes.chunks(4).map(|model| {
                    let places: Vec<Vec<u8>> =
                        model.iter().map(|place| place.to_string().into_bytes()).collect();
                    array(&places)
                });
                let places: Vec<Vec<u8>> = places.collect();
                [format!("*{}\r\n", places.len()).into_bytes(), places.concat()].concat()
            }
            Question::Announcement => array(&self.lines()),
            _ => array(&[b"360000000".into(), b"1".into(), b"1".into(), b"0".into(), b"p".into()]),
        }
    }

    fn subscribed(&self, channel: &str) -> Reply {
        let push = |words: [&[u8]; 3]| {
            [b">3\r\n".to_vec(), text(words[0]), text(words[1]), text(words[2])].concat()
        };
        let mut bytes =
            [b">3\r\n".to_vec(), text(b"subscribe"), text(channel.as_bytes()), b":1\r\n".into()]
                .concat();
        let is_the_last = channel.ends_with(OTHER);
        if is_the_last {
            bytes.extend(push([b"message", channel.as_bytes(), &self.bytes]));
        }
        Reply { bytes, is_the_last }
    }
}

/// A text, as Redis sends it.
fn text(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Texts, as Redis sends them.
fn array(texts: &[Vec<u8>]) -> Vec<u8> {
    let texts: Vec<Vec<u8>> = texts.iter().map(|bytes| text(bytes)).collect();
    [format!("*{}\r\n", texts.len()).into_bytes(), texts.concat()].concat()
}
