//! Tracers besides the session's own thread: each serves threads that reach probes again and again, so that these need
//! not wait for each other, nor for the handlers of others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use crate::engine::shared::Shared;
use crate::engine::tracer::Tracer;
use crate::executor::ptrace::crew::{CAPTAIN, Mail, Post};
use crate::executor::ptrace::handover::Handover;
use crate::executor::ptrace::stopped::{Stop, Stopped};
use crate::executor::ptrace::sys;
use crate::executor::ptrace::threads::Thread;
use crate::target::lock;

/// How long a tracer without threads sleeps at a time.
const LONG: Duration = Duration::from_secs(3600);

/// What is to become of a tracer after it has read its mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Serve,
    Rest,
    End,
}

impl Tracer {
    /// Starts another tracer, which serves. `None` if the system has no thread for it.
    fn recruit(shared: &Arc<Shared>) -> Option<Arc<Post>> {
        let (hello, joined) = mpsc::channel();
        let its = Arc::clone(shared);
        let work = move || {
            sys::block_signals();
            let Ok(mut tracer) = Tracer::new(its) else { return };
            // Whoever waits for this has gone only if it has panicked.
            if hello.send(Arc::clone(&tracer.threads.post)).is_ok() {
                tracer.work();
            }
        };
        let worker = std::thread::Builder::new().name("stepless".to_owned()).spawn(work).ok()?;
        lock(&shared.workers).push(worker);
        joined.recv().ok()
    }

    /// Serves, until it is asked to end.
    fn work(&mut self) {
        let mut then = Then::Serve;
        let mut set = None;
        loop {
            // Whoever sends rings, which is heard once.
            let (settings, until) = (self.alarm.settings(), self.threads.next_due());
            if set != Some((settings, until)) {
                self.alarm.ring_at(until);
                set = Some((settings + 1, until));
            }
            then = self.read_mail(then);
            let idle = match then {
                Then::End => return,
                Then::Rest => true,
                Then::Serve => self.threads.is_empty() || !self.serve_next_guarded(),
            };
            self.tell_all_failures();
            if idle {
                if self.shared.register.is_empty() {
                    self.shared.crew.wake_captain();
                }
                self.affinity.restore();
                self.threads.post.wait(LONG);
            }
        }
    }

    /// Does what others have asked for.
    fn read_mail(&mut self, mut then: Then) -> Then {
        // Asked after each stop.
        if !self.threads.post.has_mail() {
            return then;
        }
        loop {
            while self.threads.be_held() {}
            // One that asks to hold may have come since.
            let mail = self.threads.post.take(|mail| !matches!(mail, Mail::Hold { .. }));
            let Some(mail) = mail else { return then };
            match mail {
                Mail::TakeOver(handover) => self.take_over(*handover),
                Mail::Forget { pid } => self.forget_own(pid),
                Mail::Rest => {
                    then = Then::Rest;
                    if let Some(captain) = self.shared.crew.post(CAPTAIN) {
                        captain.send(Mail::Rested);
                    }
                }
                Mail::Serve => then = Then::Serve,
                Mail::Leave { quietly } => {
                    if quietly {
                        self.settle_down();
                        self.threads.clear();
                    } else {
                        self.detach_own();
                    }
                    self.tell_all_failures();
                    return Then::End;
                }
                // Nobody waits for these here.
                Mail::Hold { .. } | Mail::Held | Mail::Release | Mail::Rested | Mail::Look => {}
            }
        }
    }

    fn take_over(&mut self, handover: Handover) {
        let options = Tracer::REPORTED | self.shared.special();
        let space = self.shared.space(handover.thread.space);
        self.threads.take_over(handover, options, space.as_deref());
    }

    /// Does what others have asked the session's own thread for.
    pub(crate) fn read_captains_mail(&mut self) {
        self.read_mail(Then::Serve);
    }

    /// Has all other tracers serve.
    pub(crate) fn have_others_serve(&self) {
        for post in self.shared.crew.others(self.threads.me) {
            post.send(Mail::Serve);
        }
    }

    /// Has all other tracers rest, and waits until they do.
    pub(crate) fn have_others_rest(&mut self) {
        let mut asked = Vec::new();
        loop {
            // One that was active may have started another.
            let new: Vec<Arc<Post>> = self.shared.crew.others(self.threads.me).split_off(asked.len());
            if new.is_empty() {
                return;
            }
            new.iter().for_each(|post| post.send(Mail::Rest));
            for _ in &new {
                // One that is to rest may need ours to be held first.
                while self.threads.post.take(|mail| matches!(mail, Mail::Rested)).is_none() {
                    if !self.threads.be_held() {
                        self.threads
                            .post
                            .wait_for_any(|mail| matches!(mail, Mail::Rested | Mail::Hold { .. }));
                    }
                }
            }
            asked.extend(new);
        }
    }

    /// Has all other tracers, which are at rest, leave their threads and end.
    pub(crate) fn dismiss_others(&mut self, quietly: bool) {
        for post in self.shared.crew.others(self.threads.me) {
            post.send(Mail::Leave { quietly });
        }
    }

