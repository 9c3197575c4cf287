//! What was spent.

use super::State;
use crate::changes::{ReceiptRow, UsageRow};
use crate::event::UsageTracked;
use crate::key::KeyIndex;
use crate::pool::PoolIndex;
use crate::receipts::Receipt;
use crate::session::SessionIndex;
use crate::time::Time;

impl State {
    pub(super) fn track(&mut self, at: Time, usage: &UsageTracked) {
        let receipt = Receipt::of(usage);
        self.receipts.add(receipt, at);
        self.journal.receipts.push(ReceiptRow { hour: at.hour(), receipt });
        self.journal.usage.push(usage_row(at, usage));
        self.lifetime.add(usage.tokens, usage.outcome);
        let pool = self.pool_place(&usage.model);
        let index = self.sessions.find(usage.session.owner, &usage.session.id);
        if let Some((key, _)) = self.key(usage.key) {
            self.track_key(at, key, pool, usage);
            if let Some(index) = index {
                self.track_session(index, key, pool, usage);
            }
        }
    }

    pub(super) fn track_key(
        &mut self,
        at: Time,
        index: KeyIndex,
        pool: PoolIndex,
        usage: &UsageTracked,
    ) {
        let key = &mut self.keys[index.0 as usize];
        key.lifetime.add(usage.tokens, usage.outcome);
        key.last_used = Some(at);
        self.add_to_window(index, usage.occurred.minute(), usage.tokens.spent());
        if let Some(until) = usage.cooling_until {
            self.cool(index, pool, until);
        }
        self.refresh(index);
        self.key_changed(index);
    }

    pub(super) fn track_session(
        &mut self,
        index: SessionIndex,
        key: KeyIndex,
        pool: PoolIndex,
        usage: &UsageTracked,
    ) {
        if let Some(session) = self.sessions.get_mut(index)
            && let Some(allocation) = session.allocation_mut(key, pool)
        {
            allocation.usage.add(usage.tokens, usage.outcome);
        }
        if let Some(deadline) = usage.deadline {
            self.renew(index, deadline);
        }
        self.session_changed(index);
    }
}

fn usage_row(at: Time, usage: &UsageTracked) -> UsageRow {
    UsageRow {
        at,
        session: usage.session.clone(),
        user: usage.user,
        key: usage.key,
        model: usage.model.clone(),
        tokens: usage.tokens,
        outcome: usage.outcome,
        late: usage.late,
    }
}
