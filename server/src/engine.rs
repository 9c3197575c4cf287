//! The one path of every change: decide, append, apply, wait, reply.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use key_server_core::{
    Changes, Decide, Event, Expire, NodeRows, Rules, Select, SelectRefusal, Selected, SessionRef,
    Settle, SharedChanges, State, Time, Wish,
};
use key_server_ledger::{
    AppendError, Caller, Condition, Entry, Fact, Ledger, OpenError, Opened, Options, Pending,
    Position, Record,
};
use key_server_projections::{LocalProjection, Mark, ProjectionError};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::error::{ErrorKind, ServiceError};
use crate::resume;

/// Overdue sessions that one call ends besides its own work.
const EXPIRED_PER_CALL_MAX: usize = 32;
/// Overdue sessions that one tick ends at a time.
const EXPIRED_PER_TICK_MAX: usize = 1_000;
/// Rows of other nodes that are taken in under one lock.
const LEARNED_AT_ONCE: usize = 500;
/// When a caller should try again after the ledger refused.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The state in memory, the ledger behind it, and the clock that moves both.
///
/// Deciding, appending and applying happen under one short lock, so that the
/// order of the ledger is the order of the decisions; waiting for the disk
/// happens outside of it.
pub struct Engine {
    inner: Mutex<Inner>,
    ledger: Ledger,
    rules: Rules,
    /// Told when memory has to be made anew.
    torn: Notify,
    /// This node's id, when it works with others.
    fleet: Option<Arc<str>>,
    /// Told when there is something to tell the other nodes.
    news: Notify,
    /// Told when what other nodes published has to be learned again.
    forgot: Notify,
    /// False until it is known what other nodes did meanwhile: sessions may
    /// live on there.
    may_expire: AtomicBool,
    /// How often memory was made anew.
    generation: AtomicU64,
    /// The node's timeline.
    pub clock: Arc<dyn Clock>,
}

struct Inner {
    state: State,
    seeds: Seeds,
    /// True from a failed append until memory equals the ledger again.
    diverged: bool,
    /// Whether events came since the last extract. What time alone changed
    /// waits for the next event: a projection knows batches by their events.
    has_news: bool,
}

/// What a call came to: the verb's own answer, or the engine's error.
pub type Submitted<C> = Result<Result<<C as Decide>::Reply, <C as Decide>::Refusal>, ServiceError>;

/// How far the choice of keys for a session came.
pub enum Selecting {
    /// These were given.
    Selected(Selected),
    /// None were given.
    Refused(SelectRefusal),
    /// These have to be reserved among all nodes first.
    Reserve(Vec<Wish>),
}

/// Everything that a projection is to learn, and where the ledger stood.
pub struct Extract {
    /// What changed.
    pub changes: Changes,
    at: Time,
    place: Place,
}

enum Place {
    /// Known once everything before it is durable.
    Awaited(Pending),
    /// Durable.
    Known(Mark),
}

impl Place {
    async fn mark(&mut self, at: Time) -> Result<Mark, AppendError> {
        let position = match self {
            Self::Awaited(pending) => pending.await?,
            Self::Known(mark) => return Ok(mark.clone()),
        };
        Ok(Mark { seq: position.seq, at, resume: resume::write(&position) })
    }
}

/// What the other nodes are to learn, and where the ledger stood.
pub struct SharedExtract {
    /// What changed.
    pub shared: SharedChanges,
    at: Time,
    place: Place,
}

impl SharedExtract {
    /// As [`Extract::mark`].
    ///
    /// # Errors
    /// As [`Extract::mark`].
    pub async fn mark(&mut self) -> Result<Mark, AppendError> {
        self.place.mark(self.at).await
    }

    /// The same, whose place is known by now.
    pub(crate) fn durable(self, mark: Mark) -> Self {
        Self { place: Place::Known(mark), ..self }
    }

