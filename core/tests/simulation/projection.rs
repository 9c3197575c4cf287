use std::collections::BTreeMap;

use key_server_core::{
    Changes, KeyId, KeyRow, Receipt, Restore, Rules, SessionRef, SessionRow, State, Time,
};

/// What a projection would hold: the last word on each key and session, and
/// every receipt.
#[derive(Default)]
pub(crate) struct Projection {
    keys: BTreeMap<KeyId, KeyRow>,
    sessions: BTreeMap<SessionRef, SessionRow>,
    receipts: BTreeMap<u32, Vec<Receipt>>,
}

impl Projection {
    pub(crate) fn write(&mut self, changes: Changes) {
        for key in changes.keys {
            self.keys.insert(key.facts.key, key);
        }
        for session in &changes.forgotten {
            self.sessions.remove(session);
        }
        for session in changes.sessions {
            self.sessions.insert(session.session.clone(), session);
        }
        for row in changes.receipts {
            self.receipts.entry(row.hour).or_default().push(row.receipt);
        }
        self.receipts = self.receipts.split_off(&changes.oldest_receipt_hour);
    }

    pub(crate) fn rows(&self) -> (Vec<KeyRow>, Vec<SessionRow>) {
        (self.keys.values().cloned().collect(), self.sessions.values().cloned().collect())
    }

    /// A state made of `keys` and `sessions` and this projection's receipts,
    /// each hour in two parts.
    pub(crate) fn restore(
        &self,
        rules: Rules,
        now: Time,
        (keys, sessions): &(Vec<KeyRow>, Vec<SessionRow>),
    ) -> State {
        let mut restore = Restore::new(rules, now);
        for key in keys {
            restore.key(key).expect("each key stands once");
        }
        for session in sessions {
            restore.session(session).expect("each session stands once and its keys are known");
        }
        for (hour, receipts) in &self.receipts {
            let (first, second) = receipts.split_at(receipts.len() / 2);
            restore.receipts(*hour, first.to_vec());
            restore.receipts(*hour, second.to_vec());
        }
        restore.finish()
    }
}
