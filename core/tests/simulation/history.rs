use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use key_server_core::{
    Decide, Decision, Event, Expire, KeyFacts, KeyId, ModelName, Outcome, OwnWeight, Pick, Release,
    ReleaseScope, Rules, Select, SelectRefusal, Selected, SessionRef, Shortage, State, SyncKeys,
    Time, Tokens, TrackUsage,
};

use crate::compare::{assert_same, assert_state_is, sorted};
use crate::naive::{HOUR_MS, MINUTE_MS, Naive, Plan};
use crate::projection::Projection;
use crate::random::Random;
use crate::seen::{Seen, select_refusal_name, shortage_name, track_refusal_name};

const MODELS: [&str; 4] = ["acme/large", "acme/small", "acme/org/tiny", "acme/unserved"];
const OWNERS: [u32; 2] = [1_000, 1_001];
const SESSIONS: [&str; 3] = ["a", "b", "c"];
const KEYS: u64 = 5;

/// One seed's worth of operations, on everything that has to agree.
pub(crate) struct History {
    random: Random,
    rules: Rules,
    /// What the clock says; now and then it steps back.
    clock: u64,
    state: State,
    fold: State,
    /// Whether state and fold keep everything at the same places, so that they
    /// decide the same.
    are_twins: bool,
    naive: Naive,
    projection: Projection,
    last_track: Option<TrackUsage>,
    prints: bool,
    pub(crate) seen: Seen,
}

impl History {
    pub(crate) fn new(seed: u64, prints: bool) -> Self {
        let mut random = Random::new(seed);
        let rules = random_rules(&mut random);
        Self {
            clock: 90 * HOUR_MS + random.below(HOUR_MS),
            state: State::new(rules.clone()),
            fold: State::new(rules.clone()),
            are_twins: true,
            naive: Naive::new(rules.clone()),
            projection: Projection::default(),
            last_track: None,
            random,
            rules,
            prints,
            seen: Seen::default(),
        }
    }

    /// One operation, and a look at everything.
    pub(crate) fn step(&mut self) {
        self.pass_time();
        match self.random.below(100) {
            _ if self.naive.keys.is_empty() => self.sync(),
            0..36 => self.select(),
            36..66 => self.track(),
            66..80 => self.release(),
            80..90 => self.sync(),
            90..97 => self.expire(),
            _ => self.restore(),
        }
        if self.random.chance(15) {
            let changes = self.state.take_changes();
            self.seen.count("forgotten", changes.forgotten.len());
            self.projection.write(changes);
        }
        self.fold.advance(self.state.now());
        assert_state_is(&self.state, &self.naive);
        assert_same(&self.state, &self.fold);
    }

    fn pass_time(&mut self) {
        let random = &mut self.random;
        let forward = match random.below(100) {
            0..40 => 0,
            40..55 => random.below(1_500),
            55..70 => random.below(MINUTE_MS),
            70..85 => random.below(10 * MINUTE_MS),
            85..94 => random.below(70 * MINUTE_MS),
            94..96 => random.below(50 * HOUR_MS),
            _ => 0,
        };
        let is_step_back = forward == 0 && random.chance(10);
        let back = if is_step_back { random.below(2 * HOUR_MS) } else { 0 };
        self.seen.count("clock stepped back", usize::from(back > 0));
        self.clock = self.clock + forward - back;
        self.state.advance(Time::from_ms(self.clock));
        self.naive.advance(Time::from_ms(self.clock));
        assert_eq!(self.state.now(), self.naive.now);
        self.print(&format_args!("{} ms", self.clock));
    }

    /// Decides; the decision of a state that keeps everything at the same
    /// places is the same, and so is a second one.
    fn decide<Command>(
        &mut self,
        command: &Command,
    ) -> Result<Decision<Command::Reply>, Command::Refusal>
    where
        Command: Decide<Reply: PartialEq + Debug, Refusal: PartialEq + Debug> + Debug,
    {
        let (now, seed) = (Time::from_ms(self.clock), self.random.next());
        let decision = command.decide(&self.state, now, seed);
        if self.are_twins {
            self.fold.advance(self.state.now());
            assert_eq!(decision, command.decide(&self.fold, now, seed), "{command:?}");
        }
        self.print(&format_args!("{command:?}\n  {decision:?}"));
        decision
    }

    fn apply(&mut self, events: &[Event]) {
        for event in events {
            let at = self.state.now();
            self.state.apply(at, event);
            self.fold.apply(at, event);
        }
    }

    // Operations.

