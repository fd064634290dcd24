//! Where code is, and what it is called.

pub mod census;
pub mod code;
pub mod coverage;
pub mod debug;
pub mod elf;
pub mod glob;
pub(crate) mod indirect;
pub mod locate;
pub mod recorded;
pub mod resolve;
pub mod similar;
pub mod spec;
