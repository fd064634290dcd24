//! A thread in a ptrace-stop, and the requests that ptrace(2) has for it: methods of the stopped thread, so that none
//! can be made for one that runs.

#![allow(unsafe_code, reason = "raw requests; each is wrapped here in a function that is safe to call")]

use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::ops::Range;
use std::ptr;

use libc::{c_int, c_long, c_void, siginfo_t, user_regs_struct};
use nix::Result;
use nix::errno::Errno;
use nix::sys::ptrace;

use crate::executor::perf::{Signalled, Trap};
use crate::executor::ptrace::registers::Words;
use crate::target::failure::ignore_death;
use crate::target::system;

/// Why a thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It is about to take this signal.
    Signal(c_int),
    /// It enters or leaves a system call.
    SystemCall,
    /// A job-control signal has stopped its whole process.
    Group,
    /// It was asked to, or it was just born, or job control has continued it.
    Interrupted,
    /// It has made another thread or process.
    Birth(Birth),
    /// It executes a program, and is the only thread of its process now.
    Exec,
    /// Something that needs no answer, such as the end of a vfork.
    Other,
}

/// How a thread has made another one, as the kernel tells events apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    /// Neither of the others, whatever the two share.
    Clone,
    /// With SIGCHLD at its end.
    Fork,
    /// It is waited for until it executes a program or ends.
    Vfork,
}

/// What `PTRACE_O_TRACESYSGOOD` makes of SIGTRAP in the stops of a system call.
const SYSTEM_CALL: c_int = libc::SIGTRAP | 0x80;

impl Stop {
    /// Of the stop signal and the event of a wait status.
    pub(crate) fn parse(signal: c_int, event: c_int) -> Stop {
        match event {
            0 if signal == SYSTEM_CALL => Stop::SystemCall,
            0 => Stop::Signal(signal),
            libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Stop::Group,
            libc::PTRACE_EVENT_STOP => Stop::Interrupted,
            libc::PTRACE_EVENT_CLONE => Stop::Birth(Birth::Clone),
            libc::PTRACE_EVENT_FORK => Stop::Birth(Birth::Fork),
            libc::PTRACE_EVENT_VFORK => Stop::Birth(Birth::Vfork),
            libc::PTRACE_EVENT_EXEC => Stop::Exec,
            _ => Stop::Other,
        }
    }

    /// The signal that the thread takes when it is resumed as if nobody traced it; 0 for none.
    pub(crate) fn signal(self) -> c_int {
        if let Stop::Signal(signal) = self { signal } else { 0 }
    }
}

/// A thread in a ptrace-stop. It stays there as long as this value lives.
///
/// Not `Send`: only the thread that attached can make ptrace requests.
#[derive(Debug)]
#[must_use = "the thread stays stopped until this is resumed"]
pub(crate) struct Stopped {
    tid: i32,
    /// Why it has stopped the last time.
    pub(crate) stop: Stop,
    tracer: PhantomData<*const ()>,
}

impl Drop for Stopped {
    /// Forgetting a stopped thread must not leave it stopped.
    fn drop(&mut self) {
        ignore_death(resume(self.tid, Resume::Continue, 0));
    }
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

/// A set of registers that ptrace hands out as an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegisterSet {
    /// x87 and SSE, as FXSAVE stores them: `struct user_fpregs_struct`.
    FloatingPoint,
    /// `NT_X86_XSTATE` (linux/elf.h): everything, as XSAVE stores it.
    Extended,
    /// `NT_X86_SHSTK` (linux/elf.h): the shadow stack pointer.
    ShadowStack,
}

