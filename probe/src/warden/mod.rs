//! Probes in a target that is traced by another process, the *warden*: whatever happens to this one, nothing happens to
//! the target.
//!
//! A [`Session`](crate::Session) traces from the process that it is in. If that is killed, the breakpoints stay behind,
//! and end the target at the next one. A [`Client`] has a process of its own for that, which is hard to end by accident:
//! it is in no terminal's and no job's reach, ignores every signal that can be, and is the last that the kernel ends for
//! want of memory, where it may say so. When its client vanishes, by SIGKILL at any moment, it takes the breakpoints out
//! and leaves. Only SIGKILL (and SIGSTOP) of the warden itself does what that of a session's process does: the target
//! ends at its next breakpoint, and a thread whose hit is just being served goes on behind the first byte of the probed
//! instruction until then.
//!
//! What happens at a hit is a [`Program`], which is data: the warden runs it, at no more than the cost of a session's
//! handler. Records of hits, and events, come back through memory that both share. A closure can decide, too, by
//! [`Client::probe_with`]; that costs a way to the client and back for each hit.
//!
//! ```no_run
//! use std::process::{Command, ExitCode};
//!
//! use probe::language::Register;
//! use probe::warden::{self, Client, Fields, News, Program};
//! use probe::{RunEnd, SessionOptions};
//!
//! fn main() -> ExitCode {
//!     if std::env::args().nth(1).as_deref() == Some("warden") {
//!         return warden::serve();
//!     }
//!     let sizes = || -> Result<(), Box<dyn std::error::Error>> {
//!         let mut own = Command::new(warden::own_program().ok_or("who am I?")?);
//!         own.arg("warden");
//!         let mut client = Client::start(own)?;
//!         client.launch(Command::new("ls"), SessionOptions::default())?;
//!         client.observe(|news| {
//!             if let News::Hit(hit) = news {
//!                 println!("{} {:?}", hit.tid, hit.registers);
//!             }
//!         });
//!         let malloc: probe::spec::ProbeSpec = "libc.so.6:malloc".parse()?;
//!         client.probe(malloc, Program::new().record(Fields::new().register(Register::Rdi)))?;
//!         assert!(matches!(client.run()?, RunEnd::Ended(_)));
//!         Ok(())
//!     };
//!     match sizes() {
//!         Ok(()) => ExitCode::SUCCESS,
//!         Err(error) => {
//!             eprintln!("{error}");
//!             ExitCode::FAILURE
//!         }
//!     }
//! }
//! ```
//!
//! Its thread that traces needs the same permissions as a session. Where Yama restricts tracing to ancestors
//! (`kernel.yama.ptrace_scope` is 1), a program that the client launches permits the warden to trace it, before its exec.

mod asked;
mod callers;
mod changes;
mod client;
mod cover;
mod message;
mod news;
mod outlet;
mod placing;
mod program;
mod ring;
mod run;
mod serve;
mod shared;
mod socket;
mod steps;
mod totals;

pub use asked::Asked;
pub use changes::ChangeRecord;
pub use client::{Client, ClientStop, Place};
pub use news::{Arguments, Event, Injection, News, Record, Refusal, Report, WardenError};
pub use program::{Fields, Measure, Program, Step, Then};
pub use serve::serve;
pub use shared::own_program;
pub use steps::{StepAccess, StepRecord};
pub use totals::{Bucket, CountedStack, Histogram, Totals};
