//! An allocator that leaves nothing behind.

use std::alloc::{GlobalAlloc, Layout, System};

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
            block.write_bytes(0, layout.size());
            keep_writes_before(block);
            System.dealloc(block, layout);
        }
    }
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
