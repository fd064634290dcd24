//! Leaving a target so that no thread notices. The kernel lets go of a thread that runs only by interrupting it, at
//! which some system calls fail with EINTR; unless its tracer ends.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::event::ProbeReport;
use crate::engine::hit::ProbeId;
use crate::engine::session::Session;
use crate::engine::tracer::Tracer;
use crate::engine::watch::{WatchId, WatchReport};
use crate::executor::ptrace::sys;
use crate::executor::ptrace::threads::Report;
use crate::target::procfs;

/// What is left of a session, by [`Session::leave`].
#[derive(Debug)]
pub struct Left {
    probes: Vec<ProbeReport>,
    watches: Vec<WatchReport>,
    inaccessible: Option<(i32, Arc<io::Error>)>,
    pid: i32,
    launched: bool,
    status: Option<ExitStatus>,
}

impl Left {
    /// As [`Session::report`].
    #[must_use]
    pub fn report(&self, id: ProbeId) -> Option<ProbeReport> {
        self.probes.get(id.0).cloned()
    }

    /// As [`Session::watch_report`].
    #[must_use]
    pub fn watch_report(&self, id: WatchId) -> Option<WatchReport> {
        self.watches.get(id.index()).cloned()
    }

    /// As [`Session::inaccessible`].
    #[must_use]
    pub fn inaccessible(&self) -> Option<(i32, Arc<io::Error>)> {
        self.inaccessible.clone()
    }

    /// The target's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the session started its target.
    #[must_use]
    pub fn is_launched(&self) -> bool {
        self.launched
    }

    /// The target's exit status, as far as it is known.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Waits for the end of a target that was launched, and returns its status, if it can be had.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        if self.launched && self.status.is_none() {
            self.status = sys::wait_for_end(self.pid).ok().map(ExitStatus::from_raw);
        }
        self.status
    }
}

impl Tracer {
    /// Takes all breakpoints out; what has reached one already is still served.
    pub(crate) fn stop_serving(&mut self) {
        self.restore_bytes();
        self.shared.wishes.stop.store(true, Ordering::SeqCst);
        self.shared.crew.wake_captain();
    }
}

impl Session {
    /// Leaves the target so that none of its threads notices: every byte is restored, and what has reached a
    /// breakpoint is served. Then **the calling thread must end at once**: only that makes the kernel let go of threads
    /// that run without interrupting them, and until then nobody passes their signals on. A session is meant to be
    /// served by a thread of its own.
    ///
    /// With that thread ends a target that is to be killed with it ([`SessionOptions::kill_with`]).
    ///
    /// [`SessionOptions::kill_with`]: crate::SessionOptions::kill_with
    #[must_use = "it holds what was counted"]
    pub fn leave(mut self) -> Left {
        self.tracer.restore_bytes();
        self.tracer.dismiss_others(true);
        self.tracer.settle_down();
        self.tracer.wait_for_others();
        self.tracer.threads.clear();
        self.shared().clear_spaces();
        self.tracer.tell_all_failures();
        Left {
            probes: self.shared().probes().iter().map(|probe| probe.report()).collect(),
            watches: self.shared().watches.reports(),
            inaccessible: self.inaccessible(),
            pid: self.pid(),
            launched: self.is_launched(),
            status: self.status(),
        }
    }
}

impl Tracer {
    /// Serves stops until no thread can be on its way from an INT3 to its stop, or from fork to that of its child: each
    /// sleeps, or has run for longer than that takes. One that does neither in time is interrupted, and so is one that
    /// holds back the signal of a hardware breakpoint.
    pub(crate) fn settle_down(&mut self) {
        /// Far longer than the kernel runs from an INT3, or from having copied an address space, to the stop.
        const LONGEST_WAY: u64 = 4_000_000;
        const PATIENCE: Duration = Duration::from_secs(2);
        let deadline = Instant::now() + PATIENCE;
        self.regions.clear();
        self.threads.end_standing();
        self.threads.resume_all_aside();
        // Whose signals wait in threads that block SIGTRAP.
        let by_hardware = self.threads.register.uses_hardware();
        let mut before: HashMap<i32, u64> = HashMap::new();
        for (tid, _) in self.threads.iter().filter(|(_, thread)| thread.is_running()) {
            before.insert(tid, procfs::run_time(tid).unwrap_or(u64::MAX));
        }
        loop {
            match self.threads.soon() {
                Some(Report::Stopped(stopped) | Report::Turn(stopped)) => self.release(stopped),
                Some(Report::Ended { tid, status }) => self.ended(tid, status),
                Some(Report::Interrupted | Report::Nobody) => {}
                None => {
                    let mut holding = Vec::new();
                    before.retain(|&tid, &mut before| {
                        let thread = self.threads.get(tid).filter(|thread| thread.is_running());
                        let has_run = |now: u64| now.saturating_sub(before) > LONGEST_WAY;
                        thread.is_some_and(|thread| {
                            if by_hardware && procfs::holds_back(tid, libc::SIGTRAP) {
                                holding.push(tid);
                                return true;
                            }
                            !thread.in_vfork
                                && !procfs::sleeps(tid, libc::SIGTRAP)
                                && !procfs::run_time(tid).is_some_and(has_run)
                                && !procfs::has_exited(tid)
                        })
                    });
                    // Nobody else could take the signal from them.
                    holding.into_iter().for_each(|tid| self.threads.interrupt(tid));
                    if before.is_empty() {
                        return;
                    }
                    if Instant::now() >= deadline {
                        break;
                    }
                }
            }
        }
        before.keys().for_each(|&tid| self.threads.interrupt(tid));
        self.threads.gather(|tid, _| before.contains_key(&tid), Some(PATIENCE));
        self.release_all();
    }
}
