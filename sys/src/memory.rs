//! Memory that is never written to a disk.

use std::io;

use rustix::param::page_size;

/// Keeps what `values` lie in out of swap for as long as the process lives.
///
/// Whole pages are kept, and never given up again: their neighbours may be
/// kept, too. For a few small secrets, not for many.
///
/// # Errors
/// As the system says; mostly because `RLIMIT_MEMLOCK` is reached.
pub fn keep_in_ram<T>(values: &[T]) -> io::Result<()> {
    let bytes = size_of_val(values);
    if bytes == 0 {
        return Ok(());
    }
    let page = page_size();
    let into_page = values.as_ptr().addr() % page;
    let from = values.as_ptr().cast::<u8>().wrapping_sub(into_page);
    let length = (into_page + bytes).next_multiple_of(page);
    // SAFETY: the range holds `values`, so its pages are mapped; the call
    // changes nothing of their content or of who may use them.
    unsafe { rustix::mm::mlock(from.cast_mut().cast(), length) }?;
    Ok(())
}

/// Whether a page can be kept out of swap here.
pub fn can_keep_in_ram() -> bool {
    keep_in_ram(&[0_u8]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[cfg_attr(miri, ignore = "Miri has no mlock and no /proc")]
    #[test]
    fn pages_are_locked_whole() {
        let before = locked_kib();
        let values = vec![1_u64; 3 * page_size() / 8];
        keep_in_ram(&values).unwrap();
        let pages = (page_size() / 1_024) as u64;
        assert!(locked_kib() - before >= 3 * pages);
        keep_in_ram::<u8>(&[]).unwrap();
        assert!(can_keep_in_ram());
    }
}
