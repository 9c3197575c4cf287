//! What of a credential is in this process's memory.
//!
//! Alone in its file: it looks at the whole process.

#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use key_server_secrets::{
    AgeFileStore, Change, CsvLimits, Force, IdentitySource, SecretStore, import_csv, plan,
};
use zeroize::{Zeroize, Zeroizing};

const KEYS_COUNT: usize = 2_000;
/// Copies on a stack, which later calls overwrite: the hash of the last key's
/// input, for one.
const PASSING_COPIES_MAX: usize = 4;
/// The mark of each credential, every byte one too high: so that the mark
/// itself is only in credentials.
const SHIFTED_MARK: &[u8] = b"DBOBSZ.PG.UIF.NFNPSZ.UFTU.";
const SCAN_BYTES: usize = 1 << 20;

fn is_mark(window: &[u8]) -> bool {
    let shifted = std::hint::black_box(SHIFTED_MARK);
    window.iter().zip(shifted).all(|(byte, high)| byte.wrapping_add(1) == *high)
}

/// Ranges of which one ends where the next begins are one: a page that is
/// locked parts what lies across its end.
fn joined(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// The ranges of memory that can be written to, without `buffer`.
fn writable_ranges(buffer: &[u8]) -> Vec<Range<u64>> {
    let maps = BufReader::new(File::open("/proc/self/maps").unwrap());
    let range = |line: String| {
        let (place, rest) = line.split_once(' ')?;
        let (from, to) = place.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        rest.starts_with("rw").then(|| number(from)..number(to))
    };
    let start = buffer.as_ptr() as u64;
    let end = start + buffer.len() as u64;
    joined(maps.lines().filter_map(|line| range(line.unwrap())))
        .into_iter()
        .flat_map(|whole| [whole.start..whole.end.min(start), whole.start.max(end)..whole.end])
        .filter(|part| part.start < part.end)
        .collect()
}

/// How often the mark is in this process's memory, freed memory included.
fn copies_count() -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut buffer = Zeroizing::new(vec![0; SCAN_BYTES]);
    let overlap = SHIFTED_MARK.len() as u64 - 1;
    let mut count = 0;
    for range in writable_ranges(&buffer) {
        let mut from = range.start;
        while from + overlap < range.end {
            let wanted = usize::try_from(range.end - from).unwrap().min(SCAN_BYTES);
            let Ok(read) = memory.read_at(&mut buffer[..wanted], from) else {
                break;
            };
            let windows = buffer[..read].windows(SHIFTED_MARK.len());
            count += windows.filter(|window| is_mark(window)).count();
            buffer[..read].zeroize();
            from += (read as u64).saturating_sub(overlap).max(1);
        }
    }
    count
}

fn write_csv(path: &Path) {
    let mut text = Zeroizing::new(String::with_capacity(KEYS_COUNT * 64));
    text.push_str("provider,model,api_key\n");
    for number in 0..KEYS_COUNT {
        text.push_str("openai,gpt-4o,sk-fake-");
        text.extend(SHIFTED_MARK.iter().map(|byte| char::from(byte - 1)));
        writeln!(text, "{number:06}").unwrap();
    }
    fs::write(path, &*text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn assert_copies(expected: usize, when: &str) {
    let count = copies_count();
    let fits = (expected..=expected + PASSING_COPIES_MAX).contains(&count);
    assert!(fits, "{count} copies for {expected} keys {when}");
}

#[tokio::test]
async fn a_credential_is_in_memory_once_and_not_at_all_when_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let csv = dir.path().join("api_keys.csv");
    write_csv(&csv);
    assert_copies(0, "before the start");
    let store = AgeFileStore::open(dir.path(), &IdentitySource::StateDirectory).unwrap();

    let import = import_csv(&csv, &CsvLimits::default());
    assert_copies(KEYS_COUNT, "after an import");
    let change = plan(&[], &import, "csv@node-1", Force::No).unwrap().change;
    store.commit(&change).await.unwrap();
    assert_copies(KEYS_COUNT, "after a commit");
    drop((import, change));
    assert_copies(0, "after the import was dropped");

    let keys = store.load().await.unwrap();
    assert_copies(KEYS_COUNT, "after a load");
    let change = Change { put: Vec::new(), remove: vec![keys[0].id()] };
    store.commit(&change).await.unwrap();
    assert_copies(KEYS_COUNT, "after a commit of one key");
    drop(keys);
    assert_copies(0, "after the keys were dropped");
}
