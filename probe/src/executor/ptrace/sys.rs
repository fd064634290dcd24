//! The system calls that `nix` does not wrap, or wraps in a way that loses something: its `waitpid` fails
//! when a real-time signal stops a thread, and its `cont` cannot deliver one.

#![allow(unsafe_code, reason = "raw system calls; each is wrapped here in a function that is safe to call")]

use std::mem;
use std::ptr;

use libc::{c_int, c_long, c_void, siginfo_t};
use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

/// What became of a traced thread, as `waitpid` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is in a ptrace-stop: the signal, and the `PTRACE_EVENT_*` or 0.
    Stopped { signal: c_int, event: c_int },
    /// It is gone; the raw wait status.
    Ended(c_int),
}

/// Waits for thread `tid`, or with -1 for any child or tracee of the calling thread alone.
///
/// Without `block`, `None` means that nothing has happened.
pub(crate) fn wait(tid: i32, block: bool) -> Result<Option<(i32, Status)>> {
    let flags = libc::__WALL | libc::__WNOTHREAD | if block { 0 } else { libc::WNOHANG };
    let mut status = 0;
    // SAFETY: `status` is a valid place for the status and outlives the call.
    let tid = Errno::result(unsafe { libc::waitpid(tid, &raw mut status, flags) })?;
    Ok(match tid {
        0 => None,
        _ if libc::WIFSTOPPED(status) => {
            Some((tid, Status::Stopped { signal: libc::WSTOPSIG(status), event: status >> 16 }))
        }
        _ => Some((tid, Status::Ended(status))),
    })
}

/// A ptrace request whose address is unused and whose data is a number.
fn request(request: libc::c_uint, tid: i32, data: c_int) -> Result<()> {
    // SAFETY: the callers pass requests that take `data` as a number and dereference nothing.
    let result = unsafe { libc::ptrace(request, tid, ptr::null_mut::<c_void>(), c_long::from(data)) };
    Errno::result(result).map(drop)
}

/// How far a thread is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// `PTRACE_SINGLESTEP`: one instruction.
    Step,
    /// `PTRACE_SYSCALL`: to the entry or the end of a system call.
    Syscall,
    /// `PTRACE_CONT`: until it stops by itself.
    Continue,
}

impl Resume {
    /// The name of the request.
    pub(crate) fn request(self) -> &'static str {
        match self {
            Resume::Step => "PTRACE_SINGLESTEP",
            Resume::Syscall => "PTRACE_SYSCALL",
            Resume::Continue => "PTRACE_CONT",
        }
    }
}

/// Resumes a thread, delivering `signal` unless it is 0.
pub(crate) fn resume(tid: i32, how: Resume, signal: c_int) -> Result<()> {
    let how = match how {
        Resume::Step => libc::PTRACE_SINGLESTEP,
        Resume::Syscall => libc::PTRACE_SYSCALL,
        Resume::Continue => libc::PTRACE_CONT,
    };
    request(how, tid, signal)
}

/// `PTRACE_LISTEN`: leaves the thread in its group-stop and lets it be continued by SIGCONT.
pub(crate) fn listen(tid: i32) -> Result<()> {
    request(libc::PTRACE_LISTEN, tid, 0)
}

/// `PTRACE_DETACH`, delivering `signal` unless it is 0.
pub(crate) fn detach(tid: i32, signal: c_int) -> Result<()> {
    request(libc::PTRACE_DETACH, tid, signal)
}

/// The set of blocked signals, bit n-1 for signal n.
pub(crate) fn signal_mask(tid: i32) -> Result<u64> {
    let mut mask = 0u64;
    // SAFETY: the address is the size of the set, and the data points to that many writable bytes.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, tid, mem::size_of::<u64>(), &raw mut mask) };
    Errno::result(result).map(|_| mask)
}

/// Sets the set of blocked signals.
pub(crate) fn set_signal_mask(tid: i32, mask: u64) -> Result<()> {
    // SAFETY: the address is the size of the set, and the data points to that many readable bytes.
    let result =
        unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK, tid, mem::size_of::<u64>(), &raw const mask) };
    Errno::result(result).map(drop)
}

/// Whether the SIGTRAP of an INT3 waits in the thread's own queue.
pub(crate) fn has_pending_breakpoint(tid: i32) -> Result<bool> {
    #[repr(C)]
    struct Range {
        offset: u64,
        flags: u32,
        count: i32,
    }
    const COUNT: usize = 16;
    let mut offset = 0;
    loop {
        let range = Range { offset, flags: 0, count: COUNT as i32 };
        // SAFETY: all-zero bytes are a valid siginfo_t.
        let mut found: [siginfo_t; COUNT] = unsafe { mem::zeroed() };
        // SAFETY: `range` is laid out as ptrace_peeksiginfo_args, and `found` has room for `count` entries.
        let result =
            unsafe { libc::ptrace(libc::PTRACE_PEEKSIGINFO, tid, &raw const range, found.as_mut_ptr()) };
        let read = usize::try_from(Errno::result(result)?).unwrap_or(0).min(COUNT);
        if found.iter().take(read).any(is_breakpoint_info) {
            return Ok(true);
        }
        if read < COUNT {
            return Ok(false);
        }
        offset += COUNT as u64;
    }
}

/// Whether the signal that thread `tid` is about to take is that of an INT3.
pub(crate) fn is_breakpoint(tid: i32) -> Result<bool> {
    nix::sys::ptrace::getsiginfo(pid(tid)).map(|info| is_breakpoint_info(&info))
}

