//! See [`key_server_fuzz::redis`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| key_server_fuzz::redis::run(bytes));
