//! See [`key_server_fuzz::ledger_segment`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| key_server_fuzz::ledger_segment::run(bytes));
