//! Something that is watched in an address space: what it was computed from, and what it was when last seen.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::arguments::bindings::{Bound, Place};
use crate::arguments::capture::{Capture, captured};
use crate::engine::hit::{Action, GeneralRegisters, Hit};
use crate::engine::watch::frozen::{Frozen, Read};
use crate::engine::watch::{Change, Ending, How, Thread, Until, WatchRefusal, Watched, Watching, Writer};
use crate::executor::hardware::Spot;
use crate::executor::ptrace::threads::SpaceId;
use crate::language::Register;
use crate::stacks::{Caller, Memory, Unwinder};
use crate::target::lock;

/// Who called the function in which it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tid: i32,
    /// Where it returns to.
    pub(crate) ip: u64,
    /// The stack pointer then.
    pub(crate) rsp: u64,
    /// The thread's own stack: a signal's handler may have another.
    pub(crate) stack: Range<u64>,
}

impl Frame {
    /// Whether it is none any more, where its thread is with this stack pointer.
    pub(crate) fn is_left(&self, rsp: u64) -> bool {
        rsp >= self.rsp && (self.stack.is_empty() || self.stack.contains(&rsp))
    }
}

/// Something that is to be watched, from a hit on or as long as its process lives.
pub(crate) struct Arming {
    pub(crate) watched: Arc<Watched>,
    pub(crate) pid: i32,
    pub(crate) frame: Option<Frame>,
    registers: GeneralRegisters,
    bound: Arc<Bound>,
    seen: Seen,
}

impl fmt::Debug for Arming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arming")
            .field("watch", &self.watched.id)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// What an expression came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Without the texts that it leads to.
    pub(super) parts: Vec<u8>,
    /// To be shown.
    pub(super) taken: Vec<u8>,
    /// What it was computed from.
    pub(super) ranges: Vec<Range<u64>>,
    /// Where it was, if it is something in memory.
    pub(super) address: Option<u64>,
}

impl Seen {
    pub(super) fn look(bound: &Bound, registers: &GeneralRegisters, memory: Read<'_>) -> Seen {
        // What is shown is what was compared, whoever writes meanwhile.
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut noting = |address, bytes: &mut [u8]| {
            let read = memory(address, bytes);
            pieces.push((address, bytes.get(..read).unwrap_or_default().to_vec()));
            read
        };
        let mut machine = Frozen::new(registers, &mut noting);
        let parts = bound.binding.take_parts(&mut machine);
        let is_there = captured(&parts).next().is_some_and(|first| !first.fault);
        let memory_part = bound.binding.parts().next().filter(|part| matches!(part, Capture::Memory(..)));
        let address = memory_part.filter(|_| is_there).and_then(|_| machine.last()).map(|range| range.start);
        let ranges = machine.into_ranges();
        let mut again = |address, bytes: &mut [u8]| {
            let known = pieces.iter().find(|(start, piece)| *start == address && piece.len() == bytes.len());
            match known {
                Some((_, piece)) => {
                    bytes.copy_from_slice(piece);
                    piece.len()
                }
                None => memory(address, bytes),
            }
        };
        let taken = bound.binding.take(&mut Frozen::new(registers, &mut again));
        Seen { parts, taken, ranges, address }
    }

    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// What guards it.
    fn spots(&self) -> Result<Vec<Spot>, WatchRefusal> {
        use crate::executor::hardware::REGISTERS;
        let spots: Option<Vec<Vec<Spot>>> = self.ranges.iter().map(Spot::of_range).collect();
        let spots = spots.map(|spots| spots.concat()).filter(|spots| spots.len() <= REGISTERS);
        spots.ok_or(WatchRefusal::TooLarge { bytes: self.bytes() })
    }
}

/// The memory of a thread that has stopped.
struct HitMemory<'a, 'h>(&'a mut Hit<'h>);

impl Memory for HitMemory<'_, '_> {
    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        self.0.read_up_to(address, bytes)
    }
}

impl Arming {
    /// From a hit on.
    pub(crate) fn at(
        watched: Arc<Watched>,
        hit: &mut Hit<'_>,
        unwinder: &Unwinder,
    ) -> Result<Arming, WatchRefusal> {
        let place = Place::new(hit.pid(), hit.ip(), None);
        let registers = GeneralRegisters { rip: hit.ip(), ..hit.registers().clone() };
        let gpr = registers.gpr;
        let caller = Caller { pid: hit.pid(), gpr: &gpr, ip: hit.ip() };
        let tid = hit.tid();
        let frame = match watched.until {
            Until::Return => {
                let (ip, rsp) =
                    unwinder.caller(&caller, &mut HitMemory(hit)).ok_or(WatchRefusal::NoCaller)?;
                Some(Frame { tid, ip, rsp, stack: hit.thread.own_stack() })
            }
            _ => None,
        };
        let pid = hit.pid();
        let mut memory = |address, bytes: &mut [u8]| hit.read_up_to(address, bytes);
        Ok(Arming { frame, ..Arming::new(watched, pid, &place, registers, &mut memory)? })
    }

