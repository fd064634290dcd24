//! Watching: who changes the value of an expression, and when.
//!
//! The memory from which the expression is computed is guarded by debug registers (data breakpoints), in every thread of
//! the address space. A thread that has written to it stops behind the instruction; the expression is computed anew, and
//! compared. Or a thread [runs on](crate::run_on) from a hit, and each of its writes is looked at.
//!
//! ```
//! use std::process::Command;
//!
//! use probe::watch::Watch;
//! use probe::{Action, RunEnd, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut session = Session::launch(Command::new("true"))?;
//! // Any memory will do. Here, the number of arguments at the top of the stack, which nobody changes.
//! let stack = probe::maps::Maps::read(session.pid())?;
//! let stack = stack.iter().find(|mapping| mapping.path.as_deref().is_some_and(|path| path.ends_with("[stack]")));
//! let start = stack.ok_or("it has no stack")?.start;
//! let watched = session.watch_changes(Watch::new(&format!("*(long *){start:#x}"))?, |change| {
//!     println!("{:?} -> {:?} by {:?}", change.old_value(), change.new_value(), change.writer());
//!     Action::Continue
//! });
//! // Where there are no debug registers, or none for us, that is said.
//! match watched {
//!     Ok(_) => assert!(matches!(session.run(), RunEnd::Ended(_))),
//!     Err(refusal) => println!("{refusal}"),
//! }
//! # Ok(())
//! # }
//! ```

mod armed;
pub(crate) mod event;
mod frozen;
mod masked;
mod running;
mod serve;
mod watches;
pub(crate) mod writer;

pub use event::{Change, Ending, WatchReport, Watching, Writer};
pub use watches::{How, Until, Watch, WatchId, WatchRefusal};

pub(crate) use armed::{Armed, Arming, Compared};
pub(crate) use event::Thread;
pub(crate) use serve::{RunsOn, Wanted};
pub(crate) use watches::{Watched, Watches};