impl RegisterSet {
    /// The name of the request that fetches it.
    pub(crate) fn fetching(self) -> &'static str {
        match self {
            RegisterSet::FloatingPoint => "PTRACE_GETFPREGS",
            RegisterSet::Extended | RegisterSet::ShadowStack => "PTRACE_GETREGSET",
        }
    }

    /// The number by which regset requests know it.
    fn number(self) -> usize {
        const NT_PRFPREG: usize = 2;
        const NT_X86_XSTATE: usize = 0x202;
        const NT_X86_SHSTK: usize = 0x204;
        match self {
            RegisterSet::FloatingPoint => NT_PRFPREG,
            RegisterSet::Extended => NT_X86_XSTATE,
            RegisterSet::ShadowStack => NT_X86_SHSTK,
        }
    }

    /// The name of the request that stores it.
    pub(crate) fn storing(self) -> &'static str {
        match self {
            RegisterSet::FloatingPoint => "PTRACE_SETFPREGS",
            RegisterSet::Extended | RegisterSet::ShadowStack => "PTRACE_SETREGSET",
        }
    }
}

/// How long `struct user_fpregs_struct` is.
const FLOATING_POINT_LENGTH: usize = mem::size_of::<libc::user_fpregs_struct>();

/// A request whose address is unused and whose data is a number.
fn request(request: libc::c_uint, tid: i32, data: c_int) -> Result<()> {
    // SAFETY: the callers pass requests that take `data` as a number and dereference nothing.
    let result = unsafe { libc::ptrace(request, tid, ptr::null_mut::<c_void>(), c_long::from(data)) };
    Errno::result(result).map(drop)
}

/// Resumes a thread, delivering `signal` unless it is 0.
fn resume(tid: i32, how: Resume, signal: c_int) -> Result<()> {
    let how = match how {
        Resume::Step => libc::PTRACE_SINGLESTEP,
        Resume::Syscall => libc::PTRACE_SYSCALL,
        Resume::Continue => libc::PTRACE_CONT,
    };
    request(how, tid, signal)
}

/// What a thread has registered for restartable sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rseq {
    /// The address of its `struct rseq`.
    pub(crate) area: u64,
    /// What stands in the four bytes before each of its abort handlers.
    pub(crate) signature: u32,
}

impl Rseq {
    /// Where the address of the description stands of the sequence that the thread is in (`rseq_cs`, linux/rseq.h).
    pub(crate) fn announcement(&self) -> Range<u64> {
        let start = self.area.wrapping_add(8);
        start..start.saturating_add(8)
    }
}

impl Stopped {
    pub(crate) fn new(tid: i32, stop: Stop) -> Stopped {
        Stopped { tid, stop, tracer: PhantomData }
    }

    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    /// Leaves the thread as it is: it is gone, or somebody else resumes it. Returns its id.
    pub(crate) fn forget(self) -> i32 {
        ManuallyDrop::new(self).tid
    }

    /// Lets it go on, with `signal` unless that is 0.
    pub(crate) fn resume(self, how: Resume, signal: c_int) -> Result<()> {
        resume(self.forget(), how, signal)
    }

    /// Lets it go on for a moment: until its next stop has been waited for, it must not be used.
    pub(crate) fn run(&mut self, how: Resume, signal: c_int) -> Result<()> {
        resume(self.tid, how, signal)
    }

    /// `PTRACE_LISTEN`: leaves it in its group-stop and lets it be continued by SIGCONT.
    pub(crate) fn listen(self) -> Result<()> {
        request(libc::PTRACE_LISTEN, self.forget(), 0)
    }

    /// `PTRACE_DETACH`, delivering `signal` unless it is 0.
    pub(crate) fn detach(self, signal: c_int) -> Result<()> {
        request(libc::PTRACE_DETACH, self.forget(), signal)
    }
}

/// Its registers.
impl Stopped {
    /// `PTRACE_GETREGS`.
    pub(crate) fn registers(&self) -> Result<user_regs_struct> {
        ptrace::getregs(system::pid(self.tid))
    }

