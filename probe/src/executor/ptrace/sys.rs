//! The system calls that `nix` does not wrap, or wraps in a way that loses something: its `waitpid` fails
//! when a real-time signal stops a thread, and its `cont` cannot deliver one.

#![allow(unsafe_code, reason = "raw system calls; each is wrapped here in a function that is safe to call")]

use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use libc::{c_int, siginfo_t};
use nix::Result;
use nix::errno::Errno;

use crate::executor::ptrace::stopped::Stop;
use crate::target::system;

/// What became of a traced thread, as `waitpid` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is in a ptrace-stop.
    Stopped(Stop),
    /// It is gone; the raw wait status.
    Ended(c_int),
}

/// Waits for thread `tid`, or with -1 for any child or tracee of the calling thread alone.
///
/// Without `block`, `None` means that nothing has happened.
pub(crate) fn wait(tid: i32, block: bool) -> Result<Option<(i32, Status)>> {
    let flags = libc::__WALL | libc::__WNOTHREAD | if block { 0 } else { libc::WNOHANG };
    let mut status: c_int = 0;
    let no_usage = ptr::null_mut::<libc::rusage>();
    // The C library's own makes the thread cancellable for as long, at each stop.
    // SAFETY: `status` is a valid place for the status and outlives the call, and the usage is not asked for.
    let tid = unsafe { libc::syscall(libc::SYS_wait4, tid, &raw mut status, flags, no_usage) };
    let tid = Errno::result(tid)? as i32;
    Ok(match tid {
        0 => None,
        _ if libc::WIFSTOPPED(status) => {
            Some((tid, Status::Stopped(Stop::parse(libc::WSTOPSIG(status), status >> 16))))
        }
        _ => Some((tid, Status::Ended(status))),
    })
}

