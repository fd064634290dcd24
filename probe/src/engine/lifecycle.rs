//! Births, execs and the end of a session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::engine::event::Event;
use crate::engine::tracer::Tracer;
use crate::executor::ptrace::crew::Mail;
use crate::executor::ptrace::stopped::{Birth, Resume, Stop, Stopped};
use crate::executor::ptrace::threads::{Gone, Report, SpaceId, Thread};
use crate::executor::space::{Copied, Space};
use crate::target::failure::errno;
use crate::target::{lock, procfs, system};

/// Why a process's memory is, or is not, its parent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kinship {
    /// A thread of the same process.
    Thread,
    /// A process that shares the memory, as after vfork.
    Sharing,
    /// A process that has a copy, as after fork.
    Copy,
}

impl Tracer {
    /// A thread has made another thread or process, which is traced already.
    pub(crate) fn gave_birth(&mut self, stopped: Stopped, birth: Birth) {
        let tid = stopped.tid();
        if birth == Birth::Vfork
            && let Some(thread) = self.threads.get_mut(tid)
        {
            thread.in_vfork = true;
        }
        let parent = self.threads.get(tid).map(|thread| (thread.pid, thread.space));
        if let (Some((pid, space)), Some(child)) = (parent, self.child_of(&stopped)) {
            self.take_up(child, &stopped, pid, space);
        }
        self.threads.resume(stopped, 0);
    }

    /// The first stop of the thread or process whose birth `stopped` reports.
    fn child_of(&mut self, stopped: &Stopped) -> Option<Stopped> {
        let tid = stopped.tid();
        let child = self.threads.note(tid, "PTRACE_GETEVENTMSG", stopped.other())?;
        // Killed at birth is no loss; its end is nobody's concern.
        self.threads.birth_of(child).ok()
    }

    fn kinship(child: &Stopped, parent: &Stopped, parent_pid: i32, child_pid: i32) -> Kinship {
        let shares =
            system::same_memory(child.tid(), parent.tid()).unwrap_or(parent.stop != Stop::Birth(Birth::Fork));
        match shares {
            _ if child_pid == parent_pid => Kinship::Thread,
            true => Kinship::Sharing,
            false => Kinship::Copy,
        }
    }

    fn take_up(&mut self, mut child: Stopped, parent: &Stopped, pid: i32, space_id: SpaceId) {
        let tid = child.tid();
        let child_pid = procfs::process_of(tid).unwrap_or(tid);
        match Self::kinship(&child, parent, pid, child_pid) {
            Kinship::Thread => {
                let guest = self.threads.get(parent.tid()).is_some_and(|parent| parent.guest);
                self.threads.add_stopped(&child, pid, space_id);
                self.threads.set_guest(tid, guest);
                if let Some(space) = self.shared.space(space_id) {
                    self.ask_newborn(pid, &mut child, &space.read());
                }
            }
            Kinship::Sharing => {
                // Its breakpoints are its parent's, so it must be served until it executes or exits.
                self.threads.add_stopped(&child, child_pid, space_id);
                // It may be on its parent's stack.
                self.inherit_calls(parent.tid(), space_id, tid, space_id);
                self.threads.set_guest(tid, true);
                if let Some(space) = self.shared.space(space_id) {
                    self.copy_disposition(pid, &mut child, child_pid, &space.read());
                }
                if !self.shared.options.follow {
                    lock(&self.shared.transient).insert(child_pid);
                }
            }
            Kinship::Copy => {
                let Some(mut copy) = self.copy_for(&mut child, space_id) else {
                    return self.threads.let_go(child, 0);
                };
                if !self.shared.options.follow {
                    copy.clear_still();
                    copy.clear();
                    self.copy_disposition(pid, &mut child, child_pid, &copy);
                    self.shared.dispositions.forget(child_pid);
                    self.shared.tell_failures(self.shared.failures.take());
                    return self.threads.let_go(child, 0);
                }
                copy.settle();
                self.copy_disposition(pid, &mut child, child_pid, &copy);
                let copy = self.shared.add_space(copy);
                self.threads.add_stopped(&child, child_pid, copy);
                self.inherit_calls(parent.tid(), space_id, tid, copy);
                self.copy_watches(space_id, parent.tid(), copy, child_pid);
                self.tell(&Event::Followed { pid: child_pid, parent: pid });
            }
        }
        self.threads.resume(child, 0);
    }

