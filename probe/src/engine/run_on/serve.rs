//! Threads that run on: one turn after the other, so that others are served in between, and what they do themselves.

use std::time::{Duration, Instant};

use emu::Displaced;

use crate::engine::hit::GeneralRegisters;
use crate::engine::perform::{self, How, Performed};
use crate::engine::run_on::emulate::{self, Pause};
use crate::engine::run_on::regions::{Before, Seen};
use crate::engine::run_on::{End, Regions, What};
use crate::engine::tracer::Tracer;
use crate::engine::trap::{Arrived, Place, Serving};
use crate::executor::code::CodeCache;
use crate::executor::log::Log;
use crate::executor::ptrace::Ptrace;
use crate::executor::ptrace::registers::set_rip;
use crate::executor::ptrace::stopped::{Resume, Stop, Stopped};
use crate::executor::ptrace::threads::{Gone, Report, SpaceId};
use crate::executor::space::SharedSpace;
use crate::executor::{Natively, RunOn, TextMemory};
use crate::symbols::code;

/// How long a thread runs on until others have their turn and its signals are looked at.
const TURN: Duration = Duration::from_millis(5);

/// How many instructions are executed between two looks at the clock and at who waits.
const AT_A_TIME: u64 = 4096;
/// The same where each access costs a system call.
const FEW_AT_A_TIME: u64 = 256;

/// What becomes of a thread that runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It goes on by itself, with that signal, or with none for 0.
    Over(i32),
    /// It stands still until its next turn.
    Stand,
    /// It makes a system call, and stops at its end.
    Call,
    /// Job control has stopped it.
    Listen,
    /// It has stopped for a breakpoint.
    Trapped,
    /// It is gone.
    Gone,
}

/// What a tracer keeps for threads that run on.
pub(crate) struct Running {
    pub(super) code: CodeCache,
    /// The address space that `code` is of, and how its breakpoints were.
    pub(super) of: Option<(SpaceId, u64)>,
    pub(super) log: Log,
}

impl Running {
    pub(crate) fn new() -> Running {
        Running { code: CodeCache::new(), of: None, log: Log::default() }
    }
}

/// The thread of a turn, and where it is.
pub(super) struct Runner<'a> {
    pub(super) tid: i32,
    pub(super) pid: i32,
    pub(super) space_id: SpaceId,
    pub(super) space: &'a SharedSpace,
}

impl Tracer {
    /// A thread that runs on has its turn, or has stopped at the end of a system call.
    pub(crate) fn go_on(&mut self, mut stopped: Stopped) {
        let tid = stopped.tid();
        if let Some(thread) = self.threads.get_mut(tid) {
            thread.to_return = false;
        }
        let Some(mut regions) = self.regions.remove(&tid) else { return self.threads.resume(stopped, 0) };
        let turn = self.take_turn(&mut stopped, &mut regions);
        self.end_turn(stopped, regions, turn);
    }

    /// Has a thread do what a turn has come to.
    pub(crate) fn end_turn(&mut self, stopped: Stopped, mut regions: Box<Regions>, turn: Turn) {
        let tid = stopped.tid();
        if let Some(payload) = regions.take_panic() {
            self.shared.wishes.panic_with(payload);
            self.shared.crew.wake_captain();
        }
        let keep = |tracer: &mut Tracer| {
            tracer.regions.insert(tid, regions);
        };
        match turn {
            Turn::Over(signal) => self.threads.resume(stopped, signal),
            Turn::Stand => {
                keep(self);
                self.threads.stand(stopped);
            }
            Turn::Call => {
                keep(self);
                if let Some(thread) = self.threads.get_mut(tid) {
                    thread.to_return = true;
                }
                self.threads.resume(stopped, 0);
            }
            Turn::Listen => {
                keep(self);
                self.threads.listen(stopped);
            }
            Turn::Trapped => {
                keep(self);
                self.threads.put_back(Report::Stopped(stopped));
            }
            Turn::Gone => self.threads.resume(stopped, 0),
        }
    }

