//! Places probes in running processes and emulates the instructions they displace.

pub mod census;
pub mod code;
pub mod elf;
pub mod glob;
pub mod locate;
pub mod maps;
pub mod resolve;
pub mod spec;
