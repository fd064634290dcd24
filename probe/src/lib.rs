//! Places probes in running processes and emulates the instructions they displace.

pub mod locate;
pub mod maps;