    /// Waits until the others have ended.
    pub(crate) fn wait_for_others(&mut self) {
        let workers = std::mem::take(&mut *lock(&self.shared.workers));
        for worker in workers {
            if let Err(payload) = worker.join() {
                self.shared.wishes.panic_with(payload);
            }
        }
        self.shared.crew.disband();
    }

    /// A thread, which would be resumed next, goes to a tracer of its own if it reaches probes again and again, if its
    /// handlers are `slow`, or if those of another are that stays here. It is returned where it stays, which one that
    /// enters a system call does until it reaches a probe again.
    pub(crate) fn share_out(&mut self, stopped: Stopped, slow: bool) -> Option<Stopped> {
        let tid = stopped.tid();
        let delayed = self.slow.is_some_and(|other| other != tid && self.threads.get(other).is_some());
        let Some(thread) = self.threads.get_mut(tid) else { return Some(stopped) };
        let (pid, space, guest) = (thread.pid, thread.space, thread.guest);
        let was_busy = thread.is_busy();
        if was_busy && !slow && !delayed {
            return Some(stopped);
        }
        thread.hits = if slow || delayed { Thread::BUSY } else { thread.hits + 1 };
        if !thread.is_busy() {
            return Some(stopped);
        }
        let stays = self.stays(tid, pid, guest);
        if slow && (stays || was_busy) {
            // Who has come meanwhile is not to wait once more.
            self.slow = Some(tid);
            self.threads.take_waiting();
        }
        if was_busy && !delayed {
            return Some(stopped);
        }
        let new = usize::from(!was_busy);
        let busy = self.threads.post.busy.fetch_add(new, Ordering::Relaxed) + new;
        let alone = busy == 1 && (!slow && !delayed || self.threads.iter().count() == 1);
        if stays || alone {
            return Some(stopped);
        }
        if stopped.stop == Stop::SystemCall {
            if let Some(thread) = self.threads.get_mut(tid) {
                thread.leaves = true;
            }
            return Some(stopped);
        }
        let (Some(post), Some(space)) = (self.find_tracer(busy), self.shared.space(space)) else {
            return Some(stopped);
        };
        self.threads.hand_over(stopped, &space, &post)
    }

    /// Whether a thread, of process `pid`, cannot go to another tracer: others may tell the end of a process in its stead,
    /// but not that of the target.
    fn stays(&self, tid: i32, pid: i32, guest: bool) -> bool {
        guest || tid == self.shared.target || tid == pid && self.shared.register.threads_of(pid) > 1
    }

    /// A thread that is at an INT3, in whose place its registers have it, goes to a tracer that has nobody who would wait
    /// for its handlers, where it comes to the INT3 once more. It is returned where it stays.
    pub(crate) fn serve_elsewhere(&mut self, stopped: Stopped) -> Option<Stopped> {
        let tid = stopped.tid();
        let Some(thread) = self.threads.get(tid) else { return Some(stopped) };
        let (pid, space, guest, hits) = (thread.pid, thread.space, thread.guest, thread.hits);
        if self.stays(tid, pid, guest) {
            return Some(stopped);
        }
        let (Some(post), Some(space)) = (self.find_tracer(0), self.shared.space(space)) else {
            return Some(stopped);
        };
        let stored = self.registers.store(&stopped);
        if self.threads.refused(tid, "PTRACE_SETREGS", stored) {
            return Some(stopped);
        }
        self.set_hits(tid, Thread::BUSY);
        let stopped = self.threads.hand_over(stopped, &space, &post)?;
        self.set_hits(tid, hits);
        Some(stopped)
    }

    /// A thread has so many hits towards being busy, and is counted as busy, or not any more.
    fn set_hits(&mut self, tid: i32, hits: u32) {
        let Some(thread) = self.threads.get_mut(tid) else { return };
        let was_busy = thread.is_busy();
        thread.hits = hits;
        let busy = &self.threads.post.busy;
        match (was_busy, hits >= Thread::BUSY) {
            (false, true) => busy.fetch_add(1, Ordering::Relaxed),
            (true, false) => busy.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
    }

    /// A tracer that has fewer busy threads than this, which has so many.
    fn find_tracer(&self, busy: usize) -> Option<Arc<Post>> {
        /// As long as there are fewer, each busy thread has one of its own.
        const MOST: usize = 64;
        let most = match self.shared.options.tracers {
            0 => MOST,
            tracers => usize::from(tracers),
        };
        let load = |post: &Arc<Post>| post.busy.load(Ordering::Relaxed);
        // The session's own thread is for those that are not busy.
        let others = self.shared.crew.posts().into_iter().enumerate().skip(CAPTAIN + 1);
        let others: Vec<Arc<Post>> =
            others.filter(|&(number, _)| number != self.threads.me).map(|(_, post)| post).collect();
        let recruits = self.shared.crew.posts().len() < most;
        let least = others.iter().min_by_key(|post| load(post)).map(|post| (load(post), Arc::clone(post)));
        match least {
            Some((0, post)) => Some(post),
            _ if recruits => Tracer::recruit(&self.shared),
            Some((least, post)) if least + 1 < busy => Some(post),
            _ => None,
        }
    }
}
