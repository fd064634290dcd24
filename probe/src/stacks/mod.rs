//! Stacks of threads, without frame pointers: by the unwind tables that compilers write for exceptions (System V psABI
//! for x86-64, section 4.2.4; DWARF 5, section 6.4), and what the functions on them are called.
//!
//! An [`Unwinder`] goes from a thread's registers to the calls that led there; a [`Hit`](crate::Hit) has the registers.
//! A [`Symbolizer`] says what lies at each address, which may be later and in another process.
//!
//! ```no_run
//! use std::process::Command;
//! use std::sync::Arc;
//!
//! use probe::stacks::{Symbolizer, Unwinder};
//! use probe::{Action, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut session = Session::launch(Command::new("ls"))?;
//! let (unwinder, symbolizer) = (Unwinder::default(), Symbolizer::default());
//! let malloc: probe::spec::ProbeSpec = "libc.so.6:malloc".parse()?;
//! session.probe(malloc, move |hit| {
//!     for frame in hit.stack(&unwinder, 128) {
//!         println!("  {}", symbolizer.place(&frame));
//!     }
//!     Action::Continue
//! })?;
//! session.run();
//! # Ok(())
//! # }
//! ```

mod module;
mod place;
mod rules;
mod spaces;
mod unwinder;
mod walk;

pub use module::Module;
pub(crate) use module::SentModule;
pub use place::{Function, Place, Symbolizer};
pub(crate) use unwinder::Caller;
pub use unwinder::{StackFrame, Unwinder};
pub(crate) use walk::Memory;
