//! A thread is about to take a SIGTRAP: whose it is, what handlers want, and what is done then.

use std::any::Any;
use std::cell::OnceCell;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use emu::{Displaced, Rflags};
use nix::errno::Errno;

use crate::engine::call::Part;
use crate::engine::compat;
use crate::engine::event::Event;
use crate::engine::follow::{At, Passage, Wanted};
use crate::engine::hit::{self, Action, GeneralRegisters, Hit, ProbeId};
use crate::engine::host::Request;
use crate::engine::perform::{self, How};
use crate::engine::probes::{Probes, Tally};
use crate::engine::run_on::{Observing, Regions, Running, Wish};
use crate::engine::shared::Shared;
use crate::engine::tracer::Tracer;
use crate::engine::waits::Waits;
use crate::executor::Executor;
use crate::executor::perf::{Signalled, Trap};
use crate::executor::ptrace::Ptrace;
use crate::executor::ptrace::registers::rip;
use crate::executor::ptrace::stopped::{Stop, Stopped};
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::rseq;
use crate::executor::space::{Purpose, SharedSpace};
use crate::target::procfs;

/// What the handlers of a hit want.
#[derive(Default)]
struct Verdict {
    then: Then,
    requests: Vec<Request>,
    /// Those of the probes that want no more hits, so that this is none of theirs, by where they stand.
    over: Vec<usize>,
    /// The calls that are to be followed.
    wanted: Vec<Wanted>,
    /// The probes that wanted this breakpoint once.
    covered: Vec<Purpose>,
    /// What the thread is to run on for.
    run_on: Vec<Wish>,
    detach: bool,
    stop: bool,
    /// How long the thread waits before it goes on.
    delay: Duration,
    /// The signal that it gets.
    signal: Option<i32>,
    /// What they have written could not be stored, or not all of it.
    rejected: Option<Errno>,
    /// What one of them has panicked with.
    panic: Option<Box<dyn Any + Send>>,
}

/// What is to be done with the displaced instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Then {
    #[default]
    Perform,
    Skip,
    GoTo(u64),
}

/// The breakpoint at which a thread has stopped, or has come to without stopping.
pub(crate) struct Here {
    /// Where it is.
    address: u64,
    /// How often it was hit, modulo 2 to the power of 32.
    hits: u32,
    /// Whether the dynamic linker calls this function when it has changed its list of objects.
    internal: bool,
    /// Whether it is one of the hardware, before which the thread is.
    by_hardware: bool,
}

/// Where a thread is that has reached a probe.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) pid: i32,
    pub(crate) space_id: SpaceId,
    pub(crate) space: &'a SharedSpace,
    pub(crate) address: u64,
}

/// What has become of a thread that has come to a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// It is served: the signal to go on with, whether other threads should not wait for its handlers, and whether its
    /// registers are known.
    Done { signal: i32, slow: bool, known: bool },
    /// It is in a restartable sequence, which the kernel aborts.
    Aborted,
    /// It has stopped for the next breakpoint.
    Trapped,
}

/// What a hit has come to.
struct Served {
    /// The signal to resume the thread with; `None` if it has stopped for the next breakpoint.
    signal: Option<i32>,
    /// Its handlers have taken so long that other threads should not wait for them.
    slow: bool,
    /// It has not executed anything itself, so that its registers are known.
    known: bool,
}

/// How long handlers take that are slow.
const SLOW: Duration = Duration::from_millis(1);

/// A hit that is being served.
pub(crate) struct Serving<'a> {
    pub(crate) thread: Ptrace<'a>,
    pub(crate) shared: &'a Shared,
    probes: &'a Probes,
    /// What is kept for threads that run on.
    pub(crate) running: &'a mut Running,
}

