//! The calls on a traced thread.

#![allow(unsafe_code, reason = "PTRACE_GETREGSET and waiting for real-time signals have no safe form")]

use std::io;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use emu::Rflags;
use emu::registers::Registers;
use emu::xsave::Layout;
use libc::{c_int, c_void};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

use super::ahead::Milestone;

/// The register set that XSAVE saves (the kernel's `linux/elf.h`).
const NT_X86_XSTATE: usize = 0x202;

/// What became of a thread.
#[derive(Clone, Copy, Debug)]
pub(super) enum Status {
    /// It is stopped by a signal, or by the `PTRACE_EVENT_*` in `event`.
    Stopped { signal: c_int, event: c_int },
    /// It is gone; the raw wait status.
    Ended(c_int),
}

/// Starts `command`, stopped before its first instruction and traced with all that it starts, on the
/// processor that this thread is pinned to from now on.
pub(super) fn launch(mut command: Command) -> io::Result<i32> {
    sigchld().thread_block()?;
    let this = nix::sched::sched_getcpu()?;
    let mut only = nix::sched::CpuSet::new();
    only.set(this)?;
    nix::sched::sched_setaffinity(Pid::from_raw(0), &only)?;
    // SAFETY: between fork and exec only three system calls are made, which allocate nothing.
    unsafe {
        command.pre_exec(|| {
            // What is blocked stays so in the program, which may wait for it.
            sigchld().thread_unblock()?;
            ptrace::traceme()?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    let tid = i32::try_from(child.id()).map_err(io::Error::other)?;
    wait(tid, true)?;
    let options = Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(Pid::from_raw(tid), options)?;
    step(tid, 0)?;
    Ok(tid)
}

/// Waits for thread `tid`, or with -1 for any that the calling thread traces. `None`: nothing yet, or nothing left to wait for.
pub(super) fn wait(tid: i32, block: bool) -> io::Result<Option<(i32, Status)>> {
    let flags = libc::__WALL | libc::__WNOTHREAD | if block { 0 } else { libc::WNOHANG };
    let mut status = 0;
    // SAFETY: `status` is a place for the status and outlives the call.
    match Errno::result(unsafe { libc::waitpid(tid, &raw mut status, flags) }) {
        Ok(0) | Err(Errno::ECHILD) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(tid) if libc::WIFSTOPPED(status) => {
            Ok(Some((tid, Status::Stopped { signal: libc::WSTOPSIG(status), event: status >> 16 })))
        }
        Ok(tid) => Ok(Some((tid, Status::Ended(status)))),
    }
}

/// A request that takes a number. False if the thread is gone.
fn request(request: libc::c_uint, tid: i32, data: c_int) -> io::Result<bool> {
    // SAFETY: the callers pass requests that take `data` as a number and dereference nothing.
    let result =
        unsafe { libc::ptrace(request, tid, std::ptr::null_mut::<c_void>(), libc::c_long::from(data)) };
    alive(Errno::result(result)).map(|result| result.is_some())
}

/// A thread that is killed while it is stopped vanishes: `None`.
fn alive<T>(result: nix::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ESRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// One instruction, after the delivery of `signal` if it is not 0.
pub(super) fn step(tid: i32, signal: c_int) -> io::Result<bool> {
    request(libc::PTRACE_SINGLESTEP, tid, signal)
}

/// The process that a thread belongs to. `None` if it is gone.
pub(super) fn process_of(tid: i32) -> io::Result<Option<i32>> {
    let status = match std::fs::read(format!("/proc/{tid}/status")) {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = status.split(|byte| *byte == b'\n');
    let number =
        lines.find_map(|line| str::from_utf8(line.strip_prefix(b"Tgid:")?).ok()?.trim().parse().ok());
    Ok(number)
}

/// What the event that stopped the thread is about. `None` if it is gone.
pub(super) fn event_message(tid: i32) -> io::Result<Option<i32>> {
    let message = alive(ptrace::getevent(Pid::from_raw(tid)))?;
    Ok(message.and_then(|message| i32::try_from(message).ok()))
}

/// Ends the thread's process.
pub(super) fn kill(tid: i32) {
    let _ = nix::sys::signal::kill(Pid::from_raw(tid), nix::sys::signal::Signal::SIGKILL);
}

/// Puts a hardware breakpoint at the milestone. False if the thread is gone.
pub(super) fn set_breakpoint(tid: i32, milestone: Milestone) -> io::Result<bool> {
    /// DR7: breakpoint 0, for this task (SDM volume 3, section 18.2.4).
    const ENABLE: u64 = 1;
    const ACCESS: u64 = 3 << 16;
    const EIGHT_BYTES: u64 = 2 << 18;
    let (address, control) = match milestone {
        Milestone::Execute(address) => (address, ENABLE),
        Milestone::Access(address) => (address, ENABLE | ACCESS | EIGHT_BYTES),
    };
    // The kernel refuses an address that the old control makes no sense of.
    Ok(poke_debug_register(tid, 7, 0)?
        && poke_debug_register(tid, 0, address)?
        && poke_debug_register(tid, 7, control)?)
}

/// Takes it away. False if the thread is gone.
pub(super) fn remove_breakpoint(tid: i32) -> io::Result<bool> {
    poke_debug_register(tid, 7, 0)
}

fn poke_debug_register(tid: i32, number: usize, value: u64) -> io::Result<bool> {
    let offset = std::mem::offset_of!(libc::user, u_debugreg) + 8 * number;
    let (offset, value) = (offset as *mut c_void, value as *mut c_void);
    // SAFETY: PTRACE_POKEUSER takes both as numbers.
    let result = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, tid, offset, value) };
    alive(Errno::result(result)).map(|result| result.is_some())
}

/// Lets the thread run.
pub(super) fn resume(tid: i32) -> io::Result<bool> {
    request(libc::PTRACE_CONT, tid, 0)
}

/// Whether the breakpoint stopped it.
pub(super) fn is_breakpoint(tid: i32) -> io::Result<bool> {
    Ok(signal_code(tid)?.is_some_and(|code| code == libc::TRAP_HWBKPT))
}

/// The thread's `struct rseq`, which the kernel writes to in context switches (rseq(2)); empty without one.
pub(super) fn restartable_sequences(tid: i32) -> io::Result<Range<u64>> {
    let mut configuration = std::mem::MaybeUninit::<libc::ptrace_rseq_configuration>::zeroed();
    let size = std::mem::size_of::<libc::ptrace_rseq_configuration>() as *mut c_void;
    // SAFETY: the kernel writes no more than `size` bytes to the structure, which outlives the call.
    let result =
        unsafe { libc::ptrace(libc::PTRACE_GET_RSEQ_CONFIGURATION, tid, size, configuration.as_mut_ptr()) };
    // SAFETY: it was zeroed, and any bits are good for its integers.
    let configuration = unsafe { configuration.assume_init() };
    match alive(Errno::result(result)) {
        Ok(_) => {
            let start = configuration.rseq_abi_pointer;
            Ok(start..start.saturating_add(configuration.rseq_abi_size.into()))
        }
        // A kernel that knows no restartable sequences.
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0..0),
        Err(error) => Err(error),
    }
}

/// Stops it, wherever it is.
pub(super) fn interrupt(tid: i32) {
    // SAFETY: takes two numbers.
    unsafe { libc::syscall(libc::SYS_tkill, tid, libc::SIGSTOP) };
}

/// SIGCHLD, which must be blocked.
fn sigchld() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

/// As [`wait`], for one thread and no longer than `limit`.
pub(super) fn wait_at_most(tid: i32, limit: Duration) -> io::Result<Option<(i32, Status)>> {
    const SLICE: Duration = Duration::from_millis(1);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(stopped) = wait(tid, false)? {
            return Ok(Some(stopped));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        pause(left.min(SLICE));
    }
}

/// Until a thread stops or ends, or for `time`, which is less than a second: another thread of this process may take the
/// SIGCHLD.
pub(super) fn pause(time: Duration) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    // SAFETY: the set and the time outlive the call, and nothing is asked of the siginfo.
    unsafe { libc::sigtimedwait(sigchld().as_ref(), std::ptr::null_mut(), &raw const time) };
}

/// The siginfo of the signal that stopped it.
pub(super) fn siginfo(tid: i32) -> io::Result<Option<libc::siginfo_t>> {
    alive(ptrace::getsiginfo(Pid::from_raw(tid)))
}

/// The siginfo that the signal delivered with the next step shall have.
pub(super) fn set_siginfo(tid: i32, info: &libc::siginfo_t) -> io::Result<()> {
    alive(ptrace::setsiginfo(Pid::from_raw(tid), info)).map(drop)
}

/// What a shell would call the status.
pub(super) fn exit_status(status: c_int) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

fn signal_code(tid: i32) -> io::Result<Option<c_int>> {
    Ok(alive(ptrace::getsiginfo(Pid::from_raw(tid)))?.map(|info| info.si_code))
}

/// Whether a signal stopped it: a group-stop has no siginfo.
pub(super) fn has_siginfo(tid: i32) -> io::Result<bool> {
    match ptrace::getsiginfo(Pid::from_raw(tid)) {
        Err(Errno::EINVAL) => Ok(false),
        other => alive(other).map(|_| true),
    }
}

/// Whether the SIGTRAP that stopped it is that of a step.
pub(super) fn is_step(tid: i32) -> io::Result<bool> {
    // After a system call the kernel says TRAP_BRKPT, after it has set up a signal's frame SIGTRAP.
    let steps = [libc::TRAP_TRACE, libc::TRAP_BRKPT, libc::SIGTRAP];
    Ok(signal_code(tid)?.is_some_and(|code| steps.contains(&code)))
}

/// Whether the kernel sent the signal because of what the thread did.
pub(super) fn is_fault(tid: i32) -> io::Result<bool> {
    let info = alive(ptrace::getsiginfo(Pid::from_raw(tid)))?;
    let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
    Ok(info.is_some_and(|info| info.si_code > 0 && faults.contains(&info.si_signo)))
}

/// The address that the signal that stopped it is about.
pub(super) fn fault_address(tid: i32) -> io::Result<Option<u64>> {
    let info = alive(ptrace::getsiginfo(Pid::from_raw(tid)))?;
    // SAFETY: the callers ask after SIGSEGV and SIGBUS, which have an address.
    Ok(info.map(|info| unsafe { info.si_addr() } as u64))
}

/// SYSCALL has saved the flags of a stepped thread in R11, TF with them.
pub(super) fn hide_trap_flag(tid: i32) -> io::Result<()> {
    let Some(mut registers) = alive(ptrace::getregs(Pid::from_raw(tid)))? else { return Ok(()) };
    let mut before = [0; 2];
    let syscall = registers.rip.wrapping_sub(2);
    let is_syscall = super::overlay::read_up_to(tid, syscall, &mut before) == 2 && before == [0x0f, 0x05];
    if is_syscall && registers.rcx == registers.rip && registers.r11 & Rflags::TF.bits() != 0 {
        registers.r11 &= !Rflags::TF.bits();
        alive(ptrace::setregs(Pid::from_raw(tid), registers))?;
    }
    Ok(())
}

fn layout() -> io::Result<&'static Layout> {
    Layout::of_this_processor().ok_or_else(|| io::Error::other("a processor without XSAVE"))
}

