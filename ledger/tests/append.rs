//! Appending: order, numbers, wholeness, limits, rotation.

mod common;

use common::{
    Open, append, ledger_of, open, open_after, open_with, segments, segments_of, selected,
};
use key_server_core::Time;
use key_server_ledger::{AppendError, Durability, Entry, Fact, Ledger, Options, verify::verify};
use key_server_ledger::{OpenError, Position};
use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

#[test]
fn a_new_ledger_is_empty_and_begins_at_one() {
    let dir = tempfile::tempdir().unwrap();
    let Open { ledger, opened, calls } = open(&dir.path().join("deep/ledger"));
    assert_eq!((opened.position, opened.cut, calls.len()), (Position::START, None, 0));
    assert_eq!(append(&ledger, 5, &["a"]).seq, 1);
}

#[test]
fn calls_come_back_in_order_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1 << 20, &[&["a"], &["b", "c", "d"], &["e"]]);
    let open = open(dir.path());
    let read: Vec<_> = open.calls.iter().map(|(position, _)| *position).collect();
    assert_eq!(read, positions);
    assert_eq!(open.sessions(), ["a", "b", "c", "d", "e"]);
    let records = open.records();
    let frame: Vec<_> = records.iter().map(|r| (r.seq, r.at.as_ms(), r.more)).collect();
    assert_eq!(frame, [(1, 1, 0), (2, 2, 2), (3, 2, 1), (4, 2, 0), (5, 3, 0)]);
    assert!(records.iter().all(|r| &*r.node == common::NODE));
    assert_eq!(records[1].caller, selected("b").caller);
    assert_eq!(records[1].fact, selected("b").fact);
    assert_eq!((open.opened.position, open.opened.last_at), (positions[2], Time::from_ms(3)));
}

#[test]
fn every_position_is_a_place_to_go_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let calls: &[&[&str]] = &[&["a"], &["b", "c"], &["d"], &["e"], &["f", "g"]];
    let positions = ledger_of(dir.path(), 1_200, calls);
    assert!(segments(dir.path()).len() > 1);
    for (index, position) in positions.iter().enumerate() {
        let open = open_after(dir.path(), Some(position)).unwrap();
        assert_eq!(open.sessions(), calls[index + 1..].concat());
        assert_eq!(open.opened.position, positions[4]);
        assert_eq!(open.opened.last_at, Time::from_ms(5));
    }
    let open = open_after(dir.path(), Some(&Position::START)).unwrap();
    assert_eq!(open.sessions(), calls.concat());
}

#[test]
fn a_position_of_another_history_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let positions = ledger_of(dir.path(), 1 << 20, &[&["a"], &["b", "c"], &["d"]]);
    let last = positions[2];
    let within_call = segments(dir.path());
    let second_line = common::lines(&within_call[0])[1].clone();
    let within_call = Position {
        seq: 2,
        hash: sha256(second_line.as_bytes()),
        segment: 1,
        offset: positions[0].offset + second_line.len() as u64 + 1,
    };
    for unknown in [
        Position { hash: [1; 32], ..last },
        Position { seq: 3, ..last },
        Position { offset: last.offset - 1, ..last },
        Position { offset: last.offset + 1, ..last },
        Position { offset: 0, ..last },
        Position { segment: 2, ..last },
        Position { offset: u64::MAX, ..last },
        within_call,
    ] {
        let error = open_after(dir.path(), Some(&unknown)).err();
        assert!(matches!(error, Some(OpenError::PositionUnknown { .. })), "{unknown:?}");
    }
    assert_eq!(open(dir.path()).sessions(), ["a", "b", "c", "d"]);
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

#[test]
fn a_position_is_unknown_to_an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    let position = ledger_of(&dir.path().join("one"), 1 << 20, &[&["a"]])[0];
    let error = open_after(&dir.path().join("two"), Some(&position)).err();
    assert!(matches!(error, Some(OpenError::PositionUnknown { seq: 1 })), "{error:?}");
}

