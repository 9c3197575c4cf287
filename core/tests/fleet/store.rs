//! What nodes publish: the part that an adapter plays.

use std::collections::BTreeMap;

use key_server_core::{KeyId, KeyRow, NodeKeyRow, NodeRows, SessionRef, SessionRow, SharedChanges};

/// What one node published, as a whole reading finds it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    keys: BTreeMap<KeyId, NodeKeyRow>,
    sessions: BTreeMap<SessionRef, SessionRow>,
}

/// The rows in which a node tells its changes.
pub(crate) fn node_rows(shared: SharedChanges) -> NodeRows {
    let changes = shared.changes;
    let mut rows = NodeRows { ended: changes.forgotten, ..NodeRows::default() };
    rows.keys = changes.keys.into_iter().map(node_key_row).collect();
    for session in changes.sessions {
        if session.ended && session.base == 0 {
            rows.ended.push(session.session);
        } else {
            rows.sessions.push(shared_row(session));
        }
    }
    rows
}

fn node_key_row(row: KeyRow) -> NodeKeyRow {
    NodeKeyRow {
        key: row.facts.key,
        lifetime: row.lifetime,
        last_used: row.last_used,
        window: row.window,
        cooling: row.cooling,
    }
}

/// What was given back is of use only where the session came from.
fn shared_row(mut row: SessionRow) -> SessionRow {
    let came = row.base > 0;
    row.allocations.retain(|allocation| allocation.held || came);
    row
}

impl Published {
    /// Takes in what a node tells.
    pub(crate) fn write(&mut self, rows: &NodeRows) {
        for session in &rows.ended {
            self.sessions.remove(session);
        }
        for row in &rows.sessions {
            self.sessions.insert(row.session.clone(), row.clone());
        }
        for row in &rows.keys {
            self.keys.insert(row.key, row.clone());
        }
    }

    /// Everything, in parts of that many rows.
    pub(crate) fn read(&self, rows_max: usize) -> Vec<NodeRows> {
        let keys: Vec<_> = self.keys.values().cloned().collect();
        let sessions: Vec<_> = self.sessions.values().cloned().collect();
        let keys = keys.chunks(rows_max);
        let keys = keys.map(|keys| NodeRows { keys: keys.to_vec(), ..NodeRows::default() });
        let sessions = sessions
            .chunks(rows_max)
            .map(|sessions| NodeRows { sessions: sessions.to_vec(), ..NodeRows::default() });
        keys.chain(sessions).collect()
    }
}
