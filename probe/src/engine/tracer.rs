//! One tracer: a thread that serves the threads it has attached to.

use std::fmt;
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use rustc_hash::FxHashMap;

use crate::engine::event::Event;
use crate::engine::probes::Probes;
use crate::engine::run_on::{Passing, Regions, Running};
use crate::engine::shared::Shared;
use crate::engine::waits::Waits;
use crate::engine::watch::Wanted;
use crate::error::AttachError;
use crate::executor::hardware::Unwatched;
use crate::executor::ptrace::affinity::Affinity;
use crate::executor::ptrace::kept::Kept;
use crate::executor::ptrace::memory::Staging;
use crate::executor::ptrace::registers::Fetched;
use crate::executor::ptrace::stopped::{Stop, Stopped};
use crate::executor::ptrace::sys::Alarm;
use crate::executor::ptrace::threads::{Report, SpaceId, Threads};
use crate::executor::space::{Purpose, SharedSpace, Space};
use crate::target::{lock, procfs, system};

/// What a tracer has for itself. It belongs to its thread, as ptrace does.
pub(crate) struct Tracer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) threads: Threads,
    pub(crate) registers: Fetched,
    pub(crate) staging: Box<Staging>,
    /// Breakpoints that were lost during a hit, to be reported after it.
    pub(crate) lost: Vec<u64>,
    /// The probes of the breakpoint that is served.
    pub(crate) here: Vec<Purpose>,
    /// What handlers of the hit that is served want to have watched.
    pub(crate) wanted_watches: Vec<Wanted>,
    pub(crate) affinity: Affinity,
    /// The threads that run on, and why.
    pub(crate) regions: FxHashMap<i32, Box<Regions>>,
    pub(crate) running: Running,
    pub(crate) passing: Passing,
    pub(crate) kept: Kept,
    pub(crate) alarm: Arc<Alarm>,
    /// What the thread that is served is to wait for before it goes on.
    pub(crate) waits: Waits,
    /// All probes, as of that version of the list.
    pub(crate) probes: Probes,
    version: u64,
    pub(crate) recent: Option<Rc<Recent>>,
    /// A thread that stays with this tracer though its handlers are slow.
    pub(crate) slow: Option<i32>,
}

/// The address space that was looked up last.
pub(crate) struct Recent {
    /// As of which version of their list.
    version: u64,
    id: SpaceId,
    space: Arc<SharedSpace>,
}

impl Deref for Recent {
    type Target = SharedSpace;

