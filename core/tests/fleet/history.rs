use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    Decide, Event, KeyFacts, KeyId, ModelName, NodeRows, Outcome, OwnWeight, Release, ReleaseScope,
    Rules, Select, SessionRef, SyncKeys, Time, Tokens, TrackUsage,
};

use crate::Seen;
use crate::agreement::{Holds, assert_agreement};
use crate::node::Node;
use crate::random::Random;
use crate::store::Published;

const MODELS: [&str; 3] = ["acme/large", "acme/small", "acme/tiny"];
const SESSIONS: [&str; 4] = ["a", "b", "c", "d"];
const KEYS: u64 = 6;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// How many times everything may be told and settled before it is settled.
const ROUNDS_MAX: usize = 12;

/// How well nodes hear of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// All is told, learned and settled after every operation.
    Calm,
    /// Late, out of order, or not at all.
    Rough,
}

/// What is on its way from one node to another.
#[derive(Default)]
struct Road {
    rows: VecDeque<NodeRows>,
    /// Whether something got lost, so that everything has to be read.
    has_gap: bool,
}

/// One seed's worth of operations on several nodes.
pub(crate) struct History {
    weather: Weather,
    random: Random,
    clock: u64,
    nodes: Vec<Node>,
    store: Vec<Published>,
    /// From the first node to the second.
    roads: BTreeMap<(usize, usize), Road>,
    /// For each node, how many operations it is away for.
    away: Vec<u64>,
    /// Keys that sessions were given and that nobody gave back, or that did
    /// not expire with them.
    given: BTreeMap<SessionRef, Holds>,
    /// How often each session was opened and expired.
    periods: BTreeMap<SessionRef, (usize, usize)>,
    desired: Vec<Arc<KeyFacts>>,
    reports: u64,
    /// Whether nothing is lost or left for later.
    is_settling: bool,
    prints: bool,
    pub(crate) seen: Seen,
}

impl History {
    pub(crate) fn new(weather: Weather, seed: u64, prints: bool) -> Self {
        let mut random = Random::new(seed);
        let rules = random_rules(&mut random);
        let count = 2 + random.below(4) as usize;
        let desired = (0..KEYS).map(|number| random_facts(&mut random, number)).collect();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let roads = pairs.filter(|(from, to)| from != to);
        let mut history = Self {
            weather,
            clock: 90 * HOUR_MS + random.below(HOUR_MS),
            nodes: (0..count).map(|number| Node::new(number, rules.clone())).collect(),
            store: vec![Published::default(); count],
            roads: roads.map(|road| (road, Road::default())).collect(),
            away: vec![0; count],
            given: BTreeMap::new(),
            periods: BTreeMap::new(),
            desired,
            reports: 0,
            random,
            is_settling: false,
            prints,
            seen: Seen::default(),
        };
        (0..count).for_each(|node| history.sync(node));
        history
    }

    /// One operation.
    pub(crate) fn step(&mut self) {
        self.pass_time();
        let node = self.random.below(self.nodes.len() as u64) as usize;
        self.away.iter_mut().for_each(|away| *away = away.saturating_sub(1));
        let is_rough = self.weather == Weather::Rough;
        match self.random.below(100) {
            _ if self.away[node] > 0 => {}
            0..20 => self.select(node),
            20..32 => self.track(node),
            32..40 => self.release(node),
            40..44 => self.expire(node),
            44..47 => self.reload(node),
            47..50 => self.start_again(node),
            50..52 if is_rough => self.lose_store(),
            52..54 if is_rough => self.leave(node),
            54..68 => self.publish(node),
            68..88 => self.learn(node),
            88..92 => self.read(node),
            _ => self.settle(node),
        }
        if !is_rough {
            self.settle_down();
        }
    }

    fn pass_time(&mut self) {
        let random = &mut self.random;
        self.clock += match random.below(100) {
            0..50 => 0,
            50..75 => random.below(1_500),
            75..88 => random.below(MINUTE_MS),
            88..97 => random.below(10 * MINUTE_MS),
            97..99 => random.below(70 * MINUTE_MS),
            _ => random.below(3 * HOUR_MS),
        };
    }

