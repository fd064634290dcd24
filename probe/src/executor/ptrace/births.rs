//! Threads and processes that traced ones have made: the kernel has them traced from their birth on, by whoever traces their
//! makers, and tells of both in any order.

use nix::errno::Errno;

use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::sys::{self, Status};
use crate::executor::ptrace::threads::{Gone, Threads};
use crate::target::{procfs, system};

impl Threads {
    /// The first stop of `tid`, a thread or process that a traced thread has made.
    pub(crate) fn birth_of(&mut self, tid: i32) -> Result<Stopped, Gone> {
        if let Some(stopped) = self.newborn.remove(&tid) {
            return Ok(stopped);
        }
        loop {
            match sys::wait(tid, true) {
                Ok(Some((_, Status::Stopped(stop)))) => return Ok(Stopped::new(tid, stop)),
                Ok(None) | Err(Errno::EINTR) => {}
                // Its end has been taken from the kernel already where there is no such thread any more.
                Ok(Some((_, Status::Ended(_)))) | Err(_) => return Err(Gone),
            }
        }
    }

    /// Processes that stopped at birth and whose parent was killed before it could report them.
    pub(crate) fn orphans(&mut self) -> Vec<Stopped> {
        std::mem::take(&mut self.newborn).into_values().collect()
    }

    /// Queues what is reported of threads and processes that were born when their makers were killed: where all others of
    /// this tracer have ended, nobody would ask for them, and as long as the end of a thread has not been taken from the
    /// kernel, that of its process is not reported.
    ///
    /// The session's own thread may have children that are none of ours, for which it does not wait.
    pub(crate) fn gather_orphans(&mut self) {
        while self.by_tid.is_empty() {
            let found = match sys::wait(-1, false) {
                Ok(None) => match self.orphan_to_come() {
                    Some(orphan) => sys::wait(orphan, true),
                    None => return,
                },
                found => found,
            };
            match found {
                Ok(Some(found)) => {
                    let report = self.take(found);
                    self.queue.extend(report);
                }
                Ok(None) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// A thread that this tracer traces, though nobody has reported its birth, and of which something is sure to be reported:
    /// it stops, or, if it has, ends, where it was killed with its maker.
    fn orphan_to_come(&self) -> Option<i32> {
        let me = system::this_thread();
        // A process is not killed with its maker; and one that waits for a vfork child was left by a session before this.
        let is_to_come = |&tid: &i32| {
            procfs::tracer_of(tid) == Some(me)
                && (!self.newborn.contains_key(&tid) || procfs::process_of(tid) != Some(tid))
                && !procfs::waits_for_vfork(tid)
        };
        let threads = |pid: i32| procfs::threads_of(pid).unwrap_or_default();
        procfs::processes().into_iter().flat_map(threads).find(is_to_come)
    }

    /// Keeps a stop at birth until the parent reports it.
    pub(crate) fn expect_parent(&mut self, stopped: Stopped) {
        self.newborn.insert(stopped.tid(), stopped);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;
    use std::time::Duration;

    use nix::sys::ptrace::{Options, seize};

    use super::*;
    use crate::executor::ptrace::crew::Crew;
    use crate::executor::ptrace::register::Register;
    use crate::executor::ptrace::sys::Alarm;
    use crate::executor::ptrace::threads::Report;

    #[test]
    fn what_is_born_is_waited_for_and_what_is_none_of_ours_is_not() {
        let crew = Arc::new(Crew::default());
        let alarm = Arc::new(Alarm::new().unwrap());
        let mut threads = Threads::new(alarm, Arc::new(Register::default()), crew);
        let mut stranger = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        threads.gather_orphans();
        assert!(threads.queued().is_none());
        // Traced, and nobody has told of it. It is killed later than anything that takes its time.
        let mut newborn = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = system::pid(i32::try_from(newborn.id()).unwrap());
        seize(pid, Options::empty()).unwrap();
        let killing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        });
        threads.gather_orphans();
        assert!(matches!(threads.queued(), Some(Report::Ended { tid, .. }) if tid == pid.as_raw()));
        killing.join().unwrap();
        assert_eq!(newborn.wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        drop(stranger.stdin.take());
        assert!(stranger.wait().unwrap().success());
    }
}
