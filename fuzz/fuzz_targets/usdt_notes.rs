//! Reads any bytes as a file with USDT notes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::usdt_notes(data));
