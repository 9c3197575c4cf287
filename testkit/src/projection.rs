//! What every projection must do, whatever it keeps its rows in.
//!
//! An adapter's test makes a [`ProjectionFixture`] and names it to
//! [`projection_conformance!`](crate::projection_conformance), which makes one
//! test of each behaviour here, over a fresh fixture each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use key_server_core::{
    AllocationRow, Changes, KeyFacts, KeyId, KeyRow, ModelName, Outcome, OwnWeight, Receipt,
    ReceiptRow, SessionRef, SessionRow, Time, Tokens, Usage, UsageRow,
};
use key_server_projections::{Mark, Projection};

/// An empty store of its own, and a way to see what a projection left in it.
pub trait ProjectionFixture {
    /// The adapter under test.
    type Projection: Projection;

    /// Opens the projection; each time on the same store, so that a second
    /// call is a restart. The one before was dropped.
    fn open(&self) -> Self::Projection;

    /// What stands in the store now, read past the projection that may be open.
    fn sum(&self) -> ProjectionSum;

    /// What stands in an empty store.
    fn empty_sum(&self) -> ProjectionSum {
        ProjectionSum::default()
    }
}

/// What a projection keeps, as far as every projection keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectionSum {
    /// All keys, retired ones too.
    pub keys: BTreeMap<KeyId, KeySum>,
    /// Sessions that have not ended.
    pub sessions: BTreeMap<SessionRef, SessionSum>,
    /// Counted reports, added up by key; none from a projection that keeps no
    /// reports.
    pub usage: Option<BTreeMap<KeyId, Usage>>,
}

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySum {
    /// Whether it is in no pool any more.
    pub retired: bool,
    /// What it spent since it was first seen.
    pub lifetime: Usage,
}

/// What is kept of a live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSum {
    /// The caller's number for whom it works.
    pub user: i32,
    /// When it ends.
    pub end: Time,
    /// What it holds; what it gave back is left out.
    pub held: BTreeSet<(KeyId, ModelName)>,
}

/// One test of each behaviour: `projection_conformance!(fixture)`, where
/// `fixture` is a function that makes a [`ProjectionFixture`](crate::projection::ProjectionFixture)
/// with an empty store. With `projection_conformance!(list fixture)` they are a
/// list for [`suite::run`](crate::suite::run).
#[macro_export]
macro_rules! projection_conformance {
    ($fixture:ident) => {
        $crate::projection_conformance!(@behaviours each $fixture);
    };
    (list $fixture:ident) => {
        $crate::projection_conformance!(@behaviours list $fixture)
    };
    (@behaviours $form:ident $fixture:ident) => {
        $crate::projection_conformance! { @$form $fixture:
            an_empty_store_has_no_mark
            batches_add_up
            a_repeat_changes_nothing
            an_earlier_mark_changes_nothing
            an_empty_batch_moves_the_mark
            absolute_values_overwrite
            large_numbers_are_kept
            a_forgotten_session_is_gone
            a_session_that_came_again_stays
            a_restart_finds_everything
            a_repeat_after_a_restart_changes_nothing
            what_is_cleared_is_gone_and_can_be_filled_again
            any_history_is_the_sum_of_its_batches
        }
    };
    (@each $fixture:ident: $($behaviour:ident)*) => {
        $(
            #[test]
            fn $behaviour() {
                $crate::projection::$behaviour(&$fixture());
            }
        )*
    };
    (@list $fixture:ident: $($behaviour:ident)*) => {
        [$((
            concat!(stringify!($fixture), "::", stringify!($behaviour)),
            (|| $crate::projection::$behaviour(&$fixture())) as fn(),
        )),*]
    };
}

const NOW: Time = Time::from_ms(490_000 * 3_600_000 + 60_000);

/// Nothing was written: no mark, no rows.
pub fn an_empty_store_has_no_mark(fixture: &impl ProjectionFixture) {
    assert_eq!(mark_of(&fixture.open()), None);
    assert_eq!(fixture.sum(), fixture.empty_sum());
}

