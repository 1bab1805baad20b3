#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| defib::fuzzing::dbus(data));
