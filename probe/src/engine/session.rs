//! A session: a target, its probes, and the loop that serves them.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::ptrace::Options;

use crate::engine::call::Call;
use crate::engine::event::{Event, ProbeReport};
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::host::{Handler, Handlers};
use crate::engine::lost::Lookout;
use crate::engine::shared::Shared;
use crate::engine::tracer::{Tracer, attach_error};
use crate::engine::watch::{Change, Watch, WatchId, WatchRefusal, WatchReport};
use crate::error::{AttachError, ProbeError};
use crate::executor::ptrace::atomic::Ways;
use crate::executor::ptrace::stopped::Stop;
use crate::executor::ptrace::sys::Alarm;
use crate::executor::ptrace::threads::{Report, SpaceId};
use crate::symbols::locate::Locate;
use crate::symbols::resolve::Objects;
use crate::target::launch::Embryo;
use crate::target::{linker, lock, lower, procfs, system};

/// What a session does besides serving probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// Probe the children that the target forks, too. Otherwise they are left alone, free of breakpoints.
    pub follow: bool,
    /// A target that is launched is killed when the thread of the session ends, however that comes about.
    pub kill_with: bool,
    /// How many threads serve the target at most, the session's own included; 0 for what suits. Threads of the target
    /// that reach probes again and again are served by threads of their own, as long as there are fewer, so that they
    /// need not wait for each other.
    pub tracers: u16,
    /// Change no byte of the target's text: every probe is placed by hardware breakpoints, as by
    /// [`locate::Hardware`](crate::locate::Hardware), of which there are four. The session itself uses those that are
    /// left, to see at once which objects the dynamic linker maps; if none is, it looks for them twice a second.
    pub hardware: bool,
}

/// Why [`Session::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunEnd {
    /// No traced process is left. The status is the target's own, unless it could not be had.
    Ended(Option<ExitStatus>),
    /// A [`StopHandle`] asked for it; the target goes on as before.
    StopRequested,
    /// A handler asked to detach, and the session has.
    Detached,
    /// A handler asked to stop: there is no breakpoint any more. See [`Action::Stop`].
    Stopped,
    /// The time given to [`Session::run_for`] is over; the target goes on as before.
    Timeout,
}

/// Asks a session to return from [`Session::run`], from any thread or signal handler.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<StopState>);

#[derive(Debug)]
struct StopState {
    requested: AtomicBool,
    /// Whether nothing more is to be placed.
    ending: Arc<AtomicBool>,
    alarm: Arc<Alarm>,
}

impl StopHandle {
    /// The signal by which a session is woken. The thread to which a session belongs must not block it.
    #[must_use]
    pub fn signal() -> i32 {
        Alarm::signal()
    }

    /// Asks. Async-signal-safe. A request made while the session does not run counts for its next run.
    pub fn request(&self) {
        self.0.requested.store(true, Ordering::SeqCst);
        self.0.alarm.ring_in(1);
    }

    /// The same, and a probe that is being placed gets no more sites: the session is to be left or detached next.
    /// Async-signal-safe.
    pub fn request_end(&self) {
        self.0.ending.store(true, Ordering::SeqCst);
        self.request();
    }
}

