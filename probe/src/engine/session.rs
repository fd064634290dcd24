//! A session: a target, its probes, and the loop that serves them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};

use crate::engine::event::{Counters, Event, ProbeReport};
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::host::{Closures, Handler, Host, Request};
use crate::engine::lost::Lookout;
use crate::error::{AttachError, ProbeError};
use crate::executor::ptrace::affinity::Affinity;
use crate::executor::ptrace::atomic::Ways;
use crate::executor::ptrace::memory::Staging;
use crate::executor::ptrace::registers::Fetched;
use crate::executor::ptrace::stopped::{Stop, Stopped};
use crate::executor::ptrace::sys::Alarm;
use crate::executor::ptrace::threads::{Report, SpaceId, Threads};
use crate::executor::space::{SharedSpace, Space, Unplaceable};
use crate::symbols::locate::{Locate, LocateError};
use crate::target::failure::{Failure, errno};
use crate::target::launch::Embryo;
use crate::target::linker;
use crate::target::maps::Maps;
use crate::target::procfs;
use crate::target::system;

/// What a session does besides serving probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// Probe the children that the target forks, too. Otherwise they are left alone, free of breakpoints.
    pub follow: bool,
    /// A target that is launched is killed when the thread of the session ends, however that comes about.
    pub kill_with: bool,
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
    ending: AtomicBool,
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

    /// Whether the end has been asked for.
    pub(crate) fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::SeqCst)
    }
}

pub(crate) struct Probe {
    pub(crate) source: Box<dyn Locate>,
    pub(crate) counters: Counters,
    pub(crate) sites: Vec<u64>,
    pub(crate) refused: Vec<(u64, Unplaceable)>,
    pub(crate) pending: Option<LocateError>,
    pub(crate) removed: bool,
}

/// A target process, or several, and the probes in them.
///
/// It belongs to the thread that made it, as ptrace does, and reaps that thread's children. Dropping it
/// detaches. The signal SIGRTMAX-3 is its own: it wakes the session when it is to stop.
///
/// Where a target uses SIGTRAP itself: the kernel forces a breakpoint's SIGTRAP through, so a handler is lost
/// when a thread that blocks the signal reaches a probe, and so is SIG_IGN. The kernel also unblocks the signal
/// then and does not say so. It is blocked again where the thread, when last seen otherwise (attached, created,
/// in exec, or stopped for something else), blocked it with other signals, and still blocks just those others
/// and has no handler for it. What a thread has done to its mask since then cannot be known: one that has
/// blocked SIGTRAP meanwhile has it unblocked from its next hit on, until it sets its mask again; and one that
/// has unblocked SIGTRAP alone, without a handler, has it blocked again.
pub struct Session {
    pub(crate) threads: Threads,
    pub(crate) spaces: HashMap<SpaceId, Arc<SharedSpace>>,
    next_space: SpaceId,
    pub(crate) probes: Vec<Probe>,
    pub(crate) registers: Fetched,
    pub(crate) staging: Box<Staging>,
    /// Breakpoints that were lost during a hit, to be reported after it.
    pub(crate) lost: Vec<u64>,
    /// The probes of the breakpoint that is served.
    pub(crate) here: Vec<usize>,
    pub(crate) affinity: Affinity,
    pub(crate) options: SessionOptions,
    /// Children that share the target's memory and are traced only until they execute another program.
    pub(crate) transient: HashSet<i32>,
    /// The processes that there were before the target was attached to, until the session runs.
    pub(crate) elders: Option<HashSet<i32>>,
    pub(crate) detach_requested: bool,
    pub(crate) stop_requested: bool,
    /// The processes that were left by [`Session::pause`], and when they started.
    pub(crate) paused: Vec<(i32, u64)>,
    /// The last process whose memory could not be opened, and why.
    pub(crate) inaccessible: Option<(i32, io::Error)>,
    target: i32,
    pub(crate) status: Option<ExitStatus>,
    pub(crate) launched: bool,
    pub(crate) host: Closures,
    alarm: Arc<Alarm>,
    pub(crate) lookout: Lookout,
    stop: Arc<StopState>,
    tracer: PhantomData<*const ()>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("target", &self.target)
            .field("threads", &self.threads)
            .field("probes", &self.probes.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(target: i32, options: SessionOptions) -> Result<Session, AttachError> {
        let failed = |error| AttachError::System { call: "timer_create", error };
        let alarm = Arc::new(Alarm::new().map_err(failed)?);
        let lookout = Lookout::new().map_err(failed)?;
        Ok(Session {
            threads: Threads::new(Arc::clone(&alarm)),
            spaces: HashMap::new(),
            next_space: 0,
            probes: Vec::new(),
            registers: Fetched::new(),
            staging: Staging::new(),
            lost: Vec::new(),
            here: Vec::new(),
            affinity: Affinity::new(),
            options,
            transient: HashSet::new(),
            elders: None,
            detach_requested: false,
            stop_requested: false,
            paused: Vec::new(),
            inaccessible: None,
            target,
            status: None,
            launched: false,
            host: Closures::default(),
            stop: Arc::new(StopState {
                requested: AtomicBool::new(false),
                ending: AtomicBool::new(false),
                alarm: Arc::clone(&alarm),
            }),
            alarm,
            lookout,
            tracer: PhantomData,
        })
    }

    /// Attaches to a running process with all its threads, none of which stops for it.
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
        let mut session = Session::new(pid, options)?;
        session.occupy(pid, Options::empty())?;
        Ok(session)
    }

