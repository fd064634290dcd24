//! The threads that are traced, and what the kernel reports of them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use rustc_hash::FxHashMap;

use crate::executor::log::Log;
use crate::executor::perf::Trap;
use crate::executor::ptrace::aside::Aside;
use crate::executor::ptrace::atomic::Atomics;
use crate::executor::ptrace::awake::Awake;
use crate::executor::ptrace::crew::{Crew, Post, TracerId};
use crate::executor::ptrace::register::Register;
use crate::executor::ptrace::stopped::{Resume, Stop, Stopped};
use crate::executor::ptrace::sys::{self, Alarm, Status};
use crate::executor::space::Purpose;
use crate::target::failure::{Failure, Failures};
use crate::target::procfs;
use crate::target::system;

/// A thread that was stopped is not any more: it was killed, or another thread of its process executes a
/// program in its place. The stop loop hears of that next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// What stopped a thread that was to run for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// An instruction raised this signal, which the thread is about to take. SIGTRAP at the end of a step.
    Signal(i32),
    /// It is about to make a system call.
    Entered,
    /// None of these was seen.
    Unclear,
    /// It has not run: the kernel has refused what it takes.
    Refused,
}

/// The signals that an instruction itself raises.
const SYNCHRONOUS: u64 = bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGILL)
    | bit(libc::SIGFPE)
    | bit(libc::SIGSYS);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What the stop loop takes up next.
#[derive(Debug)]
pub(crate) enum Report {
    /// A thread stopped.
    Stopped(Stopped),
    /// A thread ended, with its wait status.
    Ended { tid: i32, status: i32 },
    /// A thread has its turn that stands still while its instructions are emulated.
    Turn(Stopped),
    /// A signal interrupted the wait.
    Interrupted,
    /// No thread is left.
    Nobody,
}

/// Names one address space of the session.
pub(crate) type SpaceId = u32;

/// What is known of a traced thread.
#[derive(Debug)]
pub(crate) struct Thread {
    /// Its process.
    pub(crate) pid: i32,
    /// The address space that it runs in.
    pub(crate) space: SpaceId,
    /// Whether it is out of our hands: running, or stopped with its stop not yet taken from the kernel.
    running: bool,
    /// Whether the kernel has reported its end, or another's exec in its place, while it was stopped. What
    /// stopped it must not be resumed then.
    gone: bool,
    /// Whether it was killed in a stop in which it was to be let go. Its process does not end before its end has
    /// been taken from the kernel.
    pub(crate) dying: bool,
    /// Whether it waits, in the kernel, for its vfork child.
    pub(crate) in_vfork: bool,
    /// Whether its process shares the address space of another one, which had it first.
    pub(crate) guest: bool,
    /// Whether it was taken for a guest, but executes another program already: to be let go when it stops.
    pub(crate) stranger: bool,
    /// The signals that it blocked when we last looked.
    pub(crate) blocked: u64,
    /// Whether it is in a handler of the program's that has SIGTRAP blocked.
    pub(super) handles_trap: bool,
    /// What a SIGTRAP says that somebody has sent it, which it blocks, and which we have sent anew.
    pub(crate) held_trap: Option<Box<sys::Info>>,
    /// Whether its exec has been served, but it has not been resumed.
    pub(crate) fresh: bool,
    /// Where the handlers have been called already for the instruction that it will execute again.
    pub(crate) served: Option<u64>,
    /// The return sites for which they have been called then.
    pub(crate) returned: Vec<Purpose>,
    /// Where its own stack is, once that has been asked for.
    pub(crate) stack: Option<Range<u64>>,
    /// How often it has reached a probe, up to where it counts as busy.
    pub(crate) hits: u32,
    /// Whether it is to stop at the end of the system call that it is in.
    pub(crate) to_return: bool,
    /// Whether it is to go to another tracer when it next reaches a probe.
    pub(crate) leaves: bool,
    /// Whether we have asked it to stop, and it has not gone on from a stop since.
    pub(super) asked: bool,
    /// A number that no other thread has, also one that has the same id later.
    pub(crate) serial: u64,
}

