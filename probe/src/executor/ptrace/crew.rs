//! The tracers of a session, and what they tell each other. ptrace binds a stopped thread to the thread that traces it,
//! so that whatever concerns another tracer's threads is asked of that.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::executor::ptrace::handover::Handover;
use crate::executor::ptrace::sys::Alarm;
use crate::executor::ptrace::threads::SpaceId;
use crate::target::lock;

/// The number of a tracer; that of the session's own thread is [`CAPTAIN`].
pub(crate) type TracerId = usize;

/// The tracer that is the thread of the session.
pub(crate) const CAPTAIN: TracerId = 0;

/// What a tracer is asked to do, or told.
#[derive(Debug)]
pub(crate) enum Mail {
    /// To trace a thread that another tracer has let go.
    TakeOver(Box<Handover>),
    /// To hold its threads in an address space, to say [`Mail::Held`] to that tracer, and to wait for
    /// [`Mail::Release`].
    Hold { space: SpaceId, by: TracerId },
    /// It holds its threads.
    Held,
    /// To let them go on.
    Release,
    /// To forget the threads of a process that executes another program.
    Forget { pid: i32 },
    /// To serve nobody for now, and to say [`Mail::Rested`] to the captain.
    Rest,
    /// It serves nobody.
    Rested,
    /// To serve again.
    Serve,
    /// To leave its threads and end: so that none notices, or at once.
    Leave { quietly: bool },
    /// To look what is new.
    Look,
}

/// A tracer, as the others know it.
#[derive(Debug)]
pub(crate) struct Post {
    mail: Mutex<VecDeque<Mail>>,
    /// How much there is.
    number: AtomicUsize,
    bell: Condvar,
    alarm: Arc<Alarm>,
    /// The thread.
    pub(crate) tid: i32,
    /// How many of its threads reach probes again and again.
    pub(crate) busy: AtomicUsize,
}

impl Post {
    /// Of the tracer whose thread has the number `tid`, and that `alarm`.
    pub(crate) fn new(tid: i32, alarm: Arc<Alarm>) -> Post {
        Post {
            mail: Mutex::default(),
            number: AtomicUsize::new(0),
            bell: Condvar::new(),
            alarm,
            tid,
            busy: AtomicUsize::new(0),
        }
    }

    /// Sends. The tracer is woken if it waits, for its threads or for mail.
    pub(crate) fn send(&self, mail: Mail) {
        let mut all = lock(&self.mail);
        all.push_back(mail);
        self.number.store(all.len(), Ordering::SeqCst);
        drop(all);
        self.bell.notify_one();
        self.alarm.ring_in(1);
    }

    /// Whether there is any.
    pub(crate) fn has_mail(&self) -> bool {
        self.number.load(Ordering::SeqCst) != 0
    }

    /// The next mail that is `wanted`, if there is one. The rest stays in its order.
    pub(crate) fn take(&self, wanted: impl Fn(&Mail) -> bool) -> Option<Mail> {
        // Asked after each stop.
        if self.number.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.take_out(&mut lock(&self.mail), wanted)
    }

    fn take_out(&self, mail: &mut VecDeque<Mail>, wanted: impl Fn(&Mail) -> bool) -> Option<Mail> {
        let index = mail.iter().position(wanted)?;
        let found = mail.remove(index);
        self.number.store(mail.len(), Ordering::SeqCst);
        found
    }

    /// The next mail that is `wanted`, waiting for it if need be.
    pub(crate) fn wait_for(&self, wanted: impl Fn(&Mail) -> bool) -> Mail {
        let mut mail = lock(&self.mail);
        loop {
            if let Some(found) = self.take_out(&mut mail, &wanted) {
                return found;
            }
            mail = self.bell.wait(mail).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until there is mail that is `wanted`.
    pub(crate) fn wait_for_any(&self, wanted: impl Fn(&Mail) -> bool) {
        let mut mail = lock(&self.mail);
        while !mail.iter().any(&wanted) {
            mail = self.bell.wait(mail).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until there is mail, or for that long at most.
    pub(crate) fn wait(&self, most: Duration) {
        let mail = lock(&self.mail);
        if mail.is_empty() {
            drop(self.bell.wait_timeout(mail, most));
        }
    }
}

/// All tracers of a session.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    posts: RwLock<Vec<Arc<Post>>>,
    /// Whether some tracer has the others hold their threads: one at a time.
    holding: AtomicBool,
}

impl Crew {
    /// Takes up a tracer.
    pub(crate) fn join(&self, post: Arc<Post>) -> TracerId {
        let mut posts = self.posts.write().unwrap_or_else(PoisonError::into_inner);
        posts.push(post);
        posts.len() - 1
    }

    /// Forgets all but the captain, when they have ended.
    pub(crate) fn disband(&self) {
        self.posts.write().unwrap_or_else(PoisonError::into_inner).truncate(CAPTAIN + 1);
    }

    /// All posts, by number.
    pub(crate) fn posts(&self) -> Vec<Arc<Post>> {
        self.posts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The posts of all others than tracer `me`.
    pub(crate) fn others(&self, me: TracerId) -> Vec<Arc<Post>> {
        let posts = self.posts().into_iter().enumerate().filter(|&(number, _)| number != me);
        posts.map(|(_, post)| post).collect()
    }

    pub(crate) fn post(&self, number: TracerId) -> Option<Arc<Post>> {
        self.posts.read().unwrap_or_else(PoisonError::into_inner).get(number).cloned()
    }

    /// Wakes the session's thread, to look what is new.
    pub(crate) fn wake_captain(&self) {
        if let Some(captain) = self.post(CAPTAIN) {
            captain.send(Mail::Look);
        }
    }

    /// Whether thread `tid` is a tracer.
    pub(crate) fn has(&self, tid: i32) -> bool {
        self.posts().iter().any(|post| post.tid == tid)
    }

    /// Asks to be the one that holds; says whether one is.
    pub(crate) fn try_hold(&self) -> bool {
        !self.holding.swap(true, Ordering::Acquire)
    }

    pub(crate) fn end_hold(&self) {
        self.holding.store(false, Ordering::Release);
    }
}
