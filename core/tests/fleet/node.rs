use std::collections::BTreeSet;
use std::sync::Arc;

use key_server_core::{
    Decide, Event, Expire, KeyId, KeyRow, ModelName, NodeRows, Restore, Rules, SessionRef,
    SessionRow, SessionStats, Settle, State, Time,
};

use crate::store::{Published, node_rows};

/// One node: a state and the ledger that it is the fold of.
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    rules: Rules,
    pub(crate) state: State,
    pub(crate) ledger: Vec<(Time, Event)>,
    seed: u64,
}

impl Node {
    pub(crate) fn new(number: usize, rules: Rules) -> Self {
        let name: Arc<str> = format!("node-{number}").into();
        let mut state = State::new(rules.clone());
        state.join_fleet(&name);
        Self { name, rules, state, ledger: Vec::new(), seed: number as u64 }
    }

    /// What the ledger adds up to; nothing is known of other nodes.
    pub(crate) fn fold(&self) -> State {
        let mut state = State::new(self.rules.clone());
        self.ledger.iter().for_each(|(at, event)| state.apply(*at, event));
        state.advance(self.state.now());
        state
    }

    /// Everything is lost but the ledger, or but the rows of a projection.
    pub(crate) fn start_again(&mut self, from_rows: bool) {
        self.state = if from_rows { self.restore() } else { self.fold() };
        self.state.join_fleet(&self.name);
    }

    fn restore(&self) -> State {
        let (keys, sessions) = self.state.rows();
        let mut restore = Restore::new(self.rules.clone(), self.state.now());
        keys.iter().for_each(|key| restore.key(key).expect("each key stands once"));
        let sessions = sessions.iter().map(|session| restore.session(session));
        sessions.for_each(|added| added.expect("each session stands once"));
        restore.finish()
    }

    /// Decides and applies; answers with the events, too.
    pub(crate) fn run<Command: Decide>(
        &mut self,
        command: &Command,
    ) -> Result<(Command::Reply, Vec<Event>), Command::Refusal> {
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let decision = command.decide(&self.state, self.state.now(), self.seed)?;
        let at = self.state.now();
        for event in &decision.events {
            self.state.apply(at, event);
            self.ledger.push((at, event.clone()));
        }
        Ok((decision.reply, decision.events))
    }

    /// What comes before a verb that names a session.
    pub(crate) fn prepare(&mut self, session: &SessionRef) -> Vec<Event> {
        let mut events = self.expire(Some(session.clone()));
        if self.state.is_elsewhere(session) {
            let settle = Settle { sessions: vec![session.clone()], wanted: true };
            let Ok((_, moved)) = self.run(&settle);
            events.extend(moved);
        }
        events
    }

    pub(crate) fn expire(&mut self, first: Option<SessionRef>) -> Vec<Event> {
        let Ok((_, events)) = self.run(&Expire { first, sessions_max: 1_000 });
        events
    }

    /// Settles what other nodes' rows made doubtful.
    pub(crate) fn settle(&mut self) -> Vec<Event> {
        let settle = Settle { sessions: self.state.take_displaced(), wanted: false };
        let Ok((_, events)) = self.run(&settle);
        events
    }

    /// One message, if there is anything to tell.
    pub(crate) fn publish(&mut self, rows_max: usize) -> Option<NodeRows> {
        self.state.take_shared(rows_max).map(node_rows)
    }

    /// Learns all that a node published.
    pub(crate) fn read(&mut self, name: &str, published: &Published, rows_max: usize) {
        self.state.learn_all(name);
        for rows in published.read(rows_max) {
            self.state.learn(name, &rows);
        }
        let mut place = Some(0);
        while let Some(next) = place {
            place = self.state.learned_all(name, next, rows_max);
        }
    }

    /// Sessions that live here.
    pub(crate) fn own_sessions(&self) -> Vec<SessionStats> {
        let sessions = self.state.sessions_from(0).map(|(_, session)| session);
        sessions.filter(|session| !session.ended).collect()
    }

    /// What a projection would hold, in one order.
    pub(crate) fn rows(state: &State) -> (Vec<KeyRow>, Vec<SessionRow>) {
        let (mut keys, mut sessions) = state.rows();
        keys.sort_by_key(|row| row.facts.key);
        keys.iter_mut().for_each(|row| row.cooling.sort());
        sessions.sort_by(|one, other| one.session.cmp(&other.session));
        (keys, sessions)
    }
}

/// What a session holds.
pub(crate) fn held(session: &SessionStats) -> BTreeSet<(ModelName, KeyId)> {
    let held = session.allocations.iter().filter(|allocation| allocation.held);
    held.map(|allocation| (allocation.model.clone(), allocation.key)).collect()
}