/// All threads that one tracer traces.
#[derive(Debug)]
pub(crate) struct Threads {
    /// Those of all tracers.
    pub(crate) register: Arc<Register>,
    pub(crate) crew: Arc<Crew>,
    /// Which of the tracers this is.
    pub(crate) me: TracerId,
    pub(crate) post: Arc<Post>,
    pub(super) by_tid: FxHashMap<i32, Thread>,
    /// Whether any of them may be gone, which is asked several times at each hit.
    any_gone: bool,
    /// Reports taken from the kernel while something else was waited for.
    pub(super) queue: VecDeque<Report>,
    /// Threads and processes that stopped at birth before their parent's report.
    pub(super) newborn: FxHashMap<i32, Stopped>,
    /// Stopped for the sake of another thread's atomic access.
    pub(super) held: Vec<Stopped>,
    /// Stopped until it is time to go on.
    pub(super) aside: Vec<Aside>,
    /// The other tracers that hold their threads for one of ours.
    pub(super) holding: Vec<Arc<Post>>,
    /// When the report was taken from the kernel that was taken up last, if that was just then.
    taken: Option<Instant>,
    awake: Awake,
    pub(super) alarm: Arc<Alarm>,
    failures: Failures,
    /// Whether memory could not be accessed for another reason than that there is none.
    pub(crate) memory_refused: bool,
    pub(crate) atomics: Atomics,
    /// Whether one was made to step, whose signal the kernel forces through, since that was last asked.
    pub(crate) has_stepped: bool,
    /// Which memory an instruction reads and writes, if that is to be noted.
    pub(crate) log: Option<Log>,
    /// Threads that stand still while their instructions are emulated, whose turn comes.
    standing: VecDeque<Stopped>,
}

impl Threads {
    /// Of the calling thread, which joins the crew.
    pub(crate) fn new(alarm: Arc<Alarm>, register: Arc<Register>, crew: Arc<Crew>) -> Threads {
        let post = Arc::new(Post::new(system::this_thread(), Arc::clone(&alarm)));
        Threads {
            register,
            me: crew.join(Arc::clone(&post)),
            crew,
            post,
            by_tid: FxHashMap::default(),
            any_gone: false,
            queue: VecDeque::new(),
            newborn: FxHashMap::default(),
            held: Vec::new(),
            aside: Vec::new(),
            holding: Vec::new(),
            taken: None,
            awake: Awake::new(),
            alarm,
            failures: Failures::default(),
            memory_refused: false,
            atomics: Atomics::new(),
            has_stepped: false,
            log: None,
            standing: VecDeque::new(),
        }
    }

    /// What a request for thread `tid` has come to; `None` if the thread is gone, or if the request has failed
    /// otherwise, which is told.
    pub(crate) fn note<T>(&mut self, tid: i32, request: &'static str, result: nix::Result<T>) -> Option<T> {
        self.failures.note(tid, request, result)
    }

    /// Whether a request has failed, and not because thread `tid` is gone: that is told.
    pub(crate) fn refused<T>(&mut self, tid: i32, request: &'static str, result: nix::Result<T>) -> bool {
        let gone = matches!(result, Err(Errno::ESRCH));
        self.note(tid, request, result).is_none() && !gone
    }

    /// The failures that have not been told yet.
    pub(crate) fn take_failures(&mut self) -> Option<Vec<Failure>> {
        self.failures.take()
    }

    /// Whether the signal that a thread is about to take is that of an INT3; `likely` where the kernel does not
    /// say.
    pub(crate) fn is_breakpoint(&mut self, thread: &Stopped, likely: bool) -> bool {
        self.note(thread.tid(), "PTRACE_GETSIGINFO", thread.is_breakpoint()).unwrap_or(likely)
    }