    /// The same, to where they are kept.
    pub(crate) fn fetch_registers(&self, registers: &mut Words) -> Result<()> {
        let (nowhere, registers) = (ptr::null_mut::<c_void>(), registers.as_mut_ptr());
        // SAFETY: the kernel writes a `struct user_regs_struct` there, which consists of so many words.
        let result = unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.tid, nowhere, registers) };
        Errno::result(result).map(drop)
    }

    /// `PTRACE_SETREGS`.
    pub(crate) fn set_registers(&self, registers: user_regs_struct) -> Result<()> {
        ptrace::setregs(system::pid(self.tid), registers)
    }

    /// The same, of the words that it consists of.
    pub(crate) fn set_all_registers(&self, registers: &Words) -> Result<()> {
        let (nowhere, registers) = (ptr::null_mut::<c_void>(), registers.as_ptr());
        // SAFETY: the kernel reads a `struct user_regs_struct` there, which consists of so many words.
        let result = unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.tid, nowhere, registers) };
        Errno::result(result).map(drop)
    }

    /// `PTRACE_SETREGSET` of those words that come first: of a thread in 64-bit code.
    pub(crate) fn set_first_registers(&self, registers: &[u64]) -> Result<()> {
        const NT_PRSTATUS: usize = 1;
        let length = mem::size_of_val(registers);
        let mut vector = libc::iovec { iov_base: registers.as_ptr().cast_mut().cast(), iov_len: length };
        let place = &raw mut vector;
        // SAFETY: the kernel reads at most `iov_len` bytes from `iov_base`, and writes the length to `vector`.
        let result = unsafe { libc::ptrace(libc::PTRACE_SETREGSET, self.tid, NT_PRSTATUS, place) };
        Errno::result(result).map(drop)
    }

    /// `PTRACE_POKEUSER` of the word with that index in `struct user`.
    pub(crate) fn poke_user(&self, index: usize, value: u64) -> Result<()> {
        // SAFETY: the kernel takes the address as an offset and the data as a number.
        let result = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, self.tid, index * 8, value) };
        Errno::result(result).map(drop)
    }

    /// `PTRACE_PEEKUSER` of the word with that index in `struct user`.
    pub(crate) fn peek_user(&self, index: usize) -> Result<u64> {
        // The C library stores the word and tells failures by `errno` alone.
        Errno::clear();
        let nowhere = ptr::null_mut::<c_void>();
        // SAFETY: the kernel takes the address as an offset; the C library has a place of its own for the word.
        let word = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, self.tid, index * 8, nowhere) };
        match Errno::last() {
            Errno::UnknownErrno => Ok(word as u64),
            error if word == -1 => Err(error),
            _ => Ok(word as u64),
        }
    }

    /// Fetches a set; returns how many bytes the image has.
    pub(crate) fn register_set(&self, set: RegisterSet, image: &mut [u8]) -> Result<usize> {
        match set {
            RegisterSet::FloatingPoint => {
                let image = image.first_chunk_mut::<FLOATING_POINT_LENGTH>().ok_or(Errno::EINVAL)?;
                let (nowhere, image) = (ptr::null_mut::<c_void>(), image.as_mut_ptr());
                // SAFETY: the kernel writes a `struct user_fpregs_struct`, and the image has its length.
                let result = unsafe { libc::ptrace(libc::PTRACE_GETFPREGS, self.tid, nowhere, image) };
                Errno::result(result).map(|_| FLOATING_POINT_LENGTH)
            }
            RegisterSet::Extended | RegisterSet::ShadowStack => {
                let mut vector = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
                let place = &raw mut vector;
                // SAFETY: the kernel writes at most `iov_len` bytes to `iov_base`, and the length to `vector`.
                let result = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, self.tid, set.number(), place) };
                Errno::result(result).map(|_| vector.iov_len)
            }
        }
    }

    /// Stores a set.
    pub(crate) fn set_register_set(&self, set: RegisterSet, image: &mut [u8]) -> Result<()> {
        let result = match set {
            RegisterSet::FloatingPoint => {
                let image = image.first_chunk_mut::<FLOATING_POINT_LENGTH>().ok_or(Errno::EINVAL)?;
                let (nowhere, image) = (ptr::null_mut::<c_void>(), image.as_mut_ptr());
                // SAFETY: the kernel reads a `struct user_fpregs_struct`, and the image has its length.
                unsafe { libc::ptrace(libc::PTRACE_SETFPREGS, self.tid, nowhere, image) }
            }
            RegisterSet::Extended | RegisterSet::ShadowStack => {
                let mut vector = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
                let place = &raw mut vector;
                // SAFETY: the kernel reads at most `iov_len` bytes from `iov_base`.
                unsafe { libc::ptrace(libc::PTRACE_SETREGSET, self.tid, set.number(), place) }
            }
        };
        Errno::result(result).map(drop)
    }
}

