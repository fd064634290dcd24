//! What a thread runs on for: mostly one region, and others that have begun within it.

use std::any::Any;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use emu::registers::{Extended, gpr};
use emu::{Displaced, Registers, UserMemory};

use crate::engine::run_on::{End, Observer, Region, Step, What};
use crate::executor::general::GeneralRegisters;
use crate::executor::log::Log;
use crate::executor::{RunOn, ThreadState};

/// What a handler has asked for.
pub(crate) struct Wish {
    pub(crate) region: Region,
    /// Where the function returns to, if the thread need not be at its first instruction.
    pub(crate) back: Option<u64>,
    pub(crate) observer: Option<Observer>,
}

impl fmt::Debug for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wish").field("region", &self.region).finish_non_exhaustive()
    }
}

/// A region that has begun.
struct Running {
    region: Region,
    observer: Option<Observer>,
    /// How many instructions there were.
    number: u64,
    back: Option<Back>,
    deadline: Option<Instant>,
    /// Why it is to end.
    end: Option<End>,
}

/// Where a function returns to.
#[derive(Clone, Copy, Debug)]
struct Back {
    address: u64,
    /// The stack pointer then, or now, if that is all that is known.
    sp: u64,
    exact: bool,
}

/// The regions of a thread, the outermost first.
pub(crate) struct Regions {
    pid: i32,
    running: Vec<Running>,
    /// What was before the system call that the thread makes, and its number.
    pub(crate) call: Option<(Before, u64)>,
    /// How deep in signal handlers it is, as far as they return.
    handlers: u32,
    observed: bool,
    accesses: bool,
    extended: bool,
    ranges: bool,
    /// Whether no other thread runs in the address space.
    pub(crate) alone: bool,
    /// What an observer has panicked with.
    panic: Option<Box<dyn Any + Send>>,
}

impl fmt::Debug for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Regions").field("number", &self.running.len()).finish_non_exhaustive()
    }
}

/// A thread before an instruction.
#[derive(Debug)]
pub(crate) struct Before {
    pub(crate) registers: GeneralRegisters,
    pub(crate) displaced: Option<Displaced>,
}

impl Regions {
    pub(crate) fn new(pid: i32) -> Regions {
        Regions {
            pid,
            running: Vec::new(),
            call: None,
            handlers: 0,
            observed: false,
            accesses: false,
            extended: false,
            ranges: false,
            alone: false,
            panic: None,
        }
    }

    /// Begins another one, at the instruction that the thread is before.
    pub(crate) fn add(&mut self, wish: Wish, thread: &mut (impl RunOn + ThreadState)) {
        let Wish { region, back, observer } = wish;
        // One without an end is not begun again at each hit within it.
        let is_endless =
            |region: &Region, observer: &Option<Observer>| *region == Region::default() && observer.is_none();
        if is_endless(&region, &observer)
            && self.running.iter().any(|running| is_endless(&running.region, &running.observer))
        {
            return;
        }
        let rsp = thread.registers().gpr[gpr::RSP];
        let mut word = [0; 8];
        let back = match back {
            _ if !region.until_return => None,
            Some(address) => Some(Back { address, sp: rsp, exact: false }),
            None => thread.read(rsp, &mut word).is_ok().then(|| Back {
                address: u64::from_le_bytes(word),
                sp: rsp.wrapping_add(8),
                exact: true,
            }),
        };
        let deadline = region.time.and_then(|time| Instant::now().checked_add(time));
        self.running.push(Running { region, observer, number: 0, back, deadline, end: None });
        self.sum_up();
    }

    fn sum_up(&mut self) {
        let any = |is: fn(&Running) -> bool| self.running.iter().any(is);
        let observed = any(|running| running.observer.is_some());
        let accesses = observed && any(|running| running.region.accesses);
        let extended = observed && any(|running| running.region.extended);
        let ranges = any(|running| running.region.within.is_some());
        (self.observed, self.accesses, self.extended, self.ranges) = (observed, accesses, extended, ranges);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.observed
    }

    /// Whether accesses to memory are to be noted.
    pub(crate) fn wants_accesses(&self) -> bool {
        self.accesses
    }

    /// Whether extended registers are wanted.
    pub(crate) fn wants_extended(&self) -> bool {
        self.extended
    }

    /// Whether it matters where each instruction is, and not only where jumps lead.
    pub(crate) fn has_ranges(&self) -> bool {
        self.ranges
    }

    /// How many instructions may be executed until one of them is over.
    pub(crate) fn left(&self) -> u64 {
        let left =
            |running: &Running| running.region.instructions.map(|most| most.saturating_sub(running.number));
        self.running.iter().filter_map(left).min().unwrap_or(u64::MAX)
    }

    /// Counts instructions that nobody observes.
    pub(crate) fn count(&mut self, instructions: u64) {
        for running in &mut self.running {
            running.number += instructions;
        }
    }

    /// Whether one of them is over, now that the thread is at `rip` with that stack pointer.
    #[inline]
    pub(crate) fn is_over(&self, rip: u64, rsp: u64) -> bool {
        self.running.iter().any(|running| running.over(rip, rsp, self.handlers).is_some())
    }

