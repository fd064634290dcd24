//! Instructions that only the thread itself can execute: those that enter the kernel, which it borrows, and
//! the few that depend on descriptors or permissions of its own, which it executes where they stand.

use emu::{Displaced, Outcome, Rflags};

use crate::engine::session::Session;
use crate::executor::ptrace::borrow::{self, Loan, Need};
use crate::executor::ptrace::registers::{self, set_rip};
use crate::executor::ptrace::stop::{Gone, Ran, Report, SpaceId, Stopped};
use crate::executor::ptrace::sys::{self, Resume};
use crate::symbols::code;

const POKE: &str = "PTRACE_POKEUSER";

/// How a thread executes an instruction where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Natively {
    /// By one step.
    Once,
    /// By steps, each of which is one iteration of a string instruction.
    Repeat,
    /// To where it enters the kernel.
    Enter,
}

impl Natively {
    /// By steps as that instruction needs them.
    pub(crate) fn steps(displaced: &Displaced) -> Natively {
        if code::repeats(displaced.instruction()) { Natively::Repeat } else { Natively::Once }
    }
}

impl Session {
    /// Makes the thread enter the kernel as `displaced` would; `outcome` is what emulating it came to.
    /// Returns the thread and the signal to resume it with, or `None` if there is no more to do.
    ///
    /// The thread borrows an instruction that does the same elsewhere, and stops at the entry of the system
    /// call. From there on nothing tells it from one that was made here: RIP and RCX are set before the
    /// kernel looks at them, so seccomp filters, children, signal frames and restarts see the right ones.
    /// A system call that is restarted reaches the probe again.
    pub(crate) fn enter(
        &mut self,
        stopped: Stopped,
        space_id: SpaceId,
        displaced: &Displaced,
        outcome: Outcome,
    ) -> Option<(Stopped, i32)> {
        let tid = stopped.tid();
        let Some(loan) = self.entry_to_borrow(tid, space_id, outcome) else {
            return self.natively(stopped, space_id, displaced.ip(), Natively::Enter);
        };
        let next = self.registers.file.rip;
        self.registers.file.rip = loan.address;
        let stored = self.registers.store(tid);
        if self.threads.refused(tid, "PTRACE_SETREGS", stored) {
            return self.natively(stopped, space_id, displaced.ip(), Natively::Enter);
        }
        let (stopped, ran) = match self.threads.run(stopped, Resume::Syscall) {
            Ok(result) => result,
            Err(Gone) => return None,
        };
        match ran {
            Ran::Entered => {
                let rcx = (outcome == Outcome::Syscall).then_some(next);
                self.threads.note(tid, POKE, set_rip(tid, next, rcx));
                self.count(|counters| counters.emulated += 1);
                Some((stopped, 0))
            }
            Ran::Signal(signal) => {
                // It raises none behind it.
                let rip = self.threads.note(tid, "PTRACE_PEEKUSER", registers::rip(tid));
                let rip = if rip == Some(loan.address) { displaced.ip() } else { next };
                self.threads.note(tid, POKE, set_rip(tid, rip, None));
                self.count(|counters| counters.faulted += 1);
                Some((stopped, signal))
            }
            Ran::Unclear => {
                self.again_at(tid, displaced.ip());
                Some((stopped, 0))
            }
            Ran::Refused => Some(self.stand_aside(stopped, space_id, displaced.ip())),
        }
    }

    /// The instruction that can be borrowed for `outcome`.
    fn entry_to_borrow(&mut self, tid: i32, space: SpaceId, outcome: Outcome) -> Option<Loan> {
        let need = match outcome {
            Outcome::Syscall => Need::Syscall,
            Outcome::Interrupt(number) => Need::Interrupt(number),
            _ => return None,
        };
        if sys::dispatches_system_calls(tid) {
            return None;
        }
        borrow::loan(self.spaces.get_mut(&space)?, tid, need)
    }

