#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| defib::fuzzing::sock_diag(data));