    /// What the SIGTRAP that a thread is about to take says of a hardware breakpoint, if it may be that of one.
    pub(crate) fn trap(&mut self, thread: &Stopped) -> Option<Trap> {
        if !self.register.uses_hardware() {
            return None;
        }
        self.note(thread.tid(), "PTRACE_GETSIGINFO", thread.trap()).flatten()
    }

    /// Has a thread stop for a SIGTRAP that waits in its queue, whether or not it blocks that. Says whether it has.
    pub(crate) fn take_pending_trap(&mut self, thread: &mut Stopped) -> Result<bool, Gone> {
        let tid = thread.tid();
        let mask = self.note(tid, "PTRACE_GETSIGMASK", thread.signal_mask());
        let blocked = mask.filter(|mask| mask & bit(libc::SIGTRAP) != 0);
        if let Some(mask) = blocked
            && self
                .note(tid, "PTRACE_SETSIGMASK", thread.set_signal_mask(mask & !bit(libc::SIGTRAP)))
                .is_none()
        {
            return Ok(false);
        }
        let stopped = self.run_on(thread, Resume::Continue, 0)?;
        if let Some(mask) = blocked {
            self.note(tid, "PTRACE_SETSIGMASK", thread.set_signal_mask(mask));
        }
        Ok(stopped)
    }

    /// Takes up thread `tid`, which runs.
    pub(crate) fn add(&mut self, tid: i32, pid: i32, space: SpaceId) {
        self.book(tid, pid, space, procfs::blocked(tid).unwrap_or(0), true);
    }

    /// Takes up a thread that has stopped at its birth or in exec.
    pub(crate) fn add_stopped(&mut self, thread: &Stopped, pid: i32, space: SpaceId) {
        let tid = thread.tid();
        // The former is cheaper.
        let blocked = thread.signal_mask().ok().or_else(|| procfs::blocked(tid)).unwrap_or(0);
        self.book(tid, pid, space, blocked, false);
        if let Some(known) = self.by_tid.get_mut(&tid) {
            known.fresh = thread.stop == Stop::Exec;
        }
    }

    fn book(&mut self, tid: i32, pid: i32, space: SpaceId, blocked: u64, running: bool) {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let thread = Thread {
            pid,
            space,
            running,
            gone: false,
            dying: false,
            in_vfork: false,
            guest: false,
            stranger: false,
            blocked,
            handles_trap: false,
            held_trap: None,
            fresh: false,
            served: None,
            returned: Vec::new(),
            stack: None,
            hits: 0,
            to_return: false,
            leaves: false,
            asked: false,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        };
        self.register.add(tid, pid, space, self.me);
        self.by_tid.insert(tid, thread);
    }

    /// Says whether the process of `tid` shares the address space of another one, which had it first.
    pub(crate) fn set_guest(&mut self, tid: i32, guest: bool) {
        if let Some(thread) = self.by_tid.get_mut(&tid) {
            thread.guest = guest;
            self.register.set_guest(tid, guest);
        }
    }

    /// Gives a thread to nobody, with `signal` unless it is 0. One that was killed in its stop is kept until its
    /// end is reported.
    pub(crate) fn let_go(&mut self, stopped: Stopped, signal: i32) {
        /// Of a thread that is nobody's concern but for its end.
        const NO_PROCESS: i32 = -1;
        let tid = stopped.tid();
        let detached = stopped.detach(signal);
        if detached.is_ok() || self.refused(tid, "PTRACE_DETACH", detached) {
            self.remove(tid);
            return;
        }
        if !self.by_tid.contains_key(&tid) {
            self.add(tid, NO_PROCESS, SpaceId::MAX);
        }
        if let Some(thread) = self.by_tid.get_mut(&tid).filter(|thread| !thread.gone) {
            (thread.running, thread.dying) = (true, true);
        }
    }

    /// Takes the ends of those that have ended from the kernel: a leader ends after all others.
    pub(crate) fn reap(&mut self) {
        let mut found = true;
        while std::mem::take(&mut found) {
            let left: Vec<i32> = self.by_tid.keys().copied().collect();
            for tid in left {
                if let Ok(Some(end @ (_, Status::Ended(_)))) = sys::wait(tid, false) {
                    let report = self.take(end);
                    self.queue.extend(report);
                    found = true;
                }
            }
        }
    }

