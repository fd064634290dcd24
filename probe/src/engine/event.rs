//! What the engine tells its host, besides hits.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::engine::hit::ProbeId;
use crate::engine::watch::{Ending, WatchId, WatchRefusal, Watching};
use crate::executor::space::Unplaceable;
use crate::symbols::locate::LocateError;

/// Something that happened to the target or to a probe.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A child process is traced from now on.
    Followed {
        /// The child.
        pid: i32,
        /// Its parent.
        parent: i32,
    },
    /// A process executes a new program; all probes are located anew.
    Exec {
        /// The process.
        pid: i32,
    },
    /// A process executes a program whose memory cannot be opened, such as one that may not be read: it runs
    /// without probes.
    Inaccessible {
        /// The process.
        pid: i32,
        /// Why.
        error: &'a io::Error,
    },
    /// A process executes a program that is no 64-bit one: it runs without probes, until it executes another.
    Not64Bit {
        /// The process.
        pid: i32,
    },
    /// A process ended.
    Ended {
        /// The process.
        pid: i32,
        /// How.
        status: ExitStatus,
    },
    /// A probe of many sites is being placed, which may take a while; told from time to time, and at the end.
    Placing {
        /// The probe.
        probe: ProbeId,
        /// The process.
        pid: i32,
        /// How many sites have been seen to.
        done: usize,
        /// How many there are.
        total: usize,
    },
    /// No breakpoint can be put where calls that a probe follows return to: these returns are missed.
    NoReturnSite {
        /// The probe.
        probe: ProbeId,
        /// The process.
        pid: i32,
        /// The return address.
        address: u64,
        /// Why.
        reason: &'a Unplaceable,
    },
    /// A probe of several functions consists of this one, among others, which has its own counts and its handler.
    Part {
        /// The probe.
        probe: ProbeId,
        /// The part.
        part: ProbeId,
        /// What the part is called.
        name: &'a str,
    },
    /// A probe got a site, after it was made.
    Placed {
        /// The probe.
        probe: ProbeId,
        /// The process.
        pid: i32,
        /// The address.
        address: u64,
    },
    /// A probe of an indirect function got sites, after it was made.
    Implementations {
        /// The probe.
        probe: ProbeId,
        /// The process.
        pid: i32,
        /// What the implementation is called that the process uses or, as long as that is not known, each that it may use.
        names: &'a [String],
    },
    /// A site of a probe cannot be probed. It is told once, and not when the probe is made: then the report has it.
    Refused {
        /// The probe.
        probe: ProbeId,
        /// The process.
        pid: i32,
        /// The address.
        address: u64,
        /// Why.
        reason: &'a Unplaceable,
    },
    /// The object is mapped now, but lacks what the probe names.
    Unresolvable {
        /// The probe.
        probe: ProbeId,
        /// The process.
        pid: i32,
        /// Why.
        error: &'a LocateError,
    },
    /// The kernel has refused a request, though the thread lives. What it was for has not been done; where that
    /// was to serve a hit, the thread executes the instruction itself, or, where not even that can be had, the
    /// breakpoint is removed.
    Failed {
        /// The process.
        pid: i32,
        /// The thread, or any of the process.
        tid: i32,
        /// The system call or ptrace request.
        request: &'static str,
        /// Why.
        error: Errno,
    },
    /// The kernel has refused what handlers have written to a thread's registers; they are as before.
    Rejected {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
        /// Why: EIO for a general register, EINVAL for an extended one.
        error: Errno,
    },
    /// The program has overwritten a probed instruction, by another one or by itself; its probes do not work there
    /// any more. Found at a hit, when the probe is removed, and by a check at most a second later.
    Overwritten {
        /// The process.
        pid: i32,
        /// The address.
        address: u64,
        /// For how long at most the breakpoint has been missing.
        missing: Duration,
    },
    /// A breakpoint was missing and has been placed again: its page was thrown away, by madvise(2), and came from its
    /// file once more. Found by a check at most a second later.
    Restored {
        /// The process.
        pid: i32,
        /// The address.
        address: u64,
        /// For how long at most the breakpoint was missing.
        missing: Duration,
    },
    /// The program has copied text with a breakpoint in it.
    Copied {
        /// The process.
        pid: i32,
        /// The address of the copied instruction.
        address: u64,
        /// The address of the instruction that the probes are on.
        of: u64,
        /// Whether the copy is probed, which is so where it has taken the place of the text. Otherwise it has no
        /// breakpoint any more, and hits there are none.
        served: bool,
    },
    /// A thread that was just made has no hardware breakpoint for a site, because somebody else has set its debug
    /// registers, or because no file descriptors are left: what it executes there is not seen, and not counted.
    Unwatched {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
        /// The address.
        address: u64,
        /// That of perf_event_open(2).
        error: Errno,
    },
    /// Something is watched from now on.
    Watching {
        /// The watch.
        watch: WatchId,
        /// The process.
        pid: i32,
        /// The thread in whose function it began, if it ends with that.
        tid: Option<i32>,
        /// What.
        watching: Watching,
    },
    /// Something is not watched that was to be.
    NotWatched {
        /// The watch.
        watch: WatchId,
        /// The process.
        pid: i32,
        /// The thread that was at the hit, if it was to begin at one.
        tid: Option<i32>,
        /// Why.
        reason: &'a WatchRefusal,
    },
    /// Something is not watched any more.
    WatchEnded {
        /// The watch.
        watch: WatchId,
        /// The process.
        pid: i32,
        /// The thread in whose function it began, if it was to end with that.
        tid: Option<i32>,
        /// Why.
        ending: &'a Ending,
    },
    /// A thread has hit a probed instruction in a restartable sequence (rseq(2)), or before one, that no object
    /// lists. The kernel aborts it, as after any preemption, and it would be so at each hit: the breakpoint has been
    /// taken out.
    Sequence {
        /// The process.
        pid: i32,
        /// The address.
        address: u64,
    },
}