    /// A node as it is at present.
    fn present(&mut self, node: usize) -> &mut Node {
        let now = Time::from_ms(self.clock);
        let node = &mut self.nodes[node];
        node.state.advance(now);
        node
    }

    /// A verb that names a session.
    fn call<Command: Decide + std::fmt::Debug>(
        &mut self,
        node: usize,
        session: &SessionRef,
        command: &Command,
    ) -> Option<Command::Reply> {
        self.print(&format_args!("{}: node-{node} {command:?}", self.clock));
        let events = self.present(node).prepare(session);
        self.note(&events);
        let (reply, events) = self.nodes[node].run(command).ok()?;
        self.note(&events);
        Some(reply)
    }

    /// Counts events and draws from them what must hold.
    fn note(&mut self, events: &[Event]) {
        for event in events {
            self.print(&format_args!("    {event:?}"));
            match event {
                Event::KeysSelected(selected) if selected.opened => {
                    self.periods.entry(selected.session.clone()).or_default().0 += 1;
                }
                Event::SessionMovedIn(_) => self.count("moved in"),
                Event::SessionMovedOut(_) => self.count("moved out"),
                Event::SessionExpired(expired) => {
                    self.count("expired");
                    self.given.remove(&expired.session);
                    let period = self.periods.entry(expired.session.clone()).or_default();
                    period.1 += 1;
                    let is_once = period.1 <= period.0 || self.weather == Weather::Rough;
                    assert!(is_once, "{:?} expired twice", expired.session);
                }
                _ => {}
            }
        }
    }

    /// Without a call, a session comes only where it had been.
    fn note_settled(&mut self, events: &[Event]) {
        let is_in = |event: &&Event| matches!(event, Event::SessionMovedIn(_));
        (0..events.iter().filter(is_in).count()).for_each(|_| self.count("taken back"));
        self.note(events);
    }

    // Calls.

    fn select(&mut self, node: usize) {
        let random = &mut self.random;
        let models = (0..1 + random.below(2)).map(|_| random_model(random)).collect();
        let session = random_session(random);
        let count = random.one_of(&[1, 1, 2, 3]);
        let select = Select {
            session: session.clone(),
            user: 7,
            models,
            count,
            reserved: None,
            owner_sessions_max: None,
        };
        let Some(selected) = self.call(node, &session, &select) else { return };
        for pick in selected.picks.iter().filter(|pick| !pick.already_held) {
            self.given.entry(session.clone()).or_default().insert((pick.model.clone(), pick.key));
        }
        self.count("key given");
    }

    fn track(&mut self, node: usize) {
        let session = random_session(&mut self.random);
        self.reports += 1;
        let known = self.nodes[node].state.session_stats(&session);
        let allocations = known.map(|known| known.allocations).unwrap_or_default();
        if allocations.is_empty() {
            return;
        }
        let random = &mut self.random;
        let allocation = random.one_of(&allocations);
        let ago = random.one_of(&[0, 0, 30_000, 59 * MINUTE_MS, 61 * MINUTE_MS]);
        let track = TrackUsage {
            session: session.clone(),
            key: allocation.key,
            model: allocation.model,
            tokens: Tokens { input: random.below(900), output: random.below(900), cached_input: 0 },
            outcome: random.one_of(&[Outcome::Success, Outcome::Success, Outcome::RateLimited]),
            event_id: self.reports.to_string().into(),
            occurred: Time::from_ms(self.clock - ago),
            retry_after: random.one_of(&[None, Some(1), Some(600)]).map(Duration::from_secs),
        };
        if self.call(node, &session, &track).is_some() {
            self.count("report counted");
        }
    }

