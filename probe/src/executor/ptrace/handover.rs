//! Handing a stopped thread from one tracer to another. ptrace knows no such request: the one lets go of the thread, which
//! runs then, and the other attaches to it. Meanwhile it runs in a circle, on a borrowed jump to itself with every
//! signal blocked, so that it executes nothing of its own that nobody would see.

use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};

use emu::Rflags;

use crate::executor::ptrace::borrow::{self, Need};
use crate::executor::ptrace::crew::{Mail, Post};
use crate::executor::ptrace::stopped::{Stop, Stopped};
use crate::executor::ptrace::sys::{self, Status};
use crate::executor::ptrace::threads::{Report, Thread, Threads};
use crate::executor::space::SharedSpace;
use crate::target::{procfs, system};

/// A thread on its way to another tracer.
#[derive(Debug)]
pub(crate) struct Handover {
    tid: i32,
    pub(crate) thread: Thread,
    registers: libc::user_regs_struct,
    mask: u64,
}

impl Threads {
    /// Gives a thread, which would be resumed next, to the tracer at `post`. It is returned where that cannot be: one that
    /// is about to enter a system call would do so, and what that comes to would be lost; and one to which nobody may attach
    /// any more would run in its circle for ever.
    pub(crate) fn hand_over(
        &mut self,
        stopped: Stopped,
        space: &SharedSpace,
        post: &Post,
    ) -> Option<Stopped> {
        let tid = stopped.tid();
        let (Ok(registers), Ok(mask)) = (stopped.registers(), stopped.signal_mask()) else {
            return Some(stopped);
        };
        // One that steps itself would trap.
        let steps = registers.eflags & Rflags::TF.bits() != 0;
        let is_busy_otherwise = stopped.stop == Stop::SystemCall || steps;
        if is_busy_otherwise || self.is_gone(tid) || !system::may_attach(tid) {
            return Some(stopped);
        }
        let text = space.read();
        let Some(circle) = borrow::loan(&text, tid, Need::Circle) else { return Some(stopped) };
        let rip = circle.address;
        let circling = libc::user_regs_struct {
            rip,
            eflags: registers.eflags & !Rflags::STATUS.bits(),
            // A system call that was interrupted is restarted when its registers are back.
            orig_rax: u64::MAX,
            ..registers
        };
        text.begin_transit(rip);
        drop(text);
        let sent = stopped.set_signal_mask(u64::MAX).and_then(|()| stopped.set_registers(circling));
        let thread = match sent {
            Ok(()) => self.give(tid),
            Err(_) => None,
        };
        let Some(thread) = thread else {
            // Nothing comes of it if it is gone.
            self.note(tid, "PTRACE_SETSIGMASK", stopped.set_signal_mask(mask));
            self.note(tid, "PTRACE_SETREGS", stopped.set_registers(registers));
            space.read().end_transit();
            return Some(stopped);
        };
        let busy = usize::from(thread.is_busy());
        match stopped.detach(0) {
            // Counted at once, so that the next to be given away finds another tracer.
            Ok(()) => {
                post.busy.fetch_add(busy, Ordering::Relaxed);
                post.send(Mail::TakeOver(Box::new(Handover { tid, thread, registers, mask })));
            }
            // Killed just now: its end is reported to us.
            Err(_) => {
                self.post.busy.fetch_add(busy, Ordering::Relaxed);
                self.receive(tid, thread);
                self.expect_end(tid);
                space.read().end_transit();
            }
        }
        None
    }

    /// Takes up a thread that another tracer has let go, with `options`, and lets it go on.
    pub(crate) fn take_over(&mut self, handover: Handover, options: Options, space: Option<&SharedSpace>) {
        let Handover { tid, thread, registers, mask } = handover;
        self.receive(tid, thread);
        let seized = ptrace::seize(system::pid(tid), options).map_err(|error| match error {
            // Killed meanwhile, as long as its end has not been taken from the kernel.
            Errno::EPERM if procfs::has_exited(tid) => Errno::ESRCH,
            error => error,
        });
        let stopped = match self.note(tid, "PTRACE_SEIZE", seized) {
            Some(()) => self.stop_circling(tid),
            None => Err(libc::SIGKILL),
        };
        match stopped {
            Ok(stopped) => {
                self.note(tid, "PTRACE_SETREGS", stopped.set_registers(registers));
                self.note(tid, "PTRACE_SETSIGMASK", stopped.set_signal_mask(mask));
                match stopped.stop {
                    // At once, for the tracer may be at rest.
                    Stop::Interrupted => self.resume(stopped, 0),
                    _ => self.put_back(Report::Stopped(stopped)),
                }
            }
            Err(status) => self.put_back(Report::Ended { tid, status }),
        }
        if let Some(space) = space {
            space.read().end_transit();
        }
    }

    /// Stops a thread that runs in a circle. Otherwise it has ended, with that wait status: only SIGKILL can have done
    /// that, or another thread of its process.
    fn stop_circling(&mut self, tid: i32) -> Result<Stopped, i32> {
        self.interrupt(tid);
        loop {
            match sys::wait(tid, true) {
                Ok(Some((_, Status::Stopped(stop)))) if stop != Stop::Exec => {
                    return Ok(Stopped::new(tid, stop));
                }
                Ok(Some((_, Status::Ended(status)))) => return Err(status),
                Ok(None) | Err(Errno::EINTR) => {}
                // Another thread executes a program in its place.
                Ok(Some(_)) | Err(_) => return Err(libc::SIGKILL),
            }
        }
    }
}
