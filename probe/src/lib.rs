//! Places probes in running processes and emulates the instructions they displace.
//!
//! A [`Session`] attaches to a process or starts one. A probe is a place, named by anything that implements
//! [`Locate`], and a handler that is called with a [`Hit`] each time a thread gets there. Then the displaced
//! instruction is emulated, and the thread goes on: nothing is injected, and the displaced instruction is not
//! stepped over. What only the thread can do (enter the kernel, fault, make an atomic access), it does by an
//! instruction that its text already has. The one exception are the few instructions that depend on
//! descriptors or permissions of the thread, or for which there is nothing to borrow, and all 32-bit code, which
//! a 64-bit process may contain, too: it executes those in place, stepped, while the threads that share its
//! memory are held, and [`Counters::native`] counts them.
//!
//! ```
//! use std::process::Command;
//!
//! use probe::locate::Address;
//! use probe::{Action, RunEnd, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut session = Session::launch(Command::new("true"))?;
//! let start = session.entry().ok_or("it has ended already")?;
//! let probe = session.probe(Address(start), |hit| {
//!     println!("thread {} starts with its stack at {:#x}", hit.tid(), hit.registers().gpr[4]);
//!     Action::Continue
//! })?;
//! assert!(matches!(session.run(), RunEnd::Ended(Some(status)) if status.success()));
//! assert_eq!(session.report(probe).map(|report| report.counters.emulated), Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! If the process of a session is killed, its breakpoints stay behind, and the target ends at the next one. A
//! [`warden`] has a process of its own for that, which leaves the target whatever happens to the one that it serves;
//! what is to happen at a hit is sent to it as data.
//!
//! Functions can be followed from their entry to their return ([`Session::probe_calls`]), by a breakpoint where they return
//! to. No return address is rewritten: whatever unwinds the stack, moves it, or holds it against a shadow stack finds it
//! as it is.
//!
//! Threads of the target that reach probes again and again are served by threads of their own, so that they need not wait
//! for each other ([`SessionOptions::tracers`]); handlers of one probe are called one at a time, unless placed by
//! [`Session::probe_together`]. A thread changes from one to another while it waits in a circle, with all signals blocked,
//! on an instruction of its own text that jumps to itself; should the tracing process be killed within these some ten
//! microseconds, the thread stays there.
//!
//! Memory is accessed as far as the thread itself could: the kernel holds page protections, and where the
//! processor has protection keys, `/proc/PID/smaps` says which memory has one, and PKRU is fetched where one counts.
//! That file is read again when the mappings are, when an access goes to memory that was not there before, and, as
//! long as some memory has a key, from time to time; what pkey_mprotect(2) does to other memory remains unseen until
//! then.
//!
//! Text may change under its breakpoints. Where the program has no file for it, can write to it, or has written to it,
//! the instruction is read again at each hit. Other text, in private mappings of files, is looked at about twice a
//! second: one that the program makes writable, changes behind a breakpoint, and makes unwritable again, may be
//! performed as it was before until then, for a second at most, and is read again at each hit from then on. The same
//! look finds breakpoints that are gone ([`Event::Overwritten`], [`Event::Restored`]); it takes place while the session
//! runs. A copy of text that has taken breakpoints along is probed where it replaces the text; elsewhere, each of its
//! breakpoints is taken out when a thread gets there ([`Event::Copied`]), which after detaching nobody does.
//!
//! The kernel aborts a restartable sequence (rseq(2)) whose thread stops in it, so that a probe in one is refused
//! ([`Unplaceable::Sequence`]). Where no object lists the sequence, the first hit is aborted and the probe taken out
//! ([`Event::Sequence`]).
//!
//! A probe whose text must not change, or cannot, is placed by hardware breakpoints: [`locate::Hardware`].
//!
//! A system call that a signal interrupts and that is restarted reaches a probe on its instruction again, as
//! the processor does, and is another hit.

pub mod arguments;
mod engine;
pub mod error;
mod executor;
pub mod language;
pub mod stacks;
mod symbols;
mod target;
pub mod warden;

pub use engine::builder::{BuildError, Events, Observation, ProbeBuilder};
pub use engine::call::Call;
pub use engine::event::{self, Counters, Event, ProbeReport};
pub use engine::hit::{self, Action, GeneralRegisters, Hit, ProbeId};
pub use engine::leave::Left;
pub use engine::own;
pub use engine::run_on;
pub use engine::session::{RunEnd, Session, SessionOptions, StopHandle};
pub use engine::watch;
pub use error::{AttachError, ProbeError};
pub use executor::hardware::HardwareRefusal;
pub use executor::own::needed::OwnRefusal;
#[doc(hidden)]
pub use executor::ptrace::atomic::Ways;
pub use executor::space::Unplaceable;
pub use symbols::locate::{self, Locate, LocateError, Site};
pub use symbols::{census, code, coverage, debug, elf, glob, recorded, resolve, similar, spec};
pub use target::maps;
