//! The rules: any order of calls, on a clock that goes where it likes.

use std::time::Duration;

use key_server_core::{
    Expire, KeyState, Outcome, Release, ReleaseScope, Select, SessionRef, SyncKeys, Time, Tokens,
    TrackUsage,
};

use crate::node::{KEYS, MODELS, Node, facts, key_id, model};

const SESSIONS: [(u32, &str); 4] = [(1, "a"), (1, "b"), (2, "a"), (3, "c")];
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