/// Values are the last, usage is the sum of all.
pub fn batches_add_up(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    for seq in [1, 2, 7] {
        writer.write(seq, small_batch(seq));
    }
}

/// The same batch again, at once.
pub fn a_repeat_changes_nothing(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    writer.write(1, small_batch(1));
    writer.write(2, small_batch(2));
    writer.repeat(2, &small_batch(2));
    writer.repeat(2, &small_batch(2));
}

/// A batch of before: nothing of it is counted, whatever it says.
pub fn an_earlier_mark_changes_nothing(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    writer.write(5, small_batch(5));
    writer.write(9, small_batch(9));
    for seq in [5, 1, 8] {
        writer.repeat(seq, &small_batch(seq + 100));
    }
    writer.write(10, small_batch(10));
}

/// Events that change no row still count as done.
pub fn an_empty_batch_moves_the_mark(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    writer.write(1, Changes::default());
    writer.write(2, small_batch(2));
    writer.write(3, Changes::default());
}

/// A row replaces the row before, also where it says less.
pub fn absolute_values_overwrite(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    let keys = vec![key(1, 50, false), key(2, 50, false)];
    writer.write(1, Changes { keys, sessions: vec![session(1, &[1, 2])], ..Changes::default() });
    let keys = vec![key(1, 20, true)];
    let mut given_back = session(1, &[1, 2]);
    given_back.allocations[0].held = false;
    writer.write(2, Changes { keys, sessions: vec![given_back], ..Changes::default() });
    writer.write(3, Changes { sessions: vec![session(1, &[2])], ..Changes::default() });
    let mut ended = session(1, &[]);
    ended.ended = true;
    writer.write(4, Changes { sessions: vec![ended], ..Changes::default() });
    writer.write(5, Changes { sessions: vec![session(1, &[1])], ..Changes::default() });
}

/// Counts up to 2^63 - 1 are exact.
pub fn large_numbers_are_kept(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    let largest = i64::MAX as u64;
    let mut row = key(1, largest, false);
    row.lifetime.tokens = Tokens { input: largest, output: largest, cached_input: largest };
    let mut report = report(1, 1, 0);
    report.tokens = row.lifetime.tokens;
    writer.write(1, Changes { keys: vec![row], usage: vec![report], ..Changes::default() });
}

/// Also one that was never written.
pub fn a_forgotten_session_is_gone(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    let keys = vec![key(1, 1, false)];
    let sessions = vec![session(1, &[1]), session(2, &[1])];
    writer.write(1, Changes { keys, sessions, ..Changes::default() });
    let forgotten = vec![name(1), name(3)];
    writer.write(2, Changes { forgotten, ..Changes::default() });
}

/// Forgotten and opened again within one batch.
pub fn a_session_that_came_again_stays(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    let keys = vec![key(1, 1, false), key(2, 1, false)];
    writer.write(1, Changes { keys, sessions: vec![session(1, &[1, 2])], ..Changes::default() });
    let (forgotten, sessions) = (vec![name(1)], vec![session(1, &[2])]);
    writer.write(2, Changes { forgotten, sessions, ..Changes::default() });
}

/// Mark and rows are in the store, not in the projection.
pub fn a_restart_finds_everything(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    writer.write(1, small_batch(1));
    writer.restart();
    writer.check();
    writer.write(2, small_batch(2));
    writer.restart();
    writer.check();
}

/// The answer was lost with the process that waited for it.
pub fn a_repeat_after_a_restart_changes_nothing(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    writer.write(1, small_batch(1));
    writer.restart();
    writer.repeat(1, &small_batch(1));
    writer.write(2, small_batch(2));
}

/// Twice is fine; what comes then may have earlier marks than before.
pub fn what_is_cleared_is_gone_and_can_be_filled_again(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    writer.write(8, small_batch(8));
    for _ in 0..2 {
        writer.clear();
    }
    for seq in 1..4 {
        writer.write(seq, small_batch(seq));
    }
    writer.restart();
    writer.check();
}

