//! A hit's way from the trap to the resume.

use emu::{Displaced, Outcome, Rflags, Touches};
use nix::errno::Errno;

use crate::engine::entry::Natively;
use crate::engine::event::{Counters, Event};
use crate::engine::hit::{Action, GeneralRegisters, Hit, ProbeId};
use crate::engine::session::Session;
use crate::executor::ptrace::faults::{self, Delivery};
use crate::executor::ptrace::memory::Accessor;
use crate::executor::ptrace::registers::{self, Executor, Ptrace, Stuck};
use crate::executor::ptrace::stop::{SpaceId, Stopped};

/// What the handlers of a hit want.
#[derive(Default)]
struct Verdict {
    then: Then,
    remove: bool,
}

/// What is to be done with the displaced instruction.
#[derive(Clone, Copy, Default)]
enum Then {
    #[default]
    Perform,
    Skip,
    GoTo(u64),
}

impl Session {
    /// A thread is about to take a SIGTRAP.
    pub(crate) fn trapped(&mut self, stopped: Stopped) {
        let tid = stopped.tid();
        let Some(thread) = self.threads.get_mut(tid) else { return self.pass_on(stopped) };
        let (pid, space_id) = (thread.pid, thread.space);
        let served = thread.served;
        let fetched = self.registers.fetch(tid);
        if self.threads.refused(tid, "PTRACE_GETREGS", fetched) {
            return self.pass_by(stopped, space_id);
        }
        let address = self.registers.file.rip.wrapping_sub(1);
        let space = self.spaces.get_mut(&space_id);
        let breakpoint = space.and_then(|space| space.breakpoint_mut(address));
        let Some(breakpoint) =
            breakpoint.filter(|here| !here.ambiguous || self.threads.is_breakpoint(tid, true))
        else {
            let signal = if self.rewind(&stopped, space_id) { 0 } else { stopped.signal };
            return self.threads.resume(stopped, signal);
        };
        let writable = breakpoint.writable;
        let internal = breakpoint.internal;
        self.here.clear();
        self.here.extend_from_slice(&breakpoint.probes);
        self.affinity.follow(tid);
        self.threads.put_back_mask(tid);
        self.registers.file.rip = address;
        if let Some(thread) = self.threads.get_mut(tid) {
            thread.served = None;
        }
        if writable && !self.check_unchanged(space_id, address) {
            self.count(|counters| counters.missed += 1);
            let stored = self.registers.store(tid);
            self.threads.note(tid, "PTRACE_SETREGS", stored);
            return self.threads.resume(stopped, 0);
        }
        let Some(displaced) = self.displaced(space_id, address) else {
            return self.threads.resume(stopped, 0);
        };
        let verdict =
            if served == Some(address) { Verdict::default() } else { self.handle(pid, tid, space_id) };
        // Handlers may take their time.
        if tid == pid && self.threads.has_others(space_id, tid) && self.threads.has_gone(tid) {
            return self.threads.resume(stopped, 0);
        }
        let next = match verdict.then {
            Then::Perform => None,
            Then::Skip if self.registers.is_64_bit() => Some(address.wrapping_add(displaced.length() as u64)),
            Then::Skip => Some(address.wrapping_add(self.compat(space_id, address).length as u64)),
            Then::GoTo(target) => Some(target),
        };
        let resumable = match next {
            Some(next) => {
                self.registers.file.rip = next;
                let stored = self.registers.store(tid);
                self.threads.note(tid, "PTRACE_SETREGS", stored);
                Some((stopped, 0))
            }
            None if self.registers.is_64_bit() => self.perform(stopped, space_id, &displaced),
            None => self.perform_compat(stopped, space_id, address),
        };
        if verdict.remove {
            self.remove_marked();
        }
        if !self.lost.is_empty() {
            self.tell_lost(space_id);
        }
        if internal {
            self.relocate(space_id, tid);
        }
        if let Some((stopped, signal)) = resumable {
            self.threads.resume(stopped, signal);
        }
    }

