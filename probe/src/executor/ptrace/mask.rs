//! Whether threads block SIGTRAP. A breakpoint's SIGTRAP is forced through: where the thread blocks it, the
//! kernel unblocks it, resets its handler, and leaves no trace of that. So what was seen before must tell.

use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::Threads;
use crate::target::procfs;

/// SIGTRAP as a set of signals.
const TRAP: u64 = 1 << (libc::SIGTRAP - 1);

const GET: &str = "PTRACE_GETSIGMASK";
const SET: &str = "PTRACE_SETSIGMASK";

impl Threads {
    /// Looks at which signals a thread blocks, now that it has stopped and not for a breakpoint.
    ///
    /// That is of interest only until it is seen not to block SIGTRAP: a thread that was never seen to is
    /// left as the kernel makes it.
    pub(crate) fn look_at_mask(&mut self, thread: &Stopped) {
        let tid = thread.tid();
        if self.get(tid).is_some_and(|known| known.blocked & TRAP != 0) {
            let blocked = self.note(tid, GET, thread.signal_mask()).unwrap_or(0);
            self.set_blocked(tid, blocked);
        }
    }

    /// Blocks SIGTRAP again, after a thread has stopped for a breakpoint, if it did before.
    ///
    /// It did if it was seen to, and its mask is otherwise the same, and that is not just empty: the mask at
    /// birth is not the thread's own, for C libraries and Go block everything meanwhile. And it did not if
    /// there is still a handler. In doubt it is left unblocked: blocked where it was not, the signal would
    /// lose its handler at the next breakpoint, and children would inherit it.
    /// Nor is there doubt where it runs a handler that has it blocked, whose end is seen.
    ///
    /// Says whether it did.
    pub(crate) fn put_back_mask(&mut self, thread: &Stopped) -> bool {
        let tid = thread.tid();
        let Some(known) = self.get(tid).filter(|known| known.blocked & TRAP != 0) else { return false };
        let (before, handles) = (known.blocked, known.handles_trap);
        let Some(now) = self.note(tid, GET, thread.signal_mask()) else { return false };
        let is_same = now | TRAP == before && now & !TRAP != 0 || handles && now & TRAP == 0;
        let did = is_same && !procfs::catches(tid, libc::SIGTRAP);
        if !did {
            self.set_blocked(tid, now);
        } else if self.note(tid, SET, thread.set_signal_mask(now | TRAP)).is_none() {
            self.set_blocked(tid, 0);
        }
        did
    }

    /// A thread is at the first instruction of a handler, which may have SIGTRAP blocked.
    pub(crate) fn begin_handler(&mut self, thread: &Stopped) {
        let tid = thread.tid();
        let blocked = self.note(tid, GET, thread.signal_mask()).unwrap_or(0);
        if let Some(known) = self.get_mut(tid) {
            (known.blocked, known.handles_trap) = (blocked, blocked & TRAP != 0);
        }
    }

    /// A thread in a handler that has SIGTRAP blocked has stopped, and was looked at: that is over if it blocks it no more.
    pub(crate) fn end_handler(&mut self, thread: &Stopped) {
        if let Some(known) = self.get_mut(thread.tid()) {
            known.handles_trap &= known.blocked & TRAP != 0;
        }
    }

    /// Whether a thread is in a handler that has SIGTRAP blocked.
    pub(crate) fn is_handling(&self, tid: i32) -> bool {
        self.get(tid).is_some_and(|known| known.handles_trap)
    }

    /// A process that a thread has made is in the same handler.
    pub(crate) fn inherit_handler(&mut self, parent: i32, child: i32) {
        let handles = self.is_handling(parent);
        if let Some(child) = self.get_mut(child) {
            child.handles_trap = handles;
        }
    }

    /// Nobody is to see any more when the handler ends that a thread may be in.
    pub(crate) fn forget_handler(&mut self, tid: i32) {
        if let Some(thread) = self.get_mut(tid) {
            thread.handles_trap = false;
        }
    }

    /// Unblocks SIGTRAP again, which a thread is to take.
    pub(crate) fn unblock_trap(&mut self, thread: &Stopped) {
        let tid = thread.tid();
        if self.get(tid).is_some_and(|known| known.blocked & TRAP != 0)
            && let Some(mask) = self.note(tid, GET, thread.signal_mask())
        {
            self.note(tid, SET, thread.set_signal_mask(mask & !TRAP));
            self.set_blocked(tid, mask & !TRAP);
        }
    }

    fn set_blocked(&mut self, tid: i32, blocked: u64) {
        if let Some(thread) = self.get_mut(tid) {
            thread.blocked = blocked;
        }
    }
}
