//! The signals that end or interrupt the command: it prints its summary first. Were it ended at once, its warden would
//! leave the target just the same.

#![allow(
    unsafe_code,
    reason = "sets of signals that contain real-time ones, which nix does not know; CommandExt::pre_exec"
)]

use std::mem;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libc::{c_int, sigset_t};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use probe::warden::ClientStop;

/// Signals that do nothing by default, and those that stop or continue: the target runs on then.
const LEFT_ALONE: [c_int; 7] =
    [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGCONT];

/// How long the command has to end by itself.
const PATIENCE: Duration = Duration::from_millis(800);

/// Takes signals in a thread of its own. They are blocked in all others, so that no default action is taken.
#[derive(Clone, Debug)]
pub(crate) struct Signals(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether the session is to end.
    interrupted: AtomicBool,
    /// By which signal the command is to end; 0 for none.
    ending: AtomicI32,
    /// How often writing has begun or ended: odd while it lasts.
    writes: AtomicU64,
    /// Whether the target is as it was, so that there is nothing to wait for.
    released: AtomicBool,
    /// The process to which signals are passed on; 0 for none.
    launched: AtomicI32,
    /// The last that came before there was one; 0 for none.
    early: AtomicI32,
    /// What ends; signals are taken by who holds it.
    session: Mutex<Option<ClientStop>>,
    inherited: Inherited,
}

/// The signals that were blocked when the command was started.
#[derive(Debug)]
struct Inherited(sigset_t);

impl Default for Inherited {
    fn default() -> Inherited {
        Inherited(empty())
    }
}

impl Signals {
    /// From now on no signal ends or stops the process; see [`Signals::watch`]. Those that were ignored when it
    /// was started, as nohup(1) does, stay so.
    pub(crate) fn block() -> Signals {
        let inherited = mask(libc::SIG_BLOCK, &watched());
        Signals(Arc::new(State { inherited: Inherited(inherited), ..State::default() }))
    }

    /// Has a program that is to be started block those signals that were blocked when the command was. Here they stay
    /// blocked: one that comes meanwhile is to be passed on, and not to end the command.
    pub(crate) fn pass_mask_on(&self, command: &mut Command) {
        let inherited = self.0.inherited.0;
        let hook = move || {
            mask(libc::SIG_SETMASK, &inherited);
            Ok(())
        };
        // SAFETY: the hook makes one system call, which is async-signal-safe.
        unsafe { command.pre_exec(hook) };
    }

    /// From now on signals end the session instead of the process.
    pub(crate) fn watch(&self, session: ClientStop) {
        *self.0.session() = Some(session);
        let signals = self.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            let pending = pending(&watched());
            loop {
                wait_for(pending.as_ref());
                signals.collect();
            }
        });
    }

    /// Takes the signals that have come. None is on its way to be taken after that.
    pub(crate) fn collect(&self) {
        let session = self.0.session();
        let Some(stop) = session.as_ref() else { return };
        let (set, now) = (watched(), libc::timespec { tv_sec: 0, tv_nsec: 0 });
        loop {
            // SAFETY: both structures are valid for the call, which is not asked for more than the number.
            let signal = unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const now) };
            if signal <= 0 {
                return;
            }
            State::take(&self.0, signal, stop);
        }
    }

    /// Has SIGTERM and SIGHUP, which are not sent to a whole terminal by a key, also passed on to this process, and one of
    /// them that has come while it was started.
    pub(crate) fn launched(&self, pid: i32) {
        // Nobody takes a signal meanwhile.
        let _session = self.0.session();
        self.0.launched.store(pid, Ordering::SeqCst);
        match self.0.early.swap(0, Ordering::SeqCst) {
            0 => {}
            signal => pass_on(pid, signal),
        }
    }

    /// Whether a signal has asked for the end of the session.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::SeqCst)
    }

    /// Does something that may wait for a reader. Once a signal has come, it does not wait for long.
    pub(crate) fn writing<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.writes.fetch_add(1, Ordering::SeqCst);
        let done = work();
        self.0.writes.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// The signal by which the command is to end.
    pub(crate) fn ending(&self) -> Option<c_int> {
        Some(self.0.ending.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
    }

    /// From now on the target is nobody's, and default actions are taken at once.
    pub(crate) fn release(&self) {
        self.0.released.store(true, Ordering::SeqCst);
    }

    /// From now on there is no process to pass signals on to: its number may be another's.
    pub(crate) fn over(&self) {
        self.0.launched.store(0, Ordering::SeqCst);
    }
}