    fn take_turn(&mut self, stopped: &mut Stopped, regions: &mut Box<Regions>) -> Turn {
        let tid = stopped.tid();
        let Some(thread) = self.threads.get(tid) else { return Turn::Over(0) };
        let (pid, space_id) = (thread.pid, thread.space);
        let returns = stopped.stop == Stop::SystemCall;
        let fetched = self.registers.fetch(stopped);
        if self.threads.refused(tid, "PTRACE_GETREGS", fetched) {
            return Turn::Over(0);
        }
        let Some(space) = self.shared.space(space_id) else { return Turn::Over(0) };
        stopped.stop = Stop::Interrupted;
        let runner = Runner { tid, pid, space_id, space: &space };
        let ready = if returns {
            self.come_back(stopped, regions, &runner)
        } else {
            let interrupted = self.have_interrupted(stopped);
            interrupted.and_then(|()| self.take_signals(stopped, regions, &runner))
        };
        match ready {
            Ok(true) => self.run_on(stopped, regions, pid, space_id, &space),
            Ok(false) => Turn::Listen,
            Err(Gone) => Turn::Gone,
        }
    }

    /// Has the kernel do for a stopped thread what it does before a thread goes on, without its executing anything.
    fn have_interrupted(&mut self, stopped: &mut Stopped) -> Result<(), Gone> {
        self.threads.interrupt(stopped.tid());
        self.threads.run_on(stopped, Resume::Continue, 0).map(drop)
    }

    /// A system call has returned, or is to be made again. Says whether the thread may go on.
    fn come_back(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Regions,
        runner: &Runner<'_>,
    ) -> Result<bool, Gone> {
        let call = regions.call.take();
        if self.registers.is_interrupted() {
            if !self.take_signals(stopped, regions, runner)? {
                return Ok(false);
            }
            let restarted = self.registers.restart(stopped);
            let restarted = self.threads.note(runner.tid, "PTRACE_POKEUSER", restarted);
            // It has not been made, unless a handler is to run first.
            if restarted == Some(true) {
                return Ok(true);
            }
        }
        if let Some((before, number)) = call {
            self.tell_regions(stopped, regions, runner, What::SystemCall { number }, &before, None);
        }
        self.take_signals(stopped, regions, runner)
    }

