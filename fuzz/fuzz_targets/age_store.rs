//! See [`key_server_fuzz::age_store`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| key_server_fuzz::age_store::run(bytes));