impl State {
    fn session(&self) -> MutexGuard<'_, Option<ClientStop>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(state: &Arc<State>, signal: c_int, session: &ClientStop) {
        let launched = state.launched.load(Ordering::SeqCst);
        match (signal, launched) {
            (libc::SIGTERM | libc::SIGHUP, 0) => state.early.store(signal, Ordering::SeqCst),
            (libc::SIGTERM | libc::SIGHUP, pid) => pass_on(pid, signal),
            _ => {}
        }
        // These two end the session alone: a command that was launched goes on, and its status is ours.
        let ends = !matches!(signal, libc::SIGINT | libc::SIGTERM);
        if ends {
            state.ending.store(signal, Ordering::SeqCst);
        }
        state.interrupted.store(true, Ordering::SeqCst);
        if ends && state.released.load(Ordering::SeqCst) {
            end(signal);
        }
        let state = Arc::clone(state);
        // Ends with the process.
        std::thread::spawn(move || state.press(signal, ends));
        session.request_end();
    }

    /// Ends the process by `signal` if it has not ended in time, or, unless the signal `ends` it, if it waits in vain for
    /// somebody to read.
    fn press(&self, signal: c_int, ends: bool) {
        loop {
            let before = self.writes.load(Ordering::SeqCst);
            std::thread::sleep(PATIENCE);
            let is_stuck = before % 2 == 1 && self.writes.load(Ordering::SeqCst) == before;
            if ends || is_stuck {
                end(signal);
            }
        }
    }
}

fn pass_on(pid: i32, signal: c_int) {
    // SAFETY: the call takes numbers only. It fails if the process has just ended.
    unsafe { libc::kill(pid, signal) };
}

/// Ends this process by the default action of `signal`, so that its parent sees that.
pub(crate) fn end(signal: c_int) -> ExitCode {
    // SAFETY: the default action replaces that of the Rust runtime, which ignores SIGPIPE and handles SIGSEGV.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    mask(libc::SIG_UNBLOCK, &set_of(signal));
    // SAFETY: the call takes a number only.
    unsafe { libc::raise(signal) };
    // As a shell has it, should it have had no effect.
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

/// A descriptor that can be read from while a signal of the set is pending, if there can be another descriptor.
fn pending(set: &sigset_t) -> Option<OwnedFd> {
    // SAFETY: the set is valid for the call.
    let descriptor = unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC) };
    // SAFETY: the kernel has just made it, for nobody else.
    (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Waits until a signal is pending.
fn wait_for(pending: Option<&OwnedFd>) {
    /// Where there is nothing to wait for, look as often as nobody notices.
    const OFTEN: u16 = 50;
    let mut waited: Vec<PollFd<'_>> =
        pending.into_iter().map(|pending| PollFd::new(pending.as_fd(), PollFlags::POLLIN)).collect();
    let most = if waited.is_empty() { PollTimeout::from(OFTEN) } else { PollTimeout::NONE };
    // It fails for a signal that is handled elsewhere, and then there is just nothing to take.
    let _ = poll(&mut waited, most);
}

/// Every signal whose default action ends a process.
fn watched() -> sigset_t {
    let mut set = empty();
    // SAFETY: the set is valid for the calls, which leave out what no process may block. An unknown signal is an
    // error without effect.
    unsafe {
        libc::sigfillset(&raw mut set);
        for signal in LEFT_ALONE {
            libc::sigdelset(&raw mut set, signal);
        }
        for signal in (1..=libc::SIGRTMAX()).filter(|&signal| is_ignored(signal)) {
            libc::sigdelset(&raw mut set, signal);
        }
    }
    set
}

/// Whether the process was started with the signal ignored. The Rust runtime does so with SIGPIPE.
fn is_ignored(signal: c_int) -> bool {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: no new action is given, and the old one has a place.
    let known = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) } == 0;
    known && signal != libc::SIGPIPE && action.sa_sigaction == libc::SIG_IGN
}

fn empty() -> sigset_t {
    // SAFETY: all-zero bytes are a valid set, and an empty one on Linux.
    unsafe { mem::zeroed() }
}

fn set_of(signal: c_int) -> sigset_t {
    let mut set = empty();
    // SAFETY: the set is valid for the call.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    set
}

/// Changes the calling thread's mask, which the threads that it makes inherit. Returns what it was.
fn mask(how: c_int, set: &sigset_t) -> sigset_t {
    let mut old = empty();
    // SAFETY: both sets are valid for the call. It fails for an unknown `how` only.
    unsafe { libc::pthread_sigmask(how, set, &raw mut old) };
    old
}
