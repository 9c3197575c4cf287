//! The allocator under a whole program: this one. Miri looks at every access.

use std::collections::BTreeMap;
use std::thread;

use key_server_sys::Wiping;

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

#[test]
fn collections_that_grow_shrink_and_cross_threads_keep_their_content() {
    let fill = |seed: usize| {
        let mut texts = BTreeMap::new();
        for number in 0..64 {
            texts.insert(number, "x".repeat(seed * number));
            texts.remove(&(number / 3));
        }
        texts
    };
    let threads: Vec<_> = (1..4).map(|seed| thread::spawn(move || (seed, fill(seed)))).collect();
    for thread in threads {
        let (seed, texts) = thread.join().unwrap();
        assert!(!texts.is_empty());
        assert!(texts.iter().all(|(number, text)| text.len() == seed * number));
    }
    let mut bytes = Vec::with_capacity(1);
    bytes.extend(0..=u8::MAX);
    bytes.truncate(10);
    bytes.shrink_to_fit();
    assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(vec![0_u8; 10_000].iter().filter(|byte| **byte != 0).count(), 0);
}