impl Tracer {
    /// A thread is about to take a SIGTRAP.
    pub(crate) fn trapped(&mut self, mut stopped: Stopped) {
        let tid = stopped.tid();
        let Some(thread) = self.threads.get_mut(tid) else { return self.pass_on(stopped) };
        let (pid, space_id, served) = (thread.pid, thread.space, thread.served);
        let leaves = mem::take(&mut thread.leaves);
        let signalled = self.signalled(&stopped, space_id);
        let fetched = self.registers.fetch(&stopped);
        if self.threads.refused(tid, "PTRACE_GETREGS", fetched) {
            return self.pass_by(stopped, space_id, signalled);
        }
        let Some(space) = self.space(space_id) else {
            let signal = if signalled.is_some() { 0 } else { stopped.stop.signal() };
            return self.threads.resume(stopped, signal);
        };
        let here = Place { pid, space_id, space: &space, address: self.registers.file.rip };
        let is_over = match self.shared.watches.any() {
            true => self.has_written(&mut stopped, here, signalled),
            // Nobody wants to know any more.
            false => signalled.is_some_and(|signalled| signalled.data && !signalled.late),
        };
        if is_over {
            if self.regions.contains_key(&tid) {
                return self.go_on(stopped);
            }
            if let Some(stopped) = self.share_out(stopped, false) {
                self.threads.resume(stopped, 0);
            }
            return;
        }
        let Some(here) = self.look_up(&stopped, &space, space_id, signalled) else {
            if let Some(Signalled { address, late: false, .. }) = signalled {
                self.was_aborted(&stopped, space_id, address, self.registers.file.rip);
            }
            let ours = signalled.is_some()
                || self.rewind(&mut stopped, space_id)
                || self.recover_copy(&mut stopped, space_id);
            if !ours && !self.regions.contains_key(&tid) {
                return self.take_own_trap(stopped);
            }
            let signal = if ours { 0 } else { stopped.stop.signal() };
            return self.go_on_with(stopped, (pid, space_id, &space), signal);
        };
        let Here { address, by_hardware, .. } = here;
        self.affinity.follow(tid);
        if by_hardware {
            // Which the processor has set for the instruction to pass, and would for the next one.
            self.registers.file.rflags -= Rflags::RF;
        }
        if signalled.is_none_or(|signalled| signalled.forced) {
            self.put_back_trap(&mut stopped, &space);
        }
        self.registers.file.rip = address;
        let place = Place { pid, space_id, space: &space, address };
        // Which looks for a key even where there is none.
        let mut regions = if self.regions.is_empty() { None } else { self.regions.remove(&tid) };
        self.look_at_probes();
        let by_int3 = !by_hardware && !here.internal && regions.is_none();
        if by_int3 && served != Some(address) && (leaves || self.may_take_long(here.hits)) {
            let Some(back) = self.serve_elsewhere(stopped) else { return };
            stopped = back;
        }
        let counted = by_int3 && served.is_none() && self.are_all_covering();
        let passed = if counted { self.pass_sites(&mut stopped, place, &here, &mut regions) } else { None };
        if passed.is_none() && by_int3 && self.are_all_once() {
            // A restartable sequence that is aborted once begins again, without the breakpoint.
            let Some(back) = self.pass_once(stopped, &space, address) else { return };
            stopped = back;
        }
        self.registers.deferred = regions.is_none();
        let mut arrived =
            passed.unwrap_or_else(|| self.arrive(&mut stopped, place, &here, served, &mut regions));
        if regions.is_none() {
            arrived = self.serve_neighbours(&mut stopped, place, arrived, &mut regions);
        }
        arrived = self.store_deferred(&mut stopped, &space, arrived);
        if let Arrived::Done { signal, .. } = arrived
            && self.threads.register.uses_hardware()
        {
            let again = self.threads.get(tid).and_then(|thread| thread.served);
            let site = again.unwrap_or(self.registers.file.rip);
            if (signal != 0 || again.is_some()) && space.read().watched(site).is_some() {
                self.come_again(&stopped);
            }
        }
        if let Some(mut regions) = regions {
            // Its system calls are another matter from now on.
            self.threads.forget_handler(tid);
            let turn = self.go_on_behind(&mut stopped, place, &mut regions, arrived);
            return self.end_turn(stopped, regions, turn);
        }
        let Arrived::Done { signal, slow, .. } = arrived else {
            return self.go_on_later(stopped, pid, (arrived != Arrived::Trapped).then_some(0));
        };
        if self.waits != Waits::default() {
            return self.go_on_later(stopped, pid, Some(signal));
        }
        if signal != 0 && stopped.stop == Stop::Signal(signal) {
            return match signal {
                libc::SIGTRAP => self.take_own_trap(stopped),
                signal => self.take_signal(stopped, signal),
            };
        }
        if signal == 0 {
            self.put_back_stepped(&mut stopped, &space);
        }
        let stays = if signal == 0 { self.share_out(stopped, slow) } else { Some(stopped) };
        if let Some(stopped) = stays {
            self.threads.resume(stopped, signal);
        }
    }

