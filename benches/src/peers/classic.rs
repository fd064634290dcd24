//! Breakpoints as debuggers have always made them, with as few system calls as possible.

#![allow(unsafe_code, reason = "the child must ask to be traced between fork and exec")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use probe::maps::Maps;

use crate::clock::Clock;
use crate::stepless::resolver;
use crate::{Failure, target};

/// The offset of RIP in `struct user`.
const RIP: u64 =
    std::mem::offset_of!(libc::user, regs) as u64 + std::mem::offset_of!(libc::user_regs_struct, rip) as u64;

/// A traced child, on this thread's processor, with a breakpoint at one address.
struct Traced {
    pid: Pid,
    address: u64,
    /// The word at the address without the breakpoint, and with it.
    word: i64,
    trap: i64,
}

/// Starts a program, traced and stopped at its first instruction.
pub(crate) fn start(mut command: Command) -> Result<Pid, Failure> {
    // SAFETY: one system call, which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let pid = Pid::from_raw(i32::try_from(command.spawn()?.id())?);
    waitpid(pid, None)?;
    Ok(pid)
}

impl Traced {
    fn start(symbol: &str, hits: u64) -> Result<Traced, Failure> {
        let mut only = nix::sched::CpuSet::new();
        only.set(nix::sched::sched_getcpu()?)?;
        nix::sched::sched_setaffinity(Pid::from_raw(0), &only)?;
        let pid = start(target::command(symbol, hits)?)?;
        let places = resolver(symbol)?.places(&Maps::read(pid.as_raw())?)?;
        let address = places.first().ok_or("the symbol is nowhere")?.site.address;
        let word = ptrace::read(pid, address as ptrace::AddressType)?;
        let traced = Traced { pid, address, word, trap: word & !0xff | 0xcc };
        traced.poke(traced.trap)?;
        Ok(traced)
    }

    fn poke(&self, word: i64) -> Result<(), Failure> {
        Ok(ptrace::write(self.pid, self.address as ptrace::AddressType, word)?)
    }

    /// Continues it to the next hit; false at its end.
    fn next(&self) -> Result<bool, Failure> {
        ptrace::cont(self.pid, None)?;
        self.is_hit(waitpid(self.pid, None)?)
    }

    /// The same by a tracer that yields and looks, where the other sleeps.
    fn next_awake(&self) -> Result<bool, Failure> {
        ptrace::cont(self.pid, None)?;
        loop {
            std::thread::yield_now();
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => {}
                status => return self.is_hit(status),
            }
        }
    }

    fn is_hit(&self, status: WaitStatus) -> Result<bool, Failure> {
        match status {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(true),
            WaitStatus::Exited(..) => Ok(false),
            other => Err(format!("{}: {other:?}", self.pid).into()),
        }
    }
}

/// The stop and nothing else: the NOP under the int3 needs no work.
fn bare(hits: u64, next: impl Fn(&Traced) -> Result<bool, Failure>) -> Result<f64, Failure> {
    let traced = Traced::start("peers_nop", hits)?;
    let mut clock = Clock::default();
    while next(&traced)? {
        clock.tick();
    }
    clock.nanoseconds_per_hit(hits)
}

/// That by a tracer that sleeps until it is told, as all others do.
pub(crate) fn floor(hits: u64) -> Result<f64, Failure> {
    bare(hits, Traced::next)
}

/// That by one that stays awake.
pub(crate) fn floor_awake(hits: u64) -> Result<f64, Failure> {
    bare(hits, Traced::next_awake)
}

/// As gdb does it: the original byte goes back for one step.
pub(crate) fn step_over(hits: u64) -> Result<f64, Failure> {
    let traced = Traced::start("peers_move", hits)?;
    let mut clock = Clock::default();
    while traced.next()? {
        clock.tick();
        traced.poke(traced.word)?;
        ptrace::write_user(traced.pid, RIP as ptrace::AddressType, traced.address as i64)?;
        ptrace::step(traced.pid, None)?;
        waitpid(traced.pid, None)?;
        traced.poke(traced.trap)?;
    }
    clock.nanoseconds_per_hit(hits)
}