    fn release(&mut self, node: usize) {
        let session = random_session(&mut self.random);
        let random = &mut self.random;
        let scope = match random.below(3) {
            0 => ReleaseScope::Session,
            1 => ReleaseScope::Key(key_id(random.below(KEYS))),
            _ => ReleaseScope::Model(random_model(random)),
        };
        let release = Release { session: session.clone(), scope: scope.clone() };
        let Some(released) = self.call(node, &session, &release) else { return };
        if released.allocations_count > 0 {
            self.count("key given back");
        }
        let given = self.given.entry(session).or_default();
        given.retain(|(model, key)| match &scope {
            ReleaseScope::Session => false,
            ReleaseScope::Key(released) => released != key,
            ReleaseScope::Model(released) => released != model,
        });
    }

    fn expire(&mut self, node: usize) {
        let events = self.present(node).expire(None);
        self.note(&events);
    }

    /// Other keys are wanted; the other nodes will find out some time.
    fn reload(&mut self, node: usize) {
        let number = self.random.below(KEYS);
        self.desired.retain(|facts| facts.key != key_id(number));
        if self.random.chance(80) {
            let facts = random_facts(&mut self.random, number);
            self.desired.push(facts);
        }
        self.sync(node);
    }

    fn sync(&mut self, node: usize) {
        let sync = SyncKeys { desired: self.desired.clone() };
        let Ok(_) = self.present(node).run(&sync);
    }

    // Between nodes.

    /// Tells the others a part, or everything; some of them may not hear it.
    fn publish(&mut self, node: usize) {
        let rows_max = self.random.one_of(&[1, 2, 100]);
        while let Some(rows) = self.present(node).publish(rows_max) {
            self.print(&format_args!("{}: node-{node} tells {rows:?}", self.clock));
            self.store[node].write(&rows);
            let is_lost = !self.is_settling && self.random.chance(5);
            for (_, road) in self.roads.iter_mut().filter(|((from, _), _)| *from == node) {
                road.has_gap |= is_lost;
                if !is_lost {
                    road.rows.push_back(rows.clone());
                }
            }
            if is_lost {
                self.count("rows lost");
            }
            if !self.is_settling && self.random.chance(40) {
                break;
            }
        }
    }

    /// A node learns some of what is on its way to it.
    fn learn(&mut self, node: usize) {
        let from = self.random.below(self.nodes.len() as u64) as usize;
        let Some(road) = self.roads.get_mut(&(from, node)) else { return };
        let count = self.random.below(4) as usize;
        let rows: Vec<NodeRows> = road.rows.drain(..count.min(road.rows.len())).collect();
        let name = self.nodes[from].name.clone();
        for rows in rows {
            self.print(&format_args!("{}: node-{node} learns of {name}: {rows:?}", self.clock));
            self.nodes[node].state.learn(&name, &rows);
        }
        if self.roads[&(from, node)].has_gap && self.random.chance(50) {
            self.read_from(from, node);
        }
    }

    fn read(&mut self, node: usize) {
        let from = self.random.below(self.nodes.len() as u64) as usize;
        if from != node {
            self.read_from(from, node);
        }
    }

    /// A node reads all that another published.
    fn read_from(&mut self, from: usize, node: usize) {
        let rows_max = self.random.one_of(&[1, 2, 100]);
        self.roads.insert((from, node), Road::default());
        let name = self.nodes[from].name.clone();
        self.print(&format_args!("{}: node-{node} reads {name}", self.clock));
        self.nodes[node].read(&name, &self.store[from], rows_max);
    }

    fn settle(&mut self, node: usize) {
        let events = self.present(node).settle();
        self.note_settled(&events);
    }

    // Mishaps.

    /// What is durable is all that is left of a node, and the others are to
    /// read anew what it tells.
    fn start_again(&mut self, node: usize) {
        self.print(&format_args!("{}: node-{node} starts again", self.clock));
        let from_rows = self.random.chance(50);
        self.present(node).start_again(from_rows);
        self.store[node] = Published::default();
        for ((from, to), road) in &mut self.roads {
            if *to == node || *from == node {
                *road = Road { has_gap: true, ..Road::default() };
            }
        }
        self.count("node started again");
    }