    /// Ends those that are over. Says whether any is left.
    pub(crate) fn end_those_over(&mut self, thread: &mut impl RunOn) -> bool {
        let (rip, rsp) = (thread.registers().rip, thread.registers().gpr[gpr::RSP]);
        let now = self.running.iter().any(|running| running.deadline.is_some()).then(Instant::now);
        let handlers = self.handlers;
        for running in &mut self.running {
            let time = running.deadline.zip(now).filter(|(deadline, now)| now >= deadline);
            let over = running.over(rip, rsp, handlers).or(time.map(|_| End::Time));
            running.end = running.end.or(over);
        }
        if self.running.iter().any(|running| running.end.is_some()) {
            self.tell_ended(thread);
        }
        !self.running.is_empty()
    }

    /// Ends all of them.
    pub(crate) fn end_all(&mut self, end: End, thread: &mut impl RunOn) {
        for running in &mut self.running {
            running.end.get_or_insert(end);
        }
        self.tell_ended(thread);
    }

    fn tell_ended(&mut self, thread: &mut impl RunOn) {
        let registers = GeneralRegisters::of(thread.registers());
        let tid = thread.tid();
        // The innermost first.
        for index in (0..self.running.len()).rev() {
            if self.running.get(index).is_none_or(|running| running.end.is_none()) {
                continue;
            }
            let mut running = self.running.remove(index);
            let (Some(observer), Some(end)) = (&mut running.observer, running.end) else { continue };
            let mut step = Step {
                pid: self.pid,
                tid,
                number: running.number,
                what: What::End(end),
                displaced: None,
                before: &registers,
                after: &registers,
                extended: None,
                log: None,
                alone: self.alone,
                memory: &mut Seen(thread),
            };
            // There is no other step.
            let _ = call(observer, &mut step, &mut self.panic);
        }
        self.sum_up();
    }

    /// Tells what has happened, which an instruction was unless it is a signal.
    #[expect(clippy::too_many_arguments, reason = "they are what a step consists of")]
    pub(crate) fn tell(
        &mut self,
        tid: i32,
        what: What,
        before: &Before,
        registers: &Registers,
        memory: &mut dyn UserMemory,
        log: Option<&Log>,
        extended: Option<&Extended>,
    ) {
        let is_instruction = !matches!(what, What::Signal { .. } | What::End(_));
        match what {
            What::Signal { .. } => self.enter_handler(),
            What::SystemCall { number } if number == libc::SYS_rt_sigreturn.cast_unsigned() => {
                self.handlers = self.handlers.saturating_sub(1);
            }
            _ => {}
        }
        let after = GeneralRegisters::of(registers);
        for running in &mut self.running {
            if let Some(observer) = &mut running.observer {
                let region = &running.region;
                let mut step = Step {
                    pid: self.pid,
                    tid,
                    number: running.number,
                    what,
                    displaced: before.displaced.as_ref(),
                    before: &before.registers,
                    after: &after,
                    extended: extended
                        .filter(|_| region.extended)
                        .map(|before| (before, &registers.extended)),
                    log: log.filter(|_| region.accesses),
                    alone: self.alone,
                    memory: &mut *memory,
                };
                if call(observer, &mut step, &mut self.panic).is_break() {
                    // Nobody is to hear of it any more.
                    running.observer = None;
                    running.end = Some(End::Stopped);
                }
            }
            running.number += u64::from(is_instruction);
        }
    }

    /// What an observer has panicked with.
    pub(crate) fn take_panic(&mut self) -> Option<Box<dyn Any + Send>> {
        self.panic.take()
    }

    /// The thread is in another signal handler.
    pub(crate) fn enter_handler(&mut self) {
        self.handlers = self.handlers.saturating_add(1);
    }

    /// Whether an observer has had enough.
    pub(crate) fn has_ended(&self) -> bool {
        self.running.iter().any(|running| running.end.is_some())
    }
}

impl Running {
    #[inline]
    fn over(&self, rip: u64, rsp: u64, handlers: u32) -> Option<End> {
        /// Two stacks are not that near to each other.
        const NEAR: u64 = 1 << 20;
        if let Some(Back { address, sp, exact }) = self.back {
            let behind = rsp > sp && rsp - sp < NEAR;
            if rip == address && (behind || exact && rsp == sp) {
                return Some(End::Returned);
            }
            // By an exception, or by longjmp(3).
            if exact && behind && handlers == 0 {
                return Some(End::Left);
            }
        }
        if self.region.within.as_ref().is_some_and(|range| !range.contains(&rip)) {
            return Some(End::OutOfRange);
        }
        if self.region.instructions.is_some_and(|most| self.number >= most) {
            return Some(End::Instructions);
        }
        None
    }
}

/// Calls an observer. The thread must go on, whatever becomes of the run.
fn call(
    observer: &mut Observer,
    step: &mut Step<'_>,
    panic: &mut Option<Box<dyn Any + Send>>,
) -> ControlFlow<()> {
    panic::catch_unwind(AssertUnwindSafe(|| observer(step))).unwrap_or_else(|payload| {
        panic.get_or_insert(payload);
        ControlFlow::Break(())
    })
}

/// The memory of a stopped thread, to be looked at.
pub(crate) struct Seen<'a, T: ThreadState>(pub(crate) &'a mut T);

impl<T: ThreadState> UserMemory for Seen<'_, T> {
    fn read(&mut self, address: u64, bytes: &mut [u8], _: emu::Access) -> Result<(), emu::MemoryFault> {
        self.0.read(address, bytes)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), emu::MemoryFault> {
        self.0.write(address, bytes)
    }

    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, emu::MemoryFault> {
        self.update_alone(address, size, update)
    }
}
