//! Decodes and executes any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::decode(data));