    /// Has the thread execute the displaced instruction at `site` itself, while the other threads that share its
    /// memory are held and the breakpoint is lifted. The result is that of [`Session::enter`].
    pub(crate) fn natively(
        &mut self,
        stopped: Stopped,
        space_id: SpaceId,
        site: u64,
        how: Natively,
    ) -> Option<(Stopped, i32)> {
        let tid = stopped.tid();
        let stepping = self.registers.file.rflags.contains(Rflags::TF);
        self.registers.file.rip = site;
        let stored = self.registers.store(tid);
        if self.threads.refused(tid, "PTRACE_SETREGS", stored) {
            return Some(self.stand_aside(stopped, space_id, site));
        }
        let held = self.threads.hold_others(space_id, tid);
        let uncovered = self.spaces.get_mut(&space_id).is_none_or(|space| space.uncover(site));
        let repeats = how == Natively::Repeat;
        let how = if stepping && repeats { Natively::Once } else { how };
        // Otherwise it would stop where it is, again and again.
        let result =
            if uncovered { self.run_natively(stopped, site, how) } else { Ok((stopped, Ran::Refused)) };
        if let Some(space) = self.spaces.get_mut(&space_id) {
            space.cover(site);
        }
        if held {
            self.threads.release_others();
        }
        let (stopped, ran) = match result {
            Ok(result) => result,
            Err(Gone) => return None,
        };
        match ran {
            Ran::Signal(libc::SIGTRAP) if repeats && registers::rip(tid) == Ok(site) => {
                if let Some(thread) = self.threads.get_mut(tid) {
                    thread.served = Some(site);
                }
                Some((stopped, if stepping { libc::SIGTRAP } else { 0 }))
            }
            Ran::Signal(libc::SIGTRAP) => {
                self.count(|counters| counters.native += 1);
                // MOV to SS lets the next instruction be executed, too, and that may have been an INT3.
                if self.threads.is_breakpoint(tid, false) {
                    self.threads.put_back(Report::Stopped(stopped));
                    return None;
                }
                Some((stopped, if stepping { libc::SIGTRAP } else { 0 }))
            }
            Ran::Signal(signal) => {
                self.count(|counters| counters.faulted += 1);
                Some((stopped, signal))
            }
            Ran::Entered => {
                self.count(|counters| counters.native += 1);
                Some((stopped, 0))
            }
            Ran::Unclear => {
                self.again_at(tid, site);
                Some((stopped, 0))
            }
            Ran::Refused => Some(self.stand_aside(stopped, space_id, site)),
        }
    }

    /// Lets a thread execute the instruction at `site`, which is uncovered.
    fn run_natively(
        &mut self,
        mut stopped: Stopped,
        site: u64,
        how: Natively,
    ) -> Result<(Stopped, Ran), Gone> {
        /// So that the others are not held for long.
        const MOST_ITERATIONS: usize = 1024;
        let resume = if how == Natively::Enter { Resume::Syscall } else { Resume::Step };
        let mut iterations = 1;
        loop {
            let (now, ran) = self.threads.run(stopped, resume)?;
            let again = how == Natively::Repeat
                && ran == Ran::Signal(libc::SIGTRAP)
                && iterations < MOST_ITERATIONS
                && registers::rip(now.tid()) == Ok(site);
            if !again {
                return Ok((now, ran));
            }
            (stopped, iterations) = (now, iterations + 1);
        }
    }

    /// Sets the thread before the instruction at `site`, to reach it again without being a hit.
    fn again_at(&mut self, tid: i32, site: u64) {
        self.threads.note(tid, POKE, set_rip(tid, site, None));
        if let Some(thread) = self.threads.get_mut(tid) {
            thread.served = Some(site);
        }
    }

    /// Takes the breakpoint at `site` away, which cannot be served, and sets the thread before the instruction.
    /// Where not even that can be, the thread takes the signal: it must not go on in the middle of one.
    pub(crate) fn stand_aside(&mut self, stopped: Stopped, space_id: SpaceId, site: u64) -> (Stopped, i32) {
        let tid = stopped.tid();
        let lifted = self.spaces.get_mut(&space_id).is_some_and(|space| space.give_up(site));
        let back = lifted && !self.threads.refused(tid, POKE, set_rip(tid, site, None));
        (stopped, if back { 0 } else { libc::SIGTRAP })
    }
}
