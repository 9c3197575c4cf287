//! The rules once more, as plainly as possible: lists and full scans.

use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    KeyFacts, KeyId, KeyState, ModelName, Outcome, Pick, Release, ReleaseRefusal, ReleaseScope,
    Rules, Select, SelectRefusal, SessionRef, Shortage, ShortageReason, Synced, Tier, Time, Tokens,
    TrackUsage, TrackUsageRefusal, Usage,
};

pub(crate) const MINUTE_MS: u64 = 60_000;
pub(crate) const HOUR_MS: u64 = 60 * MINUTE_MS;
/// What a recorded weight is of tier weight x own weight in thousandths.
pub(crate) const WEIGHT_SCALE: u64 = 1_024;

pub(crate) struct Naive {
    pub(crate) rules: Rules,
    pub(crate) now: Time,
    pub(crate) keys: Vec<NaiveKey>,
    pub(crate) sessions: Vec<NaiveSession>,
    pub(crate) lifetime: Usage,
    receipts: Vec<NaiveReceipt>,
    sessions_ended: u64,
}

pub(crate) struct NaiveKey {
    pub(crate) facts: Arc<KeyFacts>,
    pub(crate) retired: bool,
    /// (minute, tokens) of every report there ever was.
    reports: Vec<(u64, u64)>,
    pub(crate) lifetime: Usage,
    pub(crate) last_used: Option<Time>,
    pub(crate) cooling: Vec<(ModelName, Time)>,
}

pub(crate) struct NaiveSession {
    pub(crate) name: SessionRef,
    pub(crate) user: i32,
    pub(crate) opened: Time,
    pub(crate) end: Time,
    /// How many sessions had ended before it, when it has ended.
    pub(crate) ended: Option<u64>,
    pub(crate) allocations: Vec<NaiveAllocation>,
}

#[derive(Clone)]
pub(crate) struct NaiveAllocation {
    pub(crate) model: ModelName,
    pub(crate) key: KeyId,
    pub(crate) held: bool,
    pub(crate) usage: Usage,
}

struct NaiveReceipt {
    session: SessionRef,
    event_id: Arc<str>,
    said: (KeyId, ModelName, Tokens, Outcome),
    late: bool,
    hour: u64,
}

/// What a select must do for one model.
pub(crate) struct Plan {
    pub(crate) model: ModelName,
    pub(crate) held: Vec<KeyId>,
    /// Those that stand for the draw, with their weights.
    pub(crate) candidates: Vec<(KeyId, u64)>,
    pub(crate) shared: Vec<KeyId>,
    pub(crate) shortage: Option<Shortage>,
}