/// Waits for the end of a child of this process, whichever thread made it, and returns its raw wait status.
pub(crate) fn wait_for_end(pid: i32) -> Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the status and outlives the call.
        match Errno::result(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }) {
            Ok(_) if libc::WIFSTOPPED(status) => {}
            Ok(_) => return Ok(status),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether [`wait`] for any would find something at once.
pub(crate) fn has_news() -> bool {
    let flags = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG | libc::WNOWAIT;
    let flags = flags | libc::WEXITED | libc::WSTOPPED;
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: `info` is a valid place for what is found and outlives the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
    // Where there is nobody to wait for, that is news, too.
    result != 0 || info.si_signo != 0
}

/// The `siginfo_t` of a fault: signal, code and address, and the protection key if that is the reason.
pub(crate) fn fault_siginfo(signal: c_int, code: c_int, address: u64, key: u32) -> siginfo_t {
    /// The start of siginfo_t with the `_sigfault` member (asm-generic/siginfo.h).
    #[repr(C)]
    struct Fault {
        signo: c_int,
        errno: c_int,
        code: c_int,
        padding: c_int,
        address: u64,
        /// The place of `si_addr_lsb`, with which the union that holds `si_pkey` begins.
        union: u64,
        key: u32,
    }
    let fault = Fault { signo: signal, errno: 0, code, padding: 0, address, union: 0, key };
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: siginfo_t = unsafe { mem::zeroed() };
    const { assert!(mem::size_of::<Fault>() <= mem::size_of::<siginfo_t>()) };
    // SAFETY: siginfo_t is larger than `Fault`, as just asserted, and `Fault` has its layout.
    unsafe { ptr::write_unaligned((&raw mut info).cast::<Fault>(), fault) };
    info
}

/// The `siginfo_t` of a signal that a thread of process `pid`, which is of that user, has sent to itself by tgkill(2).
pub(crate) fn own_siginfo(signal: c_int, pid: i32, uid: u32) -> siginfo_t {
    /// The start of siginfo_t with the `_kill` member (asm-generic/siginfo.h).
    #[repr(C)]
    struct Sent {
        signo: c_int,
        errno: c_int,
        code: c_int,
        padding: c_int,
        pid: i32,
        uid: u32,
    }
    let sent = Sent { signo: signal, errno: 0, code: libc::SI_TKILL, padding: 0, pid, uid };
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: siginfo_t = unsafe { mem::zeroed() };
    const { assert!(mem::size_of::<Sent>() <= mem::size_of::<siginfo_t>()) };
    // SAFETY: siginfo_t is larger than `Sent`, as just asserted, and `Sent` has its layout.
    unsafe { ptr::write_unaligned((&raw mut info).cast::<Sent>(), sent) };
    info
}

/// A `siginfo_t` that is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Info(pub(crate) siginfo_t);

// SAFETY: it is plain data, and its addresses are those of another process.
unsafe impl Send for Info {}

/// Whether a signal is one that [`send`] has sent.
pub(crate) fn is_own(info: &siginfo_t) -> bool {
    // SAFETY: with that code the member is that of a sender.
    info.si_code == libc::SI_TKILL && u32::try_from(unsafe { info.si_pid() }) == Ok(std::process::id())
}

/// Sends `signal` to one thread.
pub(crate) fn send(pid: i32, tid: i32, signal: c_int) -> Result<()> {
    // SAFETY: the call takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }).map(drop)
}

/// Blocks every signal for the calling thread but that of [`Alarm`] and those that instructions raise: signals of the
/// process are for its own threads.
pub(crate) fn block_signals() {
    // SAFETY: all-zero bytes are a valid set.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    let kept = [
        Alarm::signal(),
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGSYS,
    ];
    // SAFETY: the set is valid for all of these calls, and the old mask is not asked for.
    unsafe {
        libc::sigfillset(&raw mut set);
        for signal in kept {
            libc::sigdelset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// A timer that interrupts the system calls of the thread that made it.
///
/// `waitpid` takes no deadline and no descriptor to listen to, so this is how it is woken: a signal with an
/// empty handler makes it fail with EINTR. The timer repeats, so a signal that arrives just before the call
/// is no loss.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: libc::timer_t,
    /// How often it has been set.
    settings: AtomicU64,
}

// SAFETY: a timer id is a number (glibc: a tagged one) that any thread of the process may use.
unsafe impl Send for Alarm {}
// SAFETY: the kernel serialises the operations on a timer.
unsafe impl Sync for Alarm {}

extern "C" fn nothing(_signal: c_int) {}

impl Alarm {
    /// How often it repeats, in nanoseconds.
    const REPEAT: i64 = 2_000_000;

    pub(crate) fn signal() -> c_int {
        libc::SIGRTMAX() - 3
    }

    /// An alarm for the calling thread.
    pub(crate) fn new() -> Result<Alarm> {
        let signal = Self::signal();
        // SAFETY: all-zero bytes are a valid sigaction: no flags (so that calls are not restarted).
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
        // SAFETY: `action` is valid, its handler does nothing, and the old action is not asked for.
        Errno::result(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
        // SAFETY: all-zero bytes are a valid sigevent.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = system::this_thread();
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are valid for the call.
        let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        Errno::result(result)?;
        Ok(Alarm { timer, settings: AtomicU64::new(0) })
    }

    /// Interrupts the thread in `nanoseconds`, and then again and again until it is silenced.
    /// Async-signal-safe.
    pub(crate) fn ring_in(&self, nanoseconds: u64) {
        let nanoseconds = nanoseconds.clamp(1, i64::MAX as u64) as i64;
        self.set(nanoseconds, Self::REPEAT);
    }

    /// The same from that time on, or never.
    pub(crate) fn ring_at(&self, until: Option<Instant>) {
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(left) => self.ring_in(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)),
            None => self.silence(),
        }
    }

    /// Interrupts the thread again and again, each time after `nanoseconds`, until it is silenced.
    pub(crate) fn ring_every(&self, nanoseconds: u64) {
        let nanoseconds = nanoseconds.clamp(1, i64::MAX as u64) as i64;
        self.set(nanoseconds, nanoseconds);
    }

    /// How often it has been set. As long as that stays, so does what it was set to.
    pub(crate) fn settings(&self) -> u64 {
        self.settings.load(Ordering::SeqCst)
    }

    /// Stops ringing. Async-signal-safe.
    pub(crate) fn silence(&self) {
        self.set(0, 0);
    }

    fn set(&self, first: i64, repeat: i64) {
        let time = |nanoseconds: i64| libc::timespec {
            tv_sec: nanoseconds / 1_000_000_000,
            tv_nsec: nanoseconds % 1_000_000_000,
        };
        let new = libc::itimerspec { it_interval: time(repeat), it_value: time(first) };
        // SAFETY: the timer lives as long as `self`, `new` is valid, and the old value is not asked for.
        // It can fail for an invalid timer or time only; neither is possible.
        unsafe { libc::timer_settime(self.timer, 0, &raw const new, ptr::null_mut()) };
        // Behind, so that who finds it set anew finds it so.
        self.settings.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `new` and is deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// Registers that are all zero.
#[cfg(test)]
pub(crate) fn no_registers() -> libc::user_regs_struct {
    // SAFETY: the structure consists of integers, for which zero is valid.
    unsafe { mem::zeroed() }
}