    /// A process that a thread has made is in the same calls.
    fn inherit_calls(&mut self, parent: i32, from: SpaceId, child: i32, to: SpaceId) {
        let stack = self.threads.get(parent).and_then(|parent| parent.stack.clone());
        if let Some(child) = self.threads.get_mut(child) {
            child.stack = stack;
        }
        self.threads.inherit_handler(parent, child);
        self.shared.calls.copy(from, parent, to, child);
    }

    /// The address space that a forked process got as a copy of another one; `None` if it has just been
    /// killed. Where it cannot be had, which is told, breakpoints may be left in it.
    pub(crate) fn copy_for(&mut self, child: &mut Stopped, space: SpaceId) -> Option<Space> {
        let (tid, space) = (child.tid(), self.shared.space(space)?);
        let space = space.read();
        let open = || space.copy_for(tid).map_err(|error| errno(&error));
        let copy = match open() {
            Err(error @ (Errno::EACCES | Errno::EPERM)) => {
                self.threads.while_dumpable(child, &space, open).unwrap_or(Err(error))
            }
            copy => copy,
        };
        self.threads.note(tid, "opening /proc/PID/mem", copy)
    }

    /// Takes the breakpoints out of a copied address space.
    pub(crate) fn free(&mut self, mut copy: Space) {
        copy.clear_still();
        copy.clear();
        self.shared.tell_failures(self.shared.failures.take());
    }

    /// Frees children whose parent was killed before it could report them.
    pub(crate) fn clean_orphans(&mut self, space_id: SpaceId) {
        for mut orphan in self.threads.orphans() {
            let tid = orphan.tid();
            // Whoever has made it, and is to tell, has the same tracer. A thread's maker is one of the same process.
            let is_known = |pid: i32| self.threads.iter().any(|(_, thread)| thread.pid == pid);
            let makers = [procfs::process_of(tid), procfs::parent_of(tid)];
            if makers.into_iter().flatten().any(is_known) {
                self.threads.expect_parent(orphan);
                continue;
            }
            if let Some(copy) = self.copy_for(&mut orphan, space_id) {
                self.free(copy);
            }
            self.threads.let_go(orphan, 0);
        }
    }

    /// A process executes a new program.
    pub(crate) fn serve_exec(&mut self, mut stopped: Stopped) {
        let tid = stopped.tid();
        if lock(&self.shared.transient).remove(&tid) {
            self.forget_process(&stopped);
            // The signals that wait survive the exec.
            if self.threads.register.uses_hardware() && self.take_pending(&mut stopped) == Err(Gone) {
                return self.threads.resume(stopped, 0);
            }
            self.threads.let_go(stopped, 0);
            return;
        }
        // `launch` has seen to the first exec already.
        if !self.threads.get(tid).is_some_and(|thread| thread.fresh) {
            self.executed(&mut stopped);
        }
        if let Some(thread) = self.threads.get_mut(tid) {
            thread.fresh = false;
        }
        self.tell(&Event::Exec { pid: tid });
        self.threads.resume(stopped, 0);
    }

    /// Forgets every thread of the process that has stopped in exec: only the one that executes is left, and
    /// it is the leader now.
    fn forget_process(&mut self, stopped: &Stopped) {
        let pid = stopped.tid();
        for post in self.shared.crew.others(self.threads.me) {
            post.send(Mail::Forget { pid });
        }
        let spaces = self.threads.register.leave_one(pid, self.threads.me);
        self.shared.count_dropped(self.shared.calls.of_process(pid));
        self.shared.watches.forget_process(pid);
        self.forget_own(pid);
        for space in spaces {
            if self.threads.register.is_deserted(space)
                && let Some(space) = self.shared.remove_space(space)
                // It was opened while the process executed: it is that of the new program already.
                && !space.read().is_dead()
            {
                space.write().clear();
            }
        }
    }