/// Its signals, and what else the kernel keeps of it.
impl Stopped {
    /// The set of blocked signals, bit n-1 for signal n.
    pub(crate) fn signal_mask(&self) -> Result<u64> {
        let mut mask = 0u64;
        let size = mem::size_of::<u64>();
        // SAFETY: the address is the size of the set, and the data points to that many writable bytes.
        let result = unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, self.tid, size, &raw mut mask) };
        Errno::result(result).map(|_| mask)
    }

    /// Sets the set of blocked signals.
    pub(crate) fn set_signal_mask(&self, mask: u64) -> Result<()> {
        let size = mem::size_of::<u64>();
        // SAFETY: the address is the size of the set, and the data points to that many readable bytes.
        let result = unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK, self.tid, size, &raw const mask) };
        Errno::result(result).map(drop)
    }

    /// `PTRACE_SETOPTIONS`.
    pub(crate) fn set_options(&self, options: c_int) -> Result<()> {
        request(libc::PTRACE_SETOPTIONS, self.tid, options)
    }

    /// `PTRACE_GETSIGINFO`.
    pub(crate) fn signal_info(&self) -> Result<siginfo_t> {
        ptrace::getsiginfo(system::pid(self.tid))
    }

    /// `PTRACE_SETSIGINFO`.
    pub(crate) fn set_signal_info(&self, info: &siginfo_t) -> Result<()> {
        ptrace::setsiginfo(system::pid(self.tid), info)
    }

    /// Whether the signal that it is about to take is that of an INT3.
    pub(crate) fn is_breakpoint(&self) -> Result<bool> {
        self.signal_info().map(|info| is_breakpoint_info(&info))
    }

    /// What the signal that it is about to take says of a hardware breakpoint; `None` if it cannot be that of one.
    pub(crate) fn trap(&self) -> Result<Option<Trap>> {
        self.signal_info().map(|info| Trap::of(&info))
    }

    /// Whether the signal that it is about to take is that of a debug exception which the kernel takes for INT1's or a
    /// step's.
    pub(crate) fn is_unnamed(&self) -> Result<bool> {
        self.signal_info().map(|info| Trap::of(&info) == Some(Trap::Untold))
    }

    /// Whether the kernel has sent the signal that it is about to take, on its own account.
    pub(crate) fn is_from_kernel(&self) -> Result<bool> {
        self.signal_info().map(|info| info.si_code > 0)
    }

    /// Whether the signal that it is about to take is that of a step.
    pub(crate) fn is_step(&self) -> Result<bool> {
        const TRAP_TRACE: c_int = 2;
        self.signal_info().map(|info| info.si_signo == libc::SIGTRAP && info.si_code == TRAP_TRACE)
    }

    /// Whether the stop is that at the first instruction of a signal handler.
    pub(crate) fn is_at_handler(&self) -> Result<bool> {
        // ptrace_notify: the signal is the code, too.
        self.signal_info().map(|info| info.si_signo == libc::SIGTRAP && info.si_code == libc::SIGTRAP)
    }

    /// Whether the SIGTRAP of an INT3, or of a hardware breakpoint of ours, waits in the thread's own queue.
    pub(crate) fn has_pending_breakpoint(&self) -> Result<bool> {
        self.any_pending(false, |info| is_breakpoint_info(info) || Signalled::of(info).is_some())
    }

    /// Whether a signal waits that the thread does not block, in its own queue or in that of its process.
    pub(crate) fn has_pending_signal(&self) -> Result<bool> {
        let mask = self.signal_mask()?;
        let is_taken = |info: &siginfo_t| {
            let bit = 1u64.checked_shl(info.si_signo.wrapping_sub(1).cast_unsigned()).unwrap_or(0);
            mask & bit == 0
        };
        Ok(self.any_pending(false, is_taken)? || self.any_pending(true, is_taken)?)
    }

    /// Whether one of the signals that wait, in the thread's own queue or in the one that its process has in common, is so.
    fn any_pending(&self, common: bool, is_wanted: impl Fn(&siginfo_t) -> bool) -> Result<bool> {
        const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
        /// `struct ptrace_peeksiginfo_args` (linux/ptrace.h).
        #[repr(C)]
        struct Range {
            offset: u64,
            flags: u32,
            count: i32,
        }
        const COUNT: usize = 16;
        let mut offset = 0;
        loop {
            let flags = if common { PTRACE_PEEKSIGINFO_SHARED } else { 0 };
            let range = Range { offset, flags, count: COUNT as i32 };
            // SAFETY: all-zero bytes are a valid siginfo_t.
            let mut found: [siginfo_t; COUNT] = unsafe { mem::zeroed() };
            let (address, data) = (&raw const range, found.as_mut_ptr());
            // SAFETY: `range` is laid out as the kernel has it, and `found` has room for `count` entries.
            let result = unsafe { libc::ptrace(libc::PTRACE_PEEKSIGINFO, self.tid, address, data) };
            let read = usize::try_from(Errno::result(result)?).unwrap_or(0).min(COUNT);
            if found.iter().take(read).any(&is_wanted) {
                return Ok(true);
            }
            if read < COUNT {
                return Ok(false);
            }
            offset += COUNT as u64;
        }
    }

    /// The thread or process that the event of this stop is about.
    pub(crate) fn other(&self) -> Result<i32> {
        ptrace::getevent(system::pid(self.tid)).and_then(|tid| i32::try_from(tid).map_err(|_| Errno::ESRCH))
    }

    /// What it has registered for restartable sequences (rseq(2)), if so.
    pub(crate) fn rseq(&self) -> Result<Option<Rseq>> {
        /// `struct ptrace_rseq_configuration` (linux/ptrace.h).
        #[repr(C)]
        struct Configuration {
            address: u64,
            size: u32,
            signature: u32,
            flags: u32,
            padding: u32,
        }
        const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
        let mut found = Configuration { address: 0, size: 0, signature: 0, flags: 0, padding: 0 };
        let size = mem::size_of::<Configuration>();
        // SAFETY: the address is the size of the structure, and the data points to that many writable bytes.
        let result = unsafe { libc::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, self.tid, size, &raw mut found) };
        let rseq = Rseq { area: found.address, signature: found.signature };
        Errno::result(result).map(|_| Some(rseq).filter(|rseq| rseq.area != 0))
    }

    /// Whether the thread has asked for SIGSYS in place of system calls (prctl's PR_SET_SYSCALL_USER_DISPATCH),
    /// which depends on where the instruction is.
    pub(crate) fn dispatches_system_calls(&self) -> bool {
        /// `struct ptrace_sud_config` (linux/ptrace.h).
        #[repr(C)]
        struct Config {
            mode: u64,
            selector: u64,
            offset: u64,
            length: u64,
        }
        const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
        const REQUEST: libc::c_uint = PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG;
        let mut config = Config { mode: 0, selector: 0, offset: 0, length: 0 };
        let size = mem::size_of::<Config>();
        // SAFETY: the address is the size of the structure, and the data points to that many writable bytes.
        let result = unsafe { libc::ptrace(REQUEST, self.tid, size, &raw mut config) };
        // Kernels that do not know the request do not let this be asked for either, or cannot say.
        result == 0 && config.mode != 0
    }
}

fn is_breakpoint_info(info: &siginfo_t) -> bool {
    const SI_KERNEL: c_int = 0x80;
    info.si_signo == libc::SIGTRAP && info.si_code == SI_KERNEL
}
