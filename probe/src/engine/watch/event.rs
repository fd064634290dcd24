//! What there is to tell of a watch.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::arguments::Value;
use crate::arguments::bindings::Bound;
use crate::engine::hit::{GeneralRegisters, Hit};
use crate::engine::run_on::Step;
use crate::engine::watch::{WatchId, WatchRefusal};
use crate::stacks::{Caller, Memory, StackFrame, Unwinder};

/// Who has written to what is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Writer {
    /// The instruction at this address, of the thread.
    Instruction {
        /// Where it begins.
        address: u64,
    },
    /// One of the instructions at these addresses, of the thread: where it has stopped, more than one may have led.
    OneOf {
        /// Where they begin.
        addresses: Vec<u64>,
    },
    /// The kernel, in a system call of the thread.
    SystemCall {
        /// Its number.
        number: u64,
        /// Where the instruction begins that made it.
        address: u64,
    },
    /// The thread, some time ago: it blocked the signal by which it would have been stopped.
    Blocked,
    /// Nobody that was seen: another process, the kernel on its own, or a thread in a way that debug registers do not
    /// show.
    Unseen,
    /// The thread, by an instruction that cannot be told.
    Unknown,
    /// The thread that runs on, in what it has not been emulated for, or somebody else since it has last been looked at: while
    /// other threads run, or of memory that processes share, all that is seen is that the value is another one now.
    Meanwhile {
        /// The number of the system call, if it was one, in which the kernel may have written.
        system_call: Option<u64>,
        /// Where the instruction begins.
        address: u64,
    },
}

impl Writer {
    /// Whether a thread was seen to make the change.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        !matches!(self, Writer::Unseen | Writer::Meanwhile { .. })
    }

    /// Where the instruction is, or the first of those that come into question.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        match self {
            Writer::Instruction { address }
            | Writer::SystemCall { address, .. }
            | Writer::Meanwhile { address, .. } => Some(*address),
            Writer::OneOf { addresses } => addresses.first().copied(),
            Writer::Blocked | Writer::Unseen | Writer::Unknown => None,
        }
    }
}

/// The thread that has made a change.
#[derive(Debug)]
pub(crate) enum Thread<'c, 'h> {
    /// It has stopped.
    Stopped(&'c mut Hit<'h>),
    /// It runs on.
    RunsOn(&'c mut Step<'h>),
}

impl Thread<'_, '_> {
    pub(crate) fn pid(&self) -> i32 {
        match self {
            Thread::Stopped(hit) => hit.pid(),
            Thread::RunsOn(step) => step.pid(),
        }
    }

    pub(crate) fn tid(&self) -> i32 {
        match self {
            Thread::Stopped(hit) => hit.tid(),
            Thread::RunsOn(step) => step.tid(),
        }
    }

    pub(crate) fn registers(&self) -> &GeneralRegisters {
        match self {
            Thread::Stopped(hit) => hit.registers(),
            Thread::RunsOn(step) => step.after(),
        }
    }

    pub(crate) fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        match self {
            Thread::Stopped(hit) => hit.read_up_to(address, bytes),
            Thread::RunsOn(step) => match step.read(address, bytes) {
                Ok(()) => bytes.len(),
                Err(fault) => {
                    let length = fault.address.saturating_sub(address);
                    let length = usize::try_from(length).unwrap_or(0).min(bytes.len());
                    let read = bytes.get_mut(..length).is_some_and(|bytes| step.read(address, bytes).is_ok());
                    if read { length } else { 0 }
                }
            },
        }
    }
}

/// A change of what is watched, and the thread that has made it, which is behind the instruction.
#[derive(Debug)]
pub struct Change<'c, 'h> {
    pub(crate) watch: WatchId,
    pub(crate) bound: &'c Bound,
    pub(crate) thread: Thread<'c, 'h>,
    pub(crate) writer: Writer,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
    pub(crate) overtaken: bool,
    pub(crate) moved: Option<(u64, u64)>,
}

impl Memory for Change<'_, '_> {
    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        self.thread.read_up_to(address, bytes)
    }
}

impl Change<'_, '_> {
    /// The watch.
    #[must_use]
    pub fn watch(&self) -> WatchId {
        self.watch
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.thread.pid()
    }

