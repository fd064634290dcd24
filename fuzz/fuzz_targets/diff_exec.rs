//! Executes on the processor and in the emulator.
#![no_main]
libfuzzer_sys::fuzz_target!(|_data: &[u8]| {});
