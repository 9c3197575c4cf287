//! Random histories: what was written is what is loaded, and what is loaded
//! goes on as the original does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    Changes, Decide, Event, Expire, KeyFacts, KeyRow, KeyStats, ModelName, Outcome, OwnWeight,
    Release, ReleaseScope, Rules, Select, SessionRow, State, SyncKeys, Time, Tokens, TrackUsage,
};
use key_server_projections::reports::{self, By};
use key_server_projections::{Mark, Projection, SqliteProjection};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::rows::{NOW, key_id, model, place};

const MODELS: [&str; 3] = ["openai/gpt-4o", "openai/o1", "openai/GPT-4o"];

#[derive(Clone, Debug)]
enum Step {
    Pass { ms: u64 },
    Sync { served: u8, variant: u8 },
    Select { session: u8, models: u8, count: u32 },
    Track { session: u8, key: u8, model: u8, tokens: u64, outcome: u8, event: u8 },
    Release { session: u8, scope: u8 },
    Expire,
    Write { repeat: bool },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop_oneof![1u64..90_000, 90_000u64..4_000_000, 80_000_000u64..100_000_000]
            .prop_map(|ms| Step::Pass { ms }),
        1 => (any::<u8>(), 0u8..3).prop_map(|(served, variant)| Step::Sync { served, variant }),
        6 => (0u8..8, 1u8..8, 1u32..3)
            .prop_map(|(session, models, count)| Step::Select { session, models, count }),
        8 => (0u8..8, 0u8..8, 0u8..3, 0u64..4_000, 0u8..5, 0u8..12).prop_map(
            |(session, key, model, tokens, outcome, event)| {
                Step::Track { session, key, model, tokens, outcome, event }
            }
        ),
        3 => (0u8..8, 0u8..12).prop_map(|(session, scope)| Step::Release { session, scope }),
        2 => Just(Step::Expire),
        4 => any::<bool>().prop_map(|repeat| Step::Write { repeat }),
        2 => Just(Step::Restart),
    ]
}

fn rules() -> Rules {
    Rules {
        session_ttl: Duration::from_secs(600),
        ended_session_ttl: Duration::from_secs(7_200),
        ended_sessions_max: 3,
        sessions_max: 6,
        session_allocations_max: 6,
        max_holders: 4,
        ..Rules::default()
    }
}

/// A state, the file that is written from it, and a state that was loaded from
/// the file and lives through the same events since.
struct History {
    state: State,
    twin: State,
    now: Time,
    seq: u64,
    seed: u64,
    projection: SqliteProjection,
    /// What the file has by now.
    written: Option<(Mark, Changes)>,
    tracked: u64,
    path: PathBuf,
    _directory: TempDir,
}

