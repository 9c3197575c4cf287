//! A disk without room: refused, nothing half done, and back when there is room.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Open, append, open, open_with, segments, selected};
use key_server_core::Time;
use key_server_ledger::{AppendError, Condition, Durability, Entry, Fact, Options, verify::verify};

/// A file system of its own, with room for `kib` KiB.
struct SmallDisk {
    mount_point: tempfile::TempDir,
}

impl SmallDisk {
    /// None when this user may not mount.
    #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
    fn new(test: &str, kib: u32) -> Option<Self> {
        let mount_point = tempfile::tempdir().expect("a directory can be made");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(mount_point.path())
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self { mount_point }),
            Ok(output) => {
                eprintln!("skipped: {test}: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                eprintln!("skipped: {test}: mount cannot be run: {error}");
                None
            }
        }
    }

    fn ledger(&self) -> PathBuf {
        self.mount_point.path().join("ledger")
    }

    fn filler(&self) -> PathBuf {
        self.mount_point.path().join("filler")
    }

    /// Takes up the room that is left, to the last page.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("an empty file has room");
        while std::io::Write::write(&mut file, &[1; 4_096]).is_ok() {}
    }

    fn make_room(&self) {
        // Emptied first: another test that just starts `mount` may have the
        // file open for a moment, and its room with it.
        std::fs::write(self.filler(), "").expect("emptying a file needs no room");
        std::fs::remove_file(self.filler()).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.mount_point.path()).status();
    }
}

/// Appends short lines until one is refused; answers how many were taken, and
/// the refusal. No room is left for the longer line of a resumption.
fn append_until_refused(open: &Open, from: u64) -> (u64, AppendError) {
    for call in from.. {
        let entries = vec![Entry::of_node(Fact::NodeStopped)];
        if let Err(error) = open.ledger.append(Time::from_ms(call), entries).wait() {
            return (call - from, error);
        }
    }
    unreachable!("a disk has an end")
}

fn total_bytes(dir: &Path) -> u64 {
    segments(dir).iter().map(|segment| segment.metadata().expect("it is there").len()).sum()
}

fn fills_and_recovers(test: &str, durability: Durability, segment_bytes_max: u64) {
    let Some(disk) = SmallDisk::new(test, 256) else { return };
    let options = Options { durability, segment_bytes_max, ..Options::default() };
    let open_once = open_with(&disk.ledger(), &options, None).expect("an empty disk has room");
    append(&open_once.ledger, 0, &["first"]);
    disk.fill();
    let (taken, error) = append_until_refused(&open_once, 1);
    let AppendError::Unwritable { error: text } = &error else { panic!("{error}") };
    assert!(text.contains("No space left on device"), "{text}");
    let durable = open_once.ledger.durable();
    assert_eq!(durable.seq, 1 + taken);
    assert_eq!(total_bytes(&disk.ledger()), bytes_until(&disk.ledger(), durable.seq));

    assert!(matches!(open_once.ledger.condition(), Condition::Refusing { .. }));
    for _ in 0..4 {
        let refused = open_once.ledger.append(Time::from_ms(9_000), vec![selected("x")]).wait();
        assert_eq!(refused.as_ref(), Err(&error));
    }
    resume_while_full(&open_once);
    disk.make_room();
    let resumed = open_once.ledger.try_resume(Time::from_ms(9_000)).expect("there is room");
    assert_eq!(resumed.seq, durable.seq + 1);
    assert_eq!(open_once.ledger.condition(), Condition::Writable);
    let last = append(&open_once.ledger, 9_001, &["last"]);
    drop(open_once);

    let report = verify(&disk.ledger()).expect("the ledger verifies");
    assert_eq!((report.last, report.tail), (last, None));
    let open_again = open(&disk.ledger());
    let records = open_again.records();
    let resumed = &records[durable.seq as usize].fact;
    let Fact::LedgerResumed { refused_count, .. } = resumed else { panic!("{resumed:?}") };
    assert_eq!(*refused_count, 5);
}

fn resume_while_full(open: &Open) {
    let durable = open.ledger.durable();
    let resumed = open.ledger.try_resume(Time::from_ms(8_999));
    let Err(AppendError::Unwritable { .. }) = resumed else {
        panic!("the disk is full: {resumed:?}")
    };
    assert_eq!(open.ledger.durable(), durable);
}

/// The bytes of the lines up to `seq`, in all segments.
fn bytes_until(dir: &Path, seq: u64) -> u64 {
    let lines = segments(dir).into_iter().flat_map(|segment| common::lines(&segment));
    lines.take(seq as usize).map(|line| line.len() as u64 + 1).sum()
}

#[test]
fn a_full_disk_refuses_and_resumes_with_durability_disk() {
    let test = "a_full_disk_refuses_and_resumes_with_durability_disk";
    fills_and_recovers(test, Durability::Disk, 1 << 20);
}

#[test]
fn a_full_disk_refuses_and_resumes_with_durability_process() {
    let test = "a_full_disk_refuses_and_resumes_with_durability_process";
    fills_and_recovers(test, Durability::Process, 1 << 20);
}

#[test]
fn a_full_disk_at_the_change_of_segments_refuses_and_resumes() {
    let test = "a_full_disk_at_the_change_of_segments_refuses_and_resumes";
    fills_and_recovers(test, Durability::Disk, 1);
}