    /// Lets a thread go on whose registers the kernel does not show: without its breakpoint, if it is at one.
    fn pass_by(&mut self, stopped: Stopped, space: SpaceId) {
        let tid = stopped.tid();
        let rip = self.threads.note(tid, "PTRACE_PEEKUSER", registers::rip(tid));
        let (stopped, signal) = match rip {
            Some(rip) => {
                let site = rip.wrapping_sub(1);
                let breakpoint = self.spaces.get(&space).and_then(|space| space.breakpoint(site));
                self.here = breakpoint.map(|breakpoint| breakpoint.probes.clone()).unwrap_or_default();
                self.count(|counters| counters.missed += 1);
                self.stand_aside(stopped, space, site)
            }
            None => (stopped, libc::SIGTRAP),
        };
        self.threads.resume(stopped, signal);
    }

    fn displaced(&self, space: SpaceId, address: u64) -> Option<Displaced> {
        Some(self.spaces.get(&space)?.breakpoint(address)?.displaced)
    }

    /// Where the program can write its own text, the instruction may have changed behind its first byte.
    fn check_unchanged(&mut self, space_id: SpaceId, address: u64) -> bool {
        let Some(space) = self.spaces.get_mut(&space_id) else { return false };
        space.reread(address, &mut self.lost);
        let kept = space.breakpoint(address).is_some();
        if !kept {
            self.tell_lost(space_id);
        }
        kept
    }

    fn tell_lost(&mut self, space: SpaceId) {
        while let Some(address) = self.lost.pop() {
            self.tell_overwritten(space, address);
        }
    }

    /// Calls the handlers of the breakpoint that is served, and stores what they have changed. RIP stays that of
    /// the instruction.
    fn handle(&mut self, pid: i32, tid: i32, space_id: SpaceId) -> Verdict {
        let before = GeneralRegisters::of(&self.registers.file);
        let mut registers = before.clone();
        let mut verdict = self.call_handlers(pid, tid, space_id, &mut registers);
        let ip = before.rip;
        let target = std::mem::replace(&mut registers.rip, ip);
        if target != ip && !matches!(verdict.then, Then::GoTo(_)) {
            verdict.then = Then::GoTo(target);
        }
        let mut stored = Ok(());
        if registers != before {
            stored = self.registers.replace(tid, &before, &registers);
        }
        if let Err(error) = self.registers.take_back(tid).and(stored)
            && error != Errno::ESRCH
        {
            self.tell(&Event::Rejected { pid, tid, error });
        }
        verdict
    }

    fn call_handlers(
        &mut self,
        pid: i32,
        tid: i32,
        space_id: SpaceId,
        registers: &mut GeneralRegisters,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let ip = registers.rip;
        let Some(space) = self.spaces.get_mut(&space_id) else { return verdict };
        for &index in &self.here {
            let Some(probe) = self.probes.get_mut(index) else { continue };
            probe.counters.hits += 1;
            let mut hit = Hit {
                probe: ProbeId(index),
                pid,
                ip,
                registers: &mut *registers,
                state: &mut self.registers,
                memory: Accessor {
                    tid,
                    space: &mut *space,
                    threads: &mut self.threads,
                    staging: &mut self.staging,
                    lost: &mut self.lost,
                    writable: 0..0,
                    pkru: None,
                },
                filtered: false,
            };
            let action = (probe.handler)(&mut hit);
            probe.counters.filtered += u64::from(hit.filtered);
            match action {
                Action::Continue => {}
                Action::Skip if matches!(verdict.then, Then::Perform) => verdict.then = Then::Skip,
                Action::Skip => {}
                Action::GoTo(target) => verdict.then = Then::GoTo(target),
                Action::Remove => {
                    probe.removing = true;
                    verdict.remove = true;
                }
                Action::Detach => self.detach_requested = true,
            }
        }
        verdict
    }

    /// Removes the probes whose handlers asked for it.
    fn remove_marked(&mut self) {
        for index in 0..self.probes.len() {
            if self.probes.get_mut(index).is_some_and(|probe| std::mem::take(&mut probe.removing)) {
                self.remove(ProbeId(index));
            }
        }
    }