    fn select(&mut self) {
        let random = &mut self.random;
        let models = (0..1 + random.below(3)).map(|_| random_model(random)).collect();
        let select = Select {
            session: random_session(random),
            user: random.one_of(&[7, 7, 8]),
            models,
            count: random.one_of(&[1, 1, 2, 3, 9]),
            reserved: None,
            owner_sessions_max: None,
        };
        let decision = self.decide(&select);
        match (self.naive.plan(&select), decision) {
            (Ok(plans), Ok(decision)) => {
                let mut picks = decision.reply.picks.as_slice();
                for plan in &plans {
                    picks = check_picks(plan, picks, select.count as usize);
                }
                assert!(picks.is_empty(), "keys of models that were not asked for");
                let shortages = plans.into_iter().filter_map(|plan| plan.shortage);
                let shortages: Vec<Shortage> = shortages.collect();
                assert_eq!(decision.reply.shortages, shortages);
                self.count_select(&select, &decision.reply);
                let deadline = self.naive.select(&select, &decision.reply.picks);
                assert_eq!(decision.reply.deadline, deadline);
                self.apply(&decision.events);
            }
            (expected, decision) => {
                let refusal = decision.expect_err("the naive model refuses").without_names();
                self.seen.count(select_refusal_name(&refusal), 1);
                assert_eq!(expected.err(), Some(refusal), "{select:?}");
            }
        }
    }

    fn count_select(&mut self, select: &Select, selected: &Selected) {
        let seen = &mut self.seen;
        for pick in &selected.picks {
            seen.count("key held already", usize::from(pick.already_held));
            seen.count("key drawn", usize::from(pick.candidates > 0));
            seen.count("key drawn against others", usize::from(pick.candidates > 1));
            let is_shared = !pick.already_held && pick.candidates == 0;
            seen.count("key shared at its cap", usize::from(is_shared));
        }
        for shortage in &selected.shortages {
            seen.count(shortage_name(shortage.reason), 1);
        }
        let is_overdue = self.naive.overdue(false).contains(&select.session);
        seen.count("overdue session opened again", usize::from(is_overdue));
    }

    fn track(&mut self) {
        let track = self.random_track();
        let expected = self.naive.expect_track(&track);
        let decision = self.decide(&track);
        let answer = decision.as_ref().map(|decision| decision.reply.late);
        if let Err(refusal) = answer {
            self.seen.count(track_refusal_name(*refusal), 1);
        }
        assert_eq!(answer, expected.as_ref().map(|(late, _)| *late), "{track:?}");
        if let (Ok(decision), Ok((late, is_repeat))) = (decision, expected) {
            assert_eq!(decision.events.len(), usize::from(!is_repeat));
            self.count_track(&decision.events, late);
            if !is_repeat {
                self.naive.track(&track, late);
            }
            self.apply(&decision.events);
        }
        self.last_track = Some(track);
    }

    fn count_track(&mut self, events: &[Event], late: bool) {
        let [Event::UsageTracked(usage)] = events else {
            return self.seen.count("repeated report", 1);
        };
        self.seen.count("report counted", usize::from(!late));
        self.seen.count("report counted late", usize::from(late));
        self.seen.count("report made a key cool", usize::from(usage.cooling_until.is_some()));
    }

    fn release(&mut self) {
        let session = random_session(&mut self.random);
        let scope = match self.random.below(3) {
            0 => ReleaseScope::Session,
            1 => ReleaseScope::Key(key_id(self.random.below(KEYS))),
            _ => ReleaseScope::Model(random_model(&mut self.random)),
        };
        let release = Release { session, scope };
        let times = 1 + self.random.below(2);
        for time in 0..times {
            let decision = self.decide(&release);
            let answer = decision.as_ref().map(|decision| decision.reply.allocations_count);
            assert_eq!(answer, self.naive.release(&release).as_ref().map(|count| *count));
            let what = match (answer, time) {
                (Err(_), _) => "unknown session",
                (Ok(0), 0) => "released nothing",
                (Ok(_), 0) => "released",
                (Ok(_), _) => "released again",
            };
            self.seen.count(what, 1);
            self.apply(&decision.map(|decision| decision.events).unwrap_or_default());
        }
    }

    fn sync(&mut self) {
        let mut desired: Vec<Arc<KeyFacts>> = Vec::new();
        for number in 0..KEYS {
            let known = self.naive.key(key_id(number)).map(|key| key.facts.clone());
            match (self.random.below(10), known) {
                (0..2, _) => {}
                (2..7, Some(facts)) => desired.push(facts),
                _ => desired.push(random_facts(&mut self.random, number)),
            }
        }
        let sync = SyncKeys { desired };
        let Ok(decision) = self.decide(&sync);
        assert_eq!(decision.reply, self.naive.sync(&sync.desired));
        self.seen.count("key added", decision.reply.added);
        self.seen.count("key changed", decision.reply.changed);
        self.seen.count("key retired", decision.reply.retired);
        self.apply(&decision.events);
    }

