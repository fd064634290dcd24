//! What one x86-64 instruction does in 64-bit user mode.
//!
//! [`Displaced::decode`] reads an instruction once; [`Displaced::execute`] performs it, any number of
//! times, on a register file and a memory interface. Nothing here makes system calls, allocates while
//! executing, or panics. SSE arithmetic runs on the host's own unit: it leaves the thread's MXCSR with all
//! exception flags set, and its other bits as they were.

pub mod memory;
pub mod registers;
pub mod xsave;

mod condition;
mod context;
mod displaced;
mod exception;
mod families;
mod float;
mod format;
mod host;
mod mmx;
mod operand;
mod outcome;
mod processor;
mod refusal;
mod reserved;
mod shape;
mod soft;
mod table;
mod touches;
mod vector;
mod width;
mod x87;

pub use displaced::{Displaced, FloatingPoint};
pub use exception::Exception;
pub use memory::{Access, MemoryFault, UserMemory};
pub use outcome::Outcome;
pub use processor::{Facts, Features, Processor, Vendor};
pub use refusal::Refusal;
pub use registers::{Mxcsr, Registers, Rflags};
pub use touches::Touches;
