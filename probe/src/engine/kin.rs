//! Threads and processes that came of the target before anybody traced it: those that share its memory, as after vfork,
//! meet its breakpoints and are traced, too. Nothing is changed before that is so of all, nor while one of them may be
//! within a system call that makes another, which the kernel would let go untraced, with a copy of the breakpoints.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::Options;

use crate::engine::tracer::{Tracer, attach_error};
use crate::error::AttachError;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::{SpaceId, Thread};
use crate::target::lock;
use crate::target::procfs;

/// For how long a thread may be within one system call that makes another, which copies its memory.
pub(crate) const LONGEST_BIRTH: Duration = Duration::from_secs(30);

/// A thread that is to be seen to sleep or to stop.
pub(crate) struct Awaited {
    pub(crate) tid: i32,
    /// For how long it had run before.
    since: Option<u64>,
    interrupted: bool,
}

impl Awaited {
    pub(crate) fn new(tid: i32) -> Awaited {
        Awaited { tid, since: procfs::run_time(tid), interrupted: false }
    }
}

impl Tracer {
    /// Traces every thread that runs in the memory of process `pid`, with options besides those of every thread:
    /// its own, of which the leader is traced already, and those of children that have not executed a program yet.
    ///
    /// Threads and processes may be made while we look. What a thread makes that is traced when it begins to is traced from
    /// birth, so it is over when each has ended what it had begun before, and a look behind that finds nobody who is not.
    pub(crate) fn seize_sharers(
        &mut self,
        pid: i32,
        space: SpaceId,
        special: Options,
    ) -> Result<(), AttachError> {
        let mut seized = vec![pid];
        loop {
            let mut found = self.seize_threads(pid, pid, space, special, &mut seized)?;
            for other in procfs::processes() {
                if other != pid && procfs::share_memory(other, pid) {
                    found |= self.seize_threads(other, pid, space, special, &mut seized)?;
                }
            }
            if !found && seized.is_empty() {
                self.find_vfork_parents(space);
                return Ok(());
            }
            self.see_births_through(pid, std::mem::take(&mut seized))?;
        }
    }

    /// Traces the threads of process `pid`, which runs in the memory of `owner`, and adds them to `seized`. Says whether
    /// there were any that were not traced.
    fn seize_threads(
        &mut self,
        pid: i32,
        owner: i32,
        space: SpaceId,
        special: Options,
        seized: &mut Vec<i32>,
    ) -> Result<bool, AttachError> {
        let mut found = false;
        for tid in procfs::threads_of(pid).unwrap_or_default() {
            if self.threads.register.contains(tid) {
                continue;
            }
            match self.seize(tid, pid, space, special) {
                Ok(()) => {
                    found = true;
                    seized.push(tid);
                    if pid != owner {
                        self.take_in(tid, pid, owner);
                    }
                }
                // The list ends early where one vanishes that is being read.
                Err(_) if procfs::process_of(tid).is_none() => found = true,
                Err(error) => self.check_unseized(tid, pid, owner, error)?,
            }
        }
        Ok(found)
    }

    /// Waits until none of these threads, which have just been traced, is within a system call any more that makes a thread
    /// or a process and began before: each has been seen to sleep elsewhere, or to stop. One that runs on and on is
    /// interrupted: it stops when it comes back to the program, which does not notice.
    fn see_births_through(&mut self, pid: i32, tids: Vec<i32>) -> Result<(), AttachError> {
        let deadline = Instant::now() + LONGEST_BIRTH;
        let mut awaited: Vec<Awaited> = tids.into_iter().map(Awaited::new).collect();
        loop {
            awaited.retain(|awaited| self.may_be_making(awaited.tid));
            self.threads.release_interrupted();
            let Some(&Awaited { tid, .. }) = awaited.first() else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(AttachError::Making { pid, tid });
            }
            awaited.iter_mut().for_each(|awaited| self.hurry(awaited, false));
            self.threads.take_soon();
        }
    }

    /// Whether a thread, which nobody has stopped since it is traced, may be within a system call that makes another.
    pub(crate) fn may_be_making(&self, tid: i32) -> bool {
        self.threads.get(tid).is_some_and(Thread::is_running) && procfs::may_be_making(tid)
    }

    /// Interrupts a thread, once, if that is `due` or it has run for long.
    pub(crate) fn hurry(&mut self, awaited: &mut Awaited, due: bool) {
        /// Few run for longer without sleeping, so that few are interrupted within a system call.
        const LONG: u64 = 1_000_000;
        let has_run = |now: u64| awaited.since.is_none_or(|since| now.saturating_sub(since) > LONG);
        if !awaited.interrupted && (due || procfs::run_time(awaited.tid).is_none_or(has_run)) {
            self.threads.interrupt(awaited.tid);
            awaited.interrupted = true;
        }
    }

    /// Books thread `tid`, just seized, as one of a process that shares the memory of `owner`.
    fn take_in(&mut self, tid: i32, pid: i32, owner: i32) {
        if !self.shared.options.follow {
            lock(&self.shared.transient).insert(pid);
        }
        // Attaching waits for an exec that goes on. Where it was over by then, no event will tell.
        let stranger = !procfs::share_memory(tid, owner) && !procfs::has_exited(owner);
        if stranger {
            self.threads.interrupt(tid);
        }
        self.threads.set_guest(tid, true);
        if let Some(thread) = self.threads.get_mut(tid) {
            thread.stranger = stranger;
        }
    }

    /// Whether it is harmless that thread `tid` could not be traced.
    fn check_unseized(&self, tid: i32, pid: i32, owner: i32, error: Errno) -> Result<(), AttachError> {
        match procfs::tracer_of(tid) {
            // It was traced from birth, and will be reported.
            Some(tracer) if self.threads.crew.has(tracer) => Ok(()),
            // It would take the breakpoints' signals to somebody else.
            Some(tracer) => Err(AttachError::AlreadyTraced { pid, tracer, name: procfs::name_of(tracer) }),
            None if procfs::has_exited(tid) => Ok(()),
            None if pid != owner && !procfs::share_memory(pid, owner) => Ok(()),
            // Nobody would serve it at a breakpoint.
            None => Err(attach_error(pid, error)),
        }
    }

    /// Notes which threads wait for a vfork child, of those whose birth nobody saw.
    fn find_vfork_parents(&mut self, space: SpaceId) {
        let guests = self.threads.iter().filter(|(_, thread)| thread.space == space && thread.guest);
        let pids: HashSet<i32> = guests.map(|(_, thread)| thread.pid).collect();
        let parents: HashSet<i32> = pids.into_iter().filter_map(procfs::parent_of).collect();
        for tid in self.threads.register.in_space(space) {
            if let Some(thread) = self.threads.get_mut(tid)
                && parents.contains(&thread.pid)
                && !thread.in_vfork
                && thread.is_running()
            {
                thread.in_vfork = procfs::waits_for_vfork(tid);
            }
        }
    }

    /// Whether thread `tid` is of a process that has executed another program before it could be attached to.
    pub(crate) fn is_stranger(&self, tid: i32) -> bool {
        self.threads.get(tid).is_some_and(|thread| thread.stranger)
    }

    /// Lets a stranger go.
    pub(crate) fn dismiss(&mut self, stopped: Stopped) {
        let tid = stopped.tid();
        if let Some(thread) = self.threads.get(tid) {
            lock(&self.shared.transient).remove(&thread.pid);
        }
        let signal = stopped.stop.signal();
        self.threads.let_go(stopped, signal);
    }
}
