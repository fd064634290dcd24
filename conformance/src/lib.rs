//! Holds the emulator against the processor itself.
