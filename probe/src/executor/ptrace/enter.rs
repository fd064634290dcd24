//! Instructions that only the thread itself can execute: those that enter the kernel, which it borrows, and
//! the few that depend on descriptors or permissions of its own, which it executes where they stand.

use emu::{Displaced, Outcome, Rflags};

use crate::executor::ptrace::borrow::{self, Loan, Need};
use crate::executor::ptrace::registers::{rip, set_rip};
use crate::executor::ptrace::stopped::Resume;
use crate::executor::ptrace::threads::{Gone, Ran};
use crate::executor::ptrace::{POKE, Ptrace};
use crate::executor::{Attempt, Natively};

impl Ptrace<'_> {
    /// Makes the thread enter the kernel as `displaced` would; `outcome` is what emulating it came to.
    ///
    /// The thread borrows an instruction that does the same elsewhere, and stops at the entry of the system
    /// call. From there on nothing tells it from one that was made here: RIP and RCX are set before the
    /// kernel looks at them, so seccomp filters, children, signal frames and restarts see the right ones.
    /// A system call that is restarted reaches the probe again.
    pub(super) fn enter_kernel(&mut self, displaced: &Displaced, outcome: Outcome) -> Attempt {
        let Some(loan) = self.entry_to_borrow(outcome) else { return Attempt::Unavailable };
        let tid = self.thread.tid();
        let next = self.registers.file.rip;
        self.registers.file.rip = loan.address;
        if self.store_refused() {
            return Attempt::Unavailable;
        }
        match self.threads.run(self.thread, Resume::Syscall) {
            Ok(Ran::Entered) => {
                let rcx = (outcome == Outcome::Syscall).then_some(next);
                self.threads.note(tid, POKE, set_rip(self.thread, next, rcx));
                Attempt::Done(0)
            }
            Ok(Ran::Signal(signal)) => {
                // It raises none behind it.
                let now = self.threads.note(tid, "PTRACE_PEEKUSER", rip(self.thread));
                let back = if now == Some(loan.address) { displaced.ip() } else { next };
                self.threads.note(tid, POKE, set_rip(self.thread, back, None));
                Attempt::Raised(signal)
            }
            Ok(Ran::Unclear) => self.again_at(displaced.ip()),
            Ok(Ran::Refused) => Attempt::Unavailable,
            Err(Gone) => Attempt::Gone,
        }
    }

    /// The instruction that can be borrowed for `outcome`.
    fn entry_to_borrow(&mut self, outcome: Outcome) -> Option<Loan> {
        let need = match outcome {
            Outcome::Syscall => Need::Syscall,
            Outcome::Interrupt(number) => Need::Interrupt(number),
            _ => return None,
        };
        if self.thread.dispatches_system_calls() {
            return None;
        }
        borrow::loan(&self.space.read(), self.thread.tid(), need)
    }

    /// Has the thread execute the displaced instruction at `site` itself, while the other threads that share its
    /// memory are held and the breakpoint is lifted. One of the hardware it passes, and nobody need be held.
    pub(super) fn execute_in_place(&mut self, site: u64, how: Natively) -> Attempt {
        let tid = self.thread.tid();
        let stepping = self.registers.file.rflags.contains(Rflags::TF);
        self.registers.file.rip = site;
        let (placed, watched) = {
            let space = self.space.read();
            (space.breakpoint(site).is_some(), space.watched(site).is_some())
        };
        self.registers.file.rflags.set(Rflags::RF, watched);
        let refused = self.store_refused();
        self.registers.file.rflags -= Rflags::RF;
        if refused {
            return Attempt::Unavailable;
        }
        let others = self.threads.get(tid).filter(|_| placed).map(|thread| thread.space);
        let held = others.is_some_and(|space| self.threads.hold_others(space, tid));
        let repeats = how == Natively::Repeat;
        let how = if stepping && repeats { Natively::Once } else { how };
        // Where it is not uncovered it would stop where it is, again and again.
        let uncovered = self.space.read().uncover(site);
        let result = if uncovered { self.run_uncovered(site, how) } else { Ok(Ran::Refused) };
        self.space.read().cover(site);
        if held {
            self.threads.release_others();
        }
        let trap = if stepping { libc::SIGTRAP } else { 0 };
        match result {
            Ok(Ran::Signal(libc::SIGTRAP)) if repeats && rip(self.thread) == Ok(site) => {
                Attempt::Partly(trap)
            }
            // MOV to SS lets the next instruction be executed, too, and that may have been an INT3.
            Ok(Ran::Signal(libc::SIGTRAP)) if self.threads.is_breakpoint(self.thread, false) => {
                Attempt::Trapped
            }
            Ok(Ran::Signal(libc::SIGTRAP)) => Attempt::Done(trap),
            Ok(Ran::Signal(signal)) => Attempt::Raised(signal),
            Ok(Ran::Entered) => Attempt::Done(0),
            Ok(Ran::Unclear) => self.again_at(site),
            Ok(Ran::Refused) => Attempt::Unavailable,
            Err(Gone) => Attempt::Gone,
        }
    }

    /// Lets the thread execute the instruction at `site`, which is uncovered.
    fn run_uncovered(&mut self, site: u64, how: Natively) -> Result<Ran, Gone> {
        /// So that the others are not held for long.
        const MOST_ITERATIONS: usize = 1024;
        let resume = if how == Natively::Enter { Resume::Syscall } else { Resume::Step };
        let mut iterations = 1;
        loop {
            let ran = self.threads.run(self.thread, resume)?;
            let again = how == Natively::Repeat
                && ran == Ran::Signal(libc::SIGTRAP)
                && iterations < MOST_ITERATIONS
                && rip(self.thread) == Ok(site);
            if !again {
                return Ok(ran);
            }
            iterations += 1;
        }
    }

    /// Sets the thread before the instruction at `site`, to reach it again without being a hit.
    fn again_at(&mut self, site: u64) -> Attempt {
        self.threads.note(self.thread.tid(), POKE, set_rip(self.thread, site, None));
        Attempt::Partly(0)
    }
}