    pub(crate) fn get(&self, tid: i32) -> Option<&Thread> {
        self.by_tid.get(&tid)
    }

    pub(crate) fn get_mut(&mut self, tid: i32) -> Option<&mut Thread> {
        self.by_tid.get_mut(&tid)
    }

    pub(crate) fn remove(&mut self, tid: i32) -> Option<Thread> {
        self.register.remove(tid, self.me);
        self.forget_aside(tid);
        let thread = self.by_tid.remove(&tid)?;
        self.retire(&thread);
        if thread.gone {
            self.any_gone = self.by_tid.values().any(|thread| thread.gone);
        }
        Some(thread)
    }

    /// Gives a thread away, to another tracer.
    pub(crate) fn give(&mut self, tid: i32) -> Option<Thread> {
        self.forget_aside(tid);
        let thread = self.by_tid.remove(&tid)?;
        self.retire(&thread);
        Some(thread)
    }

    /// Takes up a thread, stopped, which another tracer has given away, and has counted for us if it is busy.
    pub(crate) fn receive(&mut self, tid: i32, thread: Thread) {
        self.register.set_tracer(tid, self.me);
        self.any_gone |= thread.gone;
        self.by_tid.insert(tid, Thread { running: false, ..thread });
    }

    /// A thread is not ours any more.
    fn retire(&self, thread: &Thread) {
        if thread.is_busy() {
            self.post.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_tid.is_empty() && self.queue.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, &Thread)> {
        self.by_tid.iter().map(|(&tid, thread)| (tid, thread))
    }

    /// Forgets all threads.
    pub(crate) fn clear(&mut self) {
        let all: Vec<i32> = self.by_tid.keys().copied().collect();
        for tid in all {
            self.remove(tid);
        }
    }

    /// The next report that has been taken from the kernel already.
    pub(crate) fn queued(&mut self) -> Option<Report> {
        while let Some(report) = self.queue.pop_front() {
            match report {
                Report::Stopped(stopped) if stopped.stop != Stop::Exec && self.is_gone(stopped.tid()) => {
                    stopped.forget();
                }
                report => return Some(report),
            }
        }
        None
    }

    /// Whether thread `tid`, which was stopped, is known not to be any more.
    pub(crate) fn is_gone(&self, tid: i32) -> bool {
        self.any_gone && self.by_tid.get(&tid).is_some_and(|thread| thread.gone)
    }

    /// Says in which address space a thread runs.
    pub(crate) fn set_space(&mut self, tid: i32, space: SpaceId) {
        if let Some(thread) = self.by_tid.get_mut(&tid) {
            thread.space = space;
            self.register.set_space(tid, space);
        }
    }

    /// A thread was killed when it was to be let go: its end is reported later.
    pub(crate) fn expect_end(&mut self, tid: i32) {
        if let Some(thread) = self.by_tid.get_mut(&tid) {
            thread.running = true;
        }
    }

    /// Keeps a stop for later.
    pub(crate) fn put_back(&mut self, report: Report) {
        self.queue.push_back(report);
    }

    /// The next report, waiting for it if need be.
    pub(crate) fn next(&mut self) -> Report {
        loop {
            self.resume_due();
            self.taken = None;
            if let Some(report) = self.queued() {
                return report;
            }
            if self.by_tid.is_empty() {
                return Report::Nobody;
            }
            let found = match self.standing.is_empty() {
                true if !self.register.are_several() => self.awake.wait(),
                sleeps => sys::wait(-1, sleeps),
            };
            match found {
                Ok(Some(found)) => {
                    if let Some(report) = self.take(found) {
                        // Nobody asks where there is one thread.
                        self.taken = self.register.are_several().then(Instant::now);
                        return report;
                    }
                }
                Ok(None) => {
                    if let Some(stopped) = self.next_standing() {
                        return Report::Turn(stopped);
                    }
                }
                Err(Errno::EINTR) => return Report::Interrupted,
                // ECHILD: the kernel knows of no thread of ours.
                Err(_) => {
                    self.clear();
                    return Report::Nobody;
                }
            }
        }
    }

    /// Has a thread wait for its turn, stopped. What has stopped it has been served: nobody may take it for news when the
    /// thread is let go before its turn.
    pub(crate) fn stand(&mut self, mut stopped: Stopped) {
        stopped.stop = Stop::Other;
        self.standing.push_back(stopped);
    }

    /// Of those that wait for their turn, the next.
    fn next_standing(&mut self) -> Option<Stopped> {
        while let Some(stopped) = self.standing.pop_front() {
            match self.by_tid.get(&stopped.tid()) {
                Some(thread) if !thread.gone => return Some(stopped),
                _ => drop(stopped.forget()),
            }
        }
        None
    }

    /// Has those that wait for their turn be reported as stopped, for nobody will see to them any more.
    pub(crate) fn end_standing(&mut self) {
        while let Some(stopped) = self.next_standing() {
            self.queue.push_back(Report::Stopped(stopped));
        }
    }

    /// Whether others wait: threads that have stopped, other tracers, or whoever wants the session's run to end.
    pub(crate) fn are_others_waiting(&self) -> bool {
        !self.queue.is_empty() || self.post.has_mail() || !self.standing.is_empty() || sys::has_news()
    }

    /// Takes from the kernel what it has to report by now, to be taken up next.
    pub(crate) fn take_waiting(&mut self) {
        while let Ok(Some(found)) = sys::wait(-1, false) {
            let report = self.take(found);
            self.queue.extend(report);
        }
    }

    /// Whether there are several.
    pub(crate) fn are_several(&self) -> bool {
        self.by_tid.len() > 1
    }

    /// The next report if there is one, or one comes soon.
    pub(crate) fn soon(&mut self) -> Option<Report> {
        self.queued().or_else(|| self.reported_soon())
    }

    /// Queues what is reported next, if that is soon.
    pub(crate) fn take_soon(&mut self) {
        let report = self.reported_soon();
        self.queue.extend(report);
    }

    fn reported_soon(&mut self) -> Option<Report> {
        const SOON: u64 = 500_000;
        self.alarm.ring_in(SOON);
        let found = sys::wait(-1, true);
        self.alarm.silence();
        found.ok().flatten().and_then(|found| self.take(found))
    }

    /// Books what `wait` found; `None` for a newborn whose parent has not reported yet.
    pub(super) fn take(&mut self, (tid, status): (i32, Status)) -> Option<Report> {
        match status {
            Status::Ended(status) => {
                if let Some(newborn) = self.newborn.remove(&tid) {
                    newborn.forget();
                }
                if let Some(thread) = self.by_tid.get_mut(&tid) {
                    (thread.running, thread.gone) = (false, true);
                    self.any_gone = true;
                }
                Some(Report::Ended { tid, status })
            }
            Status::Stopped(stop) => {
                let stopped = Stopped::new(tid, stop);
                match self.by_tid.get_mut(&tid) {
                    Some(thread) => {
                        // A leader that is stopped when another thread executes a program.
                        thread.gone = !thread.running && stop == Stop::Exec;
                        self.any_gone |= thread.gone;
                        thread.running = false;
                        thread.in_vfork = false;
                        // Any stop is an answer to that.
                        thread.asked &= stop == Stop::Interrupted;
                        Some(Report::Stopped(stopped))
                    }
                    None if stop == Stop::Exec => Some(Report::Stopped(stopped)),
                    None => {
                        self.newborn.insert(tid, stopped);
                        None
                    }
                }
            }
        }
    }

    /// The same of the leader of several threads, after asking the kernel unless its stop has just been taken from it: a
    /// leader's place is taken by a thread that executes a program.
    pub(crate) fn has_gone(&mut self, tid: i32) -> bool {
        /// Less than it takes the kernel to end all other threads and to load a program.
        const JUST_NOW: Duration = Duration::from_micros(20);
        if self.taken.is_some_and(|taken| taken.elapsed() < JUST_NOW) {
            return self.is_gone(tid);
        }
        if let Ok(Some(found)) = sys::wait(tid, false) {
            let report = self.take(found);
            self.queue.extend(report);
        }
        self.is_gone(tid)
    }

    /// Waits for a thread which has just been resumed and is sure to stop or end soon.
    ///
    /// Reports of others are queued meanwhile: the end of a leader is reported only after those of all other
    /// threads have been taken from the kernel, and so is an exec.
    fn wait_for(&mut self, thread: &mut Stopped) -> Result<(), Gone> {
        loop {
            match self.awake.wait() {
                Ok(Some((found, Status::Stopped(stop)))) if found == thread.tid() && stop != Stop::Exec => {
                    thread.stop = stop;
                    return Ok(());
                }
                Ok(Some(found)) => {
                    let report = self.take(found);
                    self.queue.extend(report);
                    if found.0 == thread.tid() {
                        return Err(Gone);
                    }
                }
                Ok(None) | Err(Errno::EINTR) => {}
                // ECHILD: nothing of ours is left.
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Lets a thread go on as `how` says, with `signal` unless it is 0, and waits for its next stop, whichever it
    /// is. Says whether it has gone on, or the kernel refuses that.
    pub(crate) fn run_on(&mut self, thread: &mut Stopped, how: Resume, signal: i32) -> Result<bool, Gone> {
        if self.is_gone(thread.tid()) {
            return Err(Gone);
        }
        let resumed = thread.run(how, signal);
        if self.refused(thread.tid(), how.request(), resumed) {
            return Ok(false);
        }
        self.wait_for(thread).map(|()| true)
    }

    /// Lets a thread run as far as `how` says, undisturbed by signals that do not come of it: those wait.
    pub(crate) fn run(&mut self, thread: &mut Stopped, how: Resume) -> Result<Ran, Gone> {
        // SIGSTOP cannot be blocked, and an interruption may be pending: a few stops may come in between.
        const MOST_STOPS: usize = 8;
        let tid = thread.tid();
        let mask = self.note(tid, "PTRACE_GETSIGMASK", thread.signal_mask());
        // What an instruction raises resets the handler if it is blocked, and must; not so the end of a step.
        self.has_stepped |= how == Resume::Step;
        let unblocked = if how == Resume::Step { bit(libc::SIGTRAP) } else { 0 };
        let during = mask.map(|mask| (mask | !SYNCHRONOUS) & !unblocked);
        if let Some(during) = during {
            self.note(tid, "PTRACE_SETSIGMASK", thread.set_signal_mask(during));
        }
        let mut deferred = 0;
        let mut ran = Ran::Unclear;
        for _ in 0..MOST_STOPS {
            if !self.run_on(thread, how, 0)? {
                ran = Ran::Refused;
                break;
            }
            match thread.stop {
                Stop::SystemCall => ran = Ran::Entered,
                Stop::Signal(signal @ 1..=64)
                    if bit(signal) & SYNCHRONOUS != 0 && self.is_from_kernel(thread) =>
                {
                    ran = Ran::Signal(signal);
                }
                Stop::Signal(signal @ 1..=64) => deferred |= bit(signal),
                Stop::Group => deferred |= bit(libc::SIGSTOP),
                _ => {}
            }
            if ran != Ran::Unclear {
                break;
            }
        }
        if let (Some(mask), Some(during)) = (mask, during) {
            // A forced signal has unblocked itself.
            let after = self.note(tid, "PTRACE_GETSIGMASK", thread.signal_mask());
            let forced = during & !after.unwrap_or(during);
            self.note(tid, "PTRACE_SETSIGMASK", thread.set_signal_mask(mask & !forced));
        }
        if deferred != 0
            && let Some(pid) = procfs::process_of(tid)
        {
            for signal in (1..=64).filter(|&signal| deferred & bit(signal) != 0) {
                self.note(tid, "tgkill", sys::send(pid, tid, signal));
            }
        }
        Ok(ran)
    }

    fn is_from_kernel(&mut self, thread: &Stopped) -> bool {
        // Few programs send such signals.
        self.note(thread.tid(), "PTRACE_GETSIGINFO", thread.is_from_kernel()).unwrap_or(true)
    }

    /// Lets a thread go on, with `signal` unless it is 0.
    pub(crate) fn resume(&mut self, stopped: Stopped, signal: i32) {
        self.release(stopped, |stopped, to_return| {
            let how = if to_return { Resume::Syscall } else { Resume::Continue };
            (how.request(), stopped.resume(how, signal))
        });
    }

    /// Leaves a thread in its group-stop, to be woken by SIGCONT.
    pub(crate) fn listen(&mut self, stopped: Stopped) {
        self.release(stopped, |stopped, _| ("PTRACE_LISTEN", stopped.listen()));
    }

    /// Ends a stop by a request, which may depend on whether the thread is to stop at the end of its system call. A thread
    /// that was killed in its stop counts as running: its end is reported later.
    fn release(
        &mut self,
        stopped: Stopped,
        how: impl FnOnce(Stopped, bool) -> (&'static str, nix::Result<()>),
    ) {
        let tid = stopped.tid();
        let mut to_return = false;
        if let Some(thread) = self.by_tid.get_mut(&tid) {
            if thread.gone && stopped.stop != Stop::Exec {
                stopped.forget();
                return;
            }
            (thread.running, thread.asked) = (true, false);
            to_return = thread.to_return || thread.handles_trap;
        }
        let (request, result) = how(stopped, to_return);
        if self.refused(tid, request, result)
            && let Some(thread) = self.by_tid.get_mut(&tid)
        {
            thread.running = false;
        }
    }

    /// Asks a thread that runs to stop.
    pub(crate) fn interrupt(&mut self, tid: i32) {
        self.note(tid, "PTRACE_INTERRUPT", ptrace::interrupt(system::pid(tid)));
        if let Some(thread) = self.by_tid.get_mut(&tid) {
            thread.asked = true;
        }
    }

    /// Queues reports until no thread that is `wanted` runs, or for that long at most.
    pub(crate) fn gather(&mut self, wanted: impl Fn(i32, &Thread) -> bool, most: Option<Duration>) {
        let deadline = most.and_then(|most| Instant::now().checked_add(most));
        while self.gather_next(&wanted, deadline) {}
    }

    /// Queues the next report, if a thread that is `wanted` runs and it is not too late. Says whether to go on.
    pub(crate) fn gather_next(
        &mut self,
        wanted: impl Fn(i32, &Thread) -> bool,
        deadline: Option<Instant>,
    ) -> bool {
        const PATIENCE: u64 = 20_000_000;
        if !self.by_tid.iter().any(|(&tid, thread)| thread.running && wanted(tid, thread)) {
            return false;
        }
        self.alarm.ring_in(PATIENCE);
        let found = sys::wait(-1, true);
        self.alarm.silence();
        match found {
            Ok(Some(found)) => {
                let report = self.take(found);
                self.queue.extend(report);
            }
            Ok(None) => {}
            Err(Errno::EINTR) => {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return false;
                }
                // A leader that has exited never stops, and is reported only after all other threads.
                for (&tid, thread) in &mut self.by_tid {
                    if thread.running && procfs::has_exited(tid) {
                        thread.running = false;
                    }
                }
            }
            Err(_) => return false,
        }
        true
    }
}

impl Thread {
    /// From how many hits on it counts as busy.
    pub(crate) const BUSY: u32 = 16;

    /// Whether it reaches probes again and again.
    pub(crate) fn is_busy(&self) -> bool {
        self.hits >= Self::BUSY
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// Whether it may be executing instructions in `space`.
    pub(super) fn is_at_large(&self, space: SpaceId) -> bool {
        self.space == space && self.running && !self.in_vfork
    }
}