impl History {
    fn new() -> Self {
        let (directory, path) = place();
        Self {
            state: State::new(rules()),
            twin: State::new(rules()),
            now: NOW,
            seq: 0,
            seed: 1,
            projection: SqliteProjection::open(&path).unwrap(),
            written: None,
            tracked: 0,
            path,
            _directory: directory,
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Pass { ms } => self.pass(*ms),
            Step::Sync { served, variant } => self.sync(*served, *variant),
            Step::Select { session, models, count } => self.select(*session, *models, *count),
            Step::Track { .. } => self.track(step),
            Step::Release { session, scope } => self.release(*session, *scope),
            Step::Expire => self.expire(),
            Step::Write { repeat } => self.write(*repeat),
            Step::Restart => self.restart(),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = Time::from_ms(self.now.as_ms() + ms);
        self.state.advance(self.now);
        self.twin.advance(self.now);
    }

    /// Each event at an instant of its own: of sessions that end at the same
    /// one, a loaded state does not know which ended first.
    fn apply(&mut self, events: &[Event]) {
        for event in events {
            self.pass(1);
            self.seq += 1;
            self.tracked += u64::from(matches!(event, Event::UsageTracked(_)));
            self.state.apply(self.now, event);
            self.twin.apply(self.now, event);
        }
    }

    fn sync(&mut self, served: u8, variant: u8) {
        let served = (0..8).filter(|n| served & (1 << n) != 0);
        let desired = served.map(|n| Arc::new(facts(n, variant))).collect();
        let sync = SyncKeys { desired };
        let Ok(decision) = sync.decide(&self.state, self.now, 0);
        self.apply(&decision.events);
    }

    /// The draws differ: where keys stand in a pool is not kept. Whether there
    /// are any does not.
    fn select(&mut self, session: u8, models: u8, count: u32) {
        let models = (0..3).filter(|n| models & (1 << n) != 0).map(|n| model(MODELS[n]));
        let (session, models) = (session_ref(session), models.collect());
        let select =
            Select { session, user: 7, models, count, reserved: None, owner_sessions_max: None };
        self.seed += 1;
        let decided = select.decide(&self.state, self.now, self.seed);
        let twins = select.decide(&self.twin, self.now, self.seed);
        match (decided, twins) {
            (Ok(decided), Ok(twins)) => {
                assert_eq!(decided.reply.shortages, twins.reply.shortages);
                assert_eq!(decided.reply.picks.len(), twins.reply.picks.len());
                self.apply(&decided.events);
            }
            (decided, twins) => assert_eq!(decided.err(), twins.err()),
        }
    }

    fn track(&mut self, step: &Step) {
        let Step::Track { session, key, model: place, tokens, outcome, event } = step else {
            return;
        };
        let outcomes = [Outcome::Success, Outcome::RateLimited, Outcome::Cancelled];
        let track = TrackUsage {
            session: session_ref(*session),
            key: key_id(*key),
            model: model(MODELS[usize::from(*place)]),
            tokens: Tokens { input: *tokens, output: tokens / 3, cached_input: tokens / 2 },
            outcome: outcomes[usize::from(*outcome) % 3],
            event_id: format!("event_{event}").into(),
            occurred: Time::from_ms(self.now.as_ms() - tokens * 100),
            retry_after: (*outcome == 4).then(|| Duration::from_millis(*tokens * 30)),
        };
        let decided = track.decide(&self.state, self.now, 0);
        assert_eq!(decided, track.decide(&self.twin, self.now, 0));
        self.apply(&decided.map(|decision| decision.events).unwrap_or_default());
    }

    fn release(&mut self, session: u8, scope: u8) {
        let scope = match scope {
            0..4 => ReleaseScope::Session,
            4..6 => ReleaseScope::Model(model(MODELS[usize::from(scope) - 4])),
            _ => ReleaseScope::Key(key_id(scope - 6)),
        };
        let release = Release { session: session_ref(session), scope };
        let decided = release.decide(&self.state, self.now, 0);
        assert_eq!(decided, release.decide(&self.twin, self.now, 0));
        self.apply(&decided.map(|decision| decision.events).unwrap_or_default());
    }

    fn expire(&mut self) {
        let expire = Expire { first: None, sessions_max: 100 };
        let (Ok(decided), Ok(twins)) =
            (expire.decide(&self.state, self.now, 0), expire.decide(&self.twin, self.now, 0));
        assert_eq!(decided.reply, twins.reply);
        self.apply(&decided.events);
    }

    fn write(&mut self, repeat: bool) {
        let mark = Mark { seq: self.seq, at: self.state.now(), resume: self.seq.to_string() };
        if self.written.as_ref().is_some_and(|(old, _)| old.seq == self.seq) {
            return;
        }
        let changes = self.state.take_changes();
        // What the twin wrote in the place of the original would be the same.
        assert_eq!(sorted_changes(self.twin.take_changes()), sorted_changes(changes.clone()));
        self.projection.write(&mark, &changes).unwrap();
        if let Some((mark, changes)) = self.written.as_ref().filter(|_| repeat) {
            self.projection.write(mark, changes).unwrap();
        }
        if repeat {
            self.projection.write(&mark, &changes).unwrap();
        }
        self.written = Some((mark, changes));
    }

    /// Writes, and puts what is loaded in the twin's place.
    fn restart(&mut self) {
        // A mark of its own, even if only time has passed.
        self.seq += 1;
        self.write(false);
        self.projection = SqliteProjection::open(&self.path).unwrap();
        let (mark, loaded) = self.projection.load(rules()).unwrap().unwrap();
        assert_eq!(mark.seq, self.seq);
        assert_eq!(mark.at, self.now);
        self.twin = loaded;
    }

    /// The twin knows what the original knows.
    fn compare(&self) {
        assert_eq!(sorted(self.state.rows()), sorted(self.twin.rows()));
        assert_eq!(self.state.totals(), self.twin.totals());
        assert!(self.state.pools_after(None).eq(self.twin.pools_after(None)));
        assert_eq!(stats(&self.state), stats(&self.twin));
        assert_eq!(self.state.has_overdue(), self.twin.has_overdue());
    }
}

fn session_ref(n: u8) -> key_server_core::SessionRef {
    key_server_core::SessionRef { owner: u32::from(n % 2), id: format!("s{}", n / 2).into() }
}

fn facts(n: u8, variant: u8) -> KeyFacts {
    let mut models: Vec<ModelName> = MODELS.map(model).to_vec();
    models.remove(usize::from((n + variant) % 3));
    models.sort();
    KeyFacts {
        key: key_id(n),
        models,
        own_weight: OwnWeight::from_thousandths(u32::from(n) * 333 + 1).unwrap(),
        max_holders: std::num::NonZeroU32::new(u32::from(n % 3)),
        label: (variant > 0).then(|| "with \"quotes\" and ünïcode".into()),
        sources: (0..variant).map(|n| format!("csv@{n}").into()).collect(),
    }
}

fn stats(state: &State) -> Vec<KeyStats> {
    let mut stats: Vec<KeyStats> = state.keys_from(0).map(|(_, stats)| stats).collect();
    stats.sort_by_key(|key| key.facts.key);
    stats
}

fn sorted(
    (mut keys, mut sessions): (Vec<KeyRow>, Vec<SessionRow>),
) -> (Vec<KeyRow>, Vec<SessionRow>) {
    keys.sort_by_key(|key| key.facts.key);
    keys.iter_mut().for_each(|key| key.cooling.sort());
    sessions.sort_by(|a, b| a.session.cmp(&b.session));
    (keys, sessions)
}

fn sorted_changes(mut changes: Changes) -> Changes {
    (changes.keys, changes.sessions) = sorted((changes.keys, changes.sessions));
    changes.forgotten.sort();
    changes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn what_is_loaded_is_what_was_written(steps in prop::collection::vec(step(), 1..120)) {
        let mut history = History::new();
        history.sync(0xff, 0);
        for step in &steps {
            history.run(step);
            history.compare();
        }
        history.restart();
        history.compare();
        let report = reports::usage(&history.path, By::Session, 0, 1_000).unwrap();
        prop_assert_eq!(report.total.requests, history.tracked);
        let lifetime = history.state.totals().lifetime;
        prop_assert_eq!(report.total.failures, lifetime.failures);
        prop_assert_eq!(report.total.input, lifetime.tokens.input);
        prop_assert_eq!(report.total.output, lifetime.tokens.output);
        prop_assert_eq!(report.total.cached, lifetime.tokens.cached_input);
    }
}
