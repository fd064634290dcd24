//! A thread is about to take a SIGTRAP: whose it is, what handlers want, and what is done then.

use nix::errno::Errno;

use crate::engine::compat;
use crate::engine::event::{Counters, Event};
use crate::engine::hit::{Action, GeneralRegisters, Hit, ProbeId};
use crate::engine::host::{Closures, Host, Request};
use crate::engine::perform::{self, How};
use crate::engine::session::{Probe, Session};
use crate::executor::Executor;
use crate::executor::ptrace::Ptrace;
use crate::executor::ptrace::registers::rip;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::{Report, SpaceId};
use crate::executor::rseq;

/// What the handlers of a hit want.
#[derive(Default)]
struct Verdict {
    then: Then,
    requests: Vec<Request>,
    detach: bool,
    stop: bool,
    /// What they have written could not be stored, or not all of it.
    rejected: Option<Errno>,
}

/// What is to be done with the displaced instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Then {
    #[default]
    Perform,
    Skip,
    GoTo(u64),
}

/// The breakpoint at which a thread has stopped.
struct Here {
    /// How often it was hit, modulo 2 to the power of 32.
    hits: u32,
    /// Whether the dynamic linker calls this function when it has changed its list of objects.
    internal: bool,
}

/// A hit that is being served.
struct Serving<'a> {
    thread: Ptrace<'a>,
    host: &'a mut Closures,
    probes: &'a mut [Probe],
    here: &'a [usize],
}

impl Session {
    /// A thread is about to take a SIGTRAP.
    pub(crate) fn trapped(&mut self, mut stopped: Stopped) {
        let tid = stopped.tid();
        let Some(thread) = self.threads.get_mut(tid) else { return self.pass_on(stopped) };
        let (pid, space_id, served) = (thread.pid, thread.space, thread.served);
        let fetched = self.registers.fetch(&stopped);
        if self.threads.refused(tid, "PTRACE_GETREGS", fetched) {
            return self.pass_by(stopped, space_id);
        }
        let address = self.registers.file.rip.wrapping_sub(1);
        let Some(Here { hits, internal }) = self.look_up(&stopped, space_id, address) else {
            let ours = self.rewind(&stopped, space_id) || self.recover_copy(&stopped, space_id);
            let signal = if ours { 0 } else { stopped.stop.signal() };
            return self.threads.resume(stopped, signal);
        };
        let may_abort = rseq::is_due(hits);
        self.affinity.follow(tid);
        self.threads.put_back_mask(&stopped);
        self.registers.file.rip = address;
        if let Some(thread) = self.threads.get_mut(tid) {
            thread.served = None;
        }
        if may_abort && self.aborts_sequence(&stopped, space_id, address, address) {
            self.count(|counters| counters.missed += 1);
            let stored = self.registers.store(&stopped);
            self.threads.note(tid, "PTRACE_SETREGS", stored);
            return self.threads.resume(stopped, 0);
        }
        let Some(signal) = self.hit(&mut stopped, pid, space_id, address, served == Some(address)) else {
            return self.threads.put_back(Report::Stopped(stopped));
        };
        if may_abort {
            self.aborts_sequence(&stopped, space_id, address, self.registers.file.rip);
        }
        if internal {
            self.relocate(space_id, tid);
        }
        self.threads.resume(stopped, signal);
    }

    /// The breakpoint at `address` for which a thread has stopped, if so; its probes are those that are served next.
    fn look_up(&mut self, stopped: &Stopped, space: SpaceId, address: u64) -> Option<Here> {
        self.here.clear();
        let space = self.spaces.get(&space)?.read();
        let breakpoint = space.breakpoint(address)?;
        if breakpoint.ambiguous && !self.threads.is_breakpoint(stopped, true) {
            return None;
        }
        self.here.extend_from_slice(&breakpoint.probes);
        Some(Here { hits: breakpoint.hits.count(), internal: breakpoint.internal })
    }

    /// A thread is at the breakpoint at `address`; `again` if the handlers have been called already. Returns the
    /// signal to resume it with; `None` if it has stopped for the next breakpoint.
    fn hit(
        &mut self,
        stopped: &mut Stopped,
        pid: i32,
        space_id: SpaceId,
        address: u64,
        again: bool,
    ) -> Option<i32> {
        let tid = stopped.tid();
        let alone = tid != pid || !self.threads.has_others(space_id, tid);
        let Some(Serving { mut thread, host, probes, here }) = self.serving(stopped, space_id) else {
            return Some(0);
        };
        let mut verdict = Verdict::default();
        if !again {
            verdict = handle(&mut thread, host, probes, here, pid);
        }
        // Handlers may take their time.
        let performed = if !alone && thread.threads.has_gone(tid) {
            None
        } else {
            // Only now, as the instruction may change as long as it has not been performed.
            let displaced = thread.space.displaced_now(address, thread.lost);
            let compat =
                (!thread.registers.is_64_bit()).then(|| compat::Compat::at(&thread.space.read(), address));
            let next = match (verdict.then, displaced, &compat) {
                (Then::GoTo(target), ..) => Some(target),
                // Where there is no breakpoint any more, the thread executes what is there now.
                (_, None, _) => Some(address),
                (Then::Perform, ..) => None,
                (Then::Skip, Some(displaced), None) => Some(address.wrapping_add(displaced.length() as u64)),
                (Then::Skip, _, Some(compat)) => Some(address.wrapping_add(compat.length as u64)),
            };
            match (next, displaced, compat) {
                (None, _, Some(compat)) => Some(compat.perform(&mut thread, address)),
                (None, Some(displaced), None) => Some(perform::perform(&mut thread, &displaced)),
                (next, ..) => {
                    thread.go_to(next.unwrap_or(address));
                    None
                }
            }
        };
        self.settle(verdict, performed.map(|performed| performed.how), pid, tid, space_id, address);
        performed.map_or(Some(0), |performed| performed.signal)
    }