    /// Where names mean what they do at an address, and registers mean nothing.
    pub(crate) fn from_now_on(
        watched: Arc<Watched>,
        pid: i32,
        address: u64,
        memory: Read<'_>,
    ) -> Result<Arming, WatchRefusal> {
        let place = Place::new(pid, address, None);
        let bound = watched.bind(&place)?;
        let registers = bound.binding.parts().flat_map(Capture::expressions).flat_map(|of| of.registers());
        if let Some(register) = registers.into_iter().find(|&register| register != Register::Rip) {
            return Err(WatchRefusal::NeedsHit(register));
        }
        let registers = GeneralRegisters {
            gpr: [0; 16],
            rip: address,
            rflags: emu::Rflags::empty(),
            fs_base: 0,
            gs_base: 0,
            segment: [0; 6],
        };
        Arming::new(watched, pid, &place, registers, memory)
    }

    fn new(
        watched: Arc<Watched>,
        pid: i32,
        place: &Place,
        registers: GeneralRegisters,
        memory: Read<'_>,
    ) -> Result<Arming, WatchRefusal> {
        let bound = watched.bind(place)?;
        if bound.binding.parts().any(|part| matches!(part, Capture::Nowhere(_))) {
            return Err(WatchRefusal::OptimizedOut);
        }
        if bound.binding.parts().any(Capture::is_in_register) {
            return Err(WatchRefusal::InRegister);
        }
        let seen = Seen::look(&bound, &registers, memory);
        if seen.ranges.is_empty() {
            return Err(WatchRefusal::NoMemory);
        }
        Ok(Arming { watched, pid, frame: None, registers, bound, seen })
    }

    /// What guards it.
    pub(crate) fn spots(&self) -> Result<Vec<Spot>, WatchRefusal> {
        self.seen.spots()
    }

    /// Whether the thread is to run on for it.
    pub(crate) fn runs_on(&self) -> bool {
        match self.watched.how {
            How::Either => self.spots().is_err(),
            How::Hardware => false,
            How::RunOn => true,
        }
    }

    /// What is to be told when it is watched.
    pub(crate) fn watching(&self, runs_on: bool, sees_kernel: bool) -> Watching {
        Watching { address: self.seen.address, bytes: self.seen.bytes(), runs_on, sees_kernel }
    }

    /// It is guarded from now on.
    pub(crate) fn armed(self, space: SpaceId, spots: Vec<Spot>) -> Armed {
        let Arming { watched, pid, frame, registers, bound, seen, .. } = self;
        Armed {
            watched,
            space,
            pid,
            frame,
            registers,
            bound,
            changes: Mutex::new(0),
            over: AtomicBool::new(false),
            others_ran: AtomicBool::new(false),
            state: Mutex::new(State { seen, spots }),
        }
    }
}

/// Something that is watched.
pub(crate) struct Armed {
    pub(crate) watched: Arc<Watched>,
    pub(crate) space: SpaceId,
    pub(crate) pid: i32,
    pub(crate) frame: Option<Frame>,
    /// As they were where it began.
    pub(super) registers: GeneralRegisters,
    pub(super) bound: Arc<Bound>,
    changes: Mutex<u64>,
    over: AtomicBool,
    /// Whether other threads have run since a thread that runs on has last been looked at.
    pub(super) others_ran: AtomicBool,
    pub(super) state: Mutex<State>,
}

impl fmt::Debug for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Armed")
            .field("watch", &self.watched.id)
            .field("space", &self.space)
            .finish_non_exhaustive()
    }
}

pub(super) struct State {
    pub(super) seen: Seen,
    spots: Vec<Spot>,
}

/// How something may have been written to.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    pub(crate) writer: Writer,
    /// Whether it has been written to, for sure.
    pub(crate) written: bool,
    /// Whether other threads run in the same memory.
    pub(crate) others: bool,
}

/// What comparing has come to.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) action: Option<Action>,
    /// It is computed from other memory now, which these guard.
    pub(crate) moved: Option<Result<Vec<Spot>, WatchRefusal>>,
    /// Nobody wants to know of it any more.
    pub(crate) ending: Option<Ending>,
}

