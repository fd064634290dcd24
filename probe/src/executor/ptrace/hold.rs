//! Threads that are interrupted for the sake of others, and go on as if they had not been.

use std::time::Duration;

use crate::executor::ptrace::crew::Mail;
use crate::executor::ptrace::registers;
use crate::executor::ptrace::stopped::{Stop, Stopped};
use crate::executor::ptrace::threads::{Report, SpaceId, Thread, Threads};
use crate::target::procfs;

/// A thread that has been asked to stop, and has not.
struct Interrupted {
    tid: i32,
    /// For how long it had run by then.
    since: Option<u64>,
}

impl Interrupted {
    fn new(tid: i32) -> Interrupted {
        Interrupted { tid, since: procfs::run_time(tid) }
    }

    /// Whether it cannot be executing the program: it sleeps, has exited, or has run since for longer than any processor takes
    /// to hear that one of its threads is to stop.
    fn is_in_kernel(&self) -> bool {
        /// In nanoseconds.
        const LONG: u64 = 1_000_000;
        let has_run = |(since, now): (u64, u64)| now.saturating_sub(since) > LONG;
        procfs::is_kept(self.tid) || self.since.zip(procfs::run_time(self.tid)).is_some_and(has_run)
    }
}

impl Threads {
    /// Stops every thread that shares `space` with `tid`; [`Threads::release_others`] ends that.
    /// Says whether there were others.
    pub(crate) fn hold_others(&mut self, space: SpaceId, tid: i32) -> bool {
        if !self.register.has_others(space, tid) {
            return false;
        }
        while !self.crew.try_hold() {
            // Who holds waits for us, too.
            if !self.be_held() {
                std::thread::yield_now();
            }
        }
        // All of them, so that no thread goes on that is on its way from one to another.
        self.holding = self.crew.others(self.me);
        for post in &self.holding {
            post.send(Mail::Hold { space, by: self.me });
        }
        self.hold_own(space, Some(tid));
        for _ in 0..self.holding.len() {
            self.post.wait_for(|mail| matches!(mail, Mail::Held));
        }
        true
    }

    /// Holds threads for another tracer, if one asks for it, as long as that needs. Says whether one did.
    pub(crate) fn be_held(&mut self) -> bool {
        let Some(Mail::Hold { space, by }) = self.post.take(|mail| matches!(mail, Mail::Hold { .. })) else {
            return false;
        };
        self.hold_own(space, None);
        if let Some(holder) = self.crew.post(by) {
            holder.send(Mail::Held);
            self.post.wait_for(|mail| matches!(mail, Mail::Release));
        }
        self.release_own();
        true
    }

    /// Stops every thread of this tracer that shares `space`, but for `tid`. One that the kernel keeps, which may be until
    /// another one goes on that is held, as where that fills a page for it (userfaultfd(2)), executes nothing either: it stops
    /// before it is back in the program.
    fn hold_own(&mut self, space: SpaceId, tid: Option<i32>) {
        const PATIENCE: Duration = Duration::from_millis(20);
        let mut kept: Vec<i32> = Vec::new();
        let is_wanted = |other: i32, thread: &Thread, kept: &[i32]| {
            Some(other) != tid && thread.is_at_large(space) && !kept.contains(&other)
        };
        let others = self.iter().filter(|&(other, thread)| is_wanted(other, thread, &kept));
        let others: Vec<i32> = others.map(|(other, _)| other).collect();
        others.iter().for_each(|&other| self.interrupt(other));
        let mut asked: Option<Vec<Interrupted>> = None;
        loop {
            self.gather(|other, thread| is_wanted(other, thread, &kept), Some(PATIENCE));
            let late =
                self.iter().filter(|&(other, thread)| thread.is_running() && is_wanted(other, thread, &kept));
            let late: Vec<i32> = late.map(|(other, _)| other).collect();
            if late.is_empty() {
                break;
            }
            let asked = asked.get_or_insert_with(|| late.iter().copied().map(Interrupted::new).collect());
            let is_kept = |other: &i32| asked.iter().any(|asked| asked.tid == *other && asked.is_in_kernel());
            kept.extend(late.into_iter().filter(is_kept));
        }
        self.hold_interrupted(|thread| thread.space == space);
    }

    /// Holds those that have stopped for nothing but our interruption, which [`Threads::release_own`] resumes; all else is
    /// reported.
    fn hold_interrupted(&mut self, is_wanted: impl Fn(&Thread) -> bool) {
        let mut index = 0;
        while let Some(report) = self.queue.get(index) {
            let ours = matches!(report, Report::Stopped(stopped)
                if stopped.stop == Stop::Interrupted
                && self.get(stopped.tid()).is_some_and(&is_wanted));
            match self.queue.remove(index) {
                Some(Report::Stopped(stopped)) if ours => self.held.push(stopped),
                Some(report) => {
                    self.queue.insert(index, report);
                    index += 1;
                }
                None => break,
            }
        }
    }

    /// Lets the threads go on that [`Threads::hold_others`] stopped.
    pub(crate) fn release_others(&mut self) {
        for post in std::mem::take(&mut self.holding) {
            post.send(Mail::Release);
        }
        self.crew.end_hold();
        self.release_own();
    }

    /// Lets the threads go on that have stopped for nothing but our interruption.
    pub(crate) fn release_interrupted(&mut self) {
        self.hold_interrupted(|thread| thread.asked && !thread.stranger);
        self.release_own();
    }

    fn release_own(&mut self) {
        while let Some(stopped) = self.held.pop() {
            self.let_restart(&stopped);
            self.resume(stopped, 0);
        }
    }

    /// Has a thread that we have interrupted, and which is about to go on, make the system call again that it was in: it
    /// would fail with EINTR otherwise if it is one of those that the kernel never restarts. The thread comes to the same
    /// instruction then, which is no hit.
    pub(crate) fn let_restart(&mut self, stopped: &Stopped) {
        const LENGTH: u64 = 2;
        let tid = stopped.tid();
        if stopped.stop != Stop::Interrupted || !self.get(tid).is_some_and(|thread| thread.asked) {
            return;
        }
        let Some(registers) = self.note(tid, "PTRACE_GETREGS", stopped.registers()) else { return };
        let restarts = registers::restarted(registers.orig_rax, registers.rax).is_some()
            || registers::was_cut_short(&registers)
                && self.note(tid, "PTRACE_SETREGS", registers::make_again(stopped, registers)).is_some();
        if restarts && let Some(thread) = self.get_mut(tid) {
            thread.served = Some(registers.rip.wrapping_sub(LENGTH));
        }
    }
}