    /// Traces all threads of process `pid`, with options besides those of every thread.
    pub(crate) fn occupy(&mut self, pid: i32, special: Options) -> Result<SpaceId, AttachError> {
        self.elders = Some(procfs::processes().into_iter().collect());
        self.seize(pid, pid, SpaceId::MAX, special).map_err(|error| attach_error(pid, error))?;
        let space = Space::open(pid)
            .map_err(|error| attach_error(pid, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
        let space = self.add_space(space);
        if let Some(leader) = self.threads.get_mut(pid) {
            leader.space = space;
        }
        self.seize_sharers(pid, space, special)?;
        self.watch_linker(space, pid, false);
        self.adopt_strays();
        Ok(space)
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
        let mut session = Session::new(pid, options)?;
        session.launched = true;
        // The child still runs our own image, which nobody probes: its space is that of the program.
        session.seize(pid, pid, SpaceId::MAX, session.special()).map_err(|error| attach_error(pid, error))?;
        embryo.go();
        loop {
            if !embryo.stops() {
                session.threads.remove(pid);
                embryo.finish().map_err(failed)?;
                let error = std::io::Error::other("it ended before it started");
                return Err(AttachError::Launch { program, error });
            }
            match session.threads.next() {
                Report::Stopped(stopped) if stopped.stop == Stop::Exec => {
                    embryo.finish().map_err(failed)?;
                    if procfs::elf_class(pid) == Some(1) {
                        drop(stopped);
                        session.kill();
                        return Err(AttachError::Not64Bit { pid });
                    }
                    session.executed(&stopped);
                    session.threads.put_back(Report::Stopped(stopped));
                    return Ok(session);
                }
                Report::Stopped(stopped) => session.pass_on(stopped),
                Report::Ended { tid, .. } if tid != pid => {}
                Report::Interrupted => {}
                // Killed just now. `embryo.stops` says so next.
                Report::Ended { .. } | Report::Nobody => {}
            }
        }
    }

    /// The events of every traced thread that are reported.
    const REPORTED: Options = Options::PTRACE_O_TRACECLONE
        .union(Options::PTRACE_O_TRACEEXEC)
        .union(Options::PTRACE_O_TRACEFORK)
        .union(Options::PTRACE_O_TRACESYSGOOD)
        .union(Options::PTRACE_O_TRACEVFORK)
        .union(Options::PTRACE_O_TRACEVFORKDONE);

    /// Traces thread `tid` of process `pid`, with options besides those of every thread.
    pub(crate) fn seize(&mut self, tid: i32, pid: i32, space: SpaceId, special: Options) -> nix::Result<()> {
        ptrace::seize(system::pid(tid), Self::REPORTED | special)?;
        self.threads.add(tid, pid, space);
        Ok(())
    }

    /// The options for every thread of the target, besides those that are always set.
    pub(crate) fn special(&self) -> Options {
        match self.launched && self.options.kill_with {
            true => Options::PTRACE_O_EXITKILL,
            false => Options::empty(),
        }
    }

    pub(crate) fn add_space(&mut self, space: Space) -> SpaceId {
        let id = self.next_space;
        self.next_space += 1;
        self.spaces.insert(id, Arc::new(SharedSpace::new(space)));
        id
    }

    /// The target's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.target
    }

    /// The address at which the target's program itself starts, when the dynamic linker has mapped all that
    /// it needs; `None` if the target is gone.
    #[must_use]
    pub fn entry(&self) -> Option<u64> {
        linker::entry(self.target)
    }

    /// Hears of events from now on.
    pub fn observe(&mut self, observer: impl FnMut(&Event<'_>) + Send + 'static) {
        self.host.observer = Some(Box::new(observer));
    }

    pub(crate) fn tell(&mut self, event: &Event<'_>) {
        self.host.event(event);
    }

    /// Tells what the kernel has refused.
    pub(crate) fn tell_failures(&mut self, failures: Vec<Failure>) {
        for Failure { tid, request, error } in failures {
            let pid = self.threads.get(tid).map_or(tid, |thread| thread.pid);
            self.tell(&Event::Failed { pid, tid, request, error });
        }
    }

    /// The same for all that has not been told yet.
    pub(crate) fn tell_all_failures(&mut self) {
        let mut failures = self.threads.take_failures();
        for space in self.spaces.values() {
            failures.append(&mut space.read().take_failures());
        }
        self.tell_failures(failures);
    }

    /// Restricts how accesses in one step are made; for tests of what is lost without.
    #[doc(hidden)]
    pub fn restrict_atomics(&mut self, ways: Ways) {
        self.threads.atomics.ways = ways;
    }

    /// A handle by which another thread or a signal handler can end [`Session::run`].
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.stop))
    }

    /// Places a probe. No thread of the target is stopped for it.
    ///
    /// Where `source` names several sites, those that cannot be probed are in [`Session::report`]. Where its
    /// object is not mapped yet, the probe waits for it.
    ///
    /// # Errors
    /// [`ProbeError`] if it names nothing that exists, or if none of its sites can be probed.
    pub fn probe(
        &mut self,
        source: impl Locate + 'static,
        handler: impl FnMut(&mut Hit<'_>) -> Action + Send + 'static,
    ) -> Result<ProbeId, ProbeError> {
        let id = self.enter(Box::new(source), Box::new(handler));
        let placed = self.place_everywhere(id, false).map_err(ProbeError::Maps);
        match placed.and_then(|()| self.check_placed(id)) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.remove(id);
                self.probes.pop();
                self.host.handlers.pop();
                Err(error)
            }
        }
    }

    /// Books a probe, without a site so far.
    fn enter(&mut self, source: Box<dyn Locate>, handler: Handler) -> ProbeId {
        let id = ProbeId(self.probes.len());
        self.probes.push(Probe {
            source,
            counters: Counters::default(),
            sites: Vec::new(),
            refused: Vec::new(),
            pending: None,
            removed: false,
        });
        self.host.handlers.push(handler);
        id
    }

    /// Does what a handler has asked for.
    pub(crate) fn grant(&mut self, request: Request) {
        match request {
            Request::Remove(id) => self.remove(id),
            Request::Add(source, handler) => {
                let id = self.enter(source, handler);
                // Where the mappings cannot be read, the probe waits until they can.
                if let Err(error) = self.place_everywhere(id, true) {
                    self.threads.note::<()>(self.target, "reading /proc/PID/maps", Err(errno(&error)));
                }
            }
        }
    }

    fn place_everywhere(&mut self, id: ProbeId, later: bool) -> io::Result<()> {
        let spaces: Vec<SpaceId> = self.spaces.keys().copied().collect();
        for space in spaces {
            for tid in self.threads.in_space(space) {
                match Maps::read(tid) {
                    Ok(maps) if !maps.is_empty() => {
                        self.locate(id, space, tid, &maps, later);
                        break;
                    }
                    Err(error) if !procfs::has_exited(tid) => return Err(error),
                    // Another thread of the same memory may live.
                    Ok(_) | Err(_) => {}
                }
            }
        }
        self.adopt_strays();
        Ok(())
    }

    /// Whether a new probe names something that exists, and that can be probed.
    fn check_placed(&mut self, id: ProbeId) -> Result<(), ProbeError> {
        let Some(probe) = self.probes.get_mut(id.0) else { return Ok(()) };
        if let Some(error) = probe.pending.take_if(|error| matches!(error, LocateError::Unresolvable(_))) {
            return Err(ProbeError::Locate(error));
        }
        if probe.sites.is_empty()
            && let Some((address, reason)) = probe.refused.pop()
        {
            return Err(ProbeError::Unplaceable { address, reason });
        }
        Ok(())
    }

    /// Removes a probe. Threads that have trapped on it already run the original instruction.
    pub fn remove(&mut self, id: ProbeId) {
        let Some(probe) = self.probes.get_mut(id.0) else { return };
        if std::mem::replace(&mut probe.removed, true) {
            return;
        }
        let sites = probe.sites.clone();
        let mut overwritten = Vec::new();
        for (&space_id, space) in &self.spaces {
            let mut space = space.write();
            for &site in &sites {
                if space.withdraw(site, id.0) {
                    overwritten.push((space_id, site));
                }
            }
        }
        for (space, address) in overwritten {
            self.tell_overwritten(space, address);
        }
        self.tell_all_failures();
    }

    /// What became of a probe so far; `None` if it is not of this session.
    #[must_use]
    pub fn report(&self, id: ProbeId) -> Option<ProbeReport<'_>> {
        let probe = self.probes.get(id.0)?;
        Some(ProbeReport::new(probe.counters, &probe.sites, &probe.refused, probe.pending.as_ref()))
    }

    /// The target's exit status, once it has ended.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// The last process whose memory could not be opened, so that it has no probes, and why. That of a program
    /// which is launched is found out before anybody can observe events.
    #[must_use]
    pub fn inaccessible(&self) -> Option<(i32, &io::Error)> {
        self.inaccessible.as_ref().map(|(pid, error)| (*pid, error))
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
        self.adopt_strays();
        self.elders = None;
        self.lookout.begin();
        let end = loop {
            if self.stop.requested.swap(false, Ordering::SeqCst) {
                break RunEnd::StopRequested;
            }
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break RunEnd::Timeout;
                }
                self.alarm.ring_in(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
            }
            self.look_out();
            match self.threads.next() {
                Report::Stopped(stopped) => self.serve(stopped),
                Report::Ended { tid, status } => self.ended(tid, status),
                Report::Interrupted => {}
                Report::Nobody => break RunEnd::Ended(self.status),
            }
            self.tell_all_failures();
            if std::mem::take(&mut self.detach_requested) {
                self.detach();
                break RunEnd::Detached;
            }
            if std::mem::take(&mut self.stop_requested) {
                break RunEnd::Stopped;
            }
        };
        self.lookout.rest();
        self.alarm.silence();
        self.affinity.restore();
        end
    }

    /// Serves one stop.
    fn serve(&mut self, stopped: Stopped) {
        if stopped.stop != Stop::Signal(libc::SIGTRAP) {
            self.threads.look_at_mask(&stopped);
        }
        match stopped.stop {
            Stop::Exec => self.serve_exec(stopped),
            _ if self.is_stranger(stopped.tid()) => self.dismiss(stopped),
            Stop::Signal(libc::SIGTRAP) => self.trapped(stopped),
            Stop::Birth(birth) => self.gave_birth(stopped, birth),
            _ => self.pass_on(stopped),
        }
    }

    /// Lets a thread take its signal, or stay in its group-stop, as if nobody traced it.
    pub(crate) fn pass_on(&mut self, stopped: Stopped) {
        match stopped.stop {
            Stop::Group => self.threads.listen(stopped),
            stop => self.threads.resume(stopped, stop.signal()),
        }
    }

    /// A thread ended; if it is a leader, so did its process.
    pub(crate) fn ended(&mut self, tid: i32, status: i32) {
        let Some(thread) = self.threads.remove(tid) else { return };
        let status = ExitStatus::from_raw(status);
        if tid == thread.pid {
            self.transient.remove(&tid);
            if tid == self.target {
                self.status = Some(status);
            }
            self.clean_orphans(thread.space);
            self.tell(&Event::Ended { pid: tid, status });
        }
        if self.threads.is_deserted(thread.space) {
            self.spaces.remove(&thread.space);
        }
    }

    /// Whether this session started its target.
    #[must_use]
    pub fn is_launched(&self) -> bool {
        self.launched
    }

    /// Kills the target and waits for its end.
    pub fn kill(&mut self) {
        let killed = nix::sys::signal::kill(system::pid(self.target), nix::sys::signal::Signal::SIGKILL);
        if self.threads.refused(self.target, "kill", killed) {
            return self.tell_all_failures();
        }
        while self.threads.get(self.target).is_some() {
            match self.threads.next() {
                Report::Stopped(stopped) => self.pass_on(stopped),
                Report::Ended { tid, status } => self.ended(tid, status),
                Report::Interrupted => {}
                Report::Nobody => break,
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Why `pid` could not be attached to, when the kernel says `error`.
pub(crate) fn attach_error(pid: i32, error: Errno) -> AttachError {
    match error {
        Errno::ESRCH | Errno::ENOENT => AttachError::NoSuchProcess { pid },
        Errno::EPERM | Errno::EACCES => match procfs::tracer_of(pid) {
            Some(tracer) => AttachError::AlreadyTraced { pid, tracer, name: procfs::name_of(tracer) },
            None if procfs::has_exited(pid) => AttachError::Exited { pid },
            None => {
                let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
                let scope = scope.ok().and_then(|text| text.trim().parse().ok());
                AttachError::NotPermitted { pid, ptrace_scope: scope.filter(|&scope| scope > 0) }
            }
        },
        error => AttachError::System { call: "PTRACE_SEIZE", error },
    }
}