impl Armed {
    /// What guards it.
    pub(crate) fn spots(&self) -> Vec<Spot> {
        lock(&self.state).spots.clone()
    }

    /// Says that these guard it from now on; returns those that did.
    pub(crate) fn guarded_by(&self, spots: Vec<Spot>) -> Vec<Spot> {
        std::mem::replace(&mut lock(&self.state).spots, spots)
    }

    /// Ends it, once.
    pub(crate) fn end(&self) -> bool {
        !self.over.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The same in a process that is a copy, of which thread `child` is one of thread `parent`.
    pub(crate) fn copy(&self, space: SpaceId, pid: i32, parent: i32, child: i32) -> Option<Armed> {
        let frame = match self.frame {
            // Of its other threads there is none.
            Some(ref frame) if frame.tid != parent => return None,
            Some(ref frame) => Some(Frame { tid: child, ..frame.clone() }),
            None => None,
        };
        let state = lock(&self.state);
        Some(Armed {
            watched: Arc::clone(&self.watched),
            space,
            pid,
            frame,
            registers: self.registers.clone(),
            bound: Arc::clone(&self.bound),
            changes: Mutex::new(*lock(&self.changes)),
            over: AtomicBool::new(false),
            others_ran: AtomicBool::new(false),
            state: Mutex::new(State { seen: state.seen.clone(), spots: state.spots.clone() }),
        })
    }

    /// Looks whether the value is another one, and tells of it. `hit` is of the thread that may have changed it.
    pub(crate) fn compare(&self, hit: &mut Hit<'_>, cause: &Cause) -> Compared {
        let mut state = lock(&self.state);
        if self.is_over() {
            return Compared::default();
        }
        let mut memory = |address, bytes: &mut [u8]| hit.read_up_to(address, bytes);
        let seen = Seen::look(&self.bound, &self.registers, &mut memory);
        let before = std::mem::replace(&mut state.seen, seen);
        let seen = state.seen.clone();
        let mut compared = Compared::default();
        if seen.ranges != before.ranges {
            compared.moved = Some(seen.spots());
        }
        let changed = seen.parts != before.parts;
        let moved = before.address.zip(seen.address).filter(|(before, now)| before != now);
        let overtaken = !changed && moved.is_none() && cause.written && cause.others;
        self.count(hit.tid(), cause, changed, overtaken, moved.is_some());
        if !changed && moved.is_none() && !overtaken {
            return compared;
        }
        let mut change = Change {
            watch: self.watched.id,
            bound: &self.bound,
            thread: Thread::Stopped(hit),
            writer: cause.writer.clone(),
            old: before.taken,
            new: seen.taken,
            overtaken,
            moved,
        };
        // In the order in which they were seen.
        compared.action = Some((self.watched.handler)(&mut change));
        if self.is_reached(&mut |address, bytes| hit.read_up_to(address, bytes), changed) {
            compared.ending = Some(Ending::Reached);
        }
        compared
    }

    pub(super) fn count(&self, tid: i32, cause: &Cause, changed: bool, overtaken: bool, moved: bool) {
        let mut report = lock(&self.watched.report);
        match (changed, overtaken) {
            (true, _) => report.changes += 1,
            (false, true) => report.overtaken += 1,
            (false, false) => report.unchanged += u64::from(cause.written),
        }
        report.moved += u64::from(moved);
        report.unseen += u64::from(changed && !cause.writer.is_seen());
        if (changed || overtaken) && cause.writer.is_seen() {
            *report.threads.entry(tid).or_default() += 1;
        }
    }

    pub(super) fn is_reached(&self, memory: Read<'_>, changed: bool) -> bool {
        match self.watched.until {
            Until::Changes(most) => {
                let mut changes = lock(&self.changes);
                *changes += u64::from(changed);
                *changes >= most
            }
            Until::Condition(_) => {
                let mut machine = Frozen::new(&self.registers, memory);
                self.bound.binding.holds(&mut machine) == Ok(true)
            }
            Until::End | Until::Return => false,
        }
    }

    /// Whether something else lies where the function's return address was.
    pub(crate) fn is_overwritten(&self, memory: Read<'_>) -> bool {
        self.frame.as_ref().is_some_and(|frame| {
            let mut word = [0; 8];
            let read = memory(frame.rsp.wrapping_sub(8), &mut word);
            read == word.len() && u64::from_le_bytes(word) != frame.ip
        })
    }

    /// Whether the frame in which it began is none any more, where a thread is with this stack pointer.
    pub(crate) fn is_left(&self, tid: i32, rsp: u64) -> bool {
        self.frame.as_ref().is_some_and(|frame| frame.tid == tid && frame.is_left(rsp))
    }
}
