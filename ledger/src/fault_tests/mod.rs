//! Failures that no real disk gives on demand, and a disk that takes its time.

mod faulty_calls;

use key_server_core::Time;

use crate::verify::verify;
use crate::{
    AppendError, Condition, Durability, Entry, Fact, Ledger, Options, Pending, Position, Record,
};
use faulty_calls::{CallKind, FaultyCalls};

struct Bench {
    dir: tempfile::TempDir,
    calls: FaultyCalls,
    ledger: Ledger,
}

impl Bench {
    fn new(options: &Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let calls = FaultyCalls::default();
        let files = Box::new(calls.clone());
        let (ledger, _) =
            Ledger::open_with(files, dir.path(), "n", options, None, |_, _| {}).unwrap();
        Self { dir, calls, ledger }
    }

    fn append(&self, at: u64) -> Pending {
        self.ledger.append(Time::from_ms(at), vec![entry(at)])
    }

    /// Waits for the sync that comes by itself, so that no other one follows.
    fn wait_until_synced(&self) {
        while self.calls.count(CallKind::Sync) == 0 {
            std::thread::yield_now();
        }
    }

    fn length(&self) -> u64 {
        let name = crate::segment::file_name(self.ledger.durable().segment);
        self.dir.path().join(name).metadata().unwrap().len()
    }

    /// What is in the ledger, by the version of its lines; `resumed` for those.
    fn close(self) -> Vec<String> {
        let last = self.ledger.close().unwrap();
        let mut texts = Vec::new();
        self.ledger.replay(None, |_, records| texts.extend(records.iter().map(text))).unwrap();
        let report = verify(self.dir.path()).unwrap();
        assert_eq!((report.last, report.tail), (last, None));
        texts
    }
}

fn entry(number: u64) -> Entry {
    let version = number.to_string().into();
    Entry::of_node(Fact::NodeStarted { version, durability: Durability::Disk })
}

fn text(record: &Record) -> String {
    match &record.fact {
        Fact::NodeStarted { version, .. } => version.to_string(),
        Fact::LedgerResumed { refused_count, since, .. } => {
            format!("resumed after {refused_count} since {}", since.as_ms())
        }
        other => format!("{other:?}"),
    }
}

fn process() -> Options {
    Options { durability: Durability::Process, ..Options::default() }
}

fn is_unwritable(result: &Result<Position, AppendError>) -> bool {
    matches!(result, Err(AppendError::Unwritable { error }) if error.contains("injected"))
}

#[test]
fn a_failed_sync_takes_the_lines_back_and_refuses_until_resumed() {
    let bench = Bench::new(&Options::default());
    bench.append(1).wait().unwrap();
    let durable = bench.ledger.durable();
    bench.calls.fail(CallKind::Sync, 0);
    assert!(is_unwritable(&bench.append(2).wait()));
    assert_eq!((bench.ledger.durable(), bench.length()), (durable, durable.offset));
    assert!(is_unwritable(&bench.append(3).wait()));
    assert_eq!(bench.ledger.try_resume(Time::from_ms(4)).unwrap().seq, 2);
    assert_eq!(bench.append(5).wait().unwrap().seq, 3);
    assert_eq!(bench.close(), ["1", "resumed after 2 since 2", "5"]);
}

#[test]
fn half_a_write_is_taken_back() {
    for options in [Options::default(), process()] {
        let bench = Bench::new(&options);
        let durable = bench.append(1).wait().unwrap();
        bench.calls.fail(CallKind::Write, 0);
        assert!(is_unwritable(&bench.append(2).wait()));
        assert_eq!(bench.length(), durable.offset);
        bench.ledger.try_resume(Time::from_ms(3)).unwrap();
        assert_eq!(bench.close(), ["1", "resumed after 1 since 2"]);
    }
}

#[test]
fn what_could_not_be_taken_back_is_taken_back_before_resuming() {
    let bench = Bench::new(&Options::default());
    let durable = bench.append(1).wait().unwrap();
    bench.calls.fail(CallKind::Sync, 0);
    bench.calls.fail(CallKind::Truncate, 0);
    bench.calls.fail(CallKind::Truncate, 0);
    assert!(is_unwritable(&bench.append(2).wait()));
    assert!(bench.length() > durable.offset);
    // Replay does not see what is not durable.
    let mut seqs = Vec::new();
    bench.ledger.replay(None, |position, _| seqs.push(position.seq)).unwrap();
    assert_eq!(seqs, [1]);
    assert!(is_unwritable(&bench.ledger.try_resume(Time::from_ms(3))));
    assert_eq!(bench.ledger.try_resume(Time::from_ms(3)).unwrap().seq, 2);
    assert_eq!(bench.close(), ["1", "resumed after 1 since 2"]);
}