    /// Whether others would wait for handlers of which nobody knows how long they take, as none has come back so far, at a
    /// breakpoint that was hit so often.
    fn may_take_long(&self, hits: u32) -> bool {
        /// Behind that, which is all that most hits look at, handlers have come back or are not counted.
        const FIRST: u32 = 64;
        let is_unknown = |purpose: &Purpose| {
            let probe = self.probes.with_host(purpose.probe());
            probe.is_some_and(|(probe, host, _)| !host.is_brief() && probe.has_no_hits(*purpose))
        };
        hits < FIRST && self.threads.are_several() && self.here.iter().any(is_unknown)
    }

    /// Stores the registers that are to be when the thread goes on.
    fn store_deferred(&mut self, stopped: &mut Stopped, space: &SharedSpace, arrived: Arrived) -> Arrived {
        let deferred = mem::take(&mut self.registers.deferred);
        match arrived {
            Arrived::Done { signal: 0, known: true, slow }
                if deferred && stopped.stop != Stop::SystemCall =>
            {
                let lost = self.serving(stopped, space).thread.store_results(false).is_err();
                // Its registers are not what they should be, so it must not go on.
                Arrived::Done { signal: if lost { libc::SIGTRAP } else { 0 }, known: true, slow }
            }
            arrived => arrived,
        }
    }

    /// A thread is about to be served. Says whether it is in a restartable sequence instead, which the kernel aborts.
    pub(crate) fn is_aborted(&mut self, stopped: &Stopped, place: Place<'_>, here: &Here) -> bool {
        let tid = stopped.tid();
        let address = place.address;
        let aborted =
            rseq::is_due(here.hits) && self.aborts_sequence(stopped, place.space_id, address, address);
        if aborted {
            self.count_missed();
            let stored = self.registers.store(stopped);
            self.threads.note(tid, "PTRACE_SETREGS", stored);
        }
        aborted
    }

    /// Serves a thread that has come to a breakpoint; `served` is that for which the handlers have been called already, but
    /// which the thread has not left.
    pub(crate) fn arrive(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        here: &Here,
        served: Option<u64>,
        regions: &mut Option<Box<Regions>>,
    ) -> Arrived {
        let tid = stopped.tid();
        if served.is_some()
            && let Some(thread) = self.threads.get_mut(tid)
        {
            thread.served = None;
        }
        let Place { space_id, address, .. } = place;
        if self.is_aborted(stopped, place, here) {
            return Arrived::Aborted;
        }
        let touches = match self.shared.watches.exist() {
            true => place
                .space
                .read()
                .site(address)
                .and_then(|here| here.displaced(address))
                .map(Displaced::touches),
            false => None,
        };
        let Served { signal, slow, known } = self.hit(stopped, place, served == Some(address), regions);
        if regions.is_some() {
            self.wait_here(place.pid, tid);
        }
        self.after_hit(stopped, place, touches, known);
        let Some(signal) = signal else { return Arrived::Trapped };
        if rseq::is_due(here.hits) {
            self.aborts_sequence(stopped, space_id, address, self.registers.file.rip);
        }
        if here.internal {
            self.relocate(space_id, tid);
        }
        Arrived::Done { signal, slow, known }
    }