/// The state of a stopped thread, as the kernel gives it.
pub(super) struct Raw {
    general: libc::user_regs_struct,
    /// What XSAVE saves, all of it: where the kernel knows AMX it takes nothing shorter back.
    extended: Vec<u8>,
}

impl Raw {
    /// `None` if the thread is gone.
    pub(super) fn fetch(tid: i32) -> io::Result<Option<Raw>> {
        let Some(general) = alive(ptrace::getregs(Pid::from_raw(tid)))? else { return Ok(None) };
        // As much as any processor has so far; the kernel fills as much as there is.
        let mut length = 16 * 1024;
        loop {
            let mut extended = vec![0u8; length];
            match extended_state(libc::PTRACE_GETREGSET, tid, &mut extended)? {
                None => return Ok(None),
                Some(filled) if filled == length => length *= 2,
                Some(filled) => {
                    extended.truncate(filled);
                    return Ok(Some(Raw { general, extended }));
                }
            }
        }
    }

    /// Puts it back. False if the thread is gone.
    pub(super) fn store(&mut self, tid: i32) -> io::Result<bool> {
        let general = alive(ptrace::setregs(Pid::from_raw(tid), self.general))?;
        Ok(general.is_some() && extended_state(libc::PTRACE_SETREGSET, tid, &mut self.extended)?.is_some())
    }

