//! Performing a displaced instruction on behalf of a stopped thread.

pub(crate) mod code;
pub(crate) mod general;
pub(crate) mod hardware;
pub(crate) mod log;
pub(crate) mod own;
pub(crate) mod perf;
pub(crate) mod ptrace;
pub(crate) mod rseq;
pub(crate) mod signal;
pub(crate) mod space;

use std::fmt;
use std::io;
use std::ops::Range;

use emu::{Displaced, Exception, MemoryFault, Outcome, Registers, UserMemory};

use crate::executor::code::Kind;
use crate::executor::general::GeneralRegisters;
use crate::executor::log::Log;
use crate::executor::ptrace::buffer::StoreBuffer;
use crate::target::maps::Mapping;

/// A stopped thread, as handlers see it. What is not looked at is not fetched.
pub(crate) trait ThreadState: fmt::Debug {
    /// Its number.
    fn tid(&self) -> i32;

    /// A number that no other thread of the session has, also one that has the same id later.
    fn serial(&self) -> u64;

    /// The processor on which it ran last; `None` if it has just been killed.
    fn processor(&self) -> Option<u32>;

    /// Where the stack is that it was made with; empty where that cannot be told. Looked up once.
    fn own_stack(&mut self) -> Range<u64>;

    /// The register file with all that can be fetched. Its general registers are those of the stop.
    ///
    /// # Errors
    /// The registers cannot be had, such as when the thread has just been killed.
    fn whole(&mut self) -> io::Result<&mut Registers>;

    /// Fills `bytes` from its memory, which shows no breakpoints, as far as the thread itself could read it.
    ///
    /// # Errors
    /// The first byte that cannot be read.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryFault>;

    /// The same as far as possible; returns how far that is.
    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize;

    /// Stores `bytes` into its memory, as far as the thread itself could; breakpoints stay.
    ///
    /// # Errors
    /// The first byte that cannot be written; nothing is stored then.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault>;

    /// Takes so many return addresses from its shadow stack, if it has one, or gives them back.
    ///
    /// # Errors
    /// The system refuses that.
    fn move_shadow_stack(&mut self, by: i64) -> io::Result<()>;
}

/// A stopped thread, as the engine sees it: displaced instructions are performed on its state, or by itself.
pub(crate) trait Executor: ThreadState {
    /// Its general registers. RIP is that of the displaced instruction.
    fn registers(&self) -> &Registers;

    /// Whether there is no such thread any more, or none that is stopped here.
    fn is_gone(&self) -> bool;

    /// Stores what handlers have changed: `new` general registers in place of those that the thread has, and the extended
    /// state if it was lent to them. What cannot be stored stays as it was, and is the error.
    ///
    /// # Errors
    /// That of the system, or EINVAL for what it would not store as it is.
    fn take_back(&mut self, new: &GeneralRegisters) -> nix::Result<()>;

    /// Sets RIP.
    fn go_to(&mut self, rip: u64);

    /// Has what is executed next run on the processor that the thread runs on. Says whether it does.
    fn join_processor(&mut self) -> bool;

    /// Fetches what `displaced` touches, performs it once, or as much of it as is done at a time, and stores what it
    /// has changed.
    ///
    /// # Errors
    /// The exception that it raised; registers say then what the processor would have left.
    fn execute(&mut self, displaced: &Displaced) -> Result<Outcome, Stuck>;

    /// Raises `exception`, to which the instruction at `site` has come.
    fn raise(&mut self, exception: Exception, site: u64) -> Attempt;

    /// Raises the debug exception of a thread that steps itself, after an instruction or, with `iteration`, after one
    /// of its iterations.
    fn trace(&mut self, iteration: bool) -> Attempt;

    /// Enters the kernel as `displaced` would; `outcome` is what emulating it came to.
    fn enter(&mut self, displaced: &Displaced, outcome: Outcome) -> Attempt;

    /// Has the thread execute the instruction at `site` itself, where it stands.
    fn natively(&mut self, site: u64, how: Natively) -> Attempt;

    /// Takes the breakpoint at `site` away, which cannot be served, and sets the thread before the instruction.
    /// Returns the signal to resume it with.
    fn stand_aside(&mut self, site: u64) -> i32;
}