impl Event<'_> {
    /// The process, and the addresses in it of which this tells, for people to read.
    pub(crate) fn places(&self) -> Option<(i32, [Option<u64>; 2])> {
        match *self {
            Event::Refused { pid, address, .. }
            | Event::NoReturnSite { pid, address, .. }
            | Event::Overwritten { pid, address, .. }
            | Event::Restored { pid, address, .. }
            | Event::Sequence { pid, address } => Some((pid, [Some(address), None])),
            Event::Copied { pid, address, of, .. } => Some((pid, [Some(address), Some(of)])),
            _ => None,
        }
    }
}

/// What is counted for each probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// How often a thread reached it.
    pub hits: u64,
    /// Of these, how often the instruction was emulated to its end.
    pub emulated: u64,
    /// Of these, how often the thread executed the instruction itself while the others were held: it
    /// depends on descriptors or permissions of the thread, it is not 64-bit code, there was no system call
    /// to borrow, or it changes memory that other processes map in one step, there was no instruction to borrow that
    /// does the same, and somebody else was always faster than CMPXCHG.
    pub native: u64,
    /// Of these, how often it raised an exception.
    pub faulted: u64,
    /// Of these, how many the handler did not want.
    pub filtered: u64,
    /// How often a thread passed without the handler running, as far as can be known. Of returns, how many will not be
    /// seen, as there can be no breakpoint. At hardware breakpoints the kernel counts them: they are exact once the
    /// threads that passed have ended or the probe is removed.
    pub missed: u64,
    /// Of calls that are followed, how many were left without a return: by an exception, by longjmp(3), or with their
    /// thread or process.
    pub dropped: u64,
}

/// The state of a probe.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeReport {
    /// What was counted.
    pub counters: Counters,
    /// What was counted of the returns, where calls are followed ([`Session::probe_calls`](crate::Session::probe_calls)).
    pub returns: Option<Counters>,
    /// Whether its sites are hardware breakpoints; see [`locate::Hardware`](crate::locate::Hardware).
    pub hardware: bool,
    /// The addresses at which it has been placed, in any process, in the order of placement.
    pub sites: Vec<u64>,
    /// The sites that cannot be probed.
    pub refused: Vec<(u64, Arc<Unplaceable>)>,
    /// Why it has never been placed, if so: the object is not there yet, or lacks what the probe names.
    pub pending: Option<Arc<LocateError>>,
    /// The probes that it consists of, if it is one of several functions, with their names: they have the sites and the
    /// counts.
    pub parts: Vec<(String, ProbeId)>,
}