    /// What the SIGTRAP that a thread is about to take says of a hardware breakpoint of ours, if it is that of one.
    pub(crate) fn signalled(&mut self, stopped: &Stopped, space_id: SpaceId) -> Option<Signalled> {
        match self.threads.trap(stopped)? {
            Trap::Told(signalled) => Some(signalled),
            Trap::Untold => self.untold(stopped, space_id),
        }
    }

    /// The same where the kernel takes it for INT1's or a step's: that of a thread which does not step itself, before the
    /// instruction at a breakpoint, is the breakpoint's. Unless the program may have executed INT1 just before, or an
    /// instruction that ends its steps, and has a handler for that.
    fn untold(&mut self, stopped: &Stopped, space_id: SpaceId) -> Option<Signalled> {
        const INT1: u8 = 0xf1;
        const POPF: u8 = 0x9d;
        const IRET: u8 = 0xcf;
        let tid = stopped.tid();
        let registers = self.threads.note(tid, "PTRACE_GETREGS", stopped.registers())?;
        let stepping = Rflags::from_bits_retain(registers.eflags).contains(Rflags::TF);
        let space = self.shared.space(space_id)?;
        let (site, mut before) = (registers.rip, [0]);
        let text = space.read();
        if stepping || text.watched(site).is_none() {
            return None;
        }
        let read = text.read_raw(site.wrapping_sub(1), &mut before);
        drop(text);
        let may_be_own = read.is_ok() && matches!(before, [INT1 | POPF | IRET]);
        (!may_be_own || !procfs::catches(tid, libc::SIGTRAP)).then_some(Signalled::untold(site))
    }

    /// The breakpoint for which a thread has stopped, if so; its probes are those that are served next.
    fn look_up(
        &mut self,
        stopped: &Stopped,
        space: &SharedSpace,
        space_id: SpaceId,
        signalled: Option<Signalled>,
    ) -> Option<Here> {
        self.here.clear();
        let rip = self.registers.file.rip;
        match signalled {
            Some(Signalled { address, data: false, late: false, counted, .. }) if address == rip => {
                self.look_up_watched(stopped.tid(), space, space_id, address, counted)
            }
            // One that the thread has held back is in the queue for as long as that, and takes the place of an INT3's.
            signalled => {
                if signalled.is_some() {
                    space.read().hardware.unblocked(stopped.tid());
                }
                self.look_up_placed(stopped, space, rip.wrapping_sub(1), signalled.is_some())
            }
        }
    }

    /// The breakpoint at `address`, where a thread has stopped behind an INT3; `surely` if it can be that of nobody else.
    fn look_up_placed(
        &mut self,
        stopped: &Stopped,
        space: &SharedSpace,
        address: u64,
        surely: bool,
    ) -> Option<Here> {
        let space = space.read();
        let breakpoint = space.breakpoint(address)?;
        if breakpoint.ambiguous && !surely && !self.threads.is_breakpoint(stopped, true) {
            return None;
        }
        self.here.extend_from_slice(&breakpoint.probes);
        let (hits, internal) = (breakpoint.count_hit(), breakpoint.internal);
        Some(Here { address, hits, internal, by_hardware: false })
    }

    /// The hardware breakpoint at `address`, before which a thread has stopped; `counted` if its event says so, too.
    fn look_up_watched(
        &mut self,
        tid: i32,
        space: &SharedSpace,
        space_id: SpaceId,
        address: u64,
        counted: bool,
    ) -> Option<Here> {
        let text = space.read();
        if !text.hardware.stopped(tid, address, counted) {
            return None;
        }
        let is_another = text.is_another(address);
        drop(text);
        if is_another {
            // Something else may be mapped there by now, where it stays.
            self.relocate(space_id, tid);
            space.write().is_changing(address);
        }
        let text = space.read();
        let breakpoint = text.watched(address)?;
        self.here.extend_from_slice(&breakpoint.probes);
        let (hits, mut internal) = (breakpoint.count_hit(), breakpoint.internal);
        // The thread does not come to an INT3 in the same place.
        if let Some(placed) = text.breakpoint(address) {
            self.here.extend_from_slice(&placed.probes);
            internal |= placed.internal;
        }
        Some(Here { address, hits, internal, by_hardware: true })
    }

