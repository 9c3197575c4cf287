use key_server_core::NodeRows;
use redis::from_redis_value;

use crate::redis::Shared;
use crate::redis::announce::command;
use crate::redis::clock::Offset;
use crate::redis::fault::Fault;
use crate::redis::names;
use crate::redis::rows::{key_row, session_row};

/// About how many rows a page has.
const PAGE_ROWS: &str = "1000";

/// Takes a row, by its field and value, into a page.
type Take = fn(&mut NodeRows, &str, &str, Offset) -> Result<(), String>;

impl Shared {
    /// Gives all rows of a node to `page`, and answers the mark that was there
    /// before the first of them.
    pub(crate) async fn read(
        &self,
        node: &str,
        page: &mut (dyn FnMut(NodeRows) + Send),
    ) -> Result<Option<u64>, Fault> {
        let offset = self.known_offset().await?;
        let Some(before) = self.seq_of(node).await? else { return Ok(None) };
        for (name, take) in
            [(names::keys(node), take_key as Take), (names::sessions(node), take_session)]
        {
            let read = self.read_hash(&name, offset, take, page).await;
            read.map_err(|fault| fault.in_what_is_called(&name))?;
        }
        // Rows that were cleared meanwhile are not all there.
        let after = self.seq_of(node).await?;
        Ok(after.filter(|after| *after >= before).map(|_| before))
    }

    async fn seq_of(&self, node: &str) -> Result<Option<u64>, Fault> {
        let name = names::node(node);
        let seq = self.reader.ask_one(command("HGET", &[&name, "seq"])).await;
        let seq = seq.and_then(|seq| Ok(from_redis_value(seq)?));
        seq.map_err(|fault| fault.in_what_is_called(&name))
    }

    async fn read_hash(
        &self,
        name: &str,
        offset: Offset,
        take: Take,
        page: &mut (dyn FnMut(NodeRows) + Send),
    ) -> Result<(), Fault> {
        let mut cursor = "0".to_owned();
        loop {
            let scan = command("HSCAN", &[name, &cursor, "COUNT", PAGE_ROWS]);
            let (next, fields): (String, Vec<(String, String)>) =
                from_redis_value(self.reader.ask_one(scan).await?)?;
            page(rows(&fields, offset, take)?);
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }
}

fn rows(fields: &[(String, String)], offset: Offset, take: Take) -> Result<NodeRows, Fault> {
    let mut rows = NodeRows::default();
    for (field, value) in fields {
        take(&mut rows, field, value, offset)
            .map_err(|error| Fault::Corrupt(format!("field {field}: {error}")))?;
    }
    Ok(rows)
}

fn take_key(rows: &mut NodeRows, id: &str, value: &str, offset: Offset) -> Result<(), String> {
    rows.keys.push(key_row(id, value, offset)?);
    Ok(())
}

fn take_session(
    rows: &mut NodeRows,
    name: &str,
    value: &str,
    offset: Offset,
) -> Result<(), String> {
    rows.sessions.push(session_row(name, value, offset)?);
    Ok(())
}
