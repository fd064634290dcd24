//! Running on: where every instruction counts, a thread is not resumed just to stop again. From a hit on its instructions
//! are emulated one after the other, until what was asked for has come; only what it must do itself it does itself.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use probe::run_on::{Region, What};
//! use probe::{Action, ProbeBuilder, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut session = Session::attach(1234)?;
//! let function: ProbeBuilder = "/usr/bin/program:compute".parse()?;
//! session.watch(&function, |hit, _| {
//!     // Each instruction until the function returns, with what it writes.
//!     hit.run_on_with(Region::new().until_return().accesses(), |step| {
//!         for access in step.accesses().filter(|access| access.new.is_some()) {
//!             println!("{:#x} writes {} bytes at {:#x}", step.ip(), access.size(), access.address);
//!         }
//!         ControlFlow::Continue(())
//!     });
//!     Action::Continue
//! })?;
//! session.run();
//! # Ok(())
//! # }
//! ```
//!
//! While no other thread runs in the address space, private memory is kept from one instruction to the next and written back
//! before anybody else can look: before the thread enters the kernel, before handlers are called, and every few
//! milliseconds. With others about, each access is made by itself, in the order of the program; where nobody observes, stores
//! wait until the thread looks at anything else than what it has just stored, and are made together. Unlike with the store
//! buffer of a processor no order changes by that: nobody can tell such a thread from one that is slow. Breakpoints on the way are hits as
//! always. Signals are delivered as always, too, and the thread is followed into their handlers.

mod emulate;
mod passes;
mod passing;
mod regions;
mod serve;

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::time::Duration;

use emu::registers::Extended;
use emu::{Access, Displaced, MemoryFault, UserMemory};
use serde::{Deserialize, Serialize};

use crate::executor::general::GeneralRegisters;
use crate::executor::log::Log;
pub use crate::executor::log::MemoryAccess;
pub(crate) use passing::Passing;
pub(crate) use regions::{Regions, Wish};
pub(crate) use serve::{Observing, Running};

/// What ends a run of emulated instructions, and what is to be known of each. Without an end, it lasts as long as its thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    until_return: bool,
    instructions: Option<u64>,
    within: Option<Range<u64>>,
    time: Option<Duration>,
    accesses: bool,
    extended: bool,
}

impl Region {
    /// One without an end.
    #[must_use]
    pub fn new() -> Region {
        Region::default()
    }

    /// The same, until the function returns at whose first instruction the hit is.
    #[must_use]
    pub fn until_return(self) -> Region {
        Region { until_return: true, ..self }
    }

    /// The same, for so many instructions at most, that of the hit among them. An instruction that is repeated is one.
    #[must_use]
    pub fn instructions(self, most: u64) -> Region {
        Region { instructions: Some(most), ..self }
    }

    /// The same, for as long as the thread is within a range of addresses.
    #[must_use]
    pub fn within(self, range: Range<u64>) -> Region {
        Region { within: Some(range), ..self }
    }

    /// The same, for that long at most.
    #[must_use]
    pub fn time(self, most: Duration) -> Region {
        Region { time: Some(most), ..self }
    }

    /// The same with [`Step::accesses`].
    #[must_use]
    pub fn accesses(self) -> Region {
        Region { accesses: true, ..self }
    }

    /// The same with [`Step::extended`].
    #[must_use]
    pub fn extended(self) -> Region {
        Region { extended: true, ..self }
    }
}

/// What has happened in a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// An instruction was emulated.
    Emulated,
    /// The thread has executed an instruction itself, so that which memory it has read and written is not known.
    Native,
    /// An instruction has raised an exception. The thread is where it goes on then, such as in a signal handler.
    Faulted,
    /// An instruction was left out by a handler.
    Skipped,
    /// A system call has returned. What the kernel has written is not among [`Step::accesses`].
    SystemCall {
        /// Its number: RAX when it was made.
        number: u64,
    },
    /// The thread has taken a signal, and is in its handler if it has one. No instruction was executed.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// It is over, and no instruction was executed. There is no other step.
    End(End),
}

/// Why it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum End {
    /// The function has returned.
    Returned,
    /// The function was left otherwise: by an exception or longjmp(3).
    Left,
    /// So many instructions were executed.
    Instructions,
    /// The thread has left the range of addresses.
    OutOfRange,
    /// The time is over.
    Time,
    /// The thread has come to a restartable sequence (rseq(2)), which nobody can emulate while others run.
    Sequence,
    /// It is in code that is not 64-bit code, or steps itself (TF).
    Unknown,
    /// The system has refused what was needed, which is told.
    Refused,
    /// The session serves the thread no more.
    Stopped,
}

/// An instruction that was executed while running on, or what else has happened then.
pub struct Step<'a> {
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) number: u64,
    pub(crate) what: What,
    pub(crate) displaced: Option<&'a Displaced>,
    pub(crate) before: &'a GeneralRegisters,
    pub(crate) after: &'a GeneralRegisters,
    pub(crate) extended: Option<(&'a Extended, &'a Extended)>,
    pub(crate) log: Option<&'a Log>,
    /// Whether no other thread has run in the address space since the step before.
    pub(crate) alone: bool,
    pub(crate) memory: &'a mut dyn UserMemory,
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("tid", &self.tid)
            .field("number", &self.number)
            .field("what", &self.what)
            .field("instruction", &self.displaced)
            .finish_non_exhaustive()
    }
}

impl Step<'_> {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// How many instructions were executed before.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What has happened.
    #[must_use]
    pub fn what(&self) -> What {
        self.what
    }

    /// The address of the instruction, or where the thread was.
    #[must_use]
    pub fn ip(&self) -> u64 {
        self.before.rip
    }

    /// The instruction; `None` if it is none, or one that is refused and was executed by the thread.
    #[must_use]
    pub fn instruction(&self) -> Option<&Displaced> {
        self.displaced
    }

    /// The thread's general registers before it.
    #[must_use]
    pub fn before(&self) -> &GeneralRegisters {
        self.before
    }

    /// The same behind it.
    #[must_use]
    pub fn after(&self) -> &GeneralRegisters {
        self.after
    }

    /// The thread's x87, vector, mask and tile registers before and behind an instruction that touches them, if
    /// [`Region::extended`] asks for it and it was emulated.
    #[must_use]
    pub fn extended(&self) -> Option<(&Extended, &Extended)> {
        self.extended
    }

    /// Which memory the instruction has read and written, in that order, if [`Region::accesses`] asks for it.
    pub fn accesses(&self) -> impl Iterator<Item = MemoryAccess<'_>> {
        self.log.into_iter().flat_map(Log::iter)
    }

    /// Fills `bytes` from the thread's memory behind the instruction, which shows no breakpoints.
    ///
    /// # Errors
    /// The first byte that cannot be read.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        self.memory.read(address, bytes, Access::Read)
    }
}

/// What is called for each step.
pub(crate) type Observer = Box<dyn FnMut(&mut Step<'_>) -> ControlFlow<()> + Send>;
