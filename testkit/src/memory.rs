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

/// Where these bytes lie in the memory of `pid`.
///
/// # Errors
/// When the memory cannot be read.
pub fn places(pid: u32, bytes: &[u8]) -> io::Result<Vec<u64>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; SCAN_BYTES];
    for range in writable(&fs::read_to_string(format!("/proc/{pid}/maps"))?) {
        let mut from = range.start;
        while from + bytes.len() as u64 <= range.end {
            let wanted = usize::try_from(range.end - from).unwrap_or(SCAN_BYTES).min(SCAN_BYTES);
            let Ok(read) = memory.read_at(&mut buffer[..wanted], from) else { break };
            let windows = buffer[..read].windows(bytes.len()).enumerate();
            let places = windows.filter(|(_, window)| *window == bytes);
            found.extend(places.map(|(place, _)| from + place as u64));
            from += (read + 1).saturating_sub(bytes.len()).max(1) as u64;
        }
    }
    Ok(found)
}

/// Whether what lies at `place` in the memory of `pid` is never swapped.
///
/// # Errors
/// When the kernel does not say.
pub fn is_locked(pid: u32, place: u64) -> io::Result<bool> {
    let mut is_here = false;
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if is_here {
                return Ok(flags.split_ascii_whitespace().any(|flag| flag == "lo"));
            }
        } else if let Some(range) = range(line) {
            is_here = range.contains(&place);
        }
    }
    Err(io::Error::other("nothing is mapped there"))
}

/// The addresses at the beginning of a line of `maps` or `smaps`.
fn range(line: &str) -> Option<Range<u64>> {
    let (from, to) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(from)?..number(to)?)
}

/// What can be written to. Ranges of which one ends where the next begins are
/// one: a page that is locked parts what lies across its end.
fn writable(maps: &str) -> Vec<Range<u64>> {
    let is_writable = |line: &&str| line.split(' ').nth(1).is_some_and(|may| may.starts_with("rw"));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in maps.lines().filter(is_writable).filter_map(range) {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_across_the_end_of_a_range_is_looked_at_whole() {
        let maps = "\
            1000-3000 rw-p 00000000 00:00 0 [heap]\n3000-4000 rw-p 00000000 00:00 0 [heap]\n\
            4000-5000 r--p 00000000 00:00 0\n5000-6000 rw-p 00000000 00:00 0\n";
        assert_eq!(writable(maps), [0x1000..0x4000, 0x5000..0x6000]);
    }
}
