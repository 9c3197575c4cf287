//! What calls that returned left on the stack.

/// How far below the caller it reaches.
const BYTES: usize = 256 * 1024;

/// Overwrites what calls that returned left on this thread's stack. For after
/// work with credentials, on a thread that goes on or waits.
#[inline(never)]
pub fn wipe_stack() {
    let mut bytes = [0_u8; BYTES];
    // Else the compiler would see that nobody reads it.
    std::hint::black_box(&mut bytes);
}

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::File;
    use std::os::unix::fs::FileExt;

    const LEFT: [u8; 1_024] = [7; 1_024];

    /// Writes far below its caller, and answers where.
    #[inline(never)]
    fn leave() -> u64 {
        let mut below = [0_u8; 65_536];
        below[..LEFT.len()].copy_from_slice(&LEFT);
        std::hint::black_box(&mut below).as_ptr().addr() as u64
    }

    #[test]
    fn what_a_call_left_is_gone() {
        let memory = File::open("/proc/self/mem").unwrap();
        let (mut before, mut after) = (vec![0; LEFT.len()], vec![7; LEFT.len()]);
        let place = leave();
        memory.read_exact_at(&mut before, place).unwrap();
        wipe_stack();
        memory.read_exact_at(&mut after, place).unwrap();
        assert_eq!(before, LEFT);
        assert!(after.iter().all(|byte| *byte == 0));
    }
}