    /// The breakpoint of either kind at `address`, to which a thread has come without stopping.
    pub(crate) fn look_up_ahead(&mut self, space: &SharedSpace, address: u64) -> Option<Here> {
        self.here.clear();
        let text = space.read();
        let mut here = Here { address, hits: 0, internal: false, by_hardware: false };
        let mut any = false;
        for breakpoint in text.breakpoint(address).into_iter().chain(text.watched(address)) {
            any = true;
            for purpose in breakpoint.probes.iter() {
                if !self.here.contains(purpose) {
                    self.here.push(*purpose);
                }
            }
            here.hits = breakpoint.count_hit();
            here.internal |= breakpoint.internal;
        }
        any.then_some(here)
    }

    /// A thread comes back to a hardware breakpoint, or takes a signal that the instruction has raised and may: it is to
    /// stop there once more. The processor marks what has faulted to pass it.
    fn come_again(&mut self, stopped: &Stopped) {
        let tid = stopped.tid();
        let fetched = self.registers.fetch(stopped);
        if self.threads.note(tid, "PTRACE_GETREGS", fetched).is_some() {
            self.registers.file.rflags -= Rflags::RF;
            let stored = self.registers.store(stopped);
            self.threads.note(tid, "PTRACE_SETREGS", stored);
        }
    }

    /// A thread is at a breakpoint; `again` if the handlers have been called already.
    fn hit(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        again: bool,
        regions: &mut Option<Box<Regions>>,
    ) -> Served {
        let tid = stopped.tid();
        let Place { pid, space_id, address, .. } = place;
        let alone = tid != pid || !self.threads.register.has_others(space_id, tid);
        // It matters as long as others have the same tracer.
        let timed = self.threads.are_several();
        self.look_at_probes();
        let mut here = mem::take(&mut self.here);
        let Serving { mut thread, shared, probes, .. } = self.serving(stopped, place.space);
        let mut verdict = Verdict::default();
        let mut slow = false;
        if again {
            // Whoever has returned has been told.
            here.retain(|purpose| !purpose.is_return_site());
            here.extend(
                thread
                    .threads
                    .get_mut(tid)
                    .map(|thread| mem::take(&mut thread.returned))
                    .into_iter()
                    .flatten(),
            );
        } else {
            let start = timed.then(Instant::now);
            let at = At { shared, probes, pid, space_id, space: place.space, address };
            let mut passage =
                if at.concerns(&here) { at.pass(&mut thread, &mut here) } else { Passage::default() };
            handle(&mut thread, at, &here, &mut passage, &mut verdict);
            // Before the thread goes on, whoever executes the instruction.
            for wanted in mem::take(&mut verdict.wanted) {
                at.follow(tid, &passage, wanted);
            }
            slow = start.is_some_and(|start| start.elapsed() >= SLOW);
            for wish in mem::take(&mut verdict.run_on) {
                let regions = regions.get_or_insert_with(|| Box::new(Regions::new(pid)));
                regions.add(wish, &mut thread);
            }
        }
        // Handlers may take their time.
        let performed = if !alone && thread.threads.has_gone(tid) {
            None
        } else {
            // Only now, as the instruction may change as long as it has not been performed.
            let displaced = thread.space.displaced_now(address, thread.lost);
            let compat =
                (!thread.registers.is_64_bit()).then(|| compat::Compat::at(&thread.space.read(), address));
            let next = match (verdict.then, &displaced, &compat) {
                (Then::GoTo(target), ..) => Some(target),
                // Where there is no breakpoint any more, the thread executes what is there now.
                (_, None, _) => Some(address),
                (Then::Perform, ..) => None,
                (Then::Skip, Some(displaced), None) => Some(address.wrapping_add(displaced.length() as u64)),
                (Then::Skip, _, Some(compat)) => Some(address.wrapping_add(compat.length as u64)),
            };
            let observing = Observing::begin(regions.as_deref(), &mut thread, displaced.as_ref());
            let performed = match (next, &displaced, compat) {
                (None, _, Some(compat)) => Some(compat.perform(&mut thread, address)),
                (None, Some(displaced), None) => Some(perform::perform(&mut thread, displaced)),
                (next, ..) => {
                    thread.go_to(next.unwrap_or(address));
                    None
                }
            };
            observing.end(regions.as_mut(), &mut thread, performed);
            performed
        };
        self.here = here;
        let (delay, raised) = (verdict.delay, verdict.signal);
        self.settle(&mut verdict, performed.map(|performed| performed.how), tid, place);
        let signal = performed.map_or(Some(0), |performed| performed.signal);
        self.waits.delay = self.waits.delay.max(delay);
        self.waits.raised = raised.or(self.waits.raised);
        // Neighbours are served when it has gone on.
        let slow = slow || self.waits != Waits::default();
        Served { signal, slow, known: performed.is_none_or(|performed| performed.how == How::Emulated) }
    }