    /// Books what a hit has come to, and does what its handlers have asked for.
    fn settle(
        &mut self,
        verdict: Verdict,
        how: Option<How>,
        pid: i32,
        tid: i32,
        space: SpaceId,
        address: u64,
    ) {
        match how {
            Some(How::Emulated) => self.count(|counters| counters.emulated += 1),
            Some(How::Native) => self.count(|counters| counters.native += 1),
            Some(How::Faulted) => self.count(|counters| counters.faulted += 1),
            Some(How::Again) => {
                if let Some(thread) = self.threads.get_mut(tid) {
                    thread.served = Some(address);
                }
            }
            Some(How::NotAtAll) | None => {}
        }
        if let Some(error) = verdict.rejected {
            self.host.event(&Event::Rejected { pid, tid, error });
        }
        self.detach_requested |= verdict.detach;
        if verdict.stop {
            self.stop_serving();
        }
        verdict.requests.into_iter().for_each(|request| self.grant(request));
        if !self.lost.is_empty() {
            self.tell_lost(space);
        }
    }

    /// Lets a thread go on whose registers the kernel does not show: without its breakpoint, if it is at one.
    fn pass_by(&mut self, mut stopped: Stopped, space: SpaceId) {
        let tid = stopped.tid();
        let rip = self.threads.note(tid, "PTRACE_PEEKUSER", rip(&stopped));
        let site = rip.map(|rip| rip.wrapping_sub(1));
        self.here.clear();
        if let Some(site) = site {
            self.look_up(&stopped, space, site);
        }
        self.count(|counters| counters.missed += 1);
        let signal = match (site, self.serving(&mut stopped, space)) {
            (Some(site), Some(mut serving)) => serving.thread.stand_aside(site),
            _ => libc::SIGTRAP,
        };
        self.threads.resume(stopped, signal);
    }

    /// A thread that is stopped in an address space, and who is to be asked.
    fn serving<'a>(&'a mut self, stopped: &'a mut Stopped, space: SpaceId) -> Option<Serving<'a>> {
        let thread = Ptrace {
            thread: stopped,
            threads: &mut self.threads,
            registers: &mut self.registers,
            space: self.spaces.get(&space)?,
            staging: &mut self.staging,
            lost: &mut self.lost,
            affinity: &mut self.affinity,
        };
        Some(Serving { thread, host: &mut self.host, probes: &mut self.probes, here: &self.here })
    }

    /// Counts for every probe that is served.
    fn count(&mut self, count: impl Fn(&mut Counters)) {
        for &index in &self.here {
            if let Some(probe) = self.probes.get_mut(index) {
                count(&mut probe.counters);
            }
        }
    }
}

/// Calls the handlers of the probes `here`, and stores what they have changed. RIP stays that of the instruction.
fn handle(
    thread: &mut impl Executor,
    host: &mut impl Host,
    probes: &mut [Probe],
    here: &[usize],
    pid: i32,
) -> Verdict {
    let before = GeneralRegisters::of(thread.registers());
    let mut registers = before.clone();
    let mut verdict = call(thread, host, probes, here, pid, &mut registers);
    let target = std::mem::replace(&mut registers.rip, before.rip);
    if target != before.rip && !matches!(verdict.then, Then::GoTo(_)) {
        verdict.then = Then::GoTo(target);
    }
    verdict.rejected = thread.take_back(&before, &registers).err();
    verdict
}

fn call(
    thread: &mut impl Executor,
    host: &mut impl Host,
    probes: &mut [Probe],
    here: &[usize],
    pid: i32,
    registers: &mut GeneralRegisters,
) -> Verdict {
    let mut verdict = Verdict::default();
    let ip = registers.rip;
    for &index in here {
        let Some(probe) = probes.get_mut(index) else { continue };
        probe.counters.hits += 1;
        let id = ProbeId(index);
        let mut hit = Hit {
            probe: id,
            pid,
            ip,
            registers: &mut *registers,
            thread: &mut *thread,
            requests: &mut verdict.requests,
            filtered: false,
        };
        let action = host.hit(&mut hit);
        probe.counters.filtered += u64::from(hit.filtered);
        match action {
            Action::Continue => {}
            Action::Skip if verdict.then == Then::Perform => verdict.then = Then::Skip,
            Action::Skip => {}
            Action::GoTo(target) => verdict.then = Then::GoTo(target),
            Action::Remove => verdict.requests.push(Request::Remove(id)),
            Action::Detach => verdict.detach = true,
            Action::Stop => verdict.stop = true,
        }
    }
    verdict
}
