//! Processes that came of the target before anybody traced it: those that share its memory, as after vfork,
//! meet its breakpoints and are traced, too; those that copied its memory while the first breakpoints were
//! placed are freed of them.

use std::collections::HashSet;

use nix::errno::Errno;
use nix::sys::ptrace::Options;

use crate::engine::tracer::{Tracer, attach_error};
use crate::error::AttachError;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::SpaceId;
use crate::target::lock;
use crate::target::procfs;

impl Tracer {
    /// Traces every thread that runs in the memory of process `pid`, with options besides those of every thread:
    /// its own, and those of children that have not executed a program yet.
    ///
    /// Threads and processes may be made while we look. Those that a traced thread makes are traced from
    /// birth, so it is over when a look finds none that is not.
    pub(crate) fn seize_sharers(
        &mut self,
        pid: i32,
        space: SpaceId,
        special: Options,
    ) -> Result<(), AttachError> {
        loop {
            let mut found = self.seize_threads(pid, pid, space, special)?;
            for other in procfs::processes() {
                if other != pid && procfs::share_memory(other, pid) {
                    found |= self.seize_threads(other, pid, space, special)?;
                }
            }
            if !found {
                self.find_vfork_parents(space);
                return Ok(());
            }
        }
    }

    /// Traces the threads of process `pid`, which runs in the memory of `owner`. Says whether there were any
    /// that were not traced.
    fn seize_threads(
        &mut self,
        pid: i32,
        owner: i32,
        space: SpaceId,
        special: Options,
    ) -> Result<bool, AttachError> {
        let mut found = false;
        for tid in procfs::threads_of(pid).unwrap_or_default() {
            if self.threads.register.contains(tid) {
                continue;
            }
            match self.seize(tid, pid, space, special) {
                Ok(()) => {
                    found = true;
                    if pid != owner {
                        self.take_in(tid, pid, owner);
                    }
                }
                Err(error) => self.check_unseized(tid, pid, owner, error)?,
            }
        }
        Ok(found)
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

    /// Sees to processes that were being made when their parent was attached to, which the kernel lets go
    /// untraced: such a child becomes visible at any time until its parent leaves the system call. One that
    /// has a copy of the memory may have copied breakpoints, and is freed of them.
    pub(crate) fn adopt_strays(&mut self) {
        let Some(elders) = &self.elders else { return };
        let strays: Vec<i32> = procfs::processes().into_iter().filter(|pid| !elders.contains(pid)).collect();
        for pid in strays {
            if self.threads.register.contains(pid) || procfs::tracer_of(pid).is_some() {
                continue;
            }
            for (space, _) in self.shared.spaces() {
                self.adopt(pid, space);
            }
        }
    }

    /// Sees to process `pid`, which nobody traces, if it shares the address space or has a copy of it.
    fn adopt(&mut self, pid: i32, space: SpaceId) {
        let Some(owner) = self.threads.register.in_space(space).first().copied() else { return };
        if procfs::share_memory(pid, owner) {
            // A failure means that it has just ended, or that somebody else has just taken it.
            if self.seize_threads(pid, owner, space, Options::empty()).is_ok() {
                self.find_vfork_parents(space);
            }
        } else if procfs::execute_one_file(pid, owner)
            && let Some(copy) = self.copy_for(pid, space)
        {
            self.free(copy);
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
