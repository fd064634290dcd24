//! Parses any text as arguments and a condition, and takes and shows what they name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::arguments(data));