    /// Another tracer has a process that executes another program: of its threads none is left.
    pub(crate) fn forget_own(&mut self, pid: i32) {
        let old = self.threads.iter().filter(|(_, thread)| thread.pid == pid).map(|(tid, _)| tid);
        for tid in old.collect::<Vec<_>>() {
            self.regions.remove(&tid);
            self.threads.give(tid);
        }
    }

    /// Takes up the new program of a process that has stopped in exec, and locates all probes in it.
    pub(crate) fn executed(&mut self, stopped: &mut Stopped) {
        const CLASS_64: u8 = 2;
        let pid = stopped.tid();
        self.forget_process(stopped);
        let space = match Space::open(pid, &self.shared.failures) {
            Ok(space) => space,
            Err(error) => {
                self.threads.add_stopped(stopped, pid, SpaceId::MAX);
                // Otherwise it was killed in its exec.
                if errno(&error) != Errno::ESRCH {
                    self.tell(&Event::Inaccessible { pid, error: &error });
                    *lock(&self.shared.inaccessible) = Some((pid, Arc::new(error)));
                }
                return;
            }
        };
        self.inherit_disposition(stopped, &space);
        let space = self.shared.add_space(space);
        self.threads.add_stopped(stopped, pid, space);
        match procfs::elf_class(pid) {
            Some(CLASS_64) => {
                self.watch_linker(space, pid, true);
                self.relocate(space, pid);
            }
            // A 32-bit program has nothing that could be probed; probes wait for the next exec.
            Some(_) => self.tell(&Event::Not64Bit { pid }),
            // It is gone.
            None => {}
        }
    }

    /// Lets go of all threads of this tracer, when every byte has been restored.
    pub(crate) fn detach_own(&mut self) {
        /// For threads that cannot stop, or whose end does not come.
        const PATIENCE: Duration = Duration::from_secs(5);
        self.regions.clear();
        self.threads.resume_all_aside();
        // Threads that wait for a vfork child cannot stop before it executes, so let children go first.
        self.interrupt(|thread| !thread.in_vfork);
        self.release_as_they_stop(|_, thread| !thread.in_vfork && !thread.dying, None);
        self.interrupt(|_| true);
        self.release_as_they_stop(|_, thread| !thread.dying, Some(PATIENCE));
        self.threads.gather(|_, thread| thread.dying, Some(PATIENCE));
        self.threads.reap();
        self.release_all();
        let held = self.threads.iter().filter(|(_, thread)| thread.is_running()).map(|(tid, _)| tid);
        for tid in held.collect::<Vec<_>>() {
            self.threads.note::<()>(tid, "PTRACE_DETACH", Err(Errno::EBUSY));
        }
        self.tell_all_failures();
        self.threads.clear();
    }

    pub(crate) fn restore_bytes(&mut self) {
        let (mut overwritten, mut copied) = (Vec::new(), Vec::new());
        for (id, space) in self.shared.spaces() {
            let maps = self.maps_in(id);
            let mut space = space.write();
            overwritten.extend(space.clear().into_iter().map(|address| (id, address)));
            let copies = maps.map(|maps| space.lift_copies(&maps)).unwrap_or_default();
            copied.extend(copies.into_iter().map(|copy| (id, copy)));
        }
        for (space, address) in overwritten {
            self.tell_overwritten(space, address);
        }
        for (space, (address, Copied { of, .. })) in copied {
            self.tell(&Event::Copied { pid: self.shared.pid_in(space), address, of, served: false });
        }
    }

    fn interrupt(&mut self, wanted: impl Fn(&Thread) -> bool) {
        let running = self.threads.iter().filter(|(_, thread)| thread.is_running() && wanted(thread));
        let running: Vec<i32> = running.map(|(tid, _)| tid).collect();
        running.into_iter().for_each(|tid| self.threads.interrupt(tid));
    }

