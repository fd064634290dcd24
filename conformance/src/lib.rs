//! Holds the emulator against the processor itself.

pub mod oracle;