#[test]
fn threads_share_a_ledger_and_numbers_have_no_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let Open { ledger, .. } = open_with(dir.path(), &segments_of(20_000), None).unwrap();
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ledger, order) = (&ledger, &order);
            scope.spawn(move || {
                for call in 0..50 {
                    let name = format!("{thread}-{call}");
                    let pending = {
                        let mut order = order.lock().unwrap();
                        order.push(name.clone());
                        ledger.append(Time::from_ms(1), vec![selected(&name)])
                    };
                    pending.wait().unwrap();
                }
            });
        }
    });
    drop(ledger);
    assert_eq!(open(dir.path()).sessions(), order.into_inner().unwrap());
    assert_eq!(verify(dir.path()).unwrap().records, 200);
}

#[test]
fn segments_begin_with_a_call_and_are_named_by_their_first_line() {
    let dir = tempfile::tempdir().unwrap();
    let calls: Vec<Vec<String>> = (0..20).map(|i| vec![format!("{i}"); i % 4 + 1]).collect();
    let calls: Vec<Vec<&str>> =
        calls.iter().map(|call| call.iter().map(String::as_str).collect()).collect();
    let calls: Vec<&[&str]> = calls.iter().map(Vec::as_slice).collect();
    ledger_of(dir.path(), 2_000, &calls);
    let mut next_seq = 1;
    for segment in segments(dir.path()) {
        let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name, format!("{next_seq:020}.jsonl"));
        let lines = common::lines(&segment);
        assert!(!lines.last().unwrap().contains("\"more\":"), "a call ends with its segment");
        next_seq += lines.len();
    }
    assert_eq!(open(dir.path()).sessions(), calls.concat());
}

#[test]
fn only_the_owner_may_read_what_is_made() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    ledger_of(&ledger, 1, &[&["a"], &["b"]]);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ledger), 0o700);
    assert!(segments(&ledger).iter().all(|segment| mode(segment) == 0o600));
}

#[test]
fn a_large_call_is_one_call() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { queue_entries_max: 10, queue_bytes_max: 10, ..Options::default() };
    let Open { ledger, .. } = open_with(dir.path(), &options, None).unwrap();
    let entries = (0..10_000).map(|i| selected(&i.to_string())).collect();
    assert_eq!(ledger.append(Time::from_ms(1), entries).wait().unwrap().seq, 10_000);
    drop(ledger);
    let open = open(dir.path());
    assert_eq!((open.calls.len(), open.records().len()), (1, 10_000));
}

#[test]
fn an_append_of_nothing_waits_for_what_is_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let Open { ledger, .. } = open(dir.path());
    assert_eq!(ledger.append(Time::from_ms(0), vec![]).wait().unwrap(), Position::START);
    let before = ledger.append(Time::from_ms(9), vec![selected("a")]);
    let nothing = ledger.append(Time::from_ms(0), vec![]);
    assert_eq!(nothing.wait().unwrap().seq, 1);
    assert_eq!(ledger.durable(), before.wait().unwrap());
    assert_eq!(ledger.append(Time::from_ms(0), vec![]).wait().unwrap(), ledger.durable());
}

#[test]
fn time_does_not_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let Open { ledger, .. } = open(dir.path());
    append(&ledger, 10, &["a"]);
    append(&ledger, 10, &["b"]);
    let early = ledger.append(Time::from_ms(9), vec![selected("c")]).wait();
    let (at, last) = (Time::from_ms(9), Time::from_ms(10));
    assert_eq!(early, Err(AppendError::TimeWentBack { at, last }));
    drop(ledger);
    let Open { ledger, opened, .. } = open(dir.path());
    assert_eq!(opened.last_at, last);
    let early = ledger.append(at, vec![selected("c")]).wait();
    assert_eq!(early, Err(AppendError::TimeWentBack { at, last }));
    assert_eq!(append(&ledger, 11, &["c"]).seq, 3);
}

#[test]
fn an_entry_larger_than_a_line_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Open { ledger, .. } = open(dir.path());
    let huge = selected(&"x".repeat(3 << 20));
    let refused = ledger.append(Time::from_ms(1), vec![huge]).wait();
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
    let large = "\u{1}".repeat(2 << 20 >> 1);
    assert_eq!(append(&ledger, 1, &[&large]).seq, 1);
    drop(ledger);
    assert_eq!(open(dir.path()).sessions(), [large]);
}

