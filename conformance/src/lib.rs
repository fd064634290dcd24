//! Holds the emulator against the processor itself.

pub mod codes;
pub mod compare;
pub mod diff;
pub mod generate;
pub mod memory;
pub mod oracle;
pub mod rng;
pub mod undefined;
