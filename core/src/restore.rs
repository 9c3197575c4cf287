use crate::changes::{AllocationRow, Changes, KeyRow, Reader, SessionRow};
use crate::deadlines::Due;
use crate::key::{Key, KeyIndex};
use crate::pool::PoolIndex;
use crate::receipts::{Receipt, oldest_hour};
use crate::rules::Rules;
use crate::session::{Allocation, Phase, Session, SessionIndex};
use crate::state::State;
use crate::time::Time;

/// Why rows do not make a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A session holds a key that no row is about.
    #[error("a session names a key that is not among the keys")]
    UnknownKey,
    /// The same key or session twice.
    #[error("a key or session stands twice")]
    Twice,
}

/// Makes a state from the rows of a projection: first all keys, then sessions
/// and receipts in any order.
#[derive(Debug)]
pub struct Restore {
    state: State,
}

impl Restore {
    /// Begins with nothing, at the instant that the rows were written for.
    pub fn new(rules: Rules, now: Time) -> Self {
        let mut state = State::new(rules);
        state.advance(now);
        Self { state }
    }

    /// Adds a key.
    ///
    /// # Errors
    /// `Twice` when it is there already.
    pub fn key(&mut self, row: &KeyRow) -> Result<(), RestoreError> {
        let state = &mut self.state;
        if state.key(row.facts.key).is_some() {
            return Err(RestoreError::Twice);
        }
        state.put_key(&row.facts);
        let Some(index) = state.key_index.get(&row.facts.key).copied() else { return Ok(()) };
        for (minute, tokens) in &row.window {
            state.add_to_window(index, *minute, *tokens);
        }
        self.cool(index, row);
        let state = &mut self.state;
        if row.retired {
            state.retire_key(row.facts.key);
        }
        state.lifetime = state.lifetime.plus(&row.lifetime);
        let key = &mut state.keys[index.0 as usize];
        key.lifetime = row.lifetime;
        key.last_used = row.last_used;
        state.refresh(index);
        Ok(())
    }

    fn cool(&mut self, index: KeyIndex, row: &KeyRow) {
        for (model, until) in &row.cooling {
            let pool = self.state.pool_place(model);
            self.state.cool(index, pool, *until);
        }
    }

    /// Adds a session.
    ///
    /// # Errors
    /// `Twice` when it is there already; `UnknownKey` when it names a key that
    /// is not.
    pub fn session(&mut self, row: &SessionRow) -> Result<(), RestoreError> {
        let phase = if row.ended {
            Phase::Ended { at: row.end }
        } else {
            Phase::Live { deadline: row.end, due: Due::NONE }
        };
        let mut session = Session::new(&row.session, row.user, row.opened, phase);
        (session.term, session.base) = (row.term, row.base);
        session.allocations = self.allocations(row)?;
        self.state.restore_session(session).ok_or(RestoreError::Twice)?;
        Ok(())
    }

    /// What the session holds; counts it among the holders of each key once.
    fn allocations(&mut self, row: &SessionRow) -> Result<Vec<Allocation>, RestoreError> {
        let mut allocations: Vec<Allocation> = Vec::with_capacity(row.allocations.len());
        for allocation in &row.allocations {
            let (key, _) = self.state.key(allocation.key).ok_or(RestoreError::UnknownKey)?;
            let pool = self.state.pool_place(&allocation.model);
            let held = allocation.held && !row.ended;
            let is_new_holder = held && !allocations.iter().any(|one| one.held && one.key == key);
            self.state.keys[key.0 as usize].holders += u32::from(is_new_holder);
            allocations.push(Allocation { key, pool, held, usage: allocation.usage });
        }
        Ok(allocations)
    }

    /// Makes room for that many more sessions: only saves time.
    pub fn reserve(&mut self, sessions: usize) {
        self.state.sessions.reserve(sessions);
    }

    /// Adds the receipts of one hour; hours long past are passed over.
    pub fn receipts(&mut self, hour: u32, receipts: Vec<Receipt>) {
        if hour >= oldest_hour(self.state.now) {
            self.state.receipts.restore(hour, receipts);
        }
    }

    /// The state, with nothing marked as changed.
    pub fn finish(mut self) -> State {
        self.state.order_ended();
        self.state.advance_cooldowns();
        self.state.advance_deadlines();
        for place in 0..self.state.keys.len() {
            self.state.refresh(KeyIndex(place as u32));
        }
        self.state.discard_changes();
        self.state
    }
}

impl State {
    /// How many entries the next [`State::take_changes`] has.
    pub fn changes_count(&self) -> usize {
        self.journal.len()
    }

    /// What changed since the last look.
    pub fn take_changes(&mut self) -> Changes {
        let journal = std::mem::take(&mut self.journal);
        let keys = journal.keys.iter().map(|index| self.take_key(*index)).collect();
        let sessions = journal.sessions.iter().filter_map(|index| self.take_session(*index));
        Changes {
            keys,
            sessions: sessions.collect(),
            forgotten: journal.forgotten,
            usage: journal.usage,
            receipts: journal.receipts,
            oldest_receipt_hour: oldest_hour(self.now),
        }
    }

    /// All that is known, as if everything had changed; without `forgotten`,
    /// `usage` and `receipts`. For tests and for filling an empty projection.
    pub fn rows(&self) -> (Vec<KeyRow>, Vec<SessionRow>) {
        let keys = self.keys.iter().map(|key| self.key_row(key)).collect();
        let sessions = self.sessions.iter_from(0).map(|(_, session)| self.session_row(session));
        (keys, sessions.collect())
    }

    pub(crate) fn discard_changes(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        for index in journal.keys {
            self.keys[index.0 as usize].listed.take(Reader::Local);
        }
        for index in journal.sessions {
            if let Some(session) = self.sessions.get_mut(index) {
                session.listed.take(Reader::Local);
            }
        }
    }

    fn take_key(&mut self, index: KeyIndex) -> KeyRow {
        self.keys[index.0 as usize].listed.take(Reader::Local);
        self.key_row(&self.keys[index.0 as usize])
    }

    fn take_session(&mut self, index: SessionIndex) -> Option<SessionRow> {
        let session = self.sessions.get_mut(index)?;
        if !session.listed.take(Reader::Local) {
            return None;
        }
        Some(self.session_row(self.sessions.get(index)?))
    }

    pub(crate) fn key_row(&self, key: &Key) -> KeyRow {
        let cooling = key
            .slots
            .iter()
            .filter_map(|slot| Some((slot.pool, slot.cooling_until?)))
            .filter(|(_, until)| *until > self.now)
            .map(|(pool, until)| (self.model_of(pool), until));
        KeyRow {
            facts: key.facts().clone(),
            retired: key.retired,
            lifetime: key.lifetime,
            last_used: key.last_used,
            window: key.window.buckets().collect(),
            cooling: cooling.collect(),
        }
    }

    pub(crate) fn session_row(&self, session: &Session) -> SessionRow {
        let (end, ended) = session.end();
        let allocations = session.allocations.iter().map(|allocation| AllocationRow {
            key: self.keys[allocation.key.0 as usize].id(),
            model: self.model_of(allocation.pool),
            held: allocation.held,
            usage: allocation.usage,
        });
        SessionRow {
            session: session.name(),
            user: session.user,
            opened: session.opened,
            end,
            ended,
            term: session.term,
            base: session.base,
            allocations: allocations.collect(),
        }
    }

    pub(crate) fn model_of(&self, pool: PoolIndex) -> crate::ModelName {
        self.pools[pool.0 as usize].model.clone()
    }
}