#[test]
fn closing_while_refusing_takes_back_what_could_not_be() {
    let bench = Bench::new(&Options::default());
    bench.append(1).wait().unwrap();
    bench.calls.fail(CallKind::Sync, 0);
    bench.calls.fail(CallKind::Truncate, 0);
    assert!(is_unwritable(&bench.append(2).wait()));
    assert_eq!(bench.close(), ["1"]);
}

#[test]
fn a_failure_fails_everything_queued_behind_it() {
    let bench = Bench::new(&Options::default());
    bench.calls.hold(true);
    let first = bench.append(1);
    let queued: Vec<_> = (2..=9).map(|at| bench.append(at)).collect();
    bench.calls.fail(CallKind::Write, 0);
    bench.calls.hold(false);
    assert!(is_unwritable(&first.wait()));
    assert!(queued.into_iter().all(|pending| is_unwritable(&pending.wait())));
    let expected = Position::START;
    assert_eq!(bench.ledger.durable(), expected);
    bench.ledger.try_resume(Time::from_ms(1)).unwrap();
    assert_eq!(bench.append(1).wait().unwrap().seq, 2);
    assert_eq!(bench.close(), ["resumed after 9 since 9", "1"]);
}

#[test]
fn the_condition_is_told_to_whoever_listens() {
    let bench = Bench::new(&Options::default());
    let mut condition = bench.ledger.subscribe();
    assert_eq!(*condition.borrow_and_update(), Condition::Writable);
    bench.calls.fail(CallKind::Sync, 0);
    bench.append(7).wait().unwrap_err();
    assert!(condition.has_changed().unwrap());
    let Condition::Refusing { since, error } = condition.borrow_and_update().clone() else {
        panic!("the failure is told")
    };
    assert_eq!(since, Time::from_ms(7));
    assert!(error.contains("00000000000000000001.jsonl: injected Sync error"), "{error}");
    bench.ledger.try_resume(Time::from_ms(8)).unwrap();
    assert_eq!(*condition.borrow_and_update(), Condition::Writable);
    assert_eq!(bench.ledger.condition(), Condition::Writable);
}

#[test]
fn a_failed_resumption_leaves_nothing_and_can_be_tried_again() {
    for options in [Options::default(), process()] {
        let bench = Bench::new(&options);
        bench.append(1).wait().unwrap();
        bench.wait_until_synced();
        bench.calls.fail(CallKind::Write, 0);
        bench.append(2).wait().unwrap_err();
        let durable = bench.ledger.durable();
        for kind in [CallKind::Sync, CallKind::Write, CallKind::Truncate] {
            bench.calls.fail(kind, 0);
            assert!(is_unwritable(&bench.ledger.try_resume(Time::from_ms(3))), "{kind:?}");
            assert_eq!(bench.ledger.durable(), durable);
        }
        // The repair syncs, then the record is synced: let that one fail.
        bench.calls.fail(CallKind::Sync, 1);
        assert!(is_unwritable(&bench.ledger.try_resume(Time::from_ms(3))));
        assert_eq!((bench.ledger.durable(), bench.length()), (durable, durable.offset));
        let early = bench.ledger.try_resume(Time::from_ms(0));
        assert!(matches!(early, Err(AppendError::TimeWentBack { .. })), "{early:?}");
        assert_eq!(bench.ledger.try_resume(Time::from_ms(3)).unwrap().seq, 2);
        assert_eq!(bench.ledger.try_resume(Time::from_ms(3)).unwrap().seq, 2);
        assert_eq!(bench.close(), ["1", "resumed after 1 since 2"]);
    }
}

#[test]
fn lines_that_fell_out_of_a_failed_background_sync_are_written_again() {
    let bench = Bench::new(&process());
    let mut condition = bench.ledger.subscribe();
    bench.calls.fail(CallKind::Sync, 0);
    let both = bench.ledger.append(Time::from_ms(2), vec![entry(1), entry(2)]);
    let durable = both.wait().unwrap();
    // The sync comes by itself.
    block_on(condition.wait_for(|condition| *condition != Condition::Writable)).unwrap();
    assert_eq!(bench.ledger.durable(), durable);
    assert!(is_unwritable(&bench.append(3).wait()));
    let writes = bench.calls.count(CallKind::Write);
    assert_eq!(bench.ledger.try_resume(Time::from_ms(4)).unwrap().seq, 3);
    assert_eq!(bench.calls.count(CallKind::Write), writes + 2, "the lines, and the resumption");
    assert_eq!(bench.close(), ["1", "2", "resumed after 1 since 2"]);
}

