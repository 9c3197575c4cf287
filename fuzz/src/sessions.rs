//! The rules: any order of calls, on a clock that goes where it likes.

use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    Decide, Expire, KeyFacts, KeyId, KeyState, ModelName, Outcome, OwnWeight, Release,
    ReleaseScope, Rules, Select, SessionRef, State, SyncKeys, Time, Tokens, TrackUsage,
};

const MODELS: [&str; 4] = ["acme/large", "acme/small", "acme/org/tiny", "acme/unserved"];
const SESSIONS: [(u32, &str); 4] = [(1, "a"), (1, "b"), (2, "a"), (3, "c")];
const KEYS: u8 = 6;
const START_MS: u64 = 90 * 3_600_000;

/// The bytes are calls, reports, releases, changes of keys and steps of the
/// clock. A key that is given may be given; the fold of the events is the
/// state, and so is what is restored from its rows.
pub fn run(bytes: &[u8]) {
    let mut story = Story { bytes, now: START_MS, node: Node::new() };
    story.node.pass_to(story.now);
    while !story.bytes.is_empty() {
        story.step();
    }
    story.node.check();
}

struct Story<'bytes> {
    bytes: &'bytes [u8],
    now: u64,
    node: Node,
}

/// A state, and another that sees only its events.
struct Node {
    state: State,
    fold: State,
    seed: u64,
}

impl Story<'_> {
    /// The next byte; 0 at the end.
    fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((first, rest)) => {
                self.bytes = rest;
                *first
            }
            None => 0,
        }
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    fn step(&mut self) {
        match self.byte() % 8 {
            0 => self.pass_time(),
            1 => self.sync(),
            2..=3 => self.select(),
            4..=5 => self.track(),
            6 => self.release(),
            _ => self.expire(),
        }
    }

    fn pass_time(&mut self) {
        let units = [1, 1_000, 60_000, 3_600_000, 24 * 3_600_000];
        let step = u64::from(self.byte()) * self.one_of(&units);
        self.now = match self.byte() % 8 {
            0 => self.now.saturating_sub(step),
            _ => self.now + step,
        };
        self.node.pass_to(self.now);
    }

    fn sync(&mut self) {
        let listed = self.byte();
        let desired = (0..KEYS).filter(|number| listed >> number & 1 == 1);
        let desired = desired.map(|number| facts(number, self.byte())).collect();
        let Ok(synced) = self.node.run(&SyncKeys { desired });
        assert!(synced.added + synced.changed <= usize::from(KEYS));
    }

    fn select(&mut self) {
        let models = (0..1 + self.byte() % 3).map(|_| model(self.one_of(&MODELS))).collect();
        let select = Select {
            session: self.session(),
            user: i32::from(self.byte() % 2),
            models,
            count: u32::from(self.byte() % 8),
            reserved: None,
            owner_sessions_max: None,
        };
        let Ok(selected) = self.node.run(&select) else { return };
        for pick in &selected.picks {
            let stats = self.node.state.key_stats(pick.key).expect("it is a key of ours");
            assert_ne!(stats.state, KeyState::Retired, "{select:?}");
            assert!(stats.facts.models.contains(&pick.model));
            let max = stats.holders_max.map(|max| max as usize);
            // Nothing was drawn for a session that holds the key already.
            let goes_on = pick.already_held || pick.candidates == 0;
            let is_within = max.is_none_or(|max| stats.holders as usize <= max);
            assert!(is_within || goes_on, "{pick:?} of {stats:?}");
        }
    }

    fn track(&mut self) {
        let model = model(self.one_of(&MODELS));
        let outcomes =
            [Outcome::Success, Outcome::RateLimited, Outcome::AuthFailed, Outcome::ProviderError];
        let tokens = [0, 1, 999, 1_000, 5_000, u64::MAX / 4];
        let track = TrackUsage {
            session: self.session(),
            key: key_id(self.byte() % KEYS),
            model,
            tokens: Tokens {
                input: self.one_of(&tokens),
                output: self.one_of(&tokens),
                cached_input: 0,
            },
            outcome: self.one_of(&outcomes),
            event_id: format!("e{}", self.byte() % 16).into(),
            occurred: Time::from_ms(self.now.saturating_sub(u64::from(self.byte()) * 60_000)),
            retry_after: Some(Duration::from_secs(u64::from(self.byte()))),
        };
        let before = self.node.state.totals().lifetime.requests;
        if self.node.run(&track).is_ok() {
            let counted = self.node.state.totals().lifetime.requests - before;
            assert!(counted <= 1);
            let _ = self.node.run(&track);
            let twice = self.node.state.totals().lifetime.requests - before;
            assert_eq!(twice, counted, "the same report counts once");
        }
    }

    fn release(&mut self) {
        let session = self.session();
        let key = key_id(self.byte() % KEYS);
        let scope = match self.byte() % 3 {
            0 => ReleaseScope::Session,
            1 => ReleaseScope::Key(key),
            _ => ReleaseScope::Model(model(self.one_of(&MODELS))),
        };
        let _ = self.node.run(&Release { session, scope });
    }

    fn expire(&mut self) {
        let sessions_max = usize::from(self.byte());
        let Ok(expired) = self.node.run(&Expire { first: None, sessions_max });
        assert!(expired <= sessions_max);
    }

    fn session(&mut self) -> SessionRef {
        let (owner, id) = self.one_of(&SESSIONS);
        SessionRef { owner, id: id.into() }
    }
}

impl Node {
    fn new() -> Self {
        let rules = Rules { sessions_max: 3, ended_sessions_max: 2, ..Rules::default() };
        Self { state: State::new(rules.clone()), fold: State::new(rules), seed: 0 }
    }

    fn pass_to(&mut self, ms: u64) {
        self.state.advance(Time::from_ms(ms));
        self.fold.advance(self.state.now());
    }

    fn run<C>(&mut self, command: &C) -> Result<C::Reply, C::Refusal>
    where
        C: Decide<Reply: PartialEq + Debug, Refusal: PartialEq + Debug>,
    {
        self.seed += 1;
        let now = self.state.now();
        let decision = command.decide(&self.state, now, self.seed)?;
        for event in &decision.events {
            self.state.apply(now, event);
            self.fold.apply(now, event);
        }
        Ok(decision.reply)
    }

    fn check(&self) {
        assert_eq!(self.state.rows(), self.fold.rows());
        assert_eq!(self.state.totals(), self.fold.totals());
        assert!(self.state.pools_after(None).eq(self.fold.pools_after(None)));
        let holds: usize = self.state.keys_from(0).map(|(_, key)| key.holders as usize).sum();
        let (_, sessions) = self.state.rows();
        let held = sessions.iter().flat_map(|session| &session.allocations);
        assert!(holds <= held.count(), "nobody holds what no session has");
    }
}

fn facts(number: u8, kind: u8) -> Arc<KeyFacts> {
    let mut models: Vec<ModelName> =
        (0..3).filter(|place| kind >> place & 1 == 1).map(|place| model(MODELS[place])).collect();
    if models.is_empty() {
        models.push(model(MODELS[0]));
    }
    models.sort();
    Arc::new(KeyFacts {
        key: key_id(number),
        models,
        own_weight: OwnWeight::from_thousandths(u32::from(kind >> 5) * 500).expect("a weight"),
        max_holders: NonZeroU32::new(u32::from(kind >> 3 & 3)),
        label: None,
        sources: vec!["cli".into()],
    })
}

fn key_id(number: u8) -> KeyId {
    KeyId::from_digest(&[number; 32])
}

fn model(name: &str) -> ModelName {
    name.parse().expect("a model's name")
}