    /// Books what a hit has come to, and does what its handlers have asked for.
    fn settle(&mut self, verdict: &mut Verdict, how: Option<How>, tid: i32, place: Place<'_>) {
        for &index in verdict.over.iter().rev() {
            self.here.remove(index);
        }
        match how {
            Some(How::Emulated) => self.count(|tally| &tally.emulated),
            Some(How::Native) => self.count(|tally| &tally.native),
            Some(How::Faulted) => self.count(|tally| &tally.faulted),
            Some(How::Again) => {
                if let Some(thread) = self.threads.get_mut(tid) {
                    thread.served = Some(place.address);
                    thread.returned.clear();
                    thread.returned.extend(self.here.iter().filter(|purpose| purpose.is_return_site()));
                }
            }
            Some(How::NotAtAll) | None => {}
        }
        for purpose in mem::take(&mut verdict.covered) {
            place.space.write().withdraw(&[place.address], purpose);
        }
        if let Some(error) = verdict.rejected {
            self.tell(&Event::Rejected { pid: place.pid, tid, error });
        }
        if verdict.detach {
            self.shared.wishes.detach.store(true, Ordering::SeqCst);
            self.shared.crew.wake_captain();
        }
        if verdict.stop {
            self.stop_serving();
        }
        if let Some(payload) = verdict.panic.take() {
            self.shared.wishes.panic_with(payload);
            self.shared.crew.wake_captain();
        }
        mem::take(&mut verdict.requests).into_iter().for_each(|request| self.grant(request));
        if !self.lost.is_empty() {
            self.tell_lost(place.space_id);
        }
    }

    /// Lets a thread go on whose registers the kernel does not show: without its breakpoint, if it is at one.
    fn pass_by(&mut self, mut stopped: Stopped, space_id: SpaceId, signalled: Option<Signalled>) {
        let tid = stopped.tid();
        if signalled.is_some_and(|signalled| !signalled.late) {
            // The processor has marked it to pass, which is counted as such.
            return self.threads.resume(stopped, 0);
        }
        let rip = self.threads.note(tid, "PTRACE_PEEKUSER", rip(&stopped));
        let site = rip.map(|rip| rip.wrapping_sub(1));
        self.here.clear();
        let space = self.shared.space(space_id);
        let is_ours = |tracer: &mut Tracer, site: u64, space: &SharedSpace| {
            tracer.look_up_placed(&stopped, space, site, signalled.is_some()).is_some()
                || space.read().was_removed(site)
        };
        let ours = match (site, &space) {
            (Some(site), Some(space)) if is_ours(self, site, space) => Some((site, space)),
            _ => None,
        };
        self.look_at_probes();
        self.count_missed();
        let signal = match ours {
            Some((site, space)) => self.serving(&mut stopped, space).thread.stand_aside(site),
            None => libc::SIGTRAP,
        };
        self.threads.resume(stopped, signal);
    }

