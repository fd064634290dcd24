//! What a thread waits for before it goes on from a hit, and the signal that it gets then.

use std::time::Duration;

use crate::engine::tracer::Tracer;
use crate::executor::ptrace::stopped::{Stop, Stopped};
use crate::executor::ptrace::sys;
use crate::executor::ptrace::threads::Report;
use crate::target::procfs;

/// What becomes of a thread before it goes on, as its handlers wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// How long it waits.
    pub(crate) delay: Duration,
    /// The signal that it gets.
    pub(crate) raised: Option<i32>,
}

impl Tracer {
    /// Has a thread that was served wait as its handlers wish, and go on then with `signal` unless that is 0; without one, it
    /// has stopped for the next breakpoint already.
    pub(crate) fn go_on_later(&mut self, stopped: Stopped, pid: i32, signal: Option<i32>) {
        let Waits { delay, raised } = std::mem::take(&mut self.waits);
        let signal = match (raised, signal) {
            (Some(raised), Some(signal)) => Some(self.raise(&stopped, pid, signal, raised)),
            (raised, signal) => {
                raised.into_iter().for_each(|raised| self.send(pid, stopped.tid(), raised));
                signal
            }
        };
        match signal {
            _ if !delay.is_zero() => self.threads.put_aside(stopped, signal, delay),
            None => self.threads.put_back(Report::Stopped(stopped)),
            Some(signal) => self.threads.resume(stopped, signal),
        }
    }

    /// The same of a thread that runs on: what it does meanwhile is done by this tracer, which waits itself.
    pub(crate) fn wait_here(&mut self, pid: i32, tid: i32) {
        let Waits { delay, raised } = std::mem::take(&mut self.waits);
        raised.into_iter().for_each(|raised| self.send(pid, tid, raised));
        std::thread::sleep(delay);
    }

    /// Has a thread get the signal `raised`, besides the one that it is to be resumed with. Returns the one to resume it with.
    fn raise(&mut self, stopped: &Stopped, pid: i32, signal: i32, raised: i32) -> i32 {
        // In the stop of a signal that is not delivered it can be said whose it is.
        let replaces = signal == 0 && matches!(stopped.stop, Stop::Signal(_));
        if replaces && !matches!(raised, libc::SIGKILL | libc::SIGSTOP) {
            let info = sys::own_siginfo(raised, pid, procfs::user_of(pid).unwrap_or(0));
            let set = stopped.set_signal_info(&info);
            if self.threads.note(stopped.tid(), "PTRACE_SETSIGINFO", set).is_some() {
                return raised;
            }
        }
        self.send(pid, stopped.tid(), raised);
        signal
    }

    fn send(&mut self, pid: i32, tid: i32, signal: i32) {
        self.threads.note(tid, "tgkill", sys::send(pid, tid, signal));
    }
}
