//! Answers that differ from core to core ([`emu::Touches::THIS_CORE`]): the emulator must ask on the core on
//! which the other thread executes.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread and another one on one core until it is dropped.
#[derive(Debug)]
#[must_use = "they part when it is dropped"]
pub struct SharedCore {
    /// Where each might run before.
    before: [(Pid, Option<CpuSet>); 2],
}

impl SharedCore {
    /// Calls the other thread to the calling one's core. Where that is forbidden, they stay where they are.
    pub(super) fn with(tid: i32) -> SharedCore {
        let before = [0, tid].map(Pid::from_raw).map(|thread| (thread, sched_getaffinity(thread).ok()));
        let mut here = CpuSet::new();
        if sched_getcpu().is_ok_and(|core| here.set(core).is_ok()) {
            for (thread, _) in &before {
                let _ = sched_setaffinity(*thread, &here);
            }
        }
        SharedCore { before }
    }
}

impl Drop for SharedCore {
    fn drop(&mut self) {
        for (thread, set) in &self.before {
            if let Some(set) = set {
                let _ = sched_setaffinity(*thread, set);
            }
        }
    }
}
