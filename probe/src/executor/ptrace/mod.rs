//! The executor for threads in ptrace-stops.

pub(crate) mod affinity;
pub(crate) mod aside;
pub(crate) mod atomic;
mod awake;
mod births;
pub(crate) mod borrow;
pub(crate) mod buffer;
pub(crate) mod call;
pub(crate) mod crew;
mod dumpable;
mod enter;
pub(crate) mod faults;
pub(crate) mod handover;
mod hold;
pub(crate) mod kept;
pub(crate) mod locked;
pub(crate) mod mask;
pub(crate) mod memory;
pub(crate) mod register;
pub(crate) mod registers;
mod run_on;
pub(crate) mod shadow;
pub(crate) mod stopped;
pub(crate) mod sys;
pub(crate) mod threads;
pub(crate) mod xstate;

use std::io;
use std::ops::Range;

use emu::{Access, Displaced, Exception, MemoryFault, Outcome, Registers, Rflags, Touches, UserMemory};
use nix::errno::Errno;

use crate::executor::general::GeneralRegisters;
use crate::executor::log::Recording;
use crate::executor::space::SharedSpace;
use crate::executor::{Attempt, Executor, Natively, Stuck, ThreadState};
use crate::target::{lock, procfs, stack};
use affinity::Affinity;
use kept::Kept;
use memory::{Accessor, Staging};
use registers::{Fetched, rip, set_rip};
use stopped::{RegisterSet, Stopped};
use threads::Threads;

const GETREGS: &str = "PTRACE_GETREGS";
const SETREGS: &str = "PTRACE_SETREGS";
const POKE: &str = "PTRACE_POKEUSER";

/// A thread in a ptrace-stop, with what its tracer keeps to serve it.
#[derive(Debug)]
pub(crate) struct Ptrace<'a> {
    pub(crate) thread: &'a mut Stopped,
    pub(crate) threads: &'a mut Threads,
    pub(crate) registers: &'a mut Fetched,
    pub(crate) space: &'a SharedSpace,
    pub(crate) staging: &'a mut Staging,
    /// Breakpoints that the program has overwritten with what cannot be probed.
    pub(crate) lost: &'a mut Vec<u64>,
    pub(crate) affinity: &'a mut Affinity,
    pub(crate) kept: &'a mut Kept,
}

impl Ptrace<'_> {
    fn memory(&mut self) -> Accessor<'_> {
        self.fetched().1
    }

    /// Its registers, and its memory.
    fn fetched(&mut self) -> (&mut Fetched, Accessor<'_>) {
        let memory = Accessor {
            thread: self.thread,
            space: self.space,
            threads: self.threads,
            staging: self.staging,
            lost: self.lost,
            writable: 0..0,
            pkru: None,
        };
        (self.registers, memory)
    }

    /// Stores the registers that have changed. Says whether the kernel refuses that.
    fn store_refused(&mut self) -> bool {
        let stored = self.registers.store(self.thread);
        self.threads.refused(self.thread.tid(), SETREGS, stored)
    }

    /// Fetches the registers. Says whether they could be had.
    fn fetch(&mut self) -> bool {
        let fetched = self.registers.fetch(self.thread);
        self.threads.note(self.thread.tid(), GETREGS, fetched).is_some()
    }

    /// Fetches the shadow stack pointer. Says whether the thread has a shadow stack.
    fn fetch_shadow_stack(&mut self) -> Result<bool, Stuck> {
        let fetched = self.registers.fetch_shadow_stack(self.thread);
        let request = RegisterSet::ShadowStack.fetching();
        self.threads.note(self.thread.tid(), request, fetched).ok_or(Stuck::Refused)?;
        Ok(self.registers.file.ssp.is_some())
    }

    /// Stores what an instruction has changed.
    pub(crate) fn store_results(&mut self, extended: bool) -> Result<(), Stuck> {
        let tid = self.thread.tid();
        if self.threads.is_gone(tid) {
            return Ok(());
        }
        // The thread has the state from before then. No instruction that changes extended registers depends
        // on memory that it has changed, so it can be executed again.
        if extended {
            let stored = self.registers.store_extended(self.thread);
            if self.threads.refused(tid, self.registers.extended_set().storing(), stored) {
                return Err(if self.fetch() { Stuck::Refused } else { Stuck::Lost });
            }
        }
        if self.registers.deferred && !extended {
            self.registers.pending = true;
            return Ok(());
        }
        let expected = self.registers.file.rip;
        if self.store_refused() && rip(self.thread) != Ok(expected) {
            return Err(Stuck::Lost);
        }
        Ok(())
    }
}

/// Whether an instruction may change flags that a tracer cannot.
pub(crate) fn changes_fixed_flags(displaced: &Displaced) -> bool {
    use iced_x86::Mnemonic::{Iret, Iretd, Iretq, Popf, Popfd, Popfq};
    matches!(displaced.instruction().mnemonic(), Popf | Popfd | Popfq | Iret | Iretd | Iretq)
}

/// Whether it stores a register of the system's, which the kernel may do in the processor's place (UMIP). To that, what
/// cannot be written is not mapped.
fn stores_for_system(displaced: &Displaced) -> bool {
    use iced_x86::Mnemonic::{Sgdt, Sidt, Sldt, Smsw, Str};
    matches!(displaced.instruction().mnemonic(), Sgdt | Sidt | Sldt | Smsw | Str)
}

