//! Asks everything of made-up debug information.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::debug_info(data));
