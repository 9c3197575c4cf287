//! A node of the rules, for targets that let things happen to one.

use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::Arc;

use key_server_core::{Decide, KeyFacts, KeyId, ModelName, OwnWeight, Rules, State, Time};

/// Models; nobody serves the last.
pub(crate) const MODELS: [&str; 4] = ["acme/large", "acme/small", "acme/org/tiny", "acme/unserved"];
/// How many keys there may be.
pub(crate) const KEYS: u8 = 6;

/// A state, and another that sees only its events.
pub(crate) struct Node {
    pub(crate) state: State,
    fold: State,
    seed: u64,
}

impl Node {
    pub(crate) fn new() -> Self {
        let rules = Rules { sessions_max: 3, ended_sessions_max: 2, ..Rules::default() };
        Self { state: State::new(rules.clone()), fold: State::new(rules), seed: 0 }
    }

    pub(crate) fn pass_to(&mut self, ms: u64) {
        self.state.advance(Time::from_ms(ms));
        self.fold.advance(self.state.now());
    }

    pub(crate) fn run<C>(&mut self, command: &C) -> Result<C::Reply, C::Refusal>
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

    /// As [`Node::check_rows`], where nothing was learned of other nodes.
    pub(crate) fn check(&self) {
        self.check_rows();
        assert_eq!(self.state.totals(), self.fold.totals());
        assert!(self.state.pools_after(None).eq(self.fold.pools_after(None)));
        let holds: usize = self.state.keys_from(0).map(|(_, key)| key.holders as usize).sum();
        let (_, sessions) = self.state.rows();
        let held = sessions.iter().flat_map(|session| &session.allocations);
        assert!(holds <= held.count(), "nobody holds what no session has");
    }

    /// What the node would write down is what its events add up to.
    pub(crate) fn check_rows(&self) {
        assert_eq!(self.state.rows(), self.fold.rows());
    }
}

/// A key that is as these bits say.
pub(crate) fn facts(number: u8, kind: u8) -> Arc<KeyFacts> {
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

pub(crate) fn key_id(number: u8) -> KeyId {
    KeyId::from_digest(&[number; 32])
}

pub(crate) fn model(name: &str) -> ModelName {
    name.parse().expect("a model's name")
}