impl Naive {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            now: Time::default(),
            keys: Vec::new(),
            sessions: Vec::new(),
            lifetime: Usage::default(),
            receipts: Vec::new(),
            sessions_ended: 0,
        }
    }

    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        let now = self.now;
        for key in &mut self.keys {
            key.cooling.retain(|(_, until)| *until > now);
        }
        self.forget_ended();
    }

    fn forget_ended(&mut self) {
        loop {
            let ended = self.sessions.iter().filter(|session| session.ended.is_some());
            let ended_count = ended.clone().count();
            let allocations: usize = ended.clone().map(|session| session.allocations.len()).sum();
            let max = self.rules.ended_sessions_max;
            let Some(oldest) = ended.min_by_key(|session| session.ended) else { return };
            let is_old = oldest.end.after(self.rules.ended_session_ttl) <= self.now;
            if !is_old && ended_count <= max && allocations <= 8 * max {
                return;
            }
            let name = oldest.name.clone();
            self.sessions.retain(|session| session.name != name);
        }
    }

    // What is known.

    pub(crate) fn key(&self, id: KeyId) -> Option<&NaiveKey> {
        self.keys.iter().find(|key| key.facts.key == id)
    }

    fn key_mut(&mut self, id: KeyId) -> Option<&mut NaiveKey> {
        self.keys.iter_mut().find(|key| key.facts.key == id)
    }

    pub(crate) fn session(&self, name: &SessionRef) -> Option<&NaiveSession> {
        self.sessions.iter().find(|session| session.name == *name)
    }

    fn session_mut(&mut self, name: &SessionRef) -> Option<&mut NaiveSession> {
        self.sessions.iter_mut().find(|session| session.name == *name)
    }

    fn is_live(&self, session: &NaiveSession) -> bool {
        session.ended.is_none() && session.end > self.now
    }

    pub(crate) fn sessions_live(&self) -> usize {
        self.sessions.iter().filter(|session| session.ended.is_none()).count()
    }

    pub(crate) fn window_tokens(&self, key: &NaiveKey) -> u64 {
        let minute = self.now.as_ms() / MINUTE_MS;
        let inside = key.reports.iter().filter(|(reported, _)| minute - reported < 60);
        inside.fold(0, |sum: u64, (_, tokens)| sum.saturating_add(*tokens))
    }

    pub(crate) fn tier(&self, key: &NaiveKey) -> Tier {
        match self.window_tokens(key) {
            0 => Tier::Unused,
            1..1_000 => Tier::Light,
            1_000..5_000 => Tier::Moderate,
            5_000.. => Tier::Heavy,
        }
    }

    pub(crate) fn holders(&self, key: KeyId) -> u32 {
        let live = self.sessions.iter().filter(|session| session.ended.is_none());
        live.filter(|session| session.holds(key)).count() as u32
    }

    pub(crate) fn holders_max(&self, key: &NaiveKey) -> Option<u32> {
        let default = Some(self.rules.max_holders).filter(|cap| *cap > 0);
        key.facts.max_holders.map(u32::from).or(default)
    }

    pub(crate) fn weight(&self, key: &NaiveKey) -> u64 {
        let tier = [100, 50, 20, 5][self.tier(key) as usize];
        let own = u64::from(key.facts.own_weight.thousandths());
        let shared = tier * own * WEIGHT_SCALE / (1 + u64::from(self.holders(key.facts.key)));
        if own == 0 { 0 } else { shared.max(1) }
    }

    /// None when the key is not in the model's pool.
    pub(crate) fn state_in(&self, key: &NaiveKey, model: &ModelName) -> Option<KeyState> {
        let is_in = !key.retired && key.facts.models.contains(model);
        let is_cooling = key.cooling.iter().any(|(other, _)| other == model);
        let holders = self.holders(key.facts.key);
        let is_at_cap = self.holders_max(key).is_some_and(|cap| holders >= cap);
        is_in.then_some(match (is_cooling, is_at_cap) {
            (true, _) => KeyState::Cooling,
            (false, true) => KeyState::AtCap,
            (false, false) => KeyState::Usable,
        })
    }

    pub(crate) fn pool(&self, model: &ModelName) -> Vec<(&NaiveKey, KeyState)> {
        let keys = self.keys.iter();
        keys.filter_map(|key| Some((key, self.state_in(key, model)?))).collect()
    }

    // Select.

    pub(crate) fn plan(&self, select: &Select) -> Result<Vec<Plan>, SelectRefusal> {
        let live = self.session(&select.session).filter(|session| self.is_live(session));
        if live.is_some_and(|session| session.user != select.user) {
            return Err(SelectRefusal::OtherUser);
        }
        if live.is_none() && self.sessions_live() >= self.rules.sessions_max {
            return Err(SelectRefusal::TooManySessions);
        }
        let mut models = select.models.clone();
        let mut seen = Vec::new();
        models.retain(|model| {
            let is_new = !seen.contains(model);
            seen.push(model.clone());
            is_new
        });
        let plans: Vec<Plan> =
            models.iter().map(|model| self.plan_model(live, model, select.count)).collect();
        self.check_plans(live, plans, select.count as usize)
    }

    fn check_plans(
        &self,
        live: Option<&NaiveSession>,
        plans: Vec<Plan>,
        count: usize,
    ) -> Result<Vec<Plan>, SelectRefusal> {
        let held = live.map_or(0, NaiveSession::held_count);
        let new: usize = plans.iter().map(|plan| plan.new_count(count)).sum();
        let live = self.sessions.iter().filter(|session| session.ended.is_none());
        let known: usize = live.map(|session| session.allocations.len()).sum();
        let is_too_many = held + new > self.rules.session_allocations_max
            || known + new > 8 * self.rules.sessions_max;
        if new > 0 && is_too_many {
            return Err(SelectRefusal::TooManyAllocations);
        }
        let empty = |shortage: &Shortage| shortage.given == 0;
        let shortages = plans.iter().filter_map(|plan| plan.shortage.clone());
        let refused: Vec<Shortage> = shortages.filter(empty).collect();
        if refused.is_empty() { Ok(plans) } else { Err(SelectRefusal::Short(refused)) }
    }

    fn plan_model(&self, live: Option<&NaiveSession>, model: &ModelName, count: u32) -> Plan {
        let pool = self.pool(model);
        let allocations = live.map_or(Vec::new(), |session| session.allocations.clone());
        let holds = allocations.iter().filter(|allocation| allocation.held);
        let may_go_on = |key: &KeyId| {
            let state = pool.iter().find(|(other, _)| other.facts.key == *key);
            state.is_some_and(|(_, state)| *state != KeyState::Cooling)
        };
        let held = holds.clone().filter(|one| one.model == *model).map(|one| one.key);
        let held: Vec<KeyId> = held.filter(may_go_on).take(count as usize).collect();
        let usable = pool.iter().filter(|(_, state)| *state == KeyState::Usable);
        let weights = usable.map(|(key, _)| (key.facts.key, self.weight(key)));
        let candidates = weights.filter(|(key, weight)| *weight > 0 && !held.contains(key));
        let mut shared: Vec<KeyId> = Vec::new();
        for key in holds.map(|one| one.key) {
            let is_at_cap = pool.iter().any(|(other, state)| {
                other.facts.key == key && *state == KeyState::AtCap && self.weight(other) > 0
            });
            if is_at_cap && !held.contains(&key) && !shared.contains(&key) {
                shared.push(key);
            }
        }
        let mut plan = Plan {
            model: model.clone(),
            candidates: candidates.collect(),
            held,
            shared,
            shortage: None,
        };
        plan.shortage = self.shortage(&plan, &pool, count);
        plan
    }

    fn shortage(
        &self,
        plan: &Plan,
        pool: &[(&NaiveKey, KeyState)],
        count: u32,
    ) -> Option<Shortage> {
        let mut given = plan.held.clone();
        given.extend(plan.candidates.iter().map(|(key, _)| *key));
        given.extend(&plan.shared);
        if given.len() >= count as usize {
            return None;
        }
        let left: Vec<KeyState> = pool
            .iter()
            .filter(|(key, _)| !given.contains(&key.facts.key))
            .map(|(_, state)| *state)
            .collect();
        let reason = if pool.is_empty() {
            ShortageReason::UnknownModel
        } else if left.is_empty() {
            ShortageReason::PoolTooSmall
        } else if left.iter().all(|state| *state == KeyState::Cooling) {
            ShortageReason::AllCooling
        } else if left.iter().all(|state| *state == KeyState::AtCap) {
            ShortageReason::AllAtCap
        } else {
            ShortageReason::NoneUsable
        };
        let count_of = |wanted| pool.iter().filter(|(_, state)| *state == wanted).count() as u32;
        Some(Shortage {
            model: plan.model.clone(),
            reason,
            wanted: count,
            given: given.len() as u32,
            keys_total: pool.len() as u32,
            keys_cooling: count_of(KeyState::Cooling),
            keys_at_cap: count_of(KeyState::AtCap),
            retry_after: self.retry_after(pool, &plan.model),
            did_you_mean: Vec::new(),
        })
    }

    fn retry_after(&self, pool: &[(&NaiveKey, KeyState)], model: &ModelName) -> Option<Duration> {
        let cooling = pool.iter().flat_map(|(key, _)| &key.cooling);
        let untils = cooling.filter(|(other, _)| other == model).map(|(_, until)| *until);
        untils.min().map(|until| until.since(self.now))
    }

    /// Takes over what was chosen and answers with the deadline.
    pub(crate) fn select(&mut self, select: &Select, picks: &[Pick]) -> Time {
        let (now, deadline) = (self.now, self.now.after(self.rules.session_ttl));
        let allocations_max = self.rules.session_allocations_max;
        let is_live = self.session(&select.session).is_some_and(|session| self.is_live(session));
        if self.session(&select.session).is_none() {
            self.sessions.push(NaiveSession::new(select, now));
        }
        let session = self.session_mut(&select.session).expect("it was added");
        if !is_live {
            session.open(select.user, now);
        }
        session.end = deadline;
        for pick in picks {
            session.hold(&pick.model, pick.key, allocations_max);
        }
        for pick in picks {
            self.key_mut(pick.key).expect("it was chosen").last_used = Some(now);
        }
        deadline
    }

    // Usage.

    /// What a report must be answered, and whether it was counted before.
    pub(crate) fn expect_track(
        &self,
        track: &TrackUsage,
    ) -> Result<(bool, bool), TrackUsageRefusal> {
        if let Some(receipt) = self.receipt(track) {
            let said = (track.key, track.model.clone(), track.tokens, track.outcome);
            let is_same = receipt.said == said;
            return if is_same {
                Ok((receipt.late, true))
            } else {
                Err(TrackUsageRefusal::Conflict)
            };
        }
        let session = self.session(&track.session).ok_or(TrackUsageRefusal::UnknownSession)?;
        let allocation = session.allocations.iter().find(|one| one.is(track.key, &track.model));
        let allocation = allocation.ok_or(TrackUsageRefusal::NotAllocated)?;
        Ok((!self.is_live(session) || !allocation.held, false))
    }

    fn receipt(&self, track: &TrackUsage) -> Option<&NaiveReceipt> {
        let hour = self.now.as_ms() / HOUR_MS;
        self.receipts.iter().find(|receipt| {
            receipt.session == track.session
                && receipt.event_id == track.event_id
                && receipt.hour + 24 >= hour
        })
    }

    /// Counts a report.
    pub(crate) fn track(&mut self, track: &TrackUsage, late: bool) {
        let now = self.now;
        let said = (track.key, track.model.clone(), track.tokens, track.outcome);
        let (session, event_id) = (track.session.clone(), track.event_id.clone());
        self.receipts.retain(|old| old.session != session || old.event_id != event_id);
        let hour = now.as_ms() / HOUR_MS;
        self.receipts.push(NaiveReceipt { session, event_id, said, late, hour });
        add(&mut self.lifetime, track);
        let cooling = self.cooling_until(track);
        let key = self.key_mut(track.key).expect("it was allocated");
        add(&mut key.lifetime, track);
        key.last_used = Some(now);
        let minute = track.occurred.min(now).as_ms() / MINUTE_MS;
        key.reports.push((minute, track.tokens.input.saturating_add(track.tokens.output)));
        if let Some(until) = cooling {
            key.cooling.retain(|(model, _)| *model != track.model);
            key.cooling.push((track.model.clone(), until));
        }
        self.track_session(track);
    }

    fn track_session(&mut self, track: &TrackUsage) {
        let deadline = self.now.after(self.rules.session_ttl);
        let is_live = self.session(&track.session).is_some_and(|session| self.is_live(session));
        let session = self.session_mut(&track.session).expect("it was allocated");
        if is_live {
            session.end = deadline;
        }
        let mut allocations = session.allocations.iter_mut();
        let allocation = allocations.find(|one| one.is(track.key, &track.model));
        add(&mut allocation.expect("it was allocated").usage, track);
    }

    fn cooling_until(&self, track: &TrackUsage) -> Option<Time> {
        let key = self.key(track.key)?;
        self.state_in(key, &track.model)?;
        let asked = track.retry_after.unwrap_or(self.rules.cooldown).min(self.rules.cooldown_max);
        let until = track.occurred.min(self.now).after(asked);
        let mut old = key.cooling.iter().filter(|(model, _)| *model == track.model);
        let is_latest = old.all(|(_, old)| until > *old);
        let cools = track.outcome == Outcome::RateLimited && until > self.now && is_latest;
        cools.then_some(until)
    }

    // Release and expiry.

    /// Gives keys back, and answers with how many.
    pub(crate) fn release(&mut self, release: &Release) -> Result<usize, ReleaseRefusal> {
        let (now, deadline) = (self.now, self.now.after(self.rules.session_ttl));
        let session = self.session(&release.session).ok_or(ReleaseRefusal::UnknownSession)?;
        if !self.is_live(session) {
            return Ok(0);
        }
        let session = self.session_mut(&release.session).expect("it is live");
        let given_back = session.give_back(&release.scope);
        session.end = deadline;
        if release.scope == ReleaseScope::Session {
            self.end(&release.session, now);
        }
        Ok(given_back)
    }

    pub(crate) fn end(&mut self, name: &SessionRef, now: Time) {
        let place = self.sessions_ended;
        self.sessions_ended += 1;
        let session = self.session_mut(name).expect("it is live");
        session.give_back(&ReleaseScope::Session);
        session.end = now;
        session.ended = Some(place);
        self.forget_ended();
    }

    /// Sessions whose deadline has passed; with `by_full_seconds`, only those
    /// whose deadline's next full second has passed too.
    pub(crate) fn overdue(&self, by_full_seconds: bool) -> Vec<SessionRef> {
        let due = |end: Time| {
            if by_full_seconds { end.as_ms().div_ceil(1_000) * 1_000 } else { end.as_ms() }
        };
        let live = self.sessions.iter().filter(|session| session.ended.is_none());
        let overdue = live.filter(|session| due(session.end) <= self.now.as_ms());
        overdue.map(|session| session.name.clone()).collect()
    }

    // Keys.

    pub(crate) fn sync(&mut self, desired: &[Arc<KeyFacts>]) -> Synced {
        let mut synced = Synced::default();
        for facts in desired {
            match self.keys.iter_mut().find(|key| key.facts.key == facts.key) {
                Some(key) => {
                    synced.added += usize::from(key.retired);
                    synced.changed += usize::from(!key.retired && key.facts != *facts);
                    key.change(facts);
                }
                None => {
                    synced.added += 1;
                    self.keys.push(NaiveKey::new(facts));
                }
            }
        }
        for key in self.keys.iter_mut().filter(|key| !key.retired) {
            if !desired.iter().any(|facts| facts.key == key.facts.key) {
                synced.retired += 1;
                key.retired = true;
                key.cooling.clear();
            }
        }
        synced
    }
}

