//! System calls that a thread makes for us: it runs an instruction for them that its own text has, and comes back to the
//! stop that it was in.

use libc::user_regs_struct;
use nix::errno::Errno;

use crate::executor::ptrace::borrow::{self, Need};
use crate::executor::ptrace::registers;
use crate::executor::ptrace::stopped::{Resume, Stop, Stopped};
use crate::executor::ptrace::sys;
use crate::executor::ptrace::threads::{Gone, Ran, Threads};
use crate::executor::space::Space;
use crate::target::procfs;

/// A system call that works on memory of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<const LENGTH: usize, const COUNT: usize> {
    pub(crate) number: i64,
    /// What its arguments are, of the address of its memory.
    pub(crate) arguments: fn(u64) -> [u64; 4],
    /// What its memory holds.
    pub(crate) memory: [[u8; LENGTH]; COUNT],
}

/// Why a thread has not made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmade {
    /// It is gone.
    Gone,
    /// It cannot, or the call has failed.
    Failed(Errno),
}

impl From<Gone> for Unmade {
    fn from(Gone: Gone) -> Unmade {
        Unmade::Gone
    }
}

impl From<Errno> for Unmade {
    fn from(error: Errno) -> Unmade {
        if error == Errno::ESRCH { Unmade::Gone } else { Unmade::Failed(error) }
    }
}

impl Threads {
    /// Has a thread, in a stop in which it is about to take a signal, at its birth, or in exec, make a system call, and
    /// returns what its memory holds then. It is in the same stop again, with the same registers. `options` are those
    /// with which it is traced.
    ///
    /// The memory is below the red zone of its stack, where the kernel would put the frame of a signal.
    pub(crate) fn call<const LENGTH: usize, const COUNT: usize>(
        &mut self,
        thread: &mut Stopped,
        space: &Space,
        options: i32,
        call: &Call<LENGTH, COUNT>,
    ) -> Result<[[u8; LENGTH]; COUNT], Unmade> {
        const RED_ZONE: u64 = 128;
        const ALIGNMENT: u64 = 16;
        if thread.stop == Stop::Exec {
            // What execve(2) returns is still to be stored.
            self.run(thread, Resume::Syscall)?;
            thread.stop = Stop::Exec;
        }
        let length = LENGTH * COUNT;
        let place = thread.registers()?.rsp.wrapping_sub(RED_ZONE + length as u64) & !(ALIGNMENT - 1);
        let mut before = [[0; LENGTH]; COUNT];
        let read = space.read_raw(place, before.as_flattened_mut()).unwrap_or(0);
        if read != length || space.write_raw(place, call.memory.as_flattened()).is_err() {
            return Err(Unmade::Failed(Errno::EFAULT));
        }
        let unfiltered = self.without_filter(thread, options);
        let made = match unfiltered {
            Ok(_) => self.make(thread, space, call, place),
            Err(error) => Err(error),
        };
        if unfiltered == Ok(true) {
            self.note(thread.tid(), "PTRACE_SETOPTIONS", thread.set_options(options));
        }
        let mut after = [[0; LENGTH]; COUNT];
        let read = space.read_raw(place, after.as_flattened_mut()).unwrap_or(0);
        let restored = space.write_raw(place, before.as_flattened());
        made?;
        match restored {
            Ok(()) if read == length => Ok(after),
            _ => Err(Unmade::Failed(Errno::EFAULT)),
        }
    }

    /// Has no filter (seccomp(2)) see what a thread does: the call is none of the program's, which a filter may end for it.
    /// Says whether there was one.
    fn without_filter(&mut self, thread: &Stopped, options: i32) -> Result<bool, Unmade> {
        const PTRACE_O_SUSPEND_SECCOMP: i32 = 1 << 21;
        if !procfs::is_filtered(thread.tid()) {
            return Ok(false);
        }
        thread.set_options(options | PTRACE_O_SUSPEND_SECCOMP)?;
        Ok(true)
    }