#[test]
fn acknowledged_lines_that_are_gone_keep_the_ledger_refusing() {
    let bench = Bench::new(&process());
    let mut condition = bench.ledger.subscribe();
    bench.calls.fail(CallKind::Sync, 0);
    bench.append(1).wait().unwrap();
    block_on(condition.wait_for(|condition| *condition != Condition::Writable)).unwrap();
    let segment = bench.dir.path().join(crate::segment::file_name(1));
    let length = bench.length();
    std::fs::write(&segment, vec![0; length as usize]).unwrap();
    for _ in 0..2 {
        let error = bench.ledger.try_resume(Time::from_ms(4)).unwrap_err();
        assert!(error.to_string().contains("acknowledged lines"), "{error}");
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn a_sync_comes_by_itself_when_only_the_kernel_has_the_lines() {
    let bench = Bench::new(&process());
    bench.append(1).wait().unwrap();
    bench.wait_until_synced();
    assert_eq!(bench.close(), ["1"]);
}

#[test]
fn a_failed_change_of_segments_keeps_what_was_before_it() {
    for options in [Options::default(), process()] {
        let bench = Bench::new(&Options { segment_bytes_max: 1, ..options });
        bench.append(1).wait().unwrap();
        bench.calls.hold(true);
        let held = bench.append(2);
        let (third, fourth) = (bench.append(3), bench.append(4));
        // One segment is made for the second call, the next one fails.
        bench.calls.fail(CallKind::Create, 1);
        bench.calls.hold(false);
        assert_eq!(held.wait().unwrap().seq, 2);
        assert!(is_unwritable(&third.wait()) && is_unwritable(&fourth.wait()));
        assert_eq!(bench.ledger.durable().seq, 2);
        assert_eq!(bench.ledger.try_resume(Time::from_ms(5)).unwrap().segment, 3);
        assert_eq!(bench.append(6).wait().unwrap().segment, 4);
        assert_eq!(bench.close(), ["1", "2", "resumed after 2 since 4", "6"]);
    }
}

#[test]
fn a_segment_is_on_the_disk_before_the_next_one_is_made() {
    let bench = Bench::new(&Options { segment_bytes_max: 1, ..process() });
    bench.calls.fail(CallKind::Sync, 0);
    let durable = bench.append(1).wait().unwrap();
    assert!(is_unwritable(&bench.append(2).wait()));
    assert_eq!(bench.calls.count(CallKind::Create), 0);
    assert_eq!(bench.ledger.durable(), durable);
    bench.ledger.try_resume(Time::from_ms(3)).unwrap();
    assert_eq!(bench.append(4).wait().unwrap().segment, 3);
    assert_eq!(bench.close(), ["1", "resumed after 1 since 2", "4"]);
}

#[test]
fn a_failed_first_write_of_a_segment_leaves_it_empty() {
    let bench = Bench::new(&Options { segment_bytes_max: 1, ..Options::default() });
    let durable = bench.append(1).wait().unwrap();
    bench.calls.fail(CallKind::Write, 0);
    assert!(is_unwritable(&bench.append(2).wait()));
    assert_eq!(bench.ledger.durable(), durable);
    let empty = bench.dir.path().join(crate::segment::file_name(2));
    assert_eq!(empty.metadata().unwrap().len(), 0);
    assert_eq!(bench.close(), ["1"]);
}

#[test]
fn a_long_queue_refuses_at_once() {
    let options = Options { queue_entries_max: 3, ..Options::default() };
    let bench = Bench::new(&options);
    bench.calls.hold(true);
    let mut pending = Vec::new();
    let refused = loop {
        match bench.append(1).known_error() {
            Ok(queued) => pending.push(queued),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Overloaded { entries: 3 });
    let count = pending.len();
    assert!((3..=6).contains(&count), "{count}");
    bench.calls.hold(false);
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
    assert_eq!(bench.append(1).wait().unwrap().seq as usize, count + 1);
    assert_eq!(bench.close().len(), count + 1);
}

#[test]
fn a_queue_of_many_bytes_refuses_at_once() {
    let options = Options { queue_bytes_max: 2_000, ..Options::default() };
    let bench = Bench::new(&options);
    bench.calls.hold(true);
    let refused = loop {
        if let Err(error) = bench.append(1).known_error() {
            break error;
        }
    };
    assert!(matches!(refused, AppendError::Overloaded { .. }), "{refused}");
    bench.calls.hold(false);
}

#[test]
fn one_write_and_one_sync_serve_all_that_is_queued() {
    let bench = Bench::new(&Options::default());
    bench.calls.hold(true);
    let first = bench.append(1);
    let pending: Vec<_> = (0..100).map(|_| bench.append(1)).collect();
    bench.calls.hold(false);
    first.wait().unwrap();
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
    // The writer may have taken the first calls before it was held up.
    assert!(bench.calls.count(CallKind::Sync) <= 3);
    assert!(bench.calls.count(CallKind::Write) <= 3);
}
