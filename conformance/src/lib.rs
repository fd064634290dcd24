//! Holds the emulator against the processor itself.

mod arena;
pub mod bytes;
pub mod codes;
pub mod compare;
pub mod diff;
pub mod everywhere;
pub mod executor;
pub mod features;
pub mod floating_point;
pub mod fuzz;
pub mod generate;
mod in_use;
pub mod litmus;
pub mod lockstep;
pub mod memory;
pub mod oracle;
mod own;
pub mod report;
pub mod rng;
pub mod undefined;
pub mod vectors;
