//! Threads and processes that traced ones have made: the kernel has them traced from their birth on, by whoever traces their
//! makers, and tells of both in any order.

use nix::errno::Errno;

use crate::executor::ptrace::crew::CAPTAIN;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::sys::{self, Status};
use crate::executor::ptrace::threads::{Gone, Threads};
use crate::target::procfs;

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
    /// The session's own thread may have children that are none of ours, for which it does not wait longer than a moment.
    pub(crate) fn gather_orphans(&mut self) {
        const PATIENCE: u64 = 20_000_000;
        /// What is born stops or ends at once, but where the system has no time for it.
        const TRIES: usize = 50;
        // Which is killed as well.
        let is_thread = |&tid: &i32| procfs::process_of(tid) != Some(tid);
        for _ in 0..if self.me == CAPTAIN { 1 } else { TRIES } {
            if !self.by_tid.is_empty() {
                return;
            }
            let found = match sys::wait(-1, false) {
                Ok(None) if self.newborn.is_empty() || self.newborn.keys().any(is_thread) => {
                    self.alarm.ring_in(PATIENCE);
                    let found = sys::wait(-1, true);
                    self.alarm.silence();
                    found
                }
                found => found,
            };
            match found {
                Ok(Some(found)) => {
                    let report = self.take(found);
                    self.queue.extend(report);
                }
                Err(Errno::EINTR) => {}
                // There is nobody, or children that have stopped.
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Keeps a stop at birth until the parent reports it.
    pub(crate) fn expect_parent(&mut self, stopped: Stopped) {
        self.newborn.insert(stopped.tid(), stopped);
    }
}
