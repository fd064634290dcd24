//! Parses any text as a probe.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::probe_spec(data));
