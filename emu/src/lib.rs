//! What one x86-64 instruction does in 64-bit user mode.
//!
//! ```
//! use emu::registers::{Registers, gpr};
//! use emu::{Displaced, Exception, FlatMemory, Outcome, Processor};
//!
//! // lock xadd qword ptr [rbx], rax
//! let bytes = [0xf0, 0x48, 0x0f, 0xc1, 0x03];
//! let displaced = Displaced::decode_on(&bytes, 0x40_0000, Processor::zen_3().leak())?;
//!
//! let mut memory = FlatMemory::new(0x1000, 4096);
//! memory.bytes_mut()[8] = 40;
//! let mut registers = Registers::default();
//! registers.gpr[gpr::RAX] = 2;
//! registers.gpr[gpr::RBX] = 0x1008;
//!
//! assert_eq!(displaced.execute(&mut registers, &mut memory), Ok(Outcome::Next));
//! assert_eq!((memory.bytes()[8], registers.gpr[gpr::RAX]), (42, 40));
//! assert_eq!(registers.rip, 0x40_0005);
//!
//! // What the processor would raise is a value, and nothing has changed.
//! registers.gpr[gpr::RBX] = 0x2000;
//! let fault = Exception::PageFault { address: 0x2000, error_code: 0b110 };
//! assert_eq!(displaced.execute(&mut registers, &mut memory), Err(fault));
//! assert_eq!((registers.gpr[gpr::RAX], registers.rip), (40, 0x40_0000));
//! # Ok::<(), emu::Refusal>(())
//! ```
//!
//! [`Displaced::decode_on`] reads an instruction once, for the [`Processor`] that is named;
//! [`Displaced::execute`] performs it, any number of times, on a register file and a memory interface. Nothing
//! here makes system calls, allocates while executing, or panics. Floating-point arithmetic runs on the host's own
//! unit: it leaves the thread's MXCSR with all exception flags set, and its other bits as they were.
//!
//! Without the feature `std` the crate wants no more than `alloc`, and does not know the processor at hand:
//! `examples/bare.rs` is a program that has nothing else.

#![cfg_attr(not(any(feature = "std", test)), no_std)]

extern crate alloc;

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
pub use model::flat::{Accesses, FlatMemory, Protection};
pub use model::memory::{Access, MemoryFault, UserMemory};
pub use model::outcome::Outcome;
pub use model::refusal::Refusal;
pub use model::registers::{self, Mxcsr, Registers, Rflags};
pub use model::touches::Touches;
pub use model::xsave;