    /// The thread; where nobody was seen to make the change, the one at which it was found.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.thread.tid()
    }

    /// The thread's general registers behind the instruction.
    #[must_use]
    pub fn registers(&self) -> &GeneralRegisters {
        self.thread.registers()
    }

    /// Fills `bytes` from the thread's memory as far as it can be read, and returns how far that is.
    pub fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        self.thread.read_up_to(address, bytes)
    }

    /// As [`Hit::stack`](crate::Hit::stack), of the thread behind the instruction.
    pub fn stack(&mut self, unwinder: &Unwinder, most: usize) -> Vec<StackFrame> {
        let registers = self.registers();
        let (gpr, ip) = (registers.gpr, registers.rip);
        let caller = Caller { pid: self.pid(), gpr: &gpr, ip };
        unwinder.stack(&caller, self, most)
    }

    /// The value before: where the thread runs on, exactly that which it has replaced; otherwise the one that was seen
    /// last, since when several threads may have written.
    #[must_use]
    pub fn old_value(&self) -> Option<Value> {
        self.bound.binding.values(&self.old).next().map(|(_, value)| value)
    }

    /// The value now.
    #[must_use]
    pub fn new_value(&self) -> Option<Value> {
        self.bound.binding.values(&self.new).next().map(|(_, value)| value)
    }

    /// Who has made it.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Whether the value is the one that was seen last, while other threads run: what this one has written was
    /// overwritten before it could be looked at, was told with another thread's write, or is the same as before.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        self.overtaken
    }

    /// Where the value was before, and where it is now, if it is elsewhere, such as when a pointer that leads to it has
    /// changed.
    #[must_use]
    pub fn moved(&self) -> Option<(u64, u64)> {
        self.moved
    }
}

/// What is watched, from when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watching {
    /// Where the value is in memory, if it is in one place.
    pub address: Option<u64>,
    /// How many bytes of memory it is computed from.
    pub bytes: u64,
    /// Whether the thread runs on for it, rather than that debug registers guard the memory: then what other threads
    /// write is not seen.
    pub runs_on: bool,
    /// Whether it is seen what the kernel writes in system calls of the threads, such as read(2).
    pub sees_kernel: bool,
}

/// Why something is not watched any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The function has returned.
    Returned,
    /// Its frame has been left without a return, as longjmp(3) and exceptions do.
    Left,
    /// The thread does not run on any more: it has ended, or is where nobody can emulate it.
    Stands,
    /// What [`Until`](crate::watch::Until) names has come.
    Reached,
    /// What it is computed from is elsewhere now, and cannot be watched there.
    Lost(WatchRefusal),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Returned => f.write_str("the function has returned"),
            Ending::Left => f.write_str("the function was left without a return"),
            Ending::Stands => f.write_str("the thread does not run on any more"),
            Ending::Reached => f.write_str("that was all that was wanted"),
            Ending::Lost(refusal) => write!(f, "it is elsewhere now, where it cannot be watched: {refusal}"),
        }
    }
}

/// What has become of a watch so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WatchReport {
    /// How often the value has changed.
    pub changes: u64,
    /// How often a thread has written to it while the value seen was the last one; see [`Change::is_overtaken`].
    pub overtaken: u64,
    /// How often it was written to without a change, where only one thread runs.
    pub unchanged: u64,
    /// Of the changes, how many nobody was seen to have made; see [`Writer::is_seen`].
    pub unseen: u64,
    /// How often threads have written that blocked the signal by which they would have been stopped.
    pub missed: u64,
    /// How often a thread that runs on has found another value than it has left: others have written meanwhile, which is
    /// not seen unless they run on, too.
    pub others: u64,
    /// How often the value was elsewhere afterwards.
    pub moved: u64,
    /// How often it has been watched, once for each process, or for each hit.
    pub started: u64,
    /// How often it could not be.
    pub refused: u64,
    /// Whether it was always seen what the kernel writes in system calls of the threads.
    pub sees_kernel: bool,
    /// How many of the changes, and of the writes that were overtaken, each thread has made.
    pub threads: BTreeMap<i32, u64>,
}