impl Plan {
    /// Keys that the session does not hold for this model yet.
    pub(crate) fn new_count(&self, count: usize) -> usize {
        (count - self.held.len()).min(self.candidates.len() + self.shared.len())
    }
}

impl NaiveKey {
    fn new(facts: &Arc<KeyFacts>) -> Self {
        Self {
            facts: facts.clone(),
            retired: false,
            reports: Vec::new(),
            lifetime: Usage::default(),
            last_used: None,
            cooling: Vec::new(),
        }
    }

    fn change(&mut self, facts: &Arc<KeyFacts>) {
        self.facts = facts.clone();
        self.retired = false;
        self.cooling.retain(|(model, _)| facts.models.contains(model));
    }
}

impl NaiveSession {
    fn new(select: &Select, now: Time) -> Self {
        Self {
            name: select.session.clone(),
            user: select.user,
            opened: now,
            end: now,
            ended: None,
            allocations: Vec::new(),
        }
    }

    fn open(&mut self, user: i32, now: Time) {
        self.give_back(&ReleaseScope::Session);
        self.user = user;
        self.opened = now;
        self.ended = None;
    }

    fn holds(&self, key: KeyId) -> bool {
        self.allocations.iter().any(|allocation| allocation.held && allocation.key == key)
    }

    fn held_count(&self) -> usize {
        self.allocations.iter().filter(|allocation| allocation.held).count()
    }