/// Whether the kernel has sent the signal that thread `tid` is about to take, on its own account.
pub(crate) fn is_from_kernel(tid: i32) -> Result<bool> {
    nix::sys::ptrace::getsiginfo(pid(tid)).map(|info| info.si_code > 0)
}

/// Whether the stop of thread `tid` is that at the first instruction of a signal handler.
pub(crate) fn is_at_handler(tid: i32) -> Result<bool> {
    // ptrace_notify: the signal is the code, too.
    nix::sys::ptrace::getsiginfo(pid(tid))
        .map(|info| info.si_signo == libc::SIGTRAP && info.si_code == libc::SIGTRAP)
}

fn is_breakpoint_info(info: &siginfo_t) -> bool {
    const SI_KERNEL: c_int = 0x80;
    info.si_signo == libc::SIGTRAP && info.si_code == SI_KERNEL
}

/// Whether the thread has asked for SIGSYS in place of system calls (prctl's PR_SET_SYSCALL_USER_DISPATCH),
/// which depends on where the instruction is.
pub(crate) fn dispatches_system_calls(tid: i32) -> bool {
    /// `struct ptrace_sud_config` (linux/ptrace.h).
    #[repr(C)]
    struct Config {
        mode: u64,
        selector: u64,
        offset: u64,
        length: u64,
    }
    const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
    let mut config = Config { mode: 0, selector: 0, offset: 0, length: 0 };
    // SAFETY: the address is the size of the structure, and the data points to that many writable bytes.
    let result = unsafe {
        libc::ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, mem::size_of::<Config>(), &raw mut config)
    };
    // Kernels that do not know the request do not let this be asked for either, or cannot say.
    result == 0 && config.mode != 0
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

/// Whether two processes share one address space; `None` where the kernel does not say.
pub(crate) fn same_memory(a: i32, b: i32) -> Option<bool> {
    const KCMP_VM: c_int = 1;
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_VM, 0, 0) };
    match result {
        0 => Some(true),
        1..=3 => Some(false),
        _ => None,
    }
}

/// Sends `signal` to one thread.
pub(crate) fn send(pid: i32, tid: i32, signal: c_int) -> Result<()> {
    // SAFETY: the call takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }).map(drop)
}

/// The calling thread's id.
pub(crate) fn this_thread() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// `tid` as `nix` takes it.
pub(crate) fn pid(tid: i32) -> Pid {
    Pid::from_raw(tid)
}

/// A timer that interrupts the system calls of the thread that made it.
///
/// `waitpid` takes no deadline and no descriptor to listen to, so this is how it is woken: a signal with an
/// empty handler makes it fail with EINTR. The timer repeats, so a signal that arrives just before the call
/// is no loss.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: libc::timer_t,
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
        event.sigev_notify_thread_id = this_thread();
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are valid for the call.
        let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        Errno::result(result)?;
        Ok(Alarm { timer })
    }

    /// Interrupts the thread in `nanoseconds`, and then again and again until it is silenced.
    /// Async-signal-safe.
    pub(crate) fn ring_in(&self, nanoseconds: u64) {
        let nanoseconds = nanoseconds.clamp(1, i64::MAX as u64) as i64;
        self.set(nanoseconds, Self::REPEAT);
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
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `new` and is deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// Registers that are all zero.
pub(crate) fn no_registers() -> libc::user_regs_struct {
    // SAFETY: the structure consists of integers, for which zero is valid.
    unsafe { mem::zeroed() }
}

/// `PTRACE_POKEUSER` of the word with that index in `struct user`.
pub(crate) fn poke_user(tid: i32, index: usize, value: u64) -> Result<()> {
    // SAFETY: the kernel takes the address as an offset and the data as a number.
    let result = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, tid, index * 8, value) };
    Errno::result(result).map(drop)
}

/// `PTRACE_PEEKUSER` of the word with that index in `struct user`.
pub(crate) fn peek_user(tid: i32, index: usize) -> Result<u64> {
    // The C library stores the word and tells failures by `errno` alone.
    Errno::clear();
    // SAFETY: the kernel takes the address as an offset; the C library has a place of its own for the word.
    let word = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, tid, index * 8, ptr::null_mut::<c_void>()) };
    match Errno::last() {
        Errno::UnknownErrno => Ok(word as u64),
        error if word == -1 => Err(error),
        _ => Ok(word as u64),
    }
}

/// A set of registers that ptrace hands out as an image (linux/elf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegisterSet {
    /// `NT_PRFPREG`: x87 and SSE, as FXSAVE stores them.
    FloatingPoint = 2,
    /// `NT_X86_XSTATE`: everything, as XSAVE stores it.
    Extended = 0x202,
}

/// `PTRACE_GETREGSET`; returns how many bytes the image has.
pub(crate) fn get_registers(tid: i32, set: RegisterSet, image: &mut [u8]) -> Result<usize> {
    let mut vector = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
    // SAFETY: the kernel writes at most `iov_len` bytes to `iov_base`, and the length to `vector`.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, set as usize, &raw mut vector) };
    Errno::result(result).map(|_| vector.iov_len)
}

/// `PTRACE_SETREGSET`.
pub(crate) fn set_registers(tid: i32, set: RegisterSet, image: &mut [u8]) -> Result<()> {
    let mut vector = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
    // SAFETY: the kernel reads at most `iov_len` bytes from `iov_base`.
    let result = unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid, set as usize, &raw mut vector) };
    Errno::result(result).map(drop)
}