#[test]
fn a_ledger_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = open_after(dir.path(), None).err();
    assert!(matches!(second, Some(OpenError::InUse { .. })), "{second:?}");
    drop(first);
    open(dir.path());
}

#[test]
fn a_closed_ledger_has_written_everything_and_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { durability: Durability::Process, ..Options::default() };
    let Open { ledger, .. } = open_with(dir.path(), &options, None).unwrap();
    let pending: Vec<_> =
        (0..100).map(|i| ledger.append(Time::from_ms(i), vec![selected("a")])).collect();
    assert_eq!(ledger.close().unwrap().seq, 100);
    assert_eq!(ledger.close().unwrap().seq, 100);
    for (seq, pending) in (1..).zip(pending) {
        assert_eq!(pending.wait().unwrap().seq, seq);
    }
    let late = ledger.append(Time::from_ms(100), vec![selected("b")]).wait();
    assert_eq!(late, Err(AppendError::Closed));
    assert_eq!(ledger.try_resume(Time::from_ms(100)), Err(AppendError::Closed));
}

#[test]
fn dropping_the_ledger_writes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let Open { ledger, .. } = open(dir.path());
    for at in 0..100 {
        drop(ledger.append(Time::from_ms(at), vec![selected("a")]));
    }
    drop(ledger);
    assert_eq!(open(dir.path()).records().len(), 100);
}

#[test]
fn a_pending_append_is_a_future() {
    let dir = tempfile::tempdir().unwrap();
    let Open { ledger, .. } = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let position = runtime.block_on(ledger.append(Time::from_ms(1), vec![selected("a")])).unwrap();
    assert_eq!(position, ledger.durable());
    let mut nothing = pin!(ledger.append(Time::from_ms(1), vec![]));
    let polled = nothing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(Ok(position)));
}

#[test]
fn replay_reads_what_is_durable_while_the_ledger_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let Open { ledger, .. } = open_with(dir.path(), &segments_of(1), None).unwrap();
    let first = append(&ledger, 1, &["a"]);
    let last = append(&ledger, 2, &["b", "c"]);
    let replay = |ledger: &Ledger, from| {
        let mut seqs = Vec::new();
        let each = |_: &Position, records: &[_]| seqs.push(records.len());
        assert_eq!(ledger.replay(from, each).unwrap(), last);
        seqs
    };
    assert_eq!(replay(&ledger, None), [1, 2]);
    assert_eq!(replay(&ledger, Some(&first)), [2]);
    assert_eq!(replay(&ledger, Some(&last)), [0; 0]);
    let beyond = Position { seq: 4, ..last };
    let error = ledger.replay(Some(&beyond), |_, _| {}).err();
    assert!(matches!(error, Some(OpenError::PositionUnknown { seq: 4 })), "{error:?}");
}

#[test]
fn an_empty_last_segment_is_where_writing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let last = ledger_of(dir.path(), 1 << 20, &[&["a"], &["b"]])[1];
    let empty = dir.path().join(format!("{:020}.jsonl", 3));
    std::fs::write(&empty, "").unwrap();
    let Open { ledger, opened, .. } = open(dir.path());
    assert_eq!((opened.position, opened.cut), (last, None));
    assert_eq!(append(&ledger, 3, &["c"]).segment, 3);
    drop(ledger);
    assert_eq!(open_after(dir.path(), Some(&last)).unwrap().sessions(), ["c"]);
    assert_eq!(verify(dir.path()).unwrap().records, 3);
}

#[test]
fn ledger_facts_are_kept_among_the_events() {
    let dir = tempfile::tempdir().unwrap();
    let started = Fact::NodeStarted { version: "1.2.3".into(), durability: Durability::Disk };
    let Open { ledger, .. } = open(dir.path());
    for fact in [started.clone(), Fact::NodeStopped] {
        ledger.append(Time::from_ms(1), vec![Entry::of_node(fact)]).wait().unwrap();
    }
    drop(ledger);
    let open = open(dir.path());
    let facts: Vec<_> = open.records().into_iter().map(|record| record.fact.clone()).collect();
    assert_eq!(facts, [started, Fact::NodeStopped]);
}