    /// A thread that is stopped in an address space, and who is to be asked.
    pub(crate) fn serving<'a>(&'a mut self, stopped: &'a mut Stopped, space: &'a SharedSpace) -> Serving<'a> {
        let thread = Ptrace {
            thread: stopped,
            threads: &mut self.threads,
            registers: &mut self.registers,
            space,
            staging: &mut self.staging,
            lost: &mut self.lost,
            affinity: &mut self.affinity,
            kept: &mut self.kept,
        };
        Serving { thread, shared: &self.shared, probes: &self.probes, running: &mut self.running }
    }

    /// Counts that the handlers of the probes here do not run. Whether a call has returned is not known.
    fn count_missed(&mut self) {
        self.here.retain(|purpose| !purpose.is_return_site());
        self.count(|tally| &tally.missed);
    }

    /// Counts for every probe that is served.
    fn count(&self, counter: impl Fn(&Tally) -> &AtomicU64) {
        for &purpose in &self.here {
            if let Some(probe) = self.probes.get(purpose.probe()) {
                Tally::count(counter(probe.tally_of(purpose)));
            }
        }
    }
}

/// Calls the handlers of the probes `here`, and stores what they have changed. RIP stays that of the instruction.
fn handle(
    thread: &mut impl Executor,
    at: At<'_>,
    here: &[Purpose],
    passage: &mut Passage,
    verdict: &mut Verdict,
) {
    let mut registers = GeneralRegisters::of(thread.registers());
    call(thread, at, here, passage, &mut registers, verdict);
    let rip = thread.registers().rip;
    let target = mem::replace(&mut registers.rip, rip);
    if target != rip && !matches!(verdict.then, Then::GoTo(_)) {
        verdict.then = Then::GoTo(target);
    }
    verdict.rejected = thread.take_back(&registers).err();
}

fn call(
    thread: &mut impl Executor,
    at: At<'_>,
    here: &[Purpose],
    passage: &mut Passage,
    registers: &mut GeneralRegisters,
    verdict: &mut Verdict,
) {
    let ip = registers.rip;
    for (index, &purpose) in here.iter().enumerate() {
        let number = purpose.probe();
        let Some((probe, host, own)) = at.probes.with_host(number) else { continue };
        let id = ProbeId(number);
        if let Some(cover) = probe.cover() {
            let space = at.space.read();
            if let Some(here) = space.site(ip) {
                cover.count_at(&here.origin, ip, 1);
            }
            Tally::count(&probe.tally_of(purpose).hits);
            if cover.is_once() {
                verdict.covered.push(purpose);
            }
            continue;
        }
        let time_ns = OnceCell::new();
        let part = passage.part(probe, purpose, || *time_ns.get_or_init(hit::now_ns));
        let mut hit = Hit {
            probe: id,
            pid: at.pid,
            ip,
            registers: &mut *registers,
            thread: &mut *thread,
            requests: &mut verdict.requests,
            wishes: &mut verdict.run_on,
            filtered: false,
            discounted: false,
            delay: Duration::ZERO,
            signal: None,
            time_ns,
            part,
            watches: Some(&at.shared.watches),
        };
        let action = panic::catch_unwind(AssertUnwindSafe(|| host.hit(own, &mut hit)));
        let Hit { filtered, discounted, delay, signal, .. } = hit;
        verdict.delay = verdict.delay.max(delay);
        verdict.signal = signal.or(verdict.signal);
        let followed = match mem::replace(&mut hit.part, Part::None) {
            Part::Entry(Some(value)) if !filtered && !discounted => Some((value, hit.time_ns())),
            _ => None,
        };
        // The thread must go on, whatever becomes of the run.
        let action = action.unwrap_or_else(|payload| {
            verdict.panic = Some(payload);
            Some(Action::Continue)
        });
        let Some(action) = action else {
            verdict.over.push(index);
            continue;
        };
        match discounted {
            true => verdict.over.push(index),
            false => Tally::count(&probe.tally_of(purpose).hits),
        }
        if filtered {
            Tally::count(&probe.tally_of(purpose).filtered);
        }
        if let Some((value, entered_ns)) = followed {
            verdict.wanted.push(Wanted { probe: purpose.probe(), entered_ns, value });
        }
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
}
