//! Executes an instruction on the processor and in the emulator.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| conformance::fuzz::diff_exec(data));