impl ThreadState for Ptrace<'_> {
    fn tid(&self) -> i32 {
        self.thread.tid()
    }

    fn serial(&self) -> u64 {
        self.threads.get(self.tid()).map_or(u64::MAX, |thread| thread.serial)
    }

    fn processor(&self) -> Option<u32> {
        procfs::processor_of(self.tid())
    }

    fn own_stack(&mut self) -> Range<u64> {
        let (tid, fs_base) = (self.tid(), self.registers.file.fs_base);
        let Some(thread) = self.threads.get_mut(tid) else { return 0..0 };
        let pid = thread.pid;
        thread.stack.get_or_insert_with(|| stack::of_thread(pid, tid, fs_base)).clone()
    }

    fn whole(&mut self) -> io::Result<&mut Registers> {
        Ok(self.registers.lend_extended(self.thread)?)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        self.memory().read(address, bytes, Access::Read)
    }

    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        self.memory().read_up_to(address, bytes)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.memory().write(address, bytes)
    }

    fn move_shadow_stack(&mut self, by: i64) -> io::Result<()> {
        self.registers.fetch_shadow_stack(self.thread)?;
        if let Some(pointer) = self.registers.file.ssp {
            self.registers.file.ssp = Some(pointer.wrapping_add_signed(8 * by));
        }
        Ok(self.registers.store_shadow_stack(self.thread)?)
    }
}

impl Executor for Ptrace<'_> {
    fn registers(&self) -> &Registers {
        &self.registers.file
    }

    fn is_gone(&self) -> bool {
        self.threads.is_gone(self.tid())
    }

    fn take_back(&mut self, new: &GeneralRegisters) -> nix::Result<()> {
        let same = new.are_of(&self.registers.file);
        let stored = if same { Ok(()) } else { self.registers.replace(self.thread, new) };
        match self.registers.take_back(self.thread).and(stored) {
            // The stop loop hears of that.
            Err(Errno::ESRCH) => Ok(()),
            result => result,
        }
    }

    fn go_to(&mut self, rip: u64) {
        self.registers.file.rip = rip;
        let stored = self.registers.store(self.thread);
        self.threads.note(self.thread.tid(), SETREGS, stored);
    }

    fn join_processor(&mut self) -> bool {
        self.affinity.join(self.thread.tid())
    }

    fn execute(&mut self, displaced: &Displaced) -> Result<Outcome, Stuck> {
        let tid = self.thread.tid();
        let touches = displaced.touches();
        let extended = touches.intersects(Touches::EXTENDED);
        // What may have to be taken back is held against what the thread has, and an atomic access is made by the thread
        // itself, with what it has in its registers.
        let itself = extended || touches.contains(Touches::ATOMIC) || changes_fixed_flags(displaced);
        if self.registers.pending && itself && self.store_refused() {
            return Err(Stuck::Lost);
        }
        if extended {
            let fetched = self.registers.fetch_extended(self.thread, touches);
            let request = self.registers.extended_set().fetching();
            self.threads.note(tid, request, fetched).ok_or(Stuck::Refused)?;
        }
        let shadowed = shadow::concerns(displaced) && self.fetch_shadow_stack()?;
        if shadowed && shadow::is_left_to_the_thread(displaced) {
            return Ok(Outcome::Native);
        }
        self.threads.memory_refused = false;
        self.threads.atomics.begin(displaced);
        let mut log = self.threads.log.take();
        let (registers, mut memory) = self.fetched();
        let result = match &mut log {
            None => displaced.execute(&mut registers.file, &mut memory),
            Some(log) => displaced.execute(&mut registers.file, &mut Recording { memory: &mut memory, log }),
        };
        self.threads.log = log;
        self.registers.file.rflags = self.threads.atomics.flags(self.registers.file.rflags);
        if result.is_ok() && !self.registers.keeps_fixed_flags() {
            // POPF or IRET, which change nothing but registers.
            self.registers.revert();
            return Ok(Outcome::Native);
        }
        let is_settable = self.registers.file.ssp.is_none_or(shadow::is_settable);
        if shadowed && !self.threads.memory_refused && (result.is_err() || !is_settable) {
            // No borrowed instruction raises what a shadow stack does. It stores the same once more.
            self.registers.revert();
            return Ok(Outcome::Native);
        }
        if matches!(result, Err(Exception::PageFault { .. })) && stores_for_system(displaced) {
            // What the kernel raises in its place is like no fault of another instruction.
            self.registers.revert();
            return Ok(Outcome::Native);
        }
        self.store_results(extended)?;
        result.map_err(|exception| match exception {
            Exception::PageFault { .. } if self.threads.memory_refused => Stuck::Refused,
            exception => Stuck::Raised(exception),
        })
    }

    fn raise(&mut self, exception: Exception, site: u64) -> Attempt {
        // The handler of the signal sees what the instruction has left.
        if self.registers.pending && self.store_refused() {
            return Attempt::Unavailable;
        }
        let attempt = self.deliver(exception, site);
        if attempt == Attempt::Retry {
            lock(&self.space.read().keys).forget();
        }
        attempt
    }

    fn trace(&mut self, iteration: bool) -> Attempt {
        if iteration {
            // The handler of the signal returns to the same instruction, to its next iteration, which the processor
            // marks so.
            self.registers.file.rflags |= Rflags::RF;
        }
        if self.registers.pending && self.store_refused() {
            return Attempt::Unavailable;
        }
        self.deliver_trace()
    }

    fn enter(&mut self, displaced: &Displaced, outcome: Outcome) -> Attempt {
        self.enter_kernel(displaced, outcome)
    }

    fn natively(&mut self, site: u64, how: Natively) -> Attempt {
        self.execute_in_place(site, how)
    }

    fn stand_aside(&mut self, site: u64) -> i32 {
        let back = self.space.write().give_up(site)
            && !self.threads.refused(self.thread.tid(), POKE, set_rip(self.thread, site, None));
        // It must not go on in the middle of an instruction.
        if back { 0 } else { libc::SIGTRAP }
    }
}