/// A stopped thread whose instructions are emulated one after the other, without its being resumed in between: what they
/// change is stored when somebody is to see it.
pub(crate) trait RunOn: Executor {
    /// Its memory, of which some may be kept.
    type Memory<'a>: TextMemory
    where
        Self: 'a;

    /// Begins, or begins anew after the thread has run or somebody has looked at it.
    fn begin(&mut self);

    /// Whether no other thread runs in its address space.
    fn is_alone(&self) -> bool;

    /// Has stores be noted with which the thread announces restartable sequences, until it begins anew.
    fn note_sequences(&mut self);

    /// Its registers and its memory, for one instruction after the other.
    fn parts(&mut self) -> (&mut Registers, Self::Memory<'_>);

    /// Whether the extended registers are among them.
    fn has_extended(&self) -> bool;

    /// Fetches the extended registers. Says whether they could be had.
    fn fetch_extended(&mut self) -> bool;

    /// Stores all that instructions have changed, and keeps nothing. Says whether that could be done.
    fn settle(&mut self) -> bool;

    /// Has [`Executor::execute`] note which memory it reads and writes, until that is taken back.
    fn note_accesses(&mut self, log: Option<Log>);

    /// What has been noted.
    fn take_accesses(&mut self) -> Option<Log>;

    /// Whether the thread is in 64-bit code, and raises no debug exceptions of its own.
    fn can_run_on(&self) -> bool;

    /// Whether it is about to enter the kernel.
    fn is_in_call(&self) -> bool;

    /// Whether an instruction at `address` can be fetched, as far as the mappings say.
    fn is_fetchable(&mut self, address: u64) -> bool {
        self.parts().1.mapping(address).is_some_and(|mapping| mapping.is_executable())
    }
}

/// How long text stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steadiness {
    /// As long as it is mapped.
    Full,
    /// As long as the thread does not run and stores nothing there.
    Alone,
    /// Others may change it any time.
    None,
}

/// Memory from which instructions are fetched.
pub(crate) trait TextMemory: UserMemory {
    /// Fills `bytes` from `address` on as far as possible, without breakpoints, and returns how far that is. Stores there
    /// are noted from now on.
    fn text(&mut self, address: u64, bytes: &mut [u8]) -> usize;

    /// What is mapped at `address`.
    fn mapping(&mut self, address: u64) -> Option<Mapping>;

    /// How long the page of `address` stays what it is.
    fn steadiness(&mut self, address: u64) -> Steadiness;

    /// Whether text has been stored to since the last time.
    fn take_code_written(&mut self) -> bool;

    /// Whether something has been stored since the last time where a thread announces restartable sequences, as far as
    /// that has been asked for.
    fn take_announced(&mut self) -> bool;

    /// The stores that wait, none of which may where the thread is not to be set back.
    fn stores(&mut self) -> &mut StoreBuffer;

    /// Whether stores may wait at all.
    fn may_buffer(&self) -> bool;

    /// Makes the stores that wait. Says whether all could be made; else [`StoreBuffer::undo`] is to follow.
    fn drain(&mut self) -> bool;

    /// Notes stores no more.
    fn forget_text(&mut self);

    /// Which breakpoint there is at `address`: [`Kind::SITE`], [`Kind::COUNTED`], both or none of them.
    fn site(&mut self, address: u64) -> Kind;

    /// Whether an instruction is in a restartable sequence which others may disturb, or announces one.
    fn in_sequence(&mut self, address: u64, length: usize) -> bool;
}

/// Why a displaced instruction is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// It has raised an exception.
    Raised(Exception),
    /// The system refuses what it needs of the thread's state: the registers say how far it is.
    Refused,
    /// The thread's registers are not what they should be, so it must not go on.
    Lost,
}

/// What has become of a thread that was to do something by itself. A signal is that with which it is to be resumed,
/// or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It is done.
    Done(i32),
    /// It has raised an exception.
    Raised(i32),
    /// A part of it is done, or nothing: the thread is before the instruction, to go on with it.
    Partly(i32),
    /// It is done, and the thread has stopped for the next breakpoint already.
    Trapped,
    /// Nothing is done, and it may do another time.
    Retry,
    /// It cannot be done like this.
    Unavailable,
    /// There is no such thread any more.
    Gone,
}

/// How a thread executes an instruction where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Natively {
    /// By one step.
    Once,
    /// By steps, each of which is a part of it, such as one iteration of a string instruction.
    Repeat,
    /// To where it enters the kernel.
    Enter,
}
