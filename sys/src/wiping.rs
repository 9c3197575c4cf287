//! An allocator that leaves nothing behind.

use std::alloc::{GlobalAlloc, Layout, System};

/// Blocks of so many bytes and more are wiped by giving their pages back to the
/// kernel, which hands them out again with zeroes only: a buffer that was made
/// for a long message and got a short one never takes the memory for the rest.
const PAGES_FROM: usize = 128 * 1_024;

/// The system's allocator, which overwrites what is given back to it.
///
/// Credentials pass through buffers of other people's libraries: of the wire,
/// of encryption, of text formats. Whatever these free is gone afterwards, also
/// when a buffer grew and moved. Freeing costs time in proportion to the block;
/// `docs/decisions/0005-secrets-in-memory.md` says why that is paid.
pub struct Wiping;

// SAFETY: every call goes to the system's allocator with the layout that the
// caller gave; in between only memory is written that the caller has just
// given up and that is still allocated. `realloc` is the trait's own: a new
// block, a copy, and `dealloc` of the old block, which is wiped then.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has `layout.size()` bytes and nobody uses it any
        // more; it is given back only afterwards, with the layout it came with.
        unsafe {
            wipe(block, layout.size());
            keep_writes_before(block);
            System.dealloc(block, layout);
        }
    }
}

/// # Safety
/// `block` has `size` bytes that may be written, and nobody else uses them.
unsafe fn wipe(block: *mut u8, size: usize) {
    // SAFETY: the caller says so; the parts lie within the block.
    unsafe {
        match without_pages(block, size) {
            Some([before, after]) => {
                block.write_bytes(0, before);
                block.add(size - after).write_bytes(0, after);
            }
            None => block.write_bytes(0, size),
        }
    }
}

/// Gives back the whole pages of a large block; answers how many bytes are left
/// before and after them. None when there is nothing to give back, or the
/// kernel does not take it: memory that is locked.
///
/// # Safety
/// As [`wipe`].
#[cfg(not(miri))]
unsafe fn without_pages(block: *mut u8, size: usize) -> Option<[usize; 2]> {
    use rustix::mm::{Advice, madvise};

    if size < PAGES_FROM {
        return None;
    }
    let page = rustix::param::page_size();
    let before = block.align_offset(page);
    let pages = size.checked_sub(before)? / page * page;
    // SAFETY: the pages lie within the block, whose content nobody needs.
    unsafe { madvise(block.add(before).cast(), pages, Advice::LinuxDontNeed).ok()? };
    Some([before, size - before - pages])
}

#[cfg(miri)]
unsafe fn without_pages(_: *mut u8, _: usize) -> Option<[usize; 2]> {
    None
}

/// Says to the compiler that somebody may look at `block` now: else it drops
/// writes to what is freed next.
#[inline(always)]
fn keep_writes_before(block: *mut u8) {
    #[cfg(not(miri))]
    // SAFETY: there is no instruction in it; the compiler only has to take it
    // that memory is read.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags));
    }
    #[cfg(miri)]
    std::hint::black_box(block);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of a free block belong to the allocator below.
    #[cfg_attr(miri, ignore = "Miri has no /proc/self/mem")]
    #[test]
    fn what_is_given_back_is_wiped() {
        use std::fs::File;
        use std::os::unix::fs::FileExt;

        const KEPT: usize = 32;
        let memory = File::open("/proc/self/mem").unwrap();
        let mut seen = [7; 1_024];
        let layout = Layout::from_size_align(seen.len(), 16).unwrap();
        // SAFETY: the layout is not empty; the block is used while it is ours.
        let place = unsafe {
            let block = Wiping.alloc(layout);
            block.write_bytes(7, layout.size());
            let place = block.addr() as u64;
            Wiping.dealloc(block, layout);
            place
        };
        memory.read_exact_at(&mut seen, place).unwrap();
        assert!(seen[KEPT..].iter().all(|byte| *byte == 0), "{seen:?}");
    }

    /// How often this thread touched a page that was not there.
    #[cfg(not(miri))]
    fn page_faults() -> i64 {
        // SAFETY: all zeroes is a `rusage`, and the call only writes to it.
        unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
            usage.ru_minflt
        }
    }

    #[cfg(not(miri))]
    #[test]
    fn what_a_large_block_never_used_is_not_touched_to_wipe_it() {
        const PAGES: usize = 1_024;
        let layout = Layout::from_size_align(PAGES * rustix::param::page_size(), 16).unwrap();
        // SAFETY: the layout is not empty; the block is used while it is ours.
        let faults = unsafe {
            let block = Wiping.alloc(layout);
            block.write_bytes(7, 100);
            let before = page_faults();
            Wiping.dealloc(block, layout);
            page_faults() - before
        };
        assert!(faults < 100, "{faults} of {PAGES} pages");
    }

    #[cfg(not(miri))]
    #[test]
    fn large_blocks_are_wiped_to_their_last_byte() {
        let page = rustix::param::page_size();
        for (offset, size) in [(0, PAGES_FROM), (16, PAGES_FROM + 1), (page - 1, 40 * page + 17)] {
            let mut memory = vec![7_u8; offset + size + 1];
            // SAFETY: the part lies within `memory`, which nobody else uses.
            unsafe { wipe(memory.as_mut_ptr().add(offset), size) };
            let (before, rest) = memory.split_at(offset);
            let (block, after) = rest.split_at(size);
            assert!(block.iter().all(|byte| *byte == 0), "{offset} {size}");
            assert!(before.iter().chain(after).all(|byte| *byte == 7), "{offset} {size}");
        }
    }

    #[test]
    fn blocks_are_whole_while_in_use_and_move_with_their_content() {
        let layout = Layout::from_size_align(48, 16).unwrap();
        // SAFETY: the layouts are not empty, every block is used within its
        // size and given back once with the layout it has then.
        unsafe {
            let block = Wiping.alloc(layout);
            assert!(!block.is_null());
            block.write_bytes(7, 48);
            let larger = Wiping.realloc(block, layout, 4_096);
            assert!(!larger.is_null());
            assert!((0..48).all(|place| *larger.add(place) == 7));
            let smaller = Wiping.realloc(larger, Layout::from_size_align(4_096, 16).unwrap(), 8);
            assert!((0..8).all(|place| *smaller.add(place) == 7));
            Wiping.dealloc(smaller, Layout::from_size_align(8, 16).unwrap());
            let zeroed = Wiping.alloc_zeroed(layout);
            assert!((0..48).all(|place| *zeroed.add(place) == 0));
            Wiping.dealloc(zeroed, layout);
        }
    }
}
