//! Reads anything as a file of recorded cases, and replays it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::vectors(data));
