//! What one x86-64 instruction does in 64-bit user mode.
//!
//! [`Displaced::decode`] reads an instruction once; [`Displaced::execute`] performs it, any number of
//! times, on a register file and a memory interface. Nothing here makes system calls, allocates while
//! executing, or panics. SSE arithmetic runs on the host's own unit: it leaves the thread's MXCSR with all
//! exception flags set, and its other bits as they were.

// Floors, from the lowest: what is above imports from below, never the other way.
mod model;

mod host;

mod decode;

mod run;

mod vector;

mod shape;

mod families;

mod displaced;
mod reserved;
mod table;

pub use decode::processor::{DescriptionError, Facts, Features, Processor, Vendor};
pub use displaced::{Displaced, FloatingPoint};
pub use model::exception::Exception;
pub use model::memory::{self, Access, MemoryFault, UserMemory};
pub use model::outcome::Outcome;
pub use model::refusal::Refusal;
pub use model::registers::{self, Mxcsr, Registers, Rflags};
pub use model::touches::Touches;
pub use model::xsave;
