//! The environment as the kernel laid it out.

use std::ffi::{CStr, c_char};

unsafe extern "C" {
    /// The list that the C library made of what the kernel gave: pointers to
    /// `NAME=VALUE`, ended by zeros, and a null at its end.
    static environ: *mut *mut c_char;
}

/// Overwrites the value of a variable where it lies, so that it is neither in
/// `/proc/PID/environ` nor in memory any more; it is empty then. Copies are the
/// caller's matter. Answers whether there was one.
///
/// Only while this is the process's one thread: otherwise another could be
/// reading it, and nothing is done.
pub fn wipe_variable(name: &str) -> bool {
    if !is_only_thread() {
        return false;
    }
    // SAFETY: the list and its texts are the C library's, well formed, and
    // stay where they are while nobody sets variables; there is no other
    // thread, and this one does not while it is here.
    unsafe {
        let mut place = environ;
        while !place.is_null() && !(*place).is_null() {
            let entry = CStr::from_ptr(*place).to_bytes();
            let value = entry.strip_prefix(name.as_bytes());
            if let Some(value) = value.and_then(|rest| rest.strip_prefix(b"=")) {
                let (from, length) = (entry.len() - value.len(), value.len());
                // Written by the pointer of the list: what `CStr` gave is for
                // reading, and not used any more.
                let value = (*place).cast::<u8>().add(from);
                for place in 0..length {
                    value.add(place).write_volatile(0);
                }
                return length > 0;
            }
            place = place.add(1);
        }
    }
    false
}

fn is_only_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_beside_other_threads() {
        let before = std::fs::read("/proc/self/environ").unwrap();
        let wiped = std::thread::spawn(|| wipe_variable("PATH")).join().unwrap();
        assert!(!wiped, "the test's own thread waits");
        assert_eq!(std::fs::read("/proc/self/environ").unwrap(), before);
    }
}