/// A target process, or several, and the probes in them.
///
/// It belongs to the thread that made it, as ptrace does, and reaps that thread's children. Dropping it
/// detaches. The signal SIGRTMAX-3 is its own: it wakes the session when it is to stop.
///
/// Where a target uses SIGTRAP itself: the kernel forces a breakpoint's SIGTRAP through, so it resets a handler
/// when a thread that blocks the signal reaches a probe, and so it does SIG_IGN. Both are put back as far as they
/// are known, by a system call that the thread makes, and [`Event::Failed`] tells if one was not. The kernel also
/// unblocks the signal then and does not say so. It is blocked again where the thread, when last seen otherwise
/// (attached, created, in exec, or stopped for something else), blocked it with other signals, and still blocks
/// just those others and has no handler for it; and while it runs one. What a thread has done to its mask since then cannot be known: one that has
/// blocked SIGTRAP meanwhile has it unblocked from its next hit on, until it sets its mask again; and one that
/// has unblocked SIGTRAP alone, without a handler, has it blocked again.
pub struct Session {
    pub(crate) tracer: Tracer,
    pub(crate) lookout: Lookout,
    /// The processes that were left by [`Session::pause`], and when they started.
    pub(crate) paused: Vec<(i32, u64)>,
    stop: Arc<StopState>,
    owner: PhantomData<*const ()>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("target", &self.pid())
            .field("tracer", &self.tracer)
            .field("probes", &self.shared().probes().len())
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(target: i32, launched: bool, options: SessionOptions) -> Result<Session, AttachError> {
        let failed = |error| AttachError::System { call: "timer_create", error };
        let tracer = Tracer::new(Arc::new(Shared::new(target, launched, options))).map_err(failed)?;
        let (ending, alarm) = (Arc::clone(&tracer.shared.wishes.ending), Arc::clone(&tracer.alarm));
        Ok(Session {
            tracer,
            lookout: Lookout::new().map_err(failed)?,
            paused: Vec::new(),
            stop: Arc::new(StopState { requested: AtomicBool::new(false), ending, alarm }),
            owner: PhantomData,
        })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.tracer.shared
    }