    /// The last event that is in it, once that is known.
    pub(crate) fn seq(&self) -> Option<u64> {
        match &self.place {
            Place::Awaited(_) => None,
            Place::Known(mark) => Some(mark.seq),
        }
    }
}

impl Extract {
    /// Waits until what changed is durable, and names the place in the ledger.
    ///
    /// # Errors
    /// When it will never be durable: the changes must be dropped.
    pub async fn mark(&mut self) -> Result<Mark, AppendError> {
        self.place.mark(self.at).await
    }

    /// The same, whose place is known by now.
    pub(crate) fn durable(self, mark: Mark) -> Self {
        Self { place: Place::Known(mark), ..self }
    }
}

/// A ledger opened, and the state it adds up to.
pub struct Restored {
    /// The ledger, ready to append.
    pub ledger: Ledger,
    /// What it adds up to.
    pub state: State,
    /// How opening went.
    pub opened: Opened,
}

/// Loads what the projection holds and applies the ledger's tail to it; reads
/// all of the ledger when the two do not fit together.
///
/// # Errors
/// As [`Ledger::open`].
pub fn restore(
    dir: &std::path::Path,
    node: &str,
    options: &Options,
    projection: &mut dyn LocalProjection,
    rules: &Rules,
) -> Result<Restored, OpenError> {
    let (from, mut state) = load(projection, rules);
    let tail = |state: &mut State, from: Option<&Position>| {
        Ledger::open(dir, node, options, from, |_, records| fold(state, records))
    };
    match tail(&mut state, from.as_ref()) {
        Err(OpenError::PositionUnknown { .. }) => {
            tracing::warn!("the local database does not fit the ledger; making it anew");
            clear(projection);
            let mut state = State::new(rules.clone());
            let (ledger, opened) = tail(&mut state, None)?;
            Ok(Restored { ledger, state, opened })
        }
        opened => opened.map(|(ledger, opened)| Restored { ledger, state, opened }),
    }
}

/// What the projection holds and where it stands; nothing when it cannot say.
fn load(projection: &mut dyn LocalProjection, rules: &Rules) -> (Option<Position>, State) {
    match loaded(projection, rules) {
        Ok(Some((position, state))) => (Some(position), state),
        Ok(None) => (None, State::new(rules.clone())),
        Err(error) => {
            tracing::warn!("the local database cannot be used, making it anew: {error}");
            clear(projection);
            (None, State::new(rules.clone()))
        }
    }
}

fn loaded(
    projection: &mut dyn LocalProjection,
    rules: &Rules,
) -> Result<Option<(Position, State)>, ProjectionError> {
    let Some((mark, state)) = projection.load(rules)? else { return Ok(None) };
    Ok(resume::read(&mark).map(|position| (position, state)))
}

fn clear(projection: &mut dyn LocalProjection) {
    if let Err(error) = projection.clear() {
        tracing::error!("the local database cannot be made anew: {error}");
    }
}

fn fold(state: &mut State, records: &[Record]) {
    for record in records {
        if let Fact::Domain(event) = &record.fact {
            state.apply(record.at, event);
        }
    }
}

impl Engine {
    /// Runs on what [`restore`] gave; with other nodes as the node `fleet`, if
    /// that is named.
    pub fn new(
        restored: (Ledger, State),
        rules: Rules,
        clock: Arc<dyn Clock>,
        fleet: Option<Arc<str>>,
    ) -> Self {
        let (ledger, mut state) = restored;
        if let Some(node) = &fleet {
            state.join_fleet(node);
        }
        let inner = Inner { state, seeds: Seeds::default(), diverged: false, has_news: true };
        Self {
            inner: Mutex::new(inner),
            ledger,
            rules,
            torn: Notify::new(),
            may_expire: AtomicBool::new(fleet.is_none()),
            fleet,
            generation: AtomicU64::new(0),
            news: Notify::new(),
            forgot: Notify::new(),
            clock,
        }
    }

