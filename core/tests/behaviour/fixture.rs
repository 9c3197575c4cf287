use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    Decide, Decision, Event, Expire, KeyFacts, KeyId, ModelName, Outcome, OwnWeight, Release,
    ReleaseRefusal, ReleaseScope, Rules, Select, SelectRefusal, Selected, SessionRef, SessionStats,
    State, SyncKeys, Time, Tokens, TrackUsage, TrackUsageRefusal,
};

pub(crate) const MODEL: &str = "acme/large";
pub(crate) const OTHER_MODEL: &str = "acme/small";
pub(crate) const USER: i32 = 7;

/// Where the clock of a test begins: on the hour, with a past before it.
const START_MS: u64 = 1_000 * 3_600_000;

/// A state and its clock, which only tests move.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) state: State,
    pub(crate) now: Time,
    seed: u64,
}

impl Node {
    /// A node that serves `keys`, at 0:00:00.
    pub(crate) fn new(rules: Rules, keys: &[Arc<KeyFacts>]) -> Self {
        let now = at("0:00:00");
        let mut node = Self { state: State::new(rules), now, seed: 0 };
        node.state.advance(now);
        node.sync(keys);
        node
    }

    /// Moves the clock, backwards too.
    pub(crate) fn clock(&mut self, clock: &str) {
        self.now = at(clock);
        self.state.advance(self.now);
    }

    pub(crate) fn decide<Command: Decide>(
        &mut self,
        command: &Command,
    ) -> Result<Decision<Command::Reply>, Command::Refusal> {
        self.seed += 1;
        command.decide(&self.state, self.now, self.seed)
    }

    /// Decides and applies.
    pub(crate) fn run<Command: Decide>(
        &mut self,
        command: &Command,
    ) -> Result<Command::Reply, Command::Refusal> {
        let decision = self.decide(command)?;
        self.apply(&decision.events);
        Ok(decision.reply)
    }

    pub(crate) fn apply(&mut self, events: &[Event]) {
        let at = self.state.now();
        events.iter().for_each(|event| self.state.apply(at, event));
    }

    pub(crate) fn sync(&mut self, keys: &[Arc<KeyFacts>]) {
        let Ok(_) = self.run(&SyncKeys { desired: keys.to_vec() });
    }

    pub(crate) fn select(&mut self, name: &str, model: &str) -> Result<Selected, SelectRefusal> {
        self.run(&select(name, &[model], 1))
    }

    /// The one key that a select gives.
    pub(crate) fn selected_key(&mut self, name: &str, model: &str) -> KeyId {
        let selected = self.select(name, model).expect("a key is usable");
        selected.picks[0].key
    }

    pub(crate) fn track(&mut self, track: &TrackUsage) -> Result<bool, TrackUsageRefusal> {
        self.run(track).map(|tracked| tracked.late)
    }

    pub(crate) fn release(
        &mut self,
        name: &str,
        scope: ReleaseScope,
    ) -> Result<usize, ReleaseRefusal> {
        let release = Release { session: session(name), scope };
        self.run(&release).map(|released| released.allocations_count)
    }

    /// Ends what is overdue and answers with how many sessions that were.
    pub(crate) fn expire(&mut self) -> usize {
        let Ok(expired) = self.run(&Expire { first: None, sessions_max: 1_000 });
        expired
    }

    pub(crate) fn session(&self, name: &str) -> Option<SessionStats> {
        self.state.session_stats(&session(name))
    }
}

/// The instant that the clock of a test shows: `hours:minutes:seconds`, the
/// seconds with or without thousandths.
pub(crate) fn at(clock: &str) -> Time {
    let parts: Vec<&str> = clock.split(':').collect();
    let [hours, minutes, seconds] = parts.as_slice() else { panic!("{clock} is no time") };
    let whole = |text: &str| text.parse::<u64>().expect("a number");
    let (seconds, thousandths) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let seconds = (whole(hours) * 60 + whole(minutes)) * 60 + whole(seconds);
    Time::from_ms(START_MS + seconds * 1_000 + whole(thousandths))
}

pub(crate) fn key_id(number: u32) -> KeyId {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&number.to_be_bytes());
    KeyId::from_digest(&digest)
}

pub(crate) fn model(name: &str) -> ModelName {
    name.parse().expect("a model's name")
}

/// A key that serves `models`, with nothing special about it.
pub(crate) fn key(number: u32, models: &[&str]) -> Arc<KeyFacts> {
    special_key(number, models, 1_000, 0)
}

/// A key with a weight in thousandths and a cap; 0: no cap.
pub(crate) fn special_key(
    number: u32,
    models: &[&str],
    thousandths: u32,
    max_holders: u32,
) -> Arc<KeyFacts> {
    Arc::new(KeyFacts {
        key: key_id(number),
        models: models.iter().map(|name| model(name)).collect(),
        own_weight: OwnWeight::from_thousandths(thousandths).expect("a weight"),
        max_holders: NonZeroU32::new(max_holders),
        label: None,
        sources: vec!["cli".into()],
    })
}

pub(crate) fn session(name: &str) -> SessionRef {
    SessionRef { owner: 1_000, id: name.into() }
}

pub(crate) fn select(name: &str, models: &[&str], count: u32) -> Select {
    let models = models.iter().map(|name| model(name)).collect();
    Select {
        session: session(name),
        user: USER,
        models,
        count,
        reserved: None,
        owner_sessions_max: None,
    }
}

/// A report of a success, spent at `clock`.
pub(crate) fn report(
    name: &str,
    key: KeyId,
    event_id: &str,
    clock: &str,
    input: u64,
) -> TrackUsage {
    TrackUsage {
        session: session(name),
        key,
        model: model(MODEL),
        tokens: Tokens { input, output: 0, cached_input: 0 },
        outcome: Outcome::Success,
        event_id: event_id.into(),
        occurred: at(clock),
        retry_after: None,
    }
}

/// A report of a provider that asks to wait for so many seconds.
pub(crate) fn slow_down(name: &str, key: KeyId, clock: &str, seconds: u64) -> TrackUsage {
    let event_id = format!("slow down at {clock} for {seconds}");
    TrackUsage {
        outcome: Outcome::RateLimited,
        retry_after: Some(Duration::from_secs(seconds)),
        ..report(name, key, &event_id, clock, 0)
    }
}
