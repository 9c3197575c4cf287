//! What a node publishes: its rows, with its mark.

use std::collections::HashSet;

use key_server_core::{Changes, KeyRow, SessionRef, SessionRow, Time};
use redis::from_redis_value;

use crate::projection::Mark;
use crate::redis::Shared;
use crate::redis::clock::Offset;
use crate::redis::fault::Fault;
use crate::redis::names;
use crate::redis::rows::{key_value, session_name, session_value};

/// Rows of one call, so that none keeps Redis from others for long.
const ROWS_MAX: usize = 1_000;

/// A change of one row.
enum Row<'changes> {
    Key(&'changes KeyRow),
    Ended(&'changes SessionRef),
    Live(&'changes SessionRow),
}

/// Rows as they are sent: once to be kept, once as news.
#[derive(Default)]
struct Batch {
    keys: Vec<String>,
    ended: Vec<String>,
    live: Vec<String>,
    news: [String; 3],
}

/// What came of a call.
enum Written {
    /// The rows are there.
    Rows,
    /// This or a later mark was there already.
    Repeat(u64),
}

impl Shared {
    /// How far the node's rows have come.
    pub(crate) async fn mark(&self) -> Result<Option<Mark>, Fault> {
        let mut command = redis::cmd("HMGET");
        command.arg(names::node(self.node())).arg(&["seq", "at", "resume"]);
        let stored = self.publisher.ask_one(command).await?;
        let (seq, at, resume): (Option<u64>, Option<u64>, Option<String>) =
            from_redis_value(stored)?;
        Ok(match (seq, at, resume) {
            (Some(seq), Some(at), Some(resume)) => {
                Some(Mark { seq, at: Time::from_ms(at), resume })
            }
            _ => None,
        })
    }

    /// Writes rows and mark. `follows` is the mark that must be there; answers
    /// the one that is there now.
    pub(crate) async fn write(
        &self,
        follows: Option<u64>,
        mark: &Mark,
        changes: &Changes,
    ) -> Result<u64, Fault> {
        let offset = self.offset_at(mark.at).await?;
        let rows = rows(changes);
        let last = rows.len().div_ceil(ROWS_MAX).max(1) - 1;
        for place in 0..=last {
            let rows = rows.iter().skip(place * ROWS_MAX).take(ROWS_MAX);
            let batch = Batch::of(rows, offset);
            let arguments = self.arguments(follows, mark, offset, &batch, place == last);
            if let Written::Repeat(seq) = self.write_batch(&arguments).await? {
                return Ok(seq);
            }
        }
        Ok(mark.seq)
    }

    /// Writes rows ahead of their mark, after [`Shared::clear`].
    pub(crate) async fn fill(&self, mark: &Mark, changes: &Changes) -> Result<(), Fault> {
        let offset = self.offset_at(mark.at).await?;
        for rows in rows(changes).chunks(ROWS_MAX) {
            let batch = Batch::of(rows.iter(), offset);
            self.write_batch(&self.arguments(None, mark, offset, &batch, false)).await?;
        }
        Ok(())
    }

    fn arguments(
        &self,
        follows: Option<u64>,
        mark: &Mark,
        offset: Offset,
        batch: &Batch,
        is_last: bool,
    ) -> Vec<String> {
        let mut arguments = vec![
            mark.seq.to_string(),
            mark.at.as_ms().to_string(),
            mark.resume.clone(),
            offset.as_ms().to_string(),
            follows.map_or_else(|| "?".to_owned(), |seq| seq.to_string()),
            names::KEPT_MS.to_string(),
            names::changes(self.node()),
            if is_last { "0" } else { "1" }.to_owned(),
            batch.news_of(self.node()),
            (batch.keys.len() / 2).to_string(),
            batch.ended.len().to_string(),
            (batch.live.len() / 2).to_string(),
        ];
        for list in [&batch.keys, &batch.ended, &batch.live] {
            arguments.extend_from_slice(list);
        }
        arguments
    }

    async fn write_batch(&self, arguments: &[String]) -> Result<Written, Fault> {
        let keys = self.own_names();
        let answer = self.publisher.run(&self.scripts.write, &keys, arguments).await?;
        let (came, stored): (String, String) = from_redis_value(answer)?;
        match (came.as_str(), stored.parse::<i64>()) {
            ("written", _) => Ok(Written::Rows),
            ("repeat", Ok(seq)) => Ok(Written::Repeat(seq.unsigned_abs())),
            ("moved", Ok(offset)) => {
                self.set_offset(Offset::from_ms(offset));
                Err(Fault::Unavailable("its clock was set anew just now".into(), "wait".into()))
            }
            ("lost", _) => Err(Fault::Corrupt(
                "rows that were written are lost: it was emptied, started without its data, or failed over".into(),
            )),
            _ => Err(Fault::Corrupt("a script gave an answer that it cannot give".into())),
        }
    }

    /// Forgets the node's rows and mark.
    pub(crate) async fn clear(&self) -> Result<(), Fault> {
        self.publisher.run(&self.scripts.clear, &self.own_names(), &[]).await?;
        Ok(())
    }
}

/// Keys before what names them. A session that came again within the batch is
/// not one that ended; the end of one that came from another node is told there.
fn rows(changes: &Changes) -> Vec<Row<'_>> {
    let is_told = |row: &&SessionRow| !row.ended || row.base > 0;
    let live = changes.sessions.iter().filter(is_told);
    let names: HashSet<&SessionRef> = live.clone().map(|row| &row.session).collect();
    let ended = changes.sessions.iter().filter(|row| !is_told(row)).map(|row| &row.session);
    let ended = changes.forgotten.iter().chain(ended).filter(|name| !names.contains(name));
    let keys = changes.keys.iter().map(Row::Key);
    keys.chain(ended.map(Row::Ended)).chain(live.map(Row::Live)).collect()
}

impl Batch {
    fn of<'rows>(rows: impl Iterator<Item = &'rows Row<'rows>>, offset: Offset) -> Self {
        let mut batch = Self::default();
        for row in rows {
            batch.add(row, offset);
        }
        batch
    }

    fn add(&mut self, row: &Row<'_>, offset: Offset) {
        let [keys, sessions, ended] = &mut self.news;
        match row {
            Row::Key(row) => {
                add_pair(&mut self.keys, keys, row.facts.key.to_string(), key_value(row, offset));
            }
            Row::Live(row) => {
                let name = session_name(&row.session);
                add_pair(&mut self.live, sessions, name, session_value(row, offset));
            }
            Row::Ended(name) => {
                let name = session_name(name);
                add_comma(ended);
                ended.push_str(&quoted(&name));
                self.ended.push(name);
            }
        }
    }

    /// The end of the news; the script puts `from` and `to` before it.
    fn news_of(&self, node: &str) -> String {
        let [keys, sessions, ended] = &self.news;
        let node = quoted(node);
        format!(r#","node":{node},"keys":{{{keys}}},"sessions":{{{sessions}}},"ended":[{ended}]}}"#)
    }
}

fn add_pair(list: &mut Vec<String>, news: &mut String, name: String, value: String) {
    add_comma(news);
    news.push_str(&quoted(&name));
    news.push(':');
    news.push_str(&value);
    list.push(name);
    list.push(value);
}

fn add_comma(news: &mut String) {
    if !news.is_empty() {
        news.push(',');
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
