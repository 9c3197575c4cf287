//! A long past: two days in which applications opened, used and released
//! sessions, written by the ledger's own crate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use key_server_core::{
    Decide, Event, KeyId, ModelName, Outcome, Release, ReleaseScope, Rules, Select, SessionRef,
    State, Time, Tokens, TrackUsage,
};
use key_server_ledger::{Caller, Durability, Entry, Fact, Ledger, Options, Pending};

use crate::csv::MODEL;
use crate::output;

/// Sessions that stay; everything else is counted from them.
pub(crate) const LIVE: usize = 1_000_000;
/// Of each step: a session that stays, two that are used once and go, and
/// three reports of older ones.
pub(crate) const EVENTS_PER_STEP: usize = 10;
const REPORTS_PER_STEP: usize = 3;
const SPAN_MS: usize = 48 * 3_600_000;
/// Appends that may wait for the writer.
const AHEAD_MAX: usize = 20_000;
const OWNER: u32 = 1_000;

/// Writes it behind what is in the ledger at `dir`. A session outlives all of
/// it.
pub(crate) fn write(dir: &Path, node: &str, session_ttl: Duration) -> anyhow::Result<()> {
    let mut history = History::open(dir, node, session_ttl)?;
    for step in 0..LIVE {
        history.now = history.start.after(Duration::from_millis((step * SPAN_MS / LIVE) as u64));
        history.state.advance(history.now);
        history.step(step)?;
        if step % (LIVE / 10) == 0 {
            output::progress(&format!("  past events: {} %", step / (LIVE / 100)));
        }
    }
    history.ledger.close()?;
    Ok(())
}

struct History {
    ledger: Ledger,
    state: State,
    caller: Arc<Caller>,
    model: ModelName,
    start: Time,
    now: Time,
    /// The last append that was not waited for, and how many came since.
    ahead: (Option<Pending>, usize),
    /// Which key each living session holds.
    keys: Vec<KeyId>,
}

impl History {
    fn open(dir: &Path, node: &str, session_ttl: Duration) -> anyhow::Result<Self> {
        let mut state = State::new(Rules { session_ttl, ..Rules::default() });
        let options = Options { durability: Durability::Process, ..Options::default() };
        let (ledger, opened) = Ledger::open(dir, node, &options, None, |_, records| {
            for record in records {
                if let Fact::Domain(event) = &record.fact {
                    state.apply(record.at, event);
                }
            }
        })?;
        let exe = Some("/usr/bin/python3.12".into());
        Ok(Self {
            ledger,
            state,
            caller: Arc::new(Caller { uid: OWNER, gid: OWNER, pid: 4_242, started_ms: None, exe }),
            model: MODEL.parse()?,
            start: opened.last_at,
            now: opened.last_at,
            ahead: (None, 0),
            keys: Vec::with_capacity(LIVE),
        })
    }

    fn step(&mut self, step: usize) -> anyhow::Result<()> {
        let key = self.select(&live(step), step)?;
        self.keys.push(key);
        for place in 0..2 {
            let passing = name("passing", step * 2 + place);
            let key = self.select(&passing, step)?;
            self.report(&passing, key, step)?;
            self.run(&Release { session: passing, scope: ReleaseScope::Session }, step)?;
        }
        for place in 0..REPORTS_PER_STEP {
            let number = step * REPORTS_PER_STEP + place;
            let older = scattered(number) % (step + 1);
            self.report(&live(older), self.keys[older], number)?;
        }
        if step.is_multiple_of(1_000) {
            drop(self.state.take_changes());
        }
        Ok(())
    }

    fn select(&mut self, session: &SessionRef, number: usize) -> anyhow::Result<KeyId> {
        let user = (number % 5_000) as i32;
        let models = vec![self.model.clone()];
        let select = Select {
            session: session.clone(),
            user,
            models,
            count: 1,
            reserved: None,
            owner_sessions_max: None,
        };
        let selected = self.run(&select, number)?;
        Ok(selected.picks.first().context("no key was given")?.key)
    }

    fn report(&mut self, session: &SessionRef, key: KeyId, number: usize) -> anyhow::Result<()> {
        let report = TrackUsage {
            session: session.clone(),
            key,
            model: self.model.clone(),
            tokens: Tokens { input: 1_200, output: 300, cached_input: 400 },
            outcome: Outcome::Success,
            event_id: format!("{:032x}", scattered(number)).into(),
            occurred: self.now,
            retry_after: None,
        };
        self.run(&report, number).map(|_| ())
    }

    /// As the engine does it: decide, append, apply.
    fn run<C: Decide>(&mut self, command: &C, number: usize) -> anyhow::Result<C::Reply> {
        let Ok(decision) = command.decide(&self.state, self.now, scattered(number) as u64) else {
            bail!("the rules refused step {number} of the history");
        };
        let entry = |event: &Event| Entry {
            caller: Some(Arc::clone(&self.caller)),
            fact: event.clone().into(),
        };
        let pending = self.ledger.append(self.now, decision.events.iter().map(entry).collect());
        self.wait_sometimes(pending)?;
        for event in &decision.events {
            self.state.apply(self.now, event);
        }
        Ok(decision.reply)
    }

    /// So that the writer is not left behind.
    fn wait_sometimes(&mut self, pending: Pending) -> anyhow::Result<()> {
        self.ahead = (Some(pending), self.ahead.1 + 1);
        if self.ahead.1 >= AHEAD_MAX
            && let (Some(pending), _) = std::mem::take(&mut self.ahead)
        {
            pending.wait()?;
        }
        Ok(())
    }
}

/// A session that stays.
pub(crate) fn live(number: usize) -> SessionRef {
    name("live", number)
}

fn name(kind: &str, number: usize) -> SessionRef {
    SessionRef { owner: OWNER, id: format!("{kind}-{number:0>28}").into() }
}

/// Numbers without an order.
fn scattered(number: usize) -> usize {
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20) as usize
}
