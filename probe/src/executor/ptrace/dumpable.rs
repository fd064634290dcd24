//! A process that has just been forked and is not dumpable: only who may trace all can open its memory, in which are its
//! parent's breakpoints, of which it would die. That it is traced does not matter for that. So it says itself that it is
//! dumpable, by prctl(2), until its memory is open: nothing of it runs meanwhile but that system call.

use crate::executor::ptrace::borrow::{self, Need};
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::Threads;
use crate::executor::space::Space;
use crate::target::procfs;

const SYSCALL: [u8; 2] = [0x0f, 0x05];

impl Threads {
    /// Does `work` while the process `child`, a copy of that in `space`, is dumpable. `None` if it is not the reason that it
    /// was not, or cannot be changed, such as in a process that filters its system calls.
    pub(crate) fn while_dumpable<T>(
        &mut self,
        child: &mut Stopped,
        space: &Space,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        if procfs::is_filtered(child.tid()) || child.dispatches_system_calls() {
            return None;
        }
        let address = a_syscall(child.tid(), child.registers().ok()?.rip, space)?;
        let mut prctl = |option: i32, argument| {
            let arguments = [u64::from(option.cast_unsigned()), argument, 0, 0];
            self.enter_and_return(child, address, libc::SYS_prctl, arguments).ok()
        };
        // 2 cannot be set again.
        if prctl(libc::PR_GET_DUMPABLE, 0)? != 0 || prctl(libc::PR_SET_DUMPABLE, 1)? != 0 {
            return None;
        }
        let done = work();
        prctl(libc::PR_SET_DUMPABLE, 0);
        Some(done)
    }
}

/// Where a process that has just been born, behind `rip`, finds a SYSCALL in its copy of `space`.
fn a_syscall(tid: i32, rip: u64, space: &Space) -> Option<u64> {
    // Mostly it has come out of that one.
    let behind = rip.wrapping_sub(SYSCALL.len() as u64);
    let mut bytes = [0; SYSCALL.len()];
    if space.read_raw(behind, &mut bytes).is_ok() && bytes == SYSCALL {
        return Some(behind);
    }
    // Where that is probed, its parent has borrowed another, or has executed it while the breakpoint was lifted.
    let borrowed = borrow::loan(space, tid, Need::Syscall).map(|loan| loan.address);
    borrowed
        .or_else(|| space.code_at(behind).is_ok_and(|(code, _)| code.starts_with(&SYSCALL)).then_some(behind))
}