/// Random batches, repeats and restarts, the same on each run.
pub fn any_history_is_the_sum_of_its_batches(fixture: &impl ProjectionFixture) {
    let mut writer = Writer::new(fixture);
    let mut dice = Dice(0x5eed);
    let keys = (1..=5).map(|n| key(n, 0, false)).collect();
    writer.write(1, Changes { keys, ..Changes::default() });
    let mut last = Changes::default();
    for seq in 2..150 {
        if dice.below(4) == 0 {
            writer.restart();
        }
        if dice.below(3) == 0 {
            writer.repeat(seq - 1, &last);
        }
        last = random_batch(&mut dice);
        writer.write(seq, last.clone());
    }
}

/// A projection under test, and what its store must say.
struct Writer<'fixture, Fixture: ProjectionFixture> {
    fixture: &'fixture Fixture,
    /// None only while it is restarted.
    projection: Option<Fixture::Projection>,
    mark: Option<Mark>,
    sum: ProjectionSum,
}

impl<'fixture, Fixture: ProjectionFixture> Writer<'fixture, Fixture> {
    fn new(fixture: &'fixture Fixture) -> Self {
        let projection = Some(fixture.open());
        Self { fixture, projection, mark: None, sum: fixture.empty_sum() }
    }

    fn projection(&mut self) -> &mut Fixture::Projection {
        self.projection.as_mut().expect("it is open but for a moment in `restart`")
    }

    fn write(&mut self, seq: u64, changes: Changes) {
        let mark = mark(seq);
        self.projection().write(&mark, &changes).expect("the store takes the batch");
        self.sum.add(&changes);
        self.mark = Some(mark);
        self.check();
    }

    fn repeat(&mut self, seq: u64, changes: &Changes) {
        self.projection().write(&mark(seq), changes).expect("a repeat is no error");
        self.check();
    }

    fn clear(&mut self) {
        self.projection().clear().expect("the store is cleared");
        self.mark = None;
        self.sum = self.fixture.empty_sum();
        self.check();
    }

    fn restart(&mut self) {
        self.projection = None;
        self.projection = Some(self.fixture.open());
    }

    fn check(&mut self) {
        assert_eq!(mark_of(self.projection()), self.mark, "mark");
        assert_eq!(self.fixture.sum(), self.sum, "sum up to {:?}", self.mark);
    }
}

impl Default for ProjectionSum {
    /// Of a projection that keeps reports, with nothing in it.
    fn default() -> Self {
        Self { keys: BTreeMap::new(), sessions: BTreeMap::new(), usage: Some(BTreeMap::new()) }
    }
}

impl ProjectionSum {
    /// Of a projection that keeps no reports, with nothing in it.
    pub fn without_usage() -> Self {
        Self { usage: None, ..Self::default() }
    }

    /// What a batch makes of it; also for fixtures that read rows back.
    pub fn add(&mut self, changes: &Changes) {
        for row in &changes.keys {
            let sum = KeySum { retired: row.retired, lifetime: row.lifetime };
            self.keys.insert(row.facts.key, sum);
        }
        for name in &changes.forgotten {
            self.sessions.remove(name);
        }
        for row in &changes.sessions {
            self.add_session(row);
        }
        let Some(usage) = &mut self.usage else { return };
        for row in &changes.usage {
            let sum = usage.entry(row.key).or_default();
            sum.requests += 1;
            sum.failures += u64::from(row.outcome != Outcome::Success);
            sum.tokens.input += row.tokens.input;
            sum.tokens.output += row.tokens.output;
            sum.tokens.cached_input += row.tokens.cached_input;
        }
    }

