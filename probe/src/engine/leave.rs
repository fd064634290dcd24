//! Leaving a target so that no thread notices. The kernel lets go of a thread that is not stopped only by interrupting it,
//! which ends its sleep, unless its tracer ends.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::event::ProbeReport;
use crate::engine::hit::ProbeId;
use crate::engine::kin::{Awaited, LONGEST_BIRTH};
use crate::engine::session::Session;
use crate::engine::tracer::Tracer;
use crate::engine::watch::{WatchId, WatchReport};
use crate::executor::ptrace::sys;
use crate::executor::ptrace::threads::Report;
use crate::target::procfs;

/// What is left of a session, by [`Session::leave`].
#[derive(Debug)]
pub struct Left {
    probes: BTreeMap<usize, ProbeReport>,
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
        self.probes.get(&id.0).cloned()
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
    /// that sleep without interrupting them, and until then nobody passes their signals on. A session is meant to be
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
            probes: self.shared().reports(),
            watches: self.shared().watches.reports(),
            inaccessible: self.inaccessible(),
            pid: self.pid(),
            launched: self.is_launched(),
            status: self.status(),
        }
    }
}

impl Tracer {
    /// Serves stops until no thread can be on its way from an INT3 to its stop, or from fork to that of its child: each has
    /// been seen to sleep elsewhere, or has stopped. One that does neither is interrupted, which it does not notice, and so
    /// is one that must be stopped for another reason.
    pub(crate) fn settle_down(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let deadline = Instant::now() + PATIENCE;
        self.regions.clear();
        self.threads.end_standing();
        self.threads.resume_all_aside();
        let running = self.threads.iter().filter(|(_, thread)| thread.is_running());
        let mut awaited: Vec<Awaited> = running.map(|(tid, _)| Awaited::new(tid)).collect();
        loop {
            match self.threads.soon() {
                Some(Report::Stopped(stopped) | Report::Turn(stopped)) => self.release(stopped),
                Some(Report::Ended { tid, status }) => self.ended(tid, status),
                Some(Report::Interrupted | Report::Nobody) => {}
                None => {
                    awaited.retain(|awaited| self.is_unsettled(awaited.tid));
                    if awaited.is_empty() {
                        return;
                    }
                    if Instant::now() >= deadline {
                        break;
                    }
                    awaited.iter_mut().for_each(|awaited| self.hurry(awaited, self.must_stop(awaited.tid)));
                }
            }
        }
        awaited.iter_mut().for_each(|awaited| self.hurry(awaited, true));
        let is_making = awaited.iter().any(|awaited| self.may_be_making(awaited.tid));
        let patience = if is_making { LONGEST_BIRTH } else { PATIENCE };
        self.release_as_they_stop(|tid, _| awaited.iter().any(|awaited| awaited.tid == tid), Some(patience));
    }

    /// Whether a thread runs, and does not sleep where nothing is left to be reported of what it has met or made.
    fn is_unsettled(&self, tid: i32) -> bool {
        let settled =
            || procfs::sleeps(tid, libc::SIGTRAP) && !procfs::may_be_making(tid) && !self.must_stop(tid);
        self.threads.get(tid).is_some_and(|thread| thread.is_running() && !thread.in_vfork)
            && !settled()
            && !procfs::has_exited(tid)
    }

    /// Whether a thread blocks SIGTRAP, and has that of a hardware breakpoint, which nobody else could take from it; or is of
    /// a process whose action for that is to be put back.
    fn must_stop(&self, tid: i32) -> bool {
        self.threads.register.uses_hardware() && procfs::holds_back(tid, libc::SIGTRAP)
            || self.has_lost_disposition(tid)
    }
}