    /// See [`may_restart`].
    pub(super) fn may_restart(&self) -> bool {
        may_restart(&self.general)
    }

    #[cfg(test)]
    pub(super) fn extended_length(&self) -> usize {
        self.extended.len()
    }

    pub(super) fn registers(&self) -> io::Result<Registers> {
        let mut registers = general_registers(&self.general);
        let (extended, pkru) = (&mut registers.extended, &mut registers.pkru);
        layout()?.read(&self.extended, extended, pkru).map_err(io::Error::other)?;
        Ok(registers)
    }
}

/// Gets or sets what XSAVE saves; how many bytes that is, or `None` if the thread is gone.
fn extended_state(get_or_set: libc::c_uint, tid: i32, image: &mut [u8]) -> io::Result<Option<usize>> {
    let mut vector = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
    // SAFETY: `vector` describes `image`, which outlives the call.
    let result = unsafe { libc::ptrace(get_or_set, tid, NT_X86_XSTATE as *mut c_void, &raw mut vector) };
    Ok(alive(Errno::result(result))?.map(|_| vector.iov_len))
}

/// Whether the kernel will begin the system call anew, unless a handler is called for a signal that is still to come: the
/// thread is not where it seems to be.
fn may_restart(kernel: &libc::user_regs_struct) -> bool {
    /// ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND and ERESTART_RESTARTBLOCK (the kernel's `linux/errno.h`), which a
    /// program never sees.
    const RESTARTS: [i64; 4] = [-512, -513, -514, -516];
    kernel.orig_rax as i64 >= 0 && RESTARTS.contains(&(kernel.rax as i64))
}