    fn add_session(&mut self, row: &SessionRow) {
        if row.ended {
            self.sessions.remove(&row.session);
            return;
        }
        let held = row.allocations.iter().filter(|allocation| allocation.held);
        let held = held.map(|allocation| (allocation.key, allocation.model.clone())).collect();
        let sum = SessionSum { user: row.user, end: row.end, held };
        self.sessions.insert(row.session.clone(), sum);
    }
}

fn mark_of(projection: &impl Projection) -> Option<Mark> {
    projection.mark().expect("the store says its mark")
}

fn mark(seq: u64) -> Mark {
    Mark { seq, at: Time::from_ms(NOW.as_ms() + seq), resume: format!("segment 1: byte {seq}") }
}

fn small_batch(seq: u64) -> Changes {
    let (first, second) = (seq as u32 % 4, seq as u32 % 4 + 1);
    Changes {
        keys: vec![key(1, seq, false), key(2, 2 * seq, seq.is_multiple_of(2))],
        sessions: vec![session(first, &[1]), session(second, &[1, 2])],
        usage: vec![report(first, 1, seq), report(second, 2, 1), report(first, 1, 1)],
        receipts: vec![ReceiptRow { hour: 490_000, receipt: Receipt::from_bits(seq.into()) }],
        ..Changes::default()
    }
}

fn random_batch(dice: &mut Dice) -> Changes {
    let keys = dice.some(5).map(|n| key(n as u8 + 1, u64::from(n) * 7, n == 3)).collect();
    let mut sessions = Vec::new();
    for n in dice.some(6) {
        let held: Vec<u8> = dice.some(5).map(|n| n as u8 + 1).collect();
        let mut row = session(n, &held);
        row.ended = held.is_empty();
        sessions.push(row);
    }
    let usage = dice.some(5).map(|n| report(n, n as u8 % 5 + 1, 100)).collect();
    let forgotten = dice.some(6).map(name).collect();
    Changes { keys, sessions, usage, forgotten, ..Changes::default() }
}

fn key_id(n: u8) -> KeyId {
    KeyId::from_digest(&[n; 32])
}

fn model() -> ModelName {
    "openai/gpt-4o".parse().expect("it is a proper name")
}

fn key(n: u8, requests: u64, retired: bool) -> KeyRow {
    let facts = KeyFacts {
        key: key_id(n),
        models: vec![model()],
        own_weight: OwnWeight::DEFAULT,
        max_holders: None,
        label: None,
        sources: vec!["cli".into()],
    };
    let window = Vec::new();
    let tokens = Tokens { input: requests, output: 0, cached_input: 0 };
    KeyRow {
        facts: Arc::new(facts),
        retired,
        lifetime: Usage { requests, failures: 0, tokens },
        last_used: Some(NOW),
        window,
        cooling: Vec::new(),
    }
}

fn name(n: u32) -> SessionRef {
    SessionRef { owner: 1_000 + n % 2, id: format!("session_{n}").into() }
}

fn session(n: u32, keys: &[u8]) -> SessionRow {
    let allocation = |n: &u8| AllocationRow {
        key: key_id(*n),
        model: model(),
        held: true,
        usage: Usage::default(),
    };
    SessionRow {
        session: name(n),
        user: n as i32,
        opened: NOW,
        end: Time::from_ms(NOW.as_ms() + 3_600_000 + u64::from(n)),
        ended: false,
        term: 0,
        base: 0,
        allocations: keys.iter().map(allocation).collect(),
    }
}

fn report(session: u32, key: u8, input: u64) -> UsageRow {
    UsageRow {
        at: NOW,
        session: name(session),
        user: session as i32,
        key: key_id(key),
        model: model(),
        tokens: Tokens { input, output: input / 2, cached_input: 0 },
        outcome: if input == 1 { Outcome::RateLimited } else { Outcome::Success },
        late: false,
    }
}

/// SplitMix64 from a fixed seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Each number below `bound`, or not.
    fn some(&mut self, bound: u32) -> impl Iterator<Item = u32> + use<> {
        let chosen = self.next();
        (0..bound).filter(move |n| chosen & (1 << n) != 0)
    }
}