    /// Releases threads until none that is `wanted` runs, or for that long at most; each at once, for what one does in the
    /// kernel may need another.
    pub(crate) fn release_as_they_stop(
        &mut self,
        wanted: impl Fn(i32, &Thread) -> bool,
        most: Option<Duration>,
    ) {
        let deadline = most.and_then(|most| Instant::now().checked_add(most));
        while self.threads.gather_next(&wanted, deadline) {
            self.release_all();
        }
        self.release_all();
    }

    /// Releases every thread whose stop has been reported.
    pub(crate) fn release_all(&mut self) {
        self.threads.end_standing();
        while let Some(report) = self.threads.queued() {
            match report {
                Report::Stopped(stopped) | Report::Turn(stopped) => self.release(stopped),
                Report::Ended { tid, status } => self.ended(tid, status),
                Report::Interrupted | Report::Nobody => {}
            }
        }
    }

    /// Detaches from one thread.
    pub(crate) fn release(&mut self, stopped: Stopped) {
        let tid = stopped.tid();
        if matches!(stopped.stop, Stop::Birth(_))
            && let Some(child) = self.child_of(&stopped)
        {
            self.release_child(child, &stopped);
        }
        let space = self.threads.get(tid).map(|thread| thread.space);
        let mut stopped = stopped;
        self.threads.let_restart(&stopped);
        if self.take_pending(&mut stopped) == Err(Gone) {
            return self.threads.resume(stopped, 0);
        }
        let signal = match stopped.stop.signal() {
            libc::SIGTRAP
                if space.is_some_and(|space| {
                    self.signalled(&stopped, space).is_some()
                        || self.rewind(&mut stopped, space)
                        || self.recover_copy(&mut stopped, space)
                }) =>
            {
                0
            }
            signal => signal,
        };
        if signal == 0 {
            self.leave_disposition(&mut stopped);
        }
        self.threads.let_go(stopped, signal);
    }

    /// A thread that has reached a breakpoint and is interrupted before it stops for it has a SIGTRAP waiting, which
    /// would kill it: has it stop for that. So has one that blocks the signal and has passed a hardware breakpoint.
    fn take_pending(&mut self, stopped: &mut Stopped) -> Result<(), Gone> {
        const MOST_SIGNALS: usize = 8;
        let by_hardware = self.threads.register.uses_hardware();
        for _ in 0..MOST_SIGNALS {
            match stopped.stop {
                Stop::Signal(libc::SIGTRAP) => return Ok(()),
                // A signal comes first, to its handler, if there is one.
                Stop::Signal(signal) if by_hardware && self.has_pending_breakpoint(stopped) => {
                    self.threads.interrupt(stopped.tid());
                    self.threads.run_on(stopped, Resume::Continue, signal)?;
                }
                Stop::Signal(_) => return Ok(()),
                // It may have been asked to stop more than once.
                _ if self.has_pending_breakpoint(stopped) => {
                    self.threads.take_pending_trap(stopped)?;
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn has_pending_breakpoint(&mut self, stopped: &Stopped) -> bool {
        let pending = stopped.has_pending_breakpoint();
        self.threads.note(stopped.tid(), "PTRACE_PEEKSIGINFO", pending).unwrap_or(false)
    }

    fn release_child(&mut self, mut child: Stopped, parent: &Stopped) {
        let space = self.threads.get(parent.tid()).map(|thread| thread.space);
        if let Some(space) = space
            && system::same_memory(child.tid(), parent.tid()) != Some(true)
            && let Some(copy) = self.copy_for(&mut child, space)
        {
            self.free(copy);
        }
        self.threads.let_go(child, 0);
    }

    /// Sets a thread that has trapped on a removed breakpoint back to the instruction. Says whether it had.
    pub(crate) fn rewind(&mut self, stopped: &mut Stopped, space: SpaceId) -> bool {
        let tid = stopped.tid();
        let fetched = self.registers.fetch(stopped);
        if self.threads.note(tid, "PTRACE_GETREGS", fetched).is_none()
            || !self.threads.is_breakpoint(stopped, true)
        {
            return false;
        }
        let address = self.registers.file.rip.wrapping_sub(1);
        if !self.shared.space(space).is_some_and(|space| space.read().was_removed(address)) {
            return false;
        }
        self.set_back(stopped, space, address)
    }
}
