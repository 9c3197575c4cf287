//! What lies in another process's memory. For root: the daemon lets nobody
//! else look.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const SCAN_BYTES: usize = 1 << 20;

/// How often each text that begins with `mark` and goes on with `tail_bytes`
/// digits lies in the memory of `pid`, freed memory included.
///
/// # Errors
/// When the memory cannot be read.
pub fn copies(pid: u32, mark: &str, tail_bytes: usize) -> io::Result<BTreeMap<String, usize>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found = BTreeMap::new();
    let mut buffer = vec![0; SCAN_BYTES];
    let length = mark.len() + tail_bytes;
    for range in writable(&fs::read_to_string(format!("/proc/{pid}/maps"))?) {
        let mut from = range.start;
        while from + length as u64 <= range.end {
            let wanted = usize::try_from(range.end - from).unwrap_or(SCAN_BYTES).min(SCAN_BYTES);
            // What is mapped and cannot be read holds nothing of ours.
            let Ok(read) = memory.read_at(&mut buffer[..wanted], from) else { break };
            for window in buffer[..read].windows(length) {
                let tail = window.strip_prefix(mark.as_bytes());
                let tail = tail.filter(|tail| tail.iter().all(u8::is_ascii_digit));
                if let Some(tail) = tail {
                    let tail = String::from_utf8_lossy(tail).into_owned();
                    *found.entry(tail).or_default() += 1;
                }
            }
            from += (read + 1).saturating_sub(length).max(1) as u64;
        }
    }
    Ok(found)
}

fn writable(maps: &str) -> Vec<Range<u64>> {
    let range = |line: &str| {
        let (place, rest) = line.split_once(' ')?;
        let (from, to) = place.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        rest.starts_with("rw").then_some(number(from)?..number(to)?)
    };
    maps.lines().filter_map(range).collect()
}