    /// Attaches to a running process with all its threads. Those that sleep do not stop for it. Those that run are waited for
    /// until they do, for a millisecond of their own time, and then interrupted once, without any system call failing: none
    /// may be within one that makes a thread or process before that is there, which nobody would trace.
    ///
    /// Processes that share its memory, such as a vfork child that has not executed a program yet, are traced
    /// as well, whatever the options say, for they meet the breakpoints.
    ///
    /// # Errors
    /// [`AttachError`]; the process has not been touched then.
    pub fn attach(pid: i32) -> Result<Session, AttachError> {
        Session::attach_with(pid, SessionOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// [`AttachError`]; the process has not been touched then.
    pub fn attach_with(pid: i32, options: SessionOptions) -> Result<Session, AttachError> {
        let pid = attachable(pid)?;
        /// A thread whose end has been waited for lets go of what it traced a moment later, and has no memory until that.
        const LETTING_GO: Duration = Duration::from_millis(50);
        let begun = Instant::now();
        let lets_go = |tracer| {
            let own = std::process::id().cast_signed();
            let process = procfs::process_of(tracer);
            begun.elapsed() < LETTING_GO && process.is_none_or(|process| process == own)
                || process == Some(own) && !procfs::has_memory(tracer)
        };
        loop {
            let mut session = Session::new(pid, false, options)?;
            let special = session.shared().special();
            match session.tracer.occupy(pid, special) {
                Ok(_) => return Ok(session),
                Err(AttachError::AlreadyTraced { tracer, .. }) if lets_go(tracer) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Attaches to another process, which has the same probes from now on. The session goes on until it has ended, too;
    /// [`Session::pid`] and [`Session::status`] stay those of the first.
    ///
    /// # Errors
    /// [`AttachError`]; the process has not been touched then.
    pub fn attach_also(&mut self, pid: i32) -> Result<(), AttachError> {
        let pid = attachable(pid)?;
        if self.shared().register.contains(pid) {
            return Ok(());
        }
        let space = self.tracer.occupy(pid, Options::empty())?;
        self.tracer.relocate(space, pid);
        Ok(())
    }

    /// Starts a program, traced from its first instruction, and stopped there until [`Session::run`].
    ///
    /// Should the session's process be killed, breakpoints stay behind, which end the program when it reaches one; see
    /// [`SessionOptions::kill_with`], and [`warden::Client`](crate::warden::Client) for a target that outlives that.
    ///
    /// # Errors
    /// [`AttachError::Launch`] if it cannot be executed.
    pub fn launch(command: Command) -> Result<Session, AttachError> {
        Session::launch_with(command, SessionOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// [`AttachError::Launch`] if it cannot be executed.
    pub fn launch_with(command: Command, options: SessionOptions) -> Result<Session, AttachError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |error| AttachError::Launch { program: program.clone(), error };
        let mut embryo = Embryo::fork(command, None).map_err(failed)?;
        let pid = embryo.pid;
        let mut session = Session::new(pid, true, options)?;
        let tracer = &mut session.tracer;
        // The child still runs our own image, which nobody probes: its space is that of the program.
        let special = tracer.shared.special();
        tracer.seize(pid, pid, SpaceId::MAX, special).map_err(|error| attach_error(pid, error))?;
        embryo.go();
        loop {
            if !embryo.stops() {
                tracer.threads.remove(pid);
                embryo.finish().map_err(failed)?;
                let error = std::io::Error::other("it ended before it started");
                return Err(AttachError::Launch { program, error });
            }
            match tracer.threads.next() {
                Report::Stopped(mut stopped) if stopped.stop == Stop::Exec => {
                    embryo.finish().map_err(failed)?;
                    if procfs::elf_class(pid) == Some(1) {
                        drop(stopped);
                        session.kill();
                        return Err(AttachError::Not64Bit { pid });
                    }
                    tracer.executed(&mut stopped);
                    tracer.threads.put_back(Report::Stopped(stopped));
                    return Ok(session);
                }
                Report::Stopped(stopped) | Report::Turn(stopped) => tracer.pass_on(stopped),
                Report::Ended { tid, .. } if tid != pid => {}
                Report::Interrupted => {}
                // Killed just now. `embryo.stops` says so next.
                Report::Ended { .. } | Report::Nobody => {}
            }
        }
    }

    /// The target's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.shared().target
    }

    /// The address at which the target's program itself starts, when the dynamic linker has mapped all that
    /// it needs; `None` if the target is gone.
    #[must_use]
    pub fn entry(&self) -> Option<u64> {
        linker::entry(self.pid())
    }

    /// Hears of events from now on, by whichever thread has them, one at a time.
    pub fn observe(&mut self, observer: impl FnMut(&Event<'_>) + Send + 'static) {
        self.shared().observe(Box::new(observer));
    }

    /// Restricts how accesses in one step are made; for tests of what is lost without.
    #[doc(hidden)]
    pub fn restrict_atomics(&mut self, ways: Ways) {
        *lock(&self.shared().ways) = ways;
        self.tracer.threads.atomics.ways = ways;
    }

    /// A handle by which another thread or a signal handler can end [`Session::run`].
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.stop))
    }

    /// Places a probe. No thread of the target is stopped for it.
    ///
    /// Where `source` names several sites, those that cannot be probed are in [`Session::report`]. Where its
    /// object is not mapped yet, the probe waits for it. Where it has parts ([`Locate::parts`]), such as a pattern of
    /// functions, each is a probe of its own with the same handler, which [`Event::Part`] and
    /// [`ProbeReport::parts`] tell of.
    ///
    /// The handler is called by the thread that serves whoever has reached the probe, and by one at a time: others that
    /// reach it meanwhile wait. See [`Session::probe_together`].
    ///
    /// # Errors
    /// [`ProbeError`] if it names nothing that exists, or if none of its sites can be probed.
    pub fn probe(
        &mut self,
        source: impl Locate + Send + 'static,
        handler: impl FnMut(&mut Hit<'_>) -> Action + Send + 'static,
    ) -> Result<ProbeId, ProbeError> {
        self.tracer.place(Box::new(source), Handler::alone(handler))
    }

    /// The same with a handler that may be called for several threads of the target at once.
    ///
    /// # Errors
    /// Those of [`Session::probe`].
    pub fn probe_together(
        &mut self,
        source: impl Locate + Send + 'static,
        handler: impl Fn(&mut Hit<'_>) -> Action + Send + Sync + 'static,
    ) -> Result<ProbeId, ProbeError> {
        self.tracer.place(Box::new(source), Handler::Together(Box::new(handler)))
    }

    /// Places a probe that follows calls: `entry` is called when a thread reaches the first instruction of a function,
    /// which `source` must name, and `on_return` when that very call has returned, with what `entry` has handed over.
    /// Where that is `None`, or the hit is [filtered out](Hit::filter_out), the call is not followed.
    ///
    /// At a return the thread is where the call returns to, with its result as the psABI has it: integers in RAX, or
    /// RAX and RDX, floating point in XMM0, or XMM0 and XMM1, and the address of larger structures in RAX.
    ///
    /// Nothing on the stack is touched: a breakpoint is put where calls return to, once for each such place, and stays
    /// until the probe is removed. A call is known again by its stack pointer and by whose stack that is: the thread's,
    /// the goroutine's in Go, and otherwise by the stack pointer alone, in whichever thread. So recursion, tail calls,
    /// exceptions, longjmp(3), coroutines, stacks that move, and shadow stacks are as they were. Calls that are left
    /// without a return are [`Counters::dropped`](crate::Counters::dropped), once that is noticed: when something
    /// further out on the same stack is hit, or where the thread ends. A function of Go that begins again, for want of
    /// stack or to let others run, has been called once. Of calls that were made before the probe was
    /// placed nothing is seen; those that have not returned when it is removed are forgotten. A process that is
    /// forked, if followed, returns from the same calls as its parent.
    ///
    /// Two things cannot be told: that a function has been left by longjmp(3), of another C library than glibc, if the
    /// thread then comes to the place behind its call without another call; and that it has been left at all, if then
    /// the same call instruction, from the same depth, calls another function that nobody follows. Their return is taken
    /// for that of the first.
    ///
    /// # Errors
    /// Those of [`Session::probe`].
    pub fn probe_calls<T: Clone + Send + 'static>(
        &mut self,
        source: impl Locate + Send + 'static,
        mut entry: impl FnMut(&mut Hit<'_>) -> Option<T> + Send + 'static,
        mut on_return: impl FnMut(&mut Hit<'_>, Call<T>) -> Action + Send + 'static,
    ) -> Result<ProbeId, ProbeError> {
        let at = Handler::alone(move |hit: &mut Hit<'_>| follow(entry(hit), hit));
        let on_return =
            Handler::alone(move |hit: &mut Hit<'_>| come_back(hit, |hit, call| on_return(hit, call)));
        self.tracer
            .place(Box::new(source), Handlers { at, on_return: Some(Box::new(on_return)), are_brief: false })
    }

    /// The same with handlers that may be called for several threads of the target at once.
    ///
    /// # Errors
    /// Those of [`Session::probe`].
    pub fn probe_calls_together<T: Clone + Send + 'static>(
        &mut self,
        source: impl Locate + Send + 'static,
        entry: impl Fn(&mut Hit<'_>) -> Option<T> + Send + Sync + 'static,
        on_return: impl Fn(&mut Hit<'_>, Call<T>) -> Action + Send + Sync + 'static,
    ) -> Result<ProbeId, ProbeError> {
        self.place_calls(
            source,
            move |hit| follow(entry(hit), hit),
            move |hit| come_back(hit, |hit, call| on_return(hit, call)),
        )
    }

    /// Places several probes as [`Session::probe`] does. What the target has mapped is looked at once for all of them,
    /// which is most of what placing a probe of one site costs, and they are kept together, which takes less memory.
    ///
    /// Returns for each what that would return. Their numbers follow each other, and one that is refused has one, too.
    ///
    /// # Errors
    /// [`ProbeError::Maps`] if the target's mappings cannot be read; no probe is placed then.
    pub fn probe_all<L, H>(
        &mut self,
        probes: impl IntoIterator<Item = (L, H)>,
    ) -> Result<Vec<Result<ProbeId, ProbeError>>, ProbeError>
    where
        L: Locate + Send + 'static,
        H: FnMut(&mut Hit<'_>) -> Action + Send + 'static,
    {
        self.tracer.place_together(probes.into_iter().collect())
    }

    /// The same with handlers of any kind.
    pub(crate) fn place_all(
        &mut self,
        probes: Vec<(Box<dyn Locate + Send>, Handlers)>,
    ) -> Result<Vec<Result<ProbeId, ProbeError>>, ProbeError> {
        self.tracer.place_many(probes.into_iter())
    }

    /// The same with handlers that say what becomes of the instruction at the entry, too, and ask for the call to be
    /// followed.
    pub(crate) fn place_calls(
        &mut self,
        source: impl Locate + Send + 'static,
        entry: impl Fn(&mut Hit<'_>) -> Action + Send + Sync + 'static,
        on_return: impl Fn(&mut Hit<'_>) -> Action + Send + Sync + 'static,
    ) -> Result<ProbeId, ProbeError> {
        let (at, on_return) = (Handler::Together(Box::new(entry)), Handler::Together(Box::new(on_return)));
        self.tracer
            .place(Box::new(source), Handlers { at, on_return: Some(Box::new(on_return)), are_brief: false })
    }

    /// Watches the value of an expression: `handler` is called with each change of it, and the thread that has made it, which
    /// is stopped behind the instruction. Actions other than to go on, [`Action::Remove`], [`Action::Detach`] and
    /// [`Action::Stop`] mean nothing there.
    ///
    /// What cannot be seen: what other processes write to memory that they share; what the kernel writes other than in
    /// system calls of the target's own threads, or, without the privilege to know of it
    /// ([`Watching::sees_kernel`](crate::watch::Watching::sees_kernel)), at all; and what is written through another
    /// mapping of the same memory.
    ///
    /// # Errors
    /// [`WatchRefusal`], if it cannot be watched in one of the processes that there are. Where its object is not mapped
    /// yet, it is watched as soon as that is.
    pub fn watch_changes(
        &mut self,
        watch: Watch,
        handler: impl Fn(&mut Change<'_, '_>) -> Action + Send + Sync + 'static,
    ) -> Result<WatchId, WatchRefusal> {
        self.watch_changes_by(watch, Arc::default(), handler)
    }

    /// The same with files that have been read.
    pub(crate) fn watch_changes_by(
        &mut self,
        watch: Watch,
        objects: Arc<Objects>,
        handler: impl Fn(&mut Change<'_, '_>) -> Action + Send + Sync + 'static,
    ) -> Result<WatchId, WatchRefusal> {
        self.tracer.watch(watch, objects, Box::new(handler))
    }

    /// What has become of a watch so far; `None` if it is not of this session.
    #[must_use]
    pub fn watch_report(&self, id: WatchId) -> Option<WatchReport> {
        self.shared().watches.reports().get(id.index()).cloned()
    }

    /// Removes a probe. Threads that have trapped on it already run the original instruction.
    pub fn remove(&mut self, id: ProbeId) {
        self.tracer.remove(id);
    }

    /// Removes a probe and forgets it, with its handler: what became of it is returned, and not known to [`Session::report`]
    /// any more. Of one that is merely removed that is kept as long as the session, so that whoever adds probes again and
    /// again wants this. `None` if it is not of this session, or forgotten already.
    ///
    /// Hits that other threads are in the midst of are served to their end, and not all in what is returned. Probes that
    /// were made together go when all of them are forgotten.
    pub fn forget(&mut self, id: ProbeId) -> Option<ProbeReport> {
        self.tracer.remove(id);
        self.shared().forget(id)
    }

    /// What became of a probe so far; `None` if it is not of this session, or forgotten.
    #[must_use]
    pub fn report(&self, id: ProbeId) -> Option<ProbeReport> {
        self.shared().report(id)
    }

    /// The target's exit status, once it has ended.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        *lock(&self.shared().status)
    }

    /// The last process whose memory could not be opened, so that it has no probes, and why. That of a program
    /// which is launched is found out before anybody can observe events.
    #[must_use]
    pub fn inaccessible(&self) -> Option<(i32, Arc<io::Error>)> {
        lock(&self.shared().inaccessible).clone()
    }

    /// Serves probes until the target ends, a stop is requested, or a handler detaches.
    pub fn run(&mut self) -> RunEnd {
        self.run_until(None)
    }

    /// Serves probes for that long at most.
    pub fn run_for(&mut self, time: Duration) -> RunEnd {
        self.run_until(Instant::now().checked_add(time))
    }

    fn run_until(&mut self, deadline: Option<Instant>) -> RunEnd {
        self.lookout.begin();
        self.tracer.have_others_serve();
        let end = self.serve_until(deadline);
        self.lookout.rest();
        self.tracer.have_others_rest();
        self.tracer.alarm.silence();
        self.tracer.affinity.restore();
        let panic = lock(&self.shared().wishes.panic).take();
        if let Some(payload) = panic {
            panic::resume_unwind(payload);
        }
        if end == RunEnd::Detached {
            self.detach();
        }
        end
    }

    fn serve_until(&mut self, deadline: Option<Instant>) -> RunEnd {
        /// How long to wait for others at a time, between two looks at the breakpoints.
        const WHILE: Duration = Duration::from_millis(250);
        let mut set = None;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // Before looking what is wanted: what comes behind that rings again.
            let until = [deadline, self.tracer.threads.next_due()].into_iter().flatten().min();
            let alarm = &self.tracer.alarm;
            let settings = alarm.settings();
            if set != Some((settings, until)) {
                alarm.ring_at(until);
                set = Some((settings + 1, until));
            }
            if lower(&self.stop.requested) {
                return RunEnd::StopRequested;
            }
            if left.is_some_and(|left| left.is_zero()) {
                return RunEnd::Timeout;
            }
            self.tracer.read_captains_mail();
            let wishes = &self.tracer.shared.wishes;
            if lower(&wishes.detach) {
                return RunEnd::Detached;
            }
            if lower(&wishes.stop) || lower(&wishes.panicked) {
                return RunEnd::Stopped;
            }
            self.look_out();
            let any = !self.tracer.threads.is_empty() && self.tracer.serve_next_guarded();
            self.tracer.tell_all_failures();
            if !any {
                if self.shared().register.is_empty() {
                    return RunEnd::Ended(self.status());
                }
                self.tracer.threads.post.wait(left.unwrap_or(WHILE).min(WHILE));
            }
        }
    }

    /// Whether this session started its target.
    #[must_use]
    pub fn is_launched(&self) -> bool {
        self.shared().launched
    }

    /// Detaches from the target: every byte is restored, no thread stays stopped, and no signal is lost.
    ///
    /// Probes keep their counters. A target that was launched runs on by itself. A thread that waits for its
    /// vfork child cannot be let go before that has executed a program: it is waited for some seconds, and
    /// after that it is let go when the calling thread ends, and [`Event::Failed`] says so.
    pub fn detach(&mut self) {
        self.tracer.restore_bytes();
        self.tracer.dismiss_others(false);
        self.tracer.detach_own();
        self.tracer.wait_for_others();
        self.tracer.tell_all_failures();
        self.shared().clear_spaces();
        self.tracer.recent = None;
        lock(&self.shared().transient).clear();
        self.tracer.affinity.restore();
    }

    /// Kills the target and waits for its end.
    pub fn kill(&mut self) {
        let target = self.pid();
        let killed = nix::sys::signal::kill(system::pid(target), nix::sys::signal::Signal::SIGKILL);
        if self.tracer.threads.refused(target, "kill", killed) {
            return self.tracer.tell_all_failures();
        }
        self.tracer.have_others_serve();
        while self.shared().register.contains(target) {
            if self.tracer.threads.is_empty() || !self.tracer.serve_dying() {
                self.tracer.threads.post.wait(Duration::from_millis(10));
            }
            self.tracer.read_captains_mail();
        }
        self.tracer.have_others_rest();
    }
}

/// The handler of an entry has handed `value` over.
fn follow<T: Clone + Send + 'static>(value: Option<T>, hit: &mut Hit<'_>) -> Action {
    if let Some(value) = value {
        hit.follow(value);
    }
    Action::Continue
}

/// Calls the handler of a return.
fn come_back<T: 'static>(
    hit: &mut Hit<'_>,
    on_return: impl FnOnce(&mut Hit<'_>, Call<T>) -> Action,
) -> Action {
    match hit.take_call() {
        Some(call) => on_return(hit, call),
        None => Action::Continue,
    }
}

/// The process that `pid`, one of its threads, belongs to, if it can be attached to at all.
fn attachable(pid: i32) -> Result<i32, AttachError> {
    if pid <= 0 {
        return Err(AttachError::NoSuchProcess { pid });
    }
    let pid = procfs::process_of(pid).ok_or(AttachError::NoSuchProcess { pid })?;
    if u32::try_from(pid) == Ok(std::process::id()) {
        return Err(AttachError::Own);
    }
    if procfs::elf_class(pid) == Some(1) {
        return Err(AttachError::Not64Bit { pid });
    }
    Ok(pid)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.detach();
    }
}