    fn deref(&self) -> &SharedSpace {
        &self.space
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Tracer {
    /// The events of every traced thread that are reported.
    pub(crate) const REPORTED: Options = Options::PTRACE_O_TRACECLONE
        .union(Options::PTRACE_O_TRACEEXEC)
        .union(Options::PTRACE_O_TRACEFORK)
        .union(Options::PTRACE_O_TRACESYSGOOD)
        .union(Options::PTRACE_O_TRACEVFORK)
        .union(Options::PTRACE_O_TRACEVFORKDONE);

    /// Makes the calling thread a tracer.
    ///
    /// # Errors
    /// That of timer_create(2).
    pub(crate) fn new(shared: Arc<Shared>) -> nix::Result<Tracer> {
        let alarm = Arc::new(Alarm::new()?);
        let (register, crew) = (Arc::clone(&shared.register), Arc::clone(&shared.crew));
        let mut threads = Threads::new(Arc::clone(&alarm), register, crew);
        threads.atomics.ways = *lock(&shared.ways);
        Ok(Tracer {
            shared,
            threads,
            registers: Fetched::new(),
            staging: Staging::new(),
            lost: Vec::new(),
            here: Vec::new(),
            wanted_watches: Vec::new(),
            affinity: Affinity::new(),
            regions: FxHashMap::default(),
            running: Running::new(),
            passing: Passing::default(),
            kept: Kept::new(),
            alarm,
            waits: Waits::default(),
            probes: Probes::default(),
            version: 0,
            recent: None,
            slow: None,
        })
    }

    /// Traces all threads of process `pid`, with options besides those of every thread.
    pub(crate) fn occupy(&mut self, pid: i32, special: Options) -> Result<SpaceId, AttachError> {
        self.seize(pid, pid, SpaceId::MAX, special).map_err(|error| attach_error(pid, error))?;
        let space = Space::open(pid, &self.shared.failures)
            .map_err(|error| attach_error(pid, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
        let space = self.shared.add_space(space);
        self.threads.set_space(pid, space);
        self.seize_sharers(pid, space, special)?;
        self.look_at_disposition(pid);
        self.watch_linker(space, pid, false);
        Ok(space)
    }

    /// Traces thread `tid` of process `pid`, with options besides those of every thread.
    pub(crate) fn seize(&mut self, tid: i32, pid: i32, space: SpaceId, special: Options) -> nix::Result<()> {
        ptrace::seize(system::pid(tid), Self::REPORTED | special)?;
        self.threads.add(tid, pid, space);
        Ok(())
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        self.shared.tell(event);
    }

    /// Tells what the kernel has refused and has not been told yet.
    pub(crate) fn tell_all_failures(&mut self) {
        self.tell_ended_watches();
        self.shared.tell_failures(self.threads.take_failures());
        self.shared.tell_failures(self.shared.failures.take());
        let Some(unwatched) = self.shared.register.unwatched.take() else { return };
        for Unwatched { tid, address, error } in unwatched {
            let pid = self.shared.register.process_of(tid).unwrap_or(tid);
            self.tell(&Event::Unwatched { pid, tid, address, error });
        }
    }

    /// Has `probes` be all that there are.
    pub(crate) fn look_at_probes(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if self.version != version {
            self.version = version;
            self.probes = self.shared.probes();
        }
    }

    /// An address space. That in which the last hit was costs no more than a look.
    pub(crate) fn space(&mut self, id: SpaceId) -> Option<Rc<Recent>> {
        let version = self.shared.spaces_version();
        if self.recent.as_ref().is_none_or(|recent| (recent.version, recent.id) != (version, id)) {
            self.recent = None;
            self.recent = Some(Rc::new(Recent { version, id, space: self.shared.space(id)? }));
        }
        self.recent.clone()
    }

    /// Serves what is reported next. Says whether anything can be.
    pub(crate) fn serve_next(&mut self) -> bool {
        self.next_by(Tracer::serve, Tracer::go_on)
    }

    /// Passes on what is reported next, of a target that is killed. Says whether anything can be.
    pub(crate) fn serve_dying(&mut self) -> bool {
        self.next_by(Tracer::pass_on, Tracer::pass_on)
    }

    fn next_by(
        &mut self,
        serve: impl FnOnce(&mut Tracer, Stopped),
        go_on: impl FnOnce(&mut Tracer, Stopped),
    ) -> bool {
        match self.threads.next() {
            Report::Turn(stopped) => go_on(self, stopped),
            Report::Stopped(stopped) => serve(self, stopped),
            Report::Ended { tid, status } => self.ended(tid, status),
            Report::Interrupted => {}
            Report::Nobody => return false,
        }
        true
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
            Stop::Signal(signal) if !self.regions.contains_key(&stopped.tid()) => {
                self.take_signal(stopped, signal);
            }
            Stop::Birth(birth) => self.gave_birth(stopped, birth),
            Stop::SystemCall if self.is_handling(stopped.tid()) => self.see_call(stopped),
            Stop::SystemCall => self.go_on(stopped),
            Stop::Interrupted if self.is_standing(stopped.tid()) => self.go_on(stopped),
            _ => self.pass_on(stopped),
        }
    }

    /// Whether a thread runs on and is not in a system call.
    fn is_standing(&self, tid: i32) -> bool {
        self.regions.contains_key(&tid) && self.threads.get(tid).is_some_and(|thread| !thread.to_return)
    }

    /// The same as [`Tracer::serve_next`], and a panic of the observer ends the run.
    pub(crate) fn serve_next_guarded(&mut self) -> bool {
        match panic::catch_unwind(AssertUnwindSafe(|| self.serve_next())) {
            Ok(any) => any,
            Err(payload) => {
                self.shared.wishes.panic_with(payload);
                self.shared.crew.wake_captain();
                true
            }
        }
    }

    /// Lets a thread take its signal, or stay in its group-stop, as if nobody traced it.
    pub(crate) fn pass_on(&mut self, stopped: Stopped) {
        match stopped.stop {
            Stop::Group => self.threads.listen(stopped),
            stop => {
                self.threads.let_restart(&stopped);
                self.threads.resume(stopped, stop.signal());
            }
        }
    }

    /// A thread ended; if it is a leader, so did its process.
    pub(crate) fn ended(&mut self, tid: i32, status: i32) {
        let Some(thread) = self.threads.remove(tid) else { return };
        self.regions.remove(&tid);
        self.shared.count_dropped(self.shared.calls.of_thread(tid));
        self.threads.gather_orphans();
        if tid == thread.pid || self.threads.iter().next().is_none() {
            self.clean_orphans(thread.space);
        }
        let status = ExitStatus::from_raw(status);
        if tid == thread.pid {
            lock(&self.shared.transient).remove(&tid);
            self.shared.dispositions.forget(tid);
            if tid == self.shared.target {
                *lock(&self.shared.status) = Some(status);
            }
            self.tell(&Event::Ended { pid: tid, status });
        }
        self.recent = None;
        if self.threads.register.is_deserted(thread.space) {
            self.shared.remove_space(thread.space);
        }
    }
}

/// Why `pid` could not be attached to, when the kernel says `error`.
pub(crate) fn attach_error(pid: i32, error: Errno) -> AttachError {
    match error {
        Errno::ESRCH | Errno::ENOENT => AttachError::NoSuchProcess { pid },
        Errno::EPERM | Errno::EACCES => match procfs::tracer_of(pid) {
            Some(tracer) => AttachError::AlreadyTraced { pid, tracer, name: procfs::name_of(tracer) },
            None if procfs::has_exited(pid) => AttachError::Exited { pid },
            None => AttachError::not_permitted(pid),
        },
        error => AttachError::System { call: "PTRACE_SEIZE", error },
    }
}
