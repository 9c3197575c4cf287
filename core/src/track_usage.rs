use std::sync::Arc;
use std::time::Duration;

use crate::event::{Event, Outcome, SessionRef, Tokens, UsageTracked};
use crate::id::{KeyId, ModelName};
use crate::key::Key;
use crate::pool::PoolIndex;
use crate::receipts::Receipt;
use crate::session::{Allocation, Session};
use crate::state::{Decide, Decision, State};
use crate::time::Time;

/// Record what one use of a key spent.
#[derive(Clone, Debug)]
pub struct TrackUsage {
    /// Through this session, live or ended.
    pub session: SessionRef,
    /// With this key,
    pub key: KeyId,
    /// for this model: the session holds or held it.
    pub model: ModelName,
    /// What it spent.
    pub tokens: Tokens,
    /// How it ended.
    pub outcome: Outcome,
    /// The report's own id within the session.
    pub event_id: Arc<str>,
    /// When it was spent; a time after now is taken as now.
    pub occurred: Time,
    /// How long the provider asked to wait, counted from `occurred`.
    pub retry_after: Option<Duration>,
}

/// A report that counts, now or since an earlier call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// True when the session or the allocation had ended before.
    pub late: bool,
    /// True when it came before: nothing was counted now.
    pub repeated: bool,
}

/// Why a report does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackUsageRefusal {
    /// The owner has no such session.
    UnknownSession,
    /// The session never held that key for that model.
    NotAllocated,
    /// The same event id came before with another content.
    Conflict,
}

impl Decide for TrackUsage {
    type Reply = Tracked;
    type Refusal = TrackUsageRefusal;

    fn decide(
        &self,
        state: &State,
        now: Time,
        _seed: u64,
    ) -> Result<Decision<Tracked>, TrackUsageRefusal> {
        let now = state.not_before(now);
        if let Some(receipt) = state.receipts.find(&self.session, &self.event_id) {
            return self.repeat(receipt, now);
        }
        let session = state.session(&self.session).ok_or(TrackUsageRefusal::UnknownSession)?;
        let (pool, key, allocation) =
            self.allocation(state, session).ok_or(TrackUsageRefusal::NotAllocated)?;
        let is_live = session.live_until(now).is_some();
        let late = !is_live || !allocation.held;
        let mut usage = self.event(now, session.user, late);
        usage.deadline = is_live.then(|| now.after(state.rules.session_ttl));
        usage.cooling_until = self.cooling_until(state, key, pool, now);
        Ok(Decision {
            events: vec![Event::UsageTracked(usage)],
            reply: Tracked { late, repeated: false },
        })
    }
}

impl TrackUsage {
    /// The answer to a report that was counted before: the same again.
    fn repeat(&self, receipt: Receipt, now: Time) -> Result<Decision<Tracked>, TrackUsageRefusal> {
        let again = Receipt::of(&self.event(now, 0, receipt.late()));
        if !receipt.says_the_same(again) {
            return Err(TrackUsageRefusal::Conflict);
        }
        let reply = Tracked { late: receipt.late(), repeated: true };
        Ok(Decision { events: Vec::new(), reply })
    }

    fn allocation<'state>(
        &self,
        state: &'state State,
        session: &'state Session,
    ) -> Option<(PoolIndex, &'state Key, &'state Allocation)> {
        let pool = *state.pool_index.get(&self.model)?;
        let (index, key) = state.key(self.key)?;
        Some((pool, key, session.allocation(index, pool)?))
    }

    /// Until when the key cools, if the report makes it cool longer than it
    /// does: of several deadlines the latest holds.
    fn cooling_until(&self, state: &State, key: &Key, pool: PoolIndex, now: Time) -> Option<Time> {
        if self.outcome != Outcome::RateLimited {
            return None;
        }
        let slot = key.slot(pool)?;
        let asked = self.retry_after.unwrap_or(state.rules.cooldown);
        let until = self.occurred.min(now).after(asked.min(state.rules.cooldown_max));
        (until > now && slot.cools_until().is_none_or(|old| until > old)).then_some(until)
    }

    fn event(&self, now: Time, user: i32, late: bool) -> UsageTracked {
        UsageTracked {
            session: self.session.clone(),
            user,
            key: self.key,
            model: self.model.clone(),
            tokens: self.tokens,
            outcome: self.outcome,
            event_id: self.event_id.clone(),
            occurred: self.occurred.min(now),
            late,
            deadline: None,
            cooling_until: None,
        }
    }
}