    fn hold(&mut self, model: &ModelName, key: KeyId, allocations_max: usize) {
        if let Some(known) = self.allocations.iter_mut().find(|one| one.is(key, model)) {
            known.held = true;
            return;
        }
        let oldest = self.allocations.iter().position(|allocation| !allocation.held);
        if let Some(oldest) = oldest.filter(|_| self.allocations.len() >= allocations_max) {
            self.allocations.remove(oldest);
        }
        let (model, usage) = (model.clone(), Usage::default());
        self.allocations.push(NaiveAllocation { model, key, held: true, usage });
    }

    fn give_back(&mut self, scope: &ReleaseScope) -> usize {
        let mut given_back = 0;
        for allocation in self.allocations.iter_mut().filter(|allocation| allocation.held) {
            let covers = match scope {
                ReleaseScope::Session => true,
                ReleaseScope::Key(key) => *key == allocation.key,
                ReleaseScope::Model(model) => *model == allocation.model,
            };
            allocation.held = !covers;
            given_back += usize::from(covers);
        }
        given_back
    }
}

impl NaiveAllocation {
    fn is(&self, key: KeyId, model: &ModelName) -> bool {
        self.key == key && self.model == *model
    }
}

fn add(usage: &mut Usage, track: &TrackUsage) {
    usage.requests += 1;
    usage.failures += u64::from(track.outcome != Outcome::Success);
    let (sum, tokens) = (&mut usage.tokens, track.tokens);
    sum.input = sum.input.saturating_add(tokens.input);
    sum.output = sum.output.saturating_add(tokens.output);
    sum.cached_input = sum.cached_input.saturating_add(tokens.cached_input);
}
