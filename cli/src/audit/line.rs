//! A record as one line for people.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::output::text::{counted, thousands};
use crate::output::time;

/// What stands in every record; the rest tells what happened.
const FRAME: [&str; 10] =
    ["v", "seq", "time", "at", "node", "event", "caller", "more", "prev", "crc"];

/// A record, read without checking it.
pub(super) struct Line(Value);

/// What a record tells: about whom or what, and then one thing after the other.
pub(super) struct What {
    pub(super) subject: String,
    pub(super) items: Vec<String>,
}

impl What {
    /// All of it in one line.
    pub(super) fn in_one_line(&self) -> String {
        match self.items.is_empty() {
            true => self.subject.clone(),
            false => format!("{}: {}", self.subject, self.items.join(", ")),
        }
    }
}

/// Which records are wanted; all that is given must fit.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) session: Option<String>,
    pub(super) key: Option<String>,
    pub(super) user: Option<i32>,
    pub(super) since: Option<Timestamp>,
    /// A name as in `usage.tracked`, or what is before its dot.
    pub(super) events: Vec<String>,
}

impl Line {
    /// None when it is not a record.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok()?;
        value.is_object().then_some(Self(value))
    }

    /// What stands under `name`; null when nothing does.
    pub(super) fn field(&self, name: &str) -> &Value {
        &self.0[name]
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or("")
    }

    pub(super) fn number(&self, name: &str) -> i128 {
        number(&self.0[name])
    }

    /// The wall clock when it was written.
    pub(super) fn time(&self) -> Option<Timestamp> {
        self.text("time").parse().ok()
    }

    pub(super) fn event(&self) -> &str {
        self.text("event")
    }

    /// The number, right-aligned, and the second.
    pub(super) fn head(&self) -> String {
        let time = self.time().map_or(self.text("time").to_owned(), time::second);
        format!("{:>7}  {time}", thousands(self.number("seq")))
    }

    /// What happened.
    pub(super) fn what(&self) -> What {
        let subject = |subject: String| What { subject, items: Vec::new() };
        match self.event() {
            "key.added" | "key.changed" => self.key_facts(),
            "key.retired" => subject(self.text("key").to_owned()),
            "keys.selected" => self.selected(),
            "usage.tracked" => self.usage(),
            "keys.released" => self.released(),
            "session.expired" => subject(self.session()),
            "session.moved_in" => self.moved("from"),
            "session.moved_out" => self.moved("to"),
            "node.started" => subject(format!(
                "version {}, durability {}",
                self.text("version"),
                self.text("durability")
            )),
            "call.refused" | "call.answered" => self.call(),
            "calls.refused" | "calls.answered" => self.calls(),
            "segment.removed" => subject(format!(
                "lines {} to {}, by {}",
                thousands(self.number("first_seq")),
                thousands(self.number("last_seq")),
                self.text("why")
            )),
            "node.stopped" => subject("in good order".to_owned()),
            "ledger.resumed" => {
                let refused = counted(self.number("refused_count"), "call", "calls");
                let error = self.text("error").to_owned();
                What { subject: format!("{refused} refused meanwhile"), items: vec![error] }
            }
            _ => subject(self.others()),
        }
    }

    /// Who caused it; empty when the node did so itself.
    pub(super) fn who(&self) -> String {
        let caller = &self.0["caller"];
        if caller.is_null() {
            return String::new();
        }
        let exe = caller["exe"].as_str().map_or("", |exe| exe.rsplit('/').next().unwrap_or(exe));
        let who = format!("uid {} pid {} {exe}", caller["uid"], caller["pid"]);
        who.trim_end().to_owned()
    }

    fn session(&self) -> String {
        let session = self.text("session");
        match self.0["user"].as_i64() {
            Some(user) => format!("{session} (uid {}, user {user})", self.0["owner"]),
            None => format!("{session} (uid {})", self.0["owner"]),
        }
    }

    fn selected(&self) -> What {
        let picks = list(&self.0["keys"]).iter().map(|pick| {
            let why = match pick["already_held"].as_bool() {
                Some(true) => "held before".to_owned(),
                _ => format!("{}, 1 of {}", plain(&pick["tier"]), number(&pick["candidates"])),
            };
            format!("{} {} ({why})", plain(&pick["model"]), plain(&pick["key"]))
        });
        What { subject: self.session(), items: picks.collect() }
    }

    fn usage(&self) -> What {
        let mut spent = format!(
            "{} in, {} out, {}",
            thousands(self.number("input_tokens")),
            thousands(self.number("output_tokens")),
            self.text("outcome"),
        );
        if self.0["late"] == true {
            spent.push_str(", late");
        }
        let cooling_ms = self.number("cooling_until") - self.number("at");
        if let Ok(cooling_ms @ 1..) = u64::try_from(cooling_ms) {
            let cooling = time::long(Duration::from_millis(cooling_ms));
            spent.push_str(&format!(", the key cools for {cooling}"));
        }
        let key = format!("{} {}", self.text("model"), self.text("key"));
        What { subject: self.session(), items: vec![key, spent] }
    }

    fn released(&self) -> What {
        let keys = list(&self.0["keys"]).iter();
        let keys = keys.map(|key| format!("{} {}", plain(&key["model"]), plain(&key["key"])));
        let end = self.0["deadline"].is_null().then(|| "the session ended".to_owned());
        What { subject: self.session(), items: keys.chain(end).collect() }
    }

    /// A session that changed its node; `field` names the other one.
    fn moved(&self, field: &str) -> What {
        let node = format!("{field} node {}", self.text(field));
        let keys = list(&self.0["keys"]).iter();
        let keys = keys.map(|key| format!("{} {}", plain(&key["model"]), plain(&key["key"])));
        What { subject: self.session(), items: std::iter::once(node).chain(keys).collect() }
    }

    /// A call that changed nothing, and what it was about.
    fn call(&self) -> What {
        let session = (!self.0["session"].is_null()).then(|| self.session());
        let named = ["model", "key"].map(|name| self.0[name].as_str().map(str::to_owned));
        let items = session.into_iter().chain(named.into_iter().flatten());
        What { subject: self.kind(), items: items.collect() }
    }

    fn calls(&self) -> What {
        let more = counted(self.number("count"), "more call", "more calls");
        let uid = self.0["uid"].as_u64().map(|uid| format!("of uid {uid}"));
        let items = std::iter::once(more).chain(uid).collect();
        What { subject: self.kind(), items }
    }

    /// The verb, and why it was refused.
    fn kind(&self) -> String {
        format!("{} {}", self.text("verb"), self.text("reason")).trim_end().to_owned()
    }

    fn key_facts(&self) -> What {
        let texts = |name| list(&self.0[name]).iter().map(plain);
        let mut items = vec![format!("serves {}", texts("models").collect::<Vec<_>>().join(", "))];
        items.extend(self.0["label"].as_str().map(|label| format!("label {label}")));
        let thousandths = self.0["own_weight_thousandths"].as_f64();
        let thousandths = thousandths.filter(|thousandths| *thousandths != 1_000.0);
        items.extend(thousandths.map(|thousandths| format!("weight {}", thousandths / 1_000.0)));
        let max_holders = self.0["max_holders"].as_u64();
        items.extend(
            max_holders.map(|max| format!("at most {}", counted(max, "holder", "holders"))),
        );
        items.push(format!("listed by {}", texts("sources").collect::<Vec<_>>().join(", ")));
        What { subject: self.text("key").to_owned(), items }
    }

    /// Of an event that this version does not know: everything.
    fn others(&self) -> String {
        let fields = self.0.as_object().into_iter().flatten();
        let fields = fields.filter(|(name, _)| !FRAME.contains(&name.as_str()));
        let fields: Vec<_> = fields.map(|(name, value)| format!("{name}={value}")).collect();
        fields.join(" ")
    }

    /// Whether the record is wanted.
    pub(super) fn fits(&self, filter: &Filter) -> bool {
        let Filter { session, key, user, since, events } = filter;
        let of_event = |wanted: &String| {
            let event = self.event();
            event == wanted || event.split('.').next() == Some(wanted)
        };
        session.as_ref().is_none_or(|session| self.text("session") == session)
            && key.as_ref().is_none_or(|key| self.is_about(key))
            && user.is_none_or(|user| self.0["user"].as_i64() == Some(user.into()))
            && since.is_none_or(|since| self.time().is_none_or(|time| time >= since))
            && (events.is_empty() || events.iter().any(of_event))
    }

    fn is_about(&self, key: &str) -> bool {
        self.text("key") == key || list(&self.0["keys"]).iter().any(|one| one["key"] == key)
    }
}

impl Filter {
    /// False when the text of a line shows that it is not wanted: a look at the
    /// bytes is much cheaper than reading the line.
    pub(super) fn may_fit(&self, line: &[u8]) -> bool {
        let quoted = |text: &String| Value::from(text.as_str()).to_string();
        let needles = self.session.iter().chain(&self.key).map(quoted);
        let line = str::from_utf8(line).unwrap_or("");
        needles.into_iter().all(|needle| line.contains(&needle))
    }
}

fn number(value: &Value) -> i128 {
    value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from)).unwrap_or(0)
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