    /// Has a thread take the signals that wait for it. Says whether it may go on, and is not stopped by one.
    fn take_signals(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Regions,
        runner: &Runner<'_>,
    ) -> Result<bool, Gone> {
        const MOST: usize = 64;
        if stopped.stop == Stop::Group {
            return Ok(false);
        }
        for _ in 0..MOST {
            let pending = stopped.has_pending_signal();
            if self.threads.note(runner.tid, "PTRACE_PEEKSIGINFO", pending) != Some(true) {
                break;
            }
            // If another thread takes it first, this one makes a step.
            let before = self.before(None);
            self.threads.run_on(stopped, Resume::Step, 0)?;
            match stopped.stop {
                Stop::Signal(libc::SIGTRAP) if self.is_step(stopped) => {
                    self.fetch_again(stopped);
                    self.tell_regions(stopped, regions, runner, What::Native, &before, None);
                }
                Stop::Signal(libc::SIGTRAP) if self.threads.is_breakpoint(stopped, false) => {
                    let back = set_rip(stopped, before.registers.rip, None);
                    self.threads.note(runner.tid, "PTRACE_POKEUSER", back);
                    self.fetch_again(stopped);
                }
                Stop::Signal(signal) => {
                    let ours = signal == libc::SIGTRAP && self.signalled(stopped, runner.space_id).is_some();
                    if !self.deliver(stopped, regions, runner, if ours { 0 } else { signal })? {
                        return Ok(false);
                    }
                }
                Stop::Group => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    /// Has a thread that is about to take a signal take that one, or none for 0, and go no further. Says whether it may go
    /// on, and is not stopped by it.
    fn deliver(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Regions,
        runner: &Runner<'_>,
        signal: i32,
    ) -> Result<bool, Gone> {
        self.fetch_again(stopped);
        let before = self.before(None);
        self.threads.interrupt(runner.tid);
        self.threads.run_on(stopped, Resume::Continue, signal)?;
        self.fetch_again(stopped);
        // One that is ignored changes nothing.
        if signal != 0 && before.registers != GeneralRegisters::of(&self.registers.file) {
            self.tell_regions(stopped, regions, runner, What::Signal { signal }, &before, None);
        }
        Ok(stopped.stop != Stop::Group)
    }

    fn is_step(&mut self, stopped: &Stopped) -> bool {
        self.threads.note(stopped.tid(), "PTRACE_GETSIGINFO", stopped.is_step()) == Some(true)
    }

    fn fetch_again(&mut self, stopped: &Stopped) {
        let fetched = self.registers.fetch(stopped);
        self.threads.note(stopped.tid(), "PTRACE_GETREGS", fetched);
    }

    fn before(&self, displaced: Option<Displaced>) -> Before {
        Before { registers: GeneralRegisters::of(&self.registers.file), displaced }
    }

    /// A stopped thread, what is kept for those that run on, and the mail to look at.
    pub(super) fn running<'a>(
        &'a mut self,
        stopped: &'a mut Stopped,
        space: &'a SharedSpace,
    ) -> (Ptrace<'a>, &'a mut Running) {
        let Serving { thread, running, .. } = self.serving(stopped, space);
        (thread, running)
    }

    /// Tells those that observe what has happened to a thread whose registers are in the register file.
    fn tell_regions(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Regions,
        runner: &Runner<'_>,
        what: What,
        before: &Before,
        log: Option<&Log>,
    ) {
        // One that has begun and ended while this one ran is not counted any more.
        const THAT_BEGIN: [u64; 2] = [libc::SYS_clone.cast_unsigned(), libc::SYS_clone3.cast_unsigned()];
        let begins = matches!(what, What::SystemCall { number } if THAT_BEGIN.contains(&number));
        regions.alone &= !begins && !self.threads.register.has_others(runner.space_id, runner.tid);
        let (mut thread, _) = self.running(stopped, runner.space);
        let registers = thread.registers.file.clone();
        regions.tell(runner.tid, what, before, &registers, &mut Seen(&mut thread), log, None);
    }

    /// A thread, whose registers have been fetched, has stopped for nothing of ours: it takes its signal, and runs on if it did
    /// before.
    pub(crate) fn go_on_with(
        &mut self,
        mut stopped: Stopped,
        (pid, space_id, space): (i32, SpaceId, &SharedSpace),
        signal: i32,
    ) {
        let Some(mut regions) = self.regions.remove(&stopped.tid()) else {
            return self.threads.resume(stopped, signal);
        };
        let place = Place { pid, space_id, space, address: self.registers.file.rip };
        let arrived = Arrived::Done { signal, slow: false, known: true };
        let turn = self.go_on_behind(&mut stopped, place, &mut regions, arrived);
        self.end_turn(stopped, regions, turn);
    }

    /// A thread is served at a breakpoint, and runs on from there.
    pub(crate) fn go_on_behind(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        regions: &mut Box<Regions>,
        arrived: Arrived,
    ) -> Turn {
        let Place { pid, space_id, space, .. } = place;
        let runner = Runner { tid: stopped.tid(), pid, space_id, space };
        let signal = match arrived {
            Arrived::Done { signal, .. } => signal,
            Arrived::Aborted => return self.leave_off(stopped, regions, &runner, End::Sequence),
            Arrived::Trapped => return Turn::Trapped,
        };
        match self.proceed(stopped, regions, &runner, signal) {
            Ok(true) => self.run_on(stopped, regions, pid, space_id, space),
            Ok(false) => Turn::Listen,
            Err(turn) => turn,
        }
    }

    /// Emulates instruction after instruction of a stopped thread, whose registers are in the register file and stored,
    /// until its turn is over.
    pub(crate) fn run_on(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Box<Regions>,
        pid: i32,
        space_id: SpaceId,
        space: &SharedSpace,
    ) -> Turn {
        let runner = Runner { tid: stopped.tid(), pid, space_id, space };
        let deadline = Instant::now() + TURN;
        let settings = self.alarm.settings();
        self.begin(stopped, regions, &runner);
        loop {
            if self.shared.wishes.stop_serving() {
                return self.leave_off(stopped, regions, &runner, End::Stopped);
            }
            let (mut thread, running) = self.running(stopped, space);
            if !regions.end_those_over(&mut thread) {
                let stored = thread.settle();
                return if stored { Turn::Over(0) } else { self.lost_track(stopped) };
            }
            if !thread.can_run_on() {
                return self.leave_off(stopped, regions, &runner, End::Unknown);
            }
            let most = if thread.kept.is_exclusive() { AT_A_TIME } else { FEW_AT_A_TIME };
            let pause = emulate::run(&mut thread, &mut running.code, regions, &mut running.log, most);
            match pause {
                Pause::Extended if thread.fetch_extended() => continue,
                Pause::Spent if !regions.has_ended() => {
                    if self.is_turn_over(deadline, settings) {
                        let (mut thread, _) = self.running(stopped, space);
                        return if thread.settle() { Turn::Stand } else { self.lost_track(stopped) };
                    }
                    if self.running.of.map(|(_, version)| version) != Some(space.read().version()) {
                        let (mut thread, _) = self.running(stopped, space);
                        if !thread.settle() {
                            return self.lost_track(stopped);
                        }
                        self.begin(stopped, regions, &runner);
                    }
                    continue;
                }
                Pause::Spent => continue,
                Pause::Site | Pause::Slow | Pause::Unknown | Pause::Sequence | Pause::Extended => {}
            }
            if !thread.settle() {
                return self.lost_track(stopped);
            }
            let result = match pause {
                Pause::Sequence => return self.leave_off(stopped, regions, &runner, End::Sequence),
                Pause::Site => self.reach(stopped, regions, &runner),
                _ => self.perform_slowly(stopped, regions, &runner),
            };
            match result {
                // One that comes to a breakpoint again and again has its turn, too.
                Ok(true) if !regions.has_ended() && self.is_turn_over(deadline, settings) => {
                    return Turn::Stand;
                }
                Ok(true) => {}
                Ok(false) => return Turn::Listen,
                Err(turn) => return turn,
            }
            self.begin(stopped, regions, &runner);
        }
    }

    /// Whether others are to be served now.
    fn is_turn_over(&mut self, deadline: Instant, settings: u64) -> bool {
        Instant::now() >= deadline || self.alarm.settings() != settings || self.threads.are_others_waiting()
    }

    /// Begins to emulate, or does so anew after the thread has run, or somebody has looked at it.
    pub(super) fn begin(&mut self, stopped: &mut Stopped, regions: &mut Regions, runner: &Runner<'_>) {
        let version = runner.space.read().version();
        let (mut thread, running) = self.running(stopped, runner.space);
        thread.begin();
        regions.alone = thread.is_alone();
        let of = Some((runner.space_id, version));
        if running.of != of {
            running.code.clear();
            thread.parts().1.forget_text();
            running.of = of;
        }
        running.code.look_anew(&mut thread.parts().1);
    }

    /// What an instruction has changed could not be stored, so that the thread must not go on; or it is gone.
    fn lost_track(&mut self, stopped: &Stopped) -> Turn {
        if self.threads.is_gone(stopped.tid()) { Turn::Gone } else { Turn::Over(libc::SIGTRAP) }
    }

    /// All regions end here.
    fn leave_off(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Regions,
        runner: &Runner<'_>,
        end: End,
    ) -> Turn {
        let (mut thread, _) = self.running(stopped, runner.space);
        let stored = thread.settle();
        regions.end_all(end, &mut thread);
        if stored { Turn::Over(0) } else { self.lost_track(stopped) }
    }

    /// The thread is at a breakpoint.
    fn reach(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Box<Regions>,
        runner: &Runner<'_>,
    ) -> Result<bool, Turn> {
        let &Runner { tid, pid, space_id, space } = runner;
        let address = self.registers.file.rip;
        let Some(here) = self.look_up_ahead(space, address) else {
            return self.perform_slowly(stopped, regions, runner);
        };
        let served = self.threads.get(tid).and_then(|thread| thread.served);
        let place = Place { pid, space_id, space, address };
        let mut own = Some(std::mem::replace(regions, Box::new(Regions::new(pid))));
        let arrived = self.arrive(stopped, place, &here, served, &mut own);
        if let Some(own) = own {
            *regions = own;
        }
        if regions.is_empty() {
            // Its thread is gone, as far as is known.
            return Err(Turn::Over(0));
        }
        match arrived {
            Arrived::Done { signal, .. } => self.proceed(stopped, regions, runner, signal),
            Arrived::Aborted => {
                // The kernel sends it to the handler of the abort when it goes on.
                Err(self.leave_off(stopped, regions, runner, End::Sequence))
            }
            Arrived::Trapped => Err(Turn::Trapped),
        }
    }

    /// Performs one instruction as at a breakpoint, or has the thread execute it.
    fn perform_slowly(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Box<Regions>,
        runner: &Runner<'_>,
    ) -> Result<bool, Turn> {
        let address = self.registers.file.rip;
        let displaced = {
            let (bytes, length) = runner.space.read().code_at(address).unwrap_or_default();
            code::decode(bytes.get(..length).unwrap_or_default(), address).ok()
        };
        let (mut thread, _) = self.running(stopped, runner.space);
        let observing = Observing::begin(Some(&*regions), &mut thread, displaced.as_ref());
        let performed = match displaced {
            Some(displaced) if thread.is_fetchable(address) => perform::perform(&mut thread, &displaced),
            _ => perform::natively(&mut thread, address, Natively::Once),
        };
        observing.end(Some(regions), &mut thread, Some(performed));
        match performed.signal {
            None => Err(Turn::Trapped),
            Some(signal) => self.proceed(stopped, regions, runner, signal),
        }
    }

    /// An instruction has been performed, and the thread would be resumed with that signal.
    fn proceed(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Box<Regions>,
        runner: &Runner<'_>,
        signal: i32,
    ) -> Result<bool, Turn> {
        if self.threads.is_gone(runner.tid) {
            return Err(Turn::Gone);
        }
        if stopped.stop == Stop::SystemCall {
            return Err(Turn::Call);
        }
        if signal != 0 {
            return self.deliver(stopped, regions, runner, signal).map_err(|Gone| Turn::Gone);
        }
        self.fetch_again(stopped);
        Ok(true)
    }
}

/// An instruction that is performed by itself while it is observed, or not; and whether no other thread ran then.
pub(crate) struct Observing(Option<(Box<Before>, bool)>);

impl Observing {
    /// Before it.
    pub(crate) fn begin(
        regions: Option<&Regions>,
        thread: &mut impl RunOn,
        displaced: Option<&Displaced>,
    ) -> Observing {
        let Some(regions) = regions else { return Observing(None) };
        if regions.wants_accesses() {
            thread.note_accesses(Some(Log::default()));
        }
        let registers = GeneralRegisters::of(thread.registers());
        Observing(Some((Box::new(Before { registers, displaced: displaced.copied() }), thread.is_alone())))
    }

    /// Behind it; `None` if it was left out.
    pub(crate) fn end(
        self,
        regions: Option<&mut Box<Regions>>,
        thread: &mut impl RunOn,
        performed: Option<Performed>,
    ) {
        let log = thread.take_accesses();
        let (Some((before, alone)), Some(regions)) = (self.0, regions) else { return };
        regions.alone = alone && thread.is_alone();
        let what = match performed.map(|performed| performed.how) {
            // It is to come back, as there is no breakpoint any more.
            None if thread.registers().rip == before.registers.rip => return,
            None => What::Skipped,
            Some(How::Emulated | How::Native) if thread.is_in_call() => {
                let number = before.registers.gpr[emu::registers::gpr::RAX];
                regions.call = Some((*before, number));
                return;
            }
            Some(How::Emulated) => What::Emulated,
            Some(How::Native) => What::Native,
            Some(How::Faulted) => {
                // Otherwise it takes the signal next.
                if performed.is_some_and(|performed| performed.signal == Some(0)) {
                    regions.enter_handler();
                }
                What::Faulted
            }
            // It is not done, or never will be.
            Some(How::Again | How::NotAtAll) => return,
        };
        let registers = thread.registers().clone();
        let tid = thread.tid();
        regions.tell(tid, what, &before, &registers, &mut Seen(thread), log.as_ref(), None);
    }
}