    fn make<const LENGTH: usize, const COUNT: usize>(
        &mut self,
        thread: &mut Stopped,
        space: &Space,
        call: &Call<LENGTH, COUNT>,
        place: u64,
    ) -> Result<(), Unmade> {
        let is_dispatched = thread.dispatches_system_calls();
        let loan = if is_dispatched { None } else { borrow::loan(space, thread.tid(), Need::Syscall) };
        let address = loan.ok_or(Unmade::Failed(Errno::ENOSYS))?.address;
        match self.enter_and_return(thread, address, call.number, (call.arguments)(place))? {
            0 => Ok(()),
            error @ -4095..0 => Err(Unmade::Failed(Errno::from_raw(-error as i32))),
            _ => Err(Unmade::Failed(Errno::ENOSYS)),
        }
    }

    /// Has a thread make a system call by the SYSCALL at `address`, and returns what that returns. It is in the same stop again,
    /// with the same registers.
    pub(super) fn enter_and_return(
        &mut self,
        thread: &mut Stopped,
        address: u64,
        number: i64,
        arguments: [u64; 4],
    ) -> Result<i64, Unmade> {
        const NO_CALL: u64 = u64::MAX;
        let (tid, own) = (thread.tid(), thread.registers()?);
        if !registers::is_64_bit(own.cs) {
            return Err(Unmade::Failed(Errno::ENOSYS));
        }
        let (stop, info) = (thread.stop, thread.signal_info());
        let [rdi, rsi, rdx, r10] = arguments;
        let (rip, rax) = (address, number.cast_unsigned());
        thread.set_registers(user_regs_struct { rip, rax, rdi, rsi, rdx, r10, orig_rax: NO_CALL, ..own })?;
        let entered = self.run(thread, Resume::Syscall)?;
        let returned = if entered == Ran::Entered { self.run(thread, Resume::Syscall)? } else { entered };
        let result = thread.registers().map(|registers| registers.rax.cast_signed());
        thread.set_registers(own)?;
        if returned == Ran::Entered {
            match (stop, info) {
                (Stop::Signal(signal), Ok(info)) => {
                    self.come_back(thread, stop, !(1 << (signal - 1)))?;
                    self.note(tid, "PTRACE_SETSIGINFO", thread.set_signal_info(&info));
                }
                (Stop::Interrupted, _) if registers::restarted(own.orig_rax, own.rax).is_some() => {
                    self.interrupt(tid);
                    self.come_back(thread, stop, u64::MAX)?;
                }
                _ => {}
            }
        }
        thread.stop = stop;
        match returned {
            Ran::Entered => Ok(result?),
            _ => Err(Unmade::Failed(Errno::ENOSYS)),
        }
    }

    /// Has a thread that has returned from a system call stop as it did before, with those signals blocked meanwhile. What
    /// it was about to take is sent to it; an interruption it has been asked for.
    fn come_back(&mut self, thread: &mut Stopped, stop: Stop, blocked: u64) -> Result<(), Unmade> {
        /// Those that cannot be blocked, and interruptions.
        const MOST_STOPS: usize = 8;
        let tid = thread.tid();
        let mask = thread.signal_mask()?;
        thread.set_signal_mask(blocked)?;
        let mut signal = stop.signal();
        for _ in 0..MOST_STOPS {
            // In the stop of a system call it is sent, and not delivered yet.
            if !self.run_on(thread, Resume::Continue, std::mem::take(&mut signal))? || thread.stop == stop {
                break;
            }
            if thread.stop == Stop::Signal(libc::SIGSTOP)
                && let Some(pid) = procfs::process_of(tid)
            {
                self.note(tid, "tgkill", sys::send(pid, tid, libc::SIGSTOP));
            }
        }
        thread.set_signal_mask(mask)?;
        Ok(())
    }
}
