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
    // SAFETY: the list and its texts are the C library's, well formed, and
    // stay where they are while nobody sets variables; there is no other
    // thread, and this one does not while it is here.
    is_only_thread() && unsafe { wipe(environ, name) }
}

/// Overwrites the first value that `name` has in a list.
///
/// # Safety
/// `list` is null, or an array of pointers to texts that end with a zero, and a
/// null after the last. Nobody else reads or writes the list or its texts
/// meanwhile.
unsafe fn wipe(list: *mut *mut c_char, name: &str) -> bool {
    let mut place = list;
    // SAFETY: by the contract, `place` is null or within the array, for it
    // goes no further than the null at its end; what it points to is a text;
    // and of that only the bytes after the `=` are written, up to its zero.
    unsafe {
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

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn a_value_is_wiped_where_it_lies_and_others_stay() {
        let texts = ["TOKEN_OF=other\0", "TOKEN=secret\0", "EMPTY=\0", "TOKEN=second\0"];
        let mut texts = texts.map(|text| text.as_bytes().to_vec());
        let mut list: Vec<_> = texts.iter_mut().map(|text| text.as_mut_ptr().cast()).collect();
        list.push(ptr::null_mut());
        // SAFETY: the list is as the contract wants it, and of this test alone.
        let mut wiped = |name| unsafe { wipe(list.as_mut_ptr(), name) };
        assert!(wiped("TOKEN"));
        assert!(!wiped("TOKEN"), "it is empty");
        assert!(!wiped("EMPTY"));
        assert!(!wiped("OTHER"));
        assert_eq!(texts[0], b"TOKEN_OF=other\0");
        assert_eq!(texts[1], b"TOKEN=\0\0\0\0\0\0\0");
        assert_eq!(texts[3], b"TOKEN=second\0");
    }

    #[test]
    fn without_a_list_there_is_nothing_to_wipe() {
        // SAFETY: there is no list.
        assert!(!unsafe { wipe(ptr::null_mut(), "TOKEN") });
    }

    #[cfg_attr(miri, ignore = "Miri has no /proc")]
    #[test]
    fn nothing_is_done_beside_other_threads() {
        let before = std::fs::read("/proc/self/environ").unwrap();
        let wiped = std::thread::spawn(|| wipe_variable("PATH")).join().unwrap();
        assert!(!wiped, "the test's own thread waits");
        assert_eq!(std::fs::read("/proc/self/environ").unwrap(), before);
    }
}
