//! Leaving a target for a while, and waiting for one that has been left.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;

use crate::engine::event::Event;
use crate::engine::session::Session;
use crate::error::AttachError;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::sys::{self, Status};
use crate::target::{lock, procfs};

impl Session {
    /// Leaves the target as [`Session::detach`] does, but takes it up again by [`Session::resume`].
    ///
    /// For a caller that will not serve it for a while, such as one that is about to be stopped itself. Until
    /// then the target runs as if nobody had traced it, no probe is hit, and there is nothing to run.
    pub fn pause(&mut self) {
        let traced = self.shared().register.processes().into_iter();
        let probed = traced.filter(|&(_, space)| self.shared().space(space).is_some());
        let transient = lock(&self.shared().transient).clone();
        let own: BTreeSet<i32> = probed.map(|(pid, _)| pid).filter(|pid| !transient.contains(pid)).collect();
        self.paused = own.into_iter().filter_map(|pid| Some((pid, procfs::started(pid)?))).collect();
        self.detach();
    }

    /// Takes up what [`Session::pause`] has left, and places all probes again. A process that has ended
    /// meanwhile is none, and one that was made meanwhile is not known.
    ///
    /// # Errors
    /// [`AttachError`] of the first process that could not be taken up, such as one that somebody else traces
    /// now; the others are.
    pub fn resume(&mut self) -> Result<(), AttachError> {
        let mut result = Ok(());
        for (pid, started) in std::mem::take(&mut self.paused) {
            if self.reap_target(pid) || procfs::started(pid) != Some(started) || procfs::has_exited(pid) {
                continue;
            }
            let special = self.shared().special();
            match self.tracer.occupy(pid, special) {
                Ok(space) => self.tracer.relocate(space, pid),
                // It has just ended: if it is traced by now, that will be reported.
                Err(_) if procfs::has_exited(pid) => {
                    if !self.shared().register.contains(pid) {
                        self.reap_target(pid);
                    }
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Takes the end of process `pid` from the kernel, if it has ended and is the target that was launched.
    fn reap_target(&mut self, pid: i32) -> bool {
        if !self.is_launched() || pid != self.pid() {
            return false;
        }
        let Ok(Some((_, Status::Ended(status)))) = sys::wait(pid, false) else { return false };
        let status = ExitStatus::from_raw(status);
        *lock(&self.shared().status) = Some(status);
        self.shared().tell(&Event::Ended { pid, status });
        true
    }

    /// Waits for the end of a target that was launched and left, and returns its status, if it can be had.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        while self.is_launched() && self.status().is_none() {
            match sys::wait(-1, true) {
                Ok(Some((tid, Status::Ended(status)))) if tid == self.pid() => {
                    *lock(&self.shared().status) = Some(ExitStatus::from_raw(status));
                }
                // One that waited for its vfork child could not be let go before.
                Ok(Some((tid, Status::Stopped(stop)))) => {
                    self.tracer.threads.let_go(Stopped::new(tid, stop), stop.signal());
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.status()
    }
}