    fn expire(&mut self) {
        let random = &mut self.random;
        let first = random.chance(50).then(|| random_session(random));
        let expire = Expire { first, sessions_max: random.below(4) as usize };
        let Ok(decision) = self.decide(&expire);
        let expired: Vec<SessionRef> = decision.events.iter().map(expired_session).collect();
        self.check_expired(&expire, &expired);
        self.seen.count("expired", expired.len());
        for session in &expired {
            self.naive.end(session, self.naive.now);
        }
        self.apply(&decision.events);
    }

    fn check_expired(&self, expire: &Expire, expired: &[SessionRef]) {
        let overdue = self.naive.overdue(false);
        let must_go = self.naive.overdue(true);
        assert!(expired.iter().all(|session| overdue.contains(session)), "in use");
        assert!((1..expired.len()).all(|place| !expired[..place].contains(&expired[place])));
        assert!(expired.len() <= expire.sessions_max);
        if expired.len() < expire.sessions_max {
            assert!(must_go.iter().all(|session| expired.contains(session)), "left over");
        }
        if let Some(first) = expire.first.as_ref().filter(|first| overdue.contains(first)) {
            assert_eq!(expired.first(), Some(first).filter(|_| expire.sessions_max > 0));
        }
    }

    /// Throws the state away and makes another from a projection's rows.
    fn restore(&mut self) {
        self.print(&format_args!("restore"));
        self.projection.write(self.state.take_changes());
        let mut rows = self.state.rows();
        let is_from_changes = self.random.chance(50);
        self.seen
            .count(if is_from_changes { "restored from changes" } else { "restored from rows" }, 1);
        if is_from_changes {
            rows = without_the_past(self.projection.rows(), self.state.now());
            assert_eq!(sorted(rows.clone()), sorted(self.state.rows()), "the projection's rows");
        }
        // Any order will do, but sessions that ended in the same millisecond are
        // forgotten in the order of their rows.
        rows.1.sort_by_key(|row| {
            let ended = self.naive.session(&row.session).and_then(|session| session.ended);
            (std::cmp::Reverse(row.end), ended)
        });
        self.state = self.projection.restore(self.rules.clone(), self.state.now(), &rows);
        self.are_twins = false;
        assert_eq!(self.state.changes_count(), 0);
    }

    fn random_track(&mut self) -> TrackUsage {
        let random = &mut self.random;
        if let Some(mut track) = self.last_track.clone().filter(|_| random.chance(25)) {
            track.occurred = Time::from_ms(self.clock);
            if random.chance(30) {
                track.tokens = random_tokens(random);
            }
            return track;
        }
        let mut session = random_session(random);
        let (mut key, mut model) = (key_id(random.below(KEYS)), random_model(random));
        if random.chance(85) && !self.naive.sessions.is_empty() {
            let known =
                &self.naive.sessions[random.below(self.naive.sessions.len() as u64) as usize];
            session = known.name.clone();
            if !known.allocations.is_empty() {
                let allocation = random.one_of(&known.allocations);
                (key, model) = (allocation.key, allocation.model);
            }
        }
        let ago = random.one_of(&[0, 0, 0, 30_000, 59 * MINUTE_MS, 61 * MINUTE_MS, 30 * HOUR_MS]);
        let ahead = random.one_of(&[0, 0, 0, 5_000]);
        let retry_after = random.one_of(&[None, Some(1), Some(90), Some(600), Some(1 << 40)]);
        TrackUsage {
            session,
            key,
            model,
            tokens: random_tokens(random),
            outcome: random_outcome(random),
            event_id: format!("e{}", random.below(40)).into(),
            occurred: Time::from_ms(self.clock - ago + ahead),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[expect(clippy::print_stdout, reason = "a repeated history is there to be read")]
    fn print(&self, line: &dyn std::fmt::Display) {
        if self.prints {
            println!("{line}");
        }
    }
}

/// Checks one model's keys and answers with what is left of the picks.
fn check_picks<'picks>(plan: &Plan, picks: &'picks [Pick], count: usize) -> &'picks [Pick] {
    let (held, picks) = picks.split_at(plan.held.len());
    assert!(held.iter().map(|pick| &pick.key).eq(&plan.held), "held keys come first");
    assert!(held.iter().all(|pick| pick.already_held && pick.model == plan.model));
    let (new, picks) = picks.split_at(plan.new_count(count));
    let mut candidates = plan.candidates.clone();
    let mut shared = plan.shared.iter();
    for pick in new {
        assert!(!pick.already_held && pick.model == plan.model);
        let total: u64 = candidates.iter().map(|(_, weight)| weight).sum();
        assert_eq!((pick.candidates as usize, pick.total_weight), (candidates.len(), total));
        match candidates.iter().position(|(key, _)| *key == pick.key) {
            Some(place) => assert_eq!(candidates.swap_remove(place).1, pick.weight),
            None => assert_eq!((Some(&pick.key), pick.weight), (shared.next(), 0)),
        }
    }
    picks
}

