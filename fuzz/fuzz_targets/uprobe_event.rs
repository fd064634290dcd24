//! Parses any text as a line of `uprobe_events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::uprobe_event(data));
