//! Compiles any text as the arguments of a USDT probe.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::usdt_arguments(data));
