//! A stopped thread whose instructions are emulated one after the other: its registers stay in the register file, and its
//! memory may be kept, until somebody is to see them.

use emu::{Registers, Rflags};

use crate::executor::log::Log;
use crate::executor::ptrace::kept::View;
use crate::executor::ptrace::memory::Accessor;
use crate::executor::ptrace::stopped::{RegisterSet, Stop};
use crate::executor::ptrace::{Ptrace, xstate};
use crate::executor::{Executor, RunOn, rseq};

const RSEQ: &str = "PTRACE_GET_RSEQ_CONFIGURATION";

impl RunOn for Ptrace<'_> {
    type Memory<'a>
        = View<'a>
    where
        Self: 'a;

    fn begin(&mut self) {
        let tid = self.thread.tid();
        let fetched = self.registers.fetch_shadow_stack(self.thread);
        self.threads.note(tid, RegisterSet::ShadowStack.fetching(), fetched);
        // A page that is kept does not tell whether it is one of a shadow stack, to which nothing is stored but by calls.
        let exclusive = self.is_alone() && self.registers.file.ssp.is_none();
        self.kept.begin(exclusive);
        self.registers.has_extended = false;
    }

    fn is_alone(&self) -> bool {
        let tid = self.thread.tid();
        let space = self.threads.get(tid).map(|thread| thread.space);
        space.is_some_and(|space| !self.threads.register.has_others(space, tid))
    }

    fn note_sequences(&mut self) {
        let rseq = self.thread.rseq();
        let unknown = rseq.is_err_and(rseq::is_unknown);
        let rseq = if unknown { None } else { self.threads.note(self.thread.tid(), RSEQ, rseq).flatten() };
        self.kept.announced_at = rseq.map_or(0..0, |rseq| rseq.announcement());
    }

    fn parts(&mut self) -> (&mut Registers, View<'_>) {
        let kept = &mut *self.kept;
        let accessor = Accessor {
            thread: self.thread,
            space: self.space,
            threads: self.threads,
            staging: self.staging,
            lost: self.lost,
            writable: 0..0,
            pkru: None,
        };
        (&mut self.registers.file, View { accessor, kept })
    }

    fn has_extended(&self) -> bool {
        self.registers.has_extended
    }

    fn fetch_extended(&mut self) -> bool {
        let fetched = self.registers.fetch_extended(self.thread, xstate::all());
        let known = self.threads.note(self.thread.tid(), "PTRACE_GETREGSET", fetched).is_some();
        self.registers.has_extended = known;
        known
    }

    fn settle(&mut self) -> bool {
        self.parts().1.settle();
        let extended = std::mem::take(&mut self.registers.has_extended);
        self.store_results(extended).is_ok() && !self.is_gone()
    }

    fn note_accesses(&mut self, log: Option<Log>) {
        self.threads.log = log;
    }

    fn take_accesses(&mut self) -> Option<Log> {
        self.threads.log.take()
    }

    fn can_run_on(&self) -> bool {
        self.registers.is_64_bit()
            && self.registers.knows_shadow_stack()
            && !self.registers.file.rflags.contains(Rflags::TF)
    }

    fn is_in_call(&self) -> bool {
        self.thread.stop == Stop::SystemCall
    }
}