fn general_registers(kernel: &libc::user_regs_struct) -> Registers {
    Registers {
        gpr: [
            kernel.rax, kernel.rcx, kernel.rdx, kernel.rbx, kernel.rsp, kernel.rbp, kernel.rsi, kernel.rdi,
            kernel.r8, kernel.r9, kernel.r10, kernel.r11, kernel.r12, kernel.r13, kernel.r14, kernel.r15,
        ],
        rip: kernel.rip,
        rflags: Rflags::from_bits_retain(kernel.eflags),
        fs_base: kernel.fs_base,
        gs_base: kernel.gs_base,
        segment: [kernel.es, kernel.cs, kernel.ss, kernel.ds, kernel.fs, kernel.gs].map(|s| s as u16),
        ..Registers::default()
    }
}

/// The state of a stopped thread.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) registers: Box<Registers>,
    /// Whether `registers.extended` has been fetched.
    pub(super) extended: bool,
    /// See [`may_restart`].
    pub(super) may_restart: bool,
}

impl Snapshot {
    /// Without the extended state. `None` if the thread is gone.
    pub(super) fn general(tid: i32) -> io::Result<Option<Snapshot>> {
        let kernel = alive(ptrace::getregs(Pid::from_raw(tid)))?;
        Ok(kernel.map(|kernel| Snapshot {
            registers: Box::new(general_registers(&kernel)),
            extended: false,
            may_restart: may_restart(&kernel),
        }))
    }

    /// Adds the extended state. False if the thread is gone.
    pub(super) fn fetch_extended(&mut self, tid: i32) -> io::Result<bool> {
        let mut image = vec![0u8; layout()?.length];
        if extended_state(libc::PTRACE_GETREGSET, tid, &mut image)?.is_none() {
            return Ok(false);
        }
        let registers = &mut *self.registers;
        let (extended, pkru) = (&mut registers.extended, &mut registers.pkru);
        layout()?.read(&image, extended, pkru).map_err(io::Error::other)?;
        self.extended = true;
        Ok(true)
    }
}
