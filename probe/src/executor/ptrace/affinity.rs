//! The tracer runs on the processor of the thread that it serves: then the kernel hands over directly, which
//! makes a stop four times cheaper than one across processors.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::target::procfs;
use crate::target::system;

/// Keeps the calling thread on the processor of the threads that it serves, and restores its own affinity
/// when dropped.
#[derive(Debug)]
pub(crate) struct Affinity {
    own: Option<CpuSet>,
    /// Where the thread was at the last look, and whether the tracer could go there.
    current: Option<u32>,
    joined: bool,
    /// Whom the last look was at.
    tid: i32,
    /// How many hits to go before the next look, and how many there were between the last two.
    countdown: u32,
    interval: u32,
}

impl Affinity {
    /// Finding out where a thread runs costs about as much as half a hit, so look less often while it stays.
    const LONGEST_INTERVAL: u32 = 256;

    pub(crate) fn new() -> Affinity {
        Affinity {
            own: sched_getaffinity(system::pid(0)).ok(),
            current: None,
            joined: false,
            tid: 0,
            countdown: 0,
            interval: 1,
        }
    }

    /// Moves to where thread `tid` has just stopped.
    pub(crate) fn follow(&mut self, tid: i32) {
        if tid == self.tid && self.countdown > 0 {
            self.countdown -= 1;
            return;
        }
        let before = self.current;
        // Where this is forbidden, the tracer is slower and nothing else.
        self.join(tid);
        self.interval =
            if self.current == before { (self.interval * 2).min(Self::LONGEST_INTERVAL) } else { 1 };
        self.countdown = self.interval;
    }

    /// Moves to where thread `tid` is stopped, and says whether the tracer is there now.
    pub(crate) fn join(&mut self, tid: i32) -> bool {
        self.tid = tid;
        let Some(cpu) = procfs::processor_of(tid) else { return false };
        if self.current != Some(cpu) || !self.joined {
            let mut set = CpuSet::new();
            let moved = set.set(cpu as usize).and_then(|()| sched_setaffinity(system::pid(0), &set));
            (self.current, self.joined) = (Some(cpu), moved.is_ok());
        }
        self.joined
    }

    /// Goes back to the affinity that the thread had before.
    pub(crate) fn restore(&mut self) {
        // Where it cannot, it stays where it is, which is slower and nothing else.
        if self.current.is_some()
            && let Some(own) = &self.own
            && sched_setaffinity(system::pid(0), own).is_ok()
        {
            self.current = None;
        }
    }
}

impl Drop for Affinity {
    fn drop(&mut self) {
        self.restore();
    }
}