    /// Runs a verb: decides, records, and answers once the record is durable.
    /// `session` is the one that the command is about, if any.
    ///
    /// # Errors
    /// `Unavailable` when the record cannot be written: nothing happened then.
    ///
    /// # Cancellation
    /// What was decided happens all the same; a repeat is safe.
    pub async fn submit<C: Decide>(
        &self,
        caller: Option<&Arc<Caller>>,
        session: Option<&SessionRef>,
        command: &C,
    ) -> Submitted<C> {
        let decided = self.decide(caller, session, command)?;
        let (reply, pending) = match decided {
            Ok(decided) => decided,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(pending) = pending {
            pending.await.map_err(|error| failed(&error))?;
        }
        Ok(Ok(reply))
    }

    #[expect(clippy::type_complexity, reason = "a verb's answer within the engine's")]
    fn decide<C: Decide>(
        &self,
        caller: Option<&Arc<Caller>>,
        session: Option<&SessionRef>,
        command: &C,
    ) -> Result<Result<(C::Reply, Option<Pending>), C::Refusal>, ServiceError> {
        let mut inner = self.ready(caller, session)?;
        let (now, seed) = (inner.state.now(), inner.seeds.next()?);
        let decision = match command.decide(&inner.state, now, seed) {
            Ok(decision) => decision,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let pending = self.record(&mut inner, caller, &decision.events)?;
        Ok(Ok((decision.reply, pending)))
    }

    /// Everything that comes before a verb: time passes, overdue sessions end,
    /// and the session that the verb is about comes to this node.
    fn ready(
        &self,
        caller: Option<&Arc<Caller>>,
        session: Option<&SessionRef>,
    ) -> Result<MutexGuard<'_, Inner>, ServiceError> {
        let mut inner = self.lock();
        if inner.diverged {
            return Err(unwritable("the ledger could not be written; memory is being restored"));
        }
        inner.state.advance(self.clock.now());
        self.expire(&mut inner, session.cloned(), EXPIRED_PER_CALL_MAX)?;
        if let Some(session) = session
            && inner.state.is_elsewhere(session)
        {
            let settle = Settle { sessions: vec![session.clone()], wanted: true };
            self.settle(&mut inner, caller, &settle)?;
        }
        Ok(inner)
    }

    /// Chooses keys for a session. With `reserves`, a choice that draws keys
    /// with a cap is not made: the answer is what to reserve among all nodes.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    ///
    /// # Cancellation
    /// As for [`Engine::submit`].
    pub async fn select(
        &self,
        caller: Option<&Arc<Caller>>,
        select: &Select,
        reserves: bool,
    ) -> Result<Selecting, ServiceError> {
        let (reply, pending) = {
            let mut inner = self.ready(caller, Some(&select.session))?;
            let (now, seed) = (inner.state.now(), inner.seeds.next()?);
            let decision = match select.decide(&inner.state, now, seed) {
                Ok(decision) => decision,
                Err(refusal) => return Ok(Selecting::Refused(refusal)),
            };
            let is_reserved = select.reserved.is_some();
            if reserves
                && !is_reserved
                && inner.state.draws_capped(&select.session, &decision.reply)
            {
                return Ok(Selecting::Reserve(inner.state.wishes(select, now, seed)));
            }
            let pending = self.record(&mut inner, caller, &decision.events)?;
            (decision.reply, pending)
        };
        if let Some(pending) = pending {
            pending.await.map_err(|error| failed(&error))?;
        }
        Ok(Selecting::Selected(reply))
    }

    /// What `select` would like when none of `named` could be had; none when a
    /// model has no other keys.
    ///
    /// # Errors
    /// When the kernel has no randomness.
    pub fn further_wishes(
        &self,
        select: &Select,
        named: &[Wish],
    ) -> Result<Option<Vec<Wish>>, ServiceError> {
        let mut inner = self.lock();
        inner.state.advance(self.clock.now());
        let (now, seed) = (inner.state.now(), inner.seeds.next()?);
        Ok(inner.state.further_wishes(select, now, seed, named))
    }

    /// Moves sessions between this node and others.
    fn settle(
        &self,
        inner: &mut Inner,
        caller: Option<&Arc<Caller>>,
        settle: &Settle,
    ) -> Result<(), ServiceError> {
        let now = inner.state.now();
        let decided: Result<_, Infallible> = settle.decide(&inner.state, now, 0);
        let Ok(decision) = decided;
        // Nobody waits for it: what comes after it is durable after it.
        drop(self.record(inner, caller, &decision.events)?);
        Ok(())
    }

    /// Ends overdue sessions, `first` before others; answers how many.
    fn expire(
        &self,
        inner: &mut Inner,
        first: Option<SessionRef>,
        sessions_max: usize,
    ) -> Result<usize, ServiceError> {
        if !self.may_expire.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let expire = Expire { first, sessions_max };
        let now = inner.state.now();
        let decided: Result<_, Infallible> = expire.decide(&inner.state, now, 0);
        let Ok(decision) = decided;
        let pending = self.record(inner, None, &decision.events)?;
        // Nobody waits for it: what comes after it is durable after it.
        drop(pending);
        Ok(decision.reply)
    }

    /// Queues the events for the ledger, then applies them.
    fn record(
        &self,
        inner: &mut Inner,
        caller: Option<&Arc<Caller>>,
        events: &[Event],
    ) -> Result<Option<Pending>, ServiceError> {
        if events.is_empty() {
            return Ok(None);
        }
        let now = inner.state.now();
        let entry = |event: &Event| Entry { caller: caller.cloned(), fact: event.clone().into() };
        let pending = self.ledger.append(now, events.iter().map(entry).collect());
        if let Some(error) = pending.refusal() {
            return Err(failed(error));
        }
        for event in events {
            inner.state.apply(now, event);
        }
        inner.has_news = true;
        if self.fleet.is_some() {
            self.news.notify_one();
        }
        Ok(Some(pending))
    }

    /// Ends the sessions that are overdue, as time alone would have it.
    pub fn tick(&self) {
        loop {
            let mut inner = self.lock();
            if inner.diverged {
                return;
            }
            inner.state.advance(self.clock.now());
            match self.expire(&mut inner, None, EXPIRED_PER_TICK_MAX) {
                Ok(EXPIRED_PER_TICK_MAX) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Records facts of the node itself, as one call.
    ///
    /// # Errors
    /// `Unavailable` when they cannot be written.
    pub async fn note(&self, facts: Vec<Fact>) -> Result<(), ServiceError> {
        let entries = facts.into_iter().map(Entry::of_node).collect();
        let pending = {
            let mut inner = self.lock();
            inner.state.advance(self.clock.now());
            self.ledger.append(inner.state.now(), entries)
        };
        pending.await.map(|_| ()).map_err(|error| failed(&error))
    }

    /// Records facts that change nothing; nobody waits for them. Answers
    /// whether the ledger took them: a line that it cannot write afterwards is
    /// among those that `ledger.resumed` counts.
    pub(crate) fn note_soon(&self, entries: Vec<Entry>) -> bool {
        let mut inner = self.lock();
        if inner.diverged {
            return false;
        }
        inner.state.advance(self.clock.now());
        self.ledger.append(inner.state.now(), entries).refusal().is_none()
    }

    /// Looks at the state as it is now.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let mut inner = self.lock();
        inner.state.advance(self.clock.now());
        look(&inner.state)
    }

    /// What changed since the last extract; none when nothing did, or while
    /// memory is ahead of the ledger.
    pub fn extract(&self) -> Option<Extract> {
        let mut inner = self.lock();
        if inner.diverged || !inner.has_news || inner.state.changes_count() == 0 {
            return None;
        }
        let barrier = self.ledger.append(inner.state.now(), Vec::new());
        if barrier.refusal().is_some() {
            return None;
        }
        inner.has_news = false;
        let changes = inner.state.take_changes();
        Some(Extract { changes, at: inner.state.now(), place: Place::Awaited(barrier) })
    }

    /// Lets go of what changed when it is more than `changes_max`: whoever keeps
    /// a projection has to ask for a rebuild then. Answers whether it was.
    pub fn let_changes_go_beyond(&self, changes_max: usize) -> bool {
        let mut inner = self.lock();
        let is_beyond = inner.state.changes_count() > changes_max;
        if is_beyond {
            drop(inner.state.take_changes());
        }
        is_beyond
    }

    /// Takes in what another node published, `rows` at a time so that calls do
    /// not wait long, and moves sessions accordingly.
    pub fn learn(&self, node: &str, rows: NodeRows) {
        let NodeRows { keys, sessions, ended } = rows;
        let mut rows = Vec::new();
        rows.extend(
            ended
                .chunks(LEARNED_AT_ONCE)
                .map(|ended| NodeRows { ended: ended.to_vec(), ..NodeRows::default() }),
        );
        rows.extend(
            keys.chunks(LEARNED_AT_ONCE)
                .map(|keys| NodeRows { keys: keys.to_vec(), ..NodeRows::default() }),
        );
        rows.extend(
            sessions
                .chunks(LEARNED_AT_ONCE)
                .map(|sessions| NodeRows { sessions: sessions.to_vec(), ..NodeRows::default() }),
        );
        for rows in rows {
            self.learn_some(node, &rows);
        }
    }

    fn learn_some(&self, node: &str, rows: &NodeRows) {
        let mut inner = self.lock();
        inner.state.advance(self.clock.now());
        inner.state.learn(node, rows);
        let displaced = inner.state.take_displaced();
        if displaced.is_empty() || inner.diverged {
            return;
        }
        let settle = Settle { sessions: displaced, wanted: false };
        if let Err(error) = self.settle(&mut inner, None, &settle) {
            // Memory is made anew, and what other nodes say is learned again.
            tracing::debug!("sessions could not be moved: {error}");
        }
    }

    /// Says that all rows of `node` will be learned now.
    pub fn learn_all(&self, node: &str) {
        self.lock().state.learn_all(node);
    }

    /// Forgets what `node` did not say again since [`Engine::learn_all`].
    pub fn learned_all(&self, node: &str) {
        let mut place = Some(0);
        while let Some(from) = place {
            place = self.lock().state.learned_all(node, from, LEARNED_AT_ONCE * 10);
        }
    }

    /// Lets sessions expire: what other nodes did is known, or cannot be.
    pub fn let_expire(&self) {
        self.may_expire.store(true, Ordering::Relaxed);
    }

    /// Resolves when there is something to tell the other nodes.
    pub async fn has_news(&self) {
        self.news.notified().await;
    }

    /// Resolves when what other nodes published has to be learned again.
    pub async fn forgot(&self) {
        self.forgot.notified().await;
    }

    /// How often memory was made anew: what was published before may be more
    /// than what is durable.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Some of what the other nodes have not been told, and its place; none
    /// when they know everything, or while memory is ahead of the ledger.
    pub fn extract_shared(&self, rows_max: usize) -> Option<SharedExtract> {
        let mut inner = self.lock();
        if inner.diverged {
            return None;
        }
        inner.state.advance(self.clock.now());
        let shared = inner.state.take_shared(rows_max)?;
        let at = inner.state.now();
        let place = Place::Awaited(self.ledger.append(at, Vec::new()));
        Some(SharedExtract { shared, at, place })
    }

    /// Has everything told to the other nodes once more.
    pub fn share_everything(&self) {
        self.lock().state.share_everything();
        self.news.notify_one();
    }

    /// Lets go of what was not shared when it is more than `rows_max`: then
    /// everything has to be shared once more. Answers whether it was.
    pub fn let_unshared_go_beyond(&self, rows_max: usize) -> bool {
        let mut inner = self.lock();
        let is_beyond = inner.state.unshared_count() > rows_max;
        if is_beyond {
            inner.state.discard_unshared();
        }
        is_beyond
    }

    /// Has memory made equal to the ledger again, soon.
    pub fn ask_for_rebuild(&self) {
        self.torn.notify_one();
    }

    /// The numbers that the rules are about.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The ledger, for its position and condition.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Makes memory equal to the ledger again after a failed append, from the
    /// projection and the ledger's tail. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read; memory stays as it was.
    pub fn rebuild(&self, projection: &mut dyn LocalProjection) -> Result<(), OpenError> {
        let barrier = {
            let mut inner = self.lock();
            inner.diverged = true;
            self.ledger.append(inner.state.now(), Vec::new())
        };
        // Durable or refused: either way nothing is under way any more.
        let _ = barrier.wait();
        let (from, state) = load(projection, &self.rules);
        let state = match self.replay(from.as_ref(), state) {
            Err(OpenError::PositionUnknown { .. }) => {
                clear(projection);
                self.replay(None, State::new(self.rules.clone()))?
            }
            state => state?,
        };
        let mut inner = self.lock();
        inner.state = state;
        inner.has_news = true;
        if let Some(node) = &self.fleet {
            inner.state.join_fleet(node);
            self.generation.fetch_add(1, Ordering::Relaxed);
            self.forgot.notify_one();
            self.news.notify_one();
        }
        Ok(())
    }

    fn replay(&self, from: Option<&Position>, mut state: State) -> Result<State, OpenError> {
        self.ledger.replay(from, |_, records| fold(&mut state, records))?;
        Ok(state)
    }

    /// Takes calls again once the ledger can be written. Blocks.
    ///
    /// # Errors
    /// While it cannot.
    pub fn try_resume(&self) -> Result<(), AppendError> {
        let mut inner = self.lock();
        inner.state.advance(self.clock.now());
        self.ledger.try_resume(inner.state.now())?;
        inner.diverged = false;
        Ok(())
    }

    /// Resolves when memory has to be made equal to the ledger again.
    pub async fn wants_rebuild(&self) {
        let mut condition = self.ledger.subscribe();
        let refusing = condition.wait_for(|condition| *condition != Condition::Writable);
        tokio::select! {
            _ = refusing => {}
            () = self.torn.notified() => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            // A panic under the lock may have left half an effect in memory.
            // What is durable is whole, so memory is made anew from there.
            let mut inner = poisoned.into_inner();
            inner.diverged = true;
            self.inner.clear_poison();
            self.torn.notify_one();
            inner
        })
    }
}

fn failed(error: &AppendError) -> ServiceError {
    match error {
        AppendError::Overloaded { .. } => ServiceError::new(
            ErrorKind::Unavailable,
            "OVERLOADED",
            "too many calls wait for the disk; try again shortly",
        )
        .retry_after(RETRY_AFTER),
        error => unwritable(error),
    }
}

fn unwritable(error: impl std::fmt::Display) -> ServiceError {
    let message = format!("the call could not be recorded, so nothing was done: {error}");
    ServiceError::new(ErrorKind::Unavailable, "LEDGER_UNWRITABLE", message).retry_after(RETRY_AFTER)
}

/// Seeds for draws, from the kernel, a page at a time.
#[derive(Default)]
struct Seeds {
    bytes: Vec<u8>,
}

impl Seeds {
    fn next(&mut self) -> Result<u64, ServiceError> {
        if self.bytes.is_empty() {
            self.bytes.resize(4_096, 0);
            getrandom::fill(&mut self.bytes).map_err(|error| ServiceError::bug(&error))?;
        }
        let rest = self.bytes.len() - 8;
        let mut seed = [0; 8];
        seed.copy_from_slice(&self.bytes[rest..]);
        self.bytes.truncate(rest);
        Ok(u64::from_be_bytes(seed))
    }
}