trait WithoutNames {
    /// The refusal without suggestions, which are a matter of taste.
    fn without_names(self) -> Self;
}

impl WithoutNames for SelectRefusal {
    fn without_names(mut self) -> Self {
        if let Self::Short(shortages) = &mut self {
            shortages.iter_mut().for_each(|shortage| shortage.did_you_mean.clear());
        }
        self
    }
}

type Rows = (Vec<key_server_core::KeyRow>, Vec<key_server_core::SessionRow>);

/// A projection's rows are as old as the last change: what time alone took
/// away still stands in them.
fn without_the_past((mut keys, sessions): Rows, now: Time) -> Rows {
    let minute = now.as_ms() / MINUTE_MS;
    for key in &mut keys {
        key.window.retain(|(spent, _)| u64::from(*spent) + 60 > minute);
    }
    (keys, sessions)
}

fn expired_session(event: &Event) -> SessionRef {
    match event {
        Event::SessionExpired(expired) => expired.session.clone(),
        other => panic!("{other:?} is no expiry"),
    }
}

fn random_rules(random: &mut Random) -> Rules {
    Rules {
        session_ttl: Duration::from_millis(random.one_of(&[20 * MINUTE_MS, HOUR_MS, 90_500])),
        ended_session_ttl: Duration::from_millis(random.one_of(&[2 * HOUR_MS, 24 * HOUR_MS])),
        ended_sessions_max: random.one_of(&[0, 1, 3, 100]),
        sessions_max: random.one_of(&[3, 100]),
        session_allocations_max: random.one_of(&[2, 4, 100]),
        max_holders: random.one_of(&[0, 0, 1, 2]),
        ..Rules::default()
    }
}

fn key_id(number: u64) -> KeyId {
    KeyId::from_digest(&[number as u8; 32])
}

fn random_facts(random: &mut Random, number: u64) -> Arc<KeyFacts> {
    let mut models: Vec<ModelName> =
        (0..1 + random.below(3)).map(|_| served_model(random)).collect();
    models.sort();
    models.dedup();
    let own_weight = random.one_of(&[1_000, 1_000, 1_000, 0, 1, 500, 1_000_000]);
    Arc::new(KeyFacts {
        key: key_id(number),
        models,
        own_weight: OwnWeight::from_thousandths(own_weight).expect("it is small enough"),
        max_holders: NonZeroU32::new(random.one_of(&[0, 0, 1, 2, 3])),
        label: None,
        sources: vec![random.one_of(&["cli", "csv@n"]).into()],
    })
}

fn served_model(random: &mut Random) -> ModelName {
    random.one_of(&MODELS[..3]).parse().expect("it is a model")
}

fn random_model(random: &mut Random) -> ModelName {
    let models = if random.chance(5) { &MODELS[3..] } else { &MODELS[..3] };
    random.one_of(models).parse().expect("it is a model")
}

fn random_session(random: &mut Random) -> SessionRef {
    SessionRef { owner: random.one_of(&OWNERS), id: random.one_of(&SESSIONS).into() }
}

fn random_tokens(random: &mut Random) -> Tokens {
    let sizes = [0, 0, 1, 400, 999, 1_000, 4_999, 5_000, 1 << 63, u64::MAX];
    let size = |random: &mut Random| match random.below(4) {
        0 => random.one_of(&sizes),
        _ => random.below(1_200),
    };
    Tokens { input: size(random), output: size(random), cached_input: size(random) }
}

fn random_outcome(random: &mut Random) -> Outcome {
    random.one_of(&[
        Outcome::Success,
        Outcome::Success,
        Outcome::RateLimited,
        Outcome::AuthFailed,
        Outcome::ProviderError,
        Outcome::Cancelled,
    ])
}
