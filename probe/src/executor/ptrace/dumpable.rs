//! A process that has just been forked and is not dumpable: only who may trace all can open its memory, in which are its
//! parent's breakpoints, of which it would die. That it is traced does not matter for that. So it says itself that it is
//! dumpable, by prctl(2), until its memory is open: nothing of it runs meanwhile but that system call.

use crate::executor::ptrace::borrow::{self, Need};
use crate::executor::ptrace::registers;
use crate::executor::ptrace::stopped::{Resume, Stopped};
use crate::executor::ptrace::threads::{Ran, Threads};
use crate::executor::space::Space;
use crate::target::procfs;

const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A stopped process that makes system calls for us.
struct Caller<'a> {
    threads: &'a mut Threads,
    process: &'a mut Stopped,
    registers: libc::user_regs_struct,
    /// Where there is a SYSCALL.
    address: u64,
}

impl Threads {
    /// Does `work` while the process `child`, a copy of that in `space`, is dumpable. `None` if it is not the reason that it
    /// was not, or cannot be changed, such as in a process that filters its system calls.
    pub(crate) fn while_dumpable<T>(
        &mut self,
        child: &mut Stopped,
        space: &Space,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        let registers = child.registers().ok().filter(|registers| registers::is_64_bit(registers.cs))?;
        if procfs::is_filtered(child.tid()) || child.dispatches_system_calls() {
            return None;
        }
        let address = a_syscall(child.tid(), registers.rip, space)?;
        let stop = child.stop;
        let mut caller = Caller { threads: self, process: child, registers, address };
        // 2 cannot be set again.
        let done = match caller.prctl(libc::PR_GET_DUMPABLE, 0) {
            Some(0) if caller.prctl(libc::PR_SET_DUMPABLE, 1) == Some(0) => {
                let done = work();
                caller.prctl(libc::PR_SET_DUMPABLE, 0);
                Some(done)
            }
            _ => None,
        };
        let restored = child.set_registers(registers);
        self.note(child.tid(), "PTRACE_SETREGS", restored);
        child.stop = stop;
        done
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

impl Caller<'_> {
    /// Makes the call, and returns its result.
    fn prctl(&mut self, option: libc::c_int, argument: u64) -> Option<u64> {
        const NO_CALL: u64 = u64::MAX;
        let registers = libc::user_regs_struct {
            rip: self.address,
            rax: libc::SYS_prctl.cast_unsigned(),
            orig_rax: NO_CALL,
            rdi: u64::from(option.cast_unsigned()),
            rsi: argument,
            ..self.registers
        };
        self.process.set_registers(registers).ok()?;
        match self.threads.run(self.process, Resume::Step) {
            Ok(Ran::Signal(libc::SIGTRAP)) => self.process.registers().ok().map(|registers| registers.rax),
            _ => None,
        }
    }
}