    fn lose_store(&mut self) {
        self.print(&format_args!("{}: the store is lost", self.clock));
        self.store.fill(Published::default());
        self.nodes.iter_mut().for_each(|node| node.state.share_everything());
        for road in self.roads.values_mut() {
            *road = Road { has_gap: true, ..Road::default() };
        }
        self.count("store lost");
    }

    fn leave(&mut self, node: usize) {
        self.print(&format_args!("{}: node-{node} is away", self.clock));
        self.away[node] = self.random.below(60);
        self.count("node away");
    }

    // The end.

    /// Nobody calls any more, and everybody hears everything.
    pub(crate) fn settle_down(&mut self) {
        self.clock = self.clock.next_multiple_of(1_000);
        self.is_settling = true;
        (0..self.nodes.len()).for_each(|node| self.sync(node));
        let (mut rounds, mut quiet) = (0, 0);
        while quiet < 2 {
            assert!(rounds < ROUNDS_MAX, "it does not settle");
            // One of two quiet rounds has read everything.
            quiet = if self.settle_once(rounds % 2 == 0) { 0 } else { quiet + 1 };
            rounds += 1;
        }
        assert!(self.nodes.iter().all(|node| node.state.unshared_count() == 0));
        assert_agreement(&self.nodes, &self.given);
        for node in &self.nodes {
            let fold = node.fold();
            assert_eq!(Node::rows(&node.state), Node::rows(&fold), "{} is no fold", node.name);
        }
        self.is_settling = false;
    }

    /// Everything is told, learned and settled once; false when nothing moved.
    fn settle_once(&mut self, reads_all: bool) -> bool {
        let count = self.nodes.len();
        (0..count).for_each(|node| self.publish(node));
        for (from, to) in self.roads.keys().copied().collect::<Vec<_>>() {
            if reads_all || self.roads[&(from, to)].has_gap {
                self.read_from(from, to);
            }
            let road = self.roads.entry((from, to)).or_default();
            let rows: Vec<NodeRows> = road.rows.drain(..).collect();
            let name = self.nodes[from].name.clone();
            rows.iter().for_each(|rows| self.nodes[to].state.learn(&name, rows));
        }
        let mut moved = 0;
        for node in 0..count {
            let expired = self.present(node).expire(None);
            self.note(&expired);
            let settled = self.nodes[node].settle();
            self.note_settled(&settled);
            moved += expired.len() + settled.len();
        }
        moved > 0
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    #[expect(clippy::print_stdout, reason = "a repeated history is there to be read")]
    fn print(&self, line: &dyn std::fmt::Display) {
        if self.prints {
            println!("{line}");
        }
    }
}

fn random_rules(random: &mut Random) -> Rules {
    Rules {
        session_ttl: Duration::from_millis(random.one_of(&[
            HOUR_MS,
            HOUR_MS,
            20 * MINUTE_MS,
            90_500,
        ])),
        ended_session_ttl: Duration::from_millis(random.one_of(&[2 * HOUR_MS, 24 * HOUR_MS])),
        ended_sessions_max: random.one_of(&[0, 100, 100]),
        max_holders: random.one_of(&[0, 0, 2]),
        ..Rules::default()
    }
}

fn key_id(number: u64) -> KeyId {
    KeyId::from_digest(&[number as u8; 32])
}

fn random_facts(random: &mut Random, number: u64) -> Arc<KeyFacts> {
    let mut models: Vec<ModelName> =
        (0..1 + random.below(3)).map(|_| random_model(random)).collect();
    models.sort();
    models.dedup();
    Arc::new(KeyFacts {
        key: key_id(number),
        models,
        own_weight: OwnWeight::DEFAULT,
        max_holders: NonZeroU32::new(random.one_of(&[0, 0, 0, 1, 2])),
        label: None,
        sources: vec!["cli".into()],
    })
}

fn random_model(random: &mut Random) -> ModelName {
    random.one_of(&MODELS).parse().expect("it is a model")
}

fn random_session(random: &mut Random) -> SessionRef {
    SessionRef { owner: 1_000, id: random.one_of(&SESSIONS).into() }
}