    /// Performs the displaced instruction; returns the thread and the signal to resume it with, or `None`
    /// if it is gone.
    fn perform(
        &mut self,
        stopped: Stopped,
        space_id: SpaceId,
        displaced: &Displaced,
    ) -> Option<(Stopped, i32)> {
        let tid = stopped.tid();
        // The processor looks at the flag before the instruction changes it.
        let stepping = self.registers.file.rflags.contains(Rflags::TF);
        let this_core = displaced.touches().contains(Touches::THIS_CORE);
        const MOST_RETRIES: u32 = 2;
        let mut stopped = stopped;
        let mut retries = 0;
        loop {
            // A retry follows an access by the thread itself, which may have moved it.
            if this_core && !self.affinity.join(tid) {
                return self.natively(stopped, space_id, displaced.ip(), Natively::steps(displaced));
            }
            let result = self.execute(tid, space_id, displaced)?;
            if self.threads.is_gone(tid) {
                return Some((stopped, 0));
            }
            let space = self.spaces.get_mut(&space_id)?;
            let delivery = match result {
                Ok(Outcome::Next) if stepping => {
                    let delivery = faults::trace(&mut self.threads, stopped, &mut self.registers, space);
                    self.count(|counters| counters.emulated += 1);
                    delivery
                }
                Ok(Outcome::Next | Outcome::NextInhibited) => {
                    self.count(|counters| counters.emulated += 1);
                    return Some((stopped, 0));
                }
                Ok(Outcome::Again) if stepping => {
                    // The handler of the signal returns to the same instruction, to its next iteration, which
                    // the processor marks so.
                    self.registers.file.rflags |= Rflags::RF;
                    if let Some(thread) = self.threads.get_mut(tid) {
                        thread.served = Some(displaced.ip());
                    }
                    faults::trace(&mut self.threads, stopped, &mut self.registers, space)
                }
                Ok(Outcome::Again) => continue,
                Ok(outcome @ (Outcome::Syscall | Outcome::Sysenter | Outcome::Interrupt(_))) => {
                    return self.enter(stopped, space_id, displaced, outcome);
                }
                Ok(Outcome::Native) | Err(Stuck::Refused) => {
                    return self.natively(stopped, space_id, displaced.ip(), Natively::steps(displaced));
                }
                Err(Stuck::Lost) => return Some((stopped, libc::SIGTRAP)),
                Err(Stuck::Raised(exception)) => {
                    let (threads, registers) = (&mut self.threads, &mut self.registers);
                    let delivery = faults::deliver(threads, exception, displaced, stopped, registers, space);
                    if !matches!(delivery, Delivery::Retry(_) | Delivery::Refused(_)) {
                        self.count(|counters| counters.faulted += 1);
                    }
                    delivery
                }
            };
            match delivery {
                Delivery::Signal(stopped, signal) => return Some((stopped, signal)),
                // Another thread has mapped it meanwhile, or the kernel has grown the stack; or nobody but the
                // thread itself can make the access, as to the vvar page.
                Delivery::Retry(same) if retries == MOST_RETRIES => {
                    return self.natively(same, space_id, displaced.ip(), Natively::steps(displaced));
                }
                Delivery::Retry(same) => {
                    if let Some(space) = self.spaces.get_mut(&space_id) {
                        space.keys.forget();
                    }
                    stopped = same;
                    retries += 1;
                }
                Delivery::Refused(same) => {
                    return self.natively(same, space_id, displaced.ip(), Natively::steps(displaced));
                }
                Delivery::Gone => return None,
            }
        }
    }

    /// Performs the displaced instruction once, or as much of it as is done at a time; `None` if there is no
    /// such address space any more.
    fn execute(
        &mut self,
        tid: i32,
        space_id: SpaceId,
        displaced: &Displaced,
    ) -> Option<Result<Outcome, Stuck>> {
        let memory = Accessor {
            tid,
            space: self.spaces.get_mut(&space_id)?,
            threads: &mut self.threads,
            staging: &mut self.staging,
            lost: &mut self.lost,
            writable: 0..0,
            pkru: None,
        };
        Some(Ptrace { registers: &mut self.registers, memory }.execute(displaced))
    }

    /// Counts for every probe that is served.
    pub(crate) fn count(&mut self, count: impl Fn(&mut Counters)) {
        for &index in &self.here {
            if let Some(probe) = self.probes.get_mut(index) {
                count(&mut probe.counters);
            }
        }
    }
}
