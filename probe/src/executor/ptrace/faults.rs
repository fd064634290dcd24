//! Exceptions become the signals that the kernel would have sent.
//!
//! A signal handler sees more than `siginfo_t`: its `ucontext_t` holds TRAPNO, ERR and CR2, which only a
//! real fault sets. So the thread really faults, at an instruction that its own text already has, with
//! registers set to make the same access. That also lets the kernel do what it does at a fault: grow the
//! stack, or reset a handler whose signal is blocked. Where the same exception cannot be had, another that
//! raises the same signal stands in, and the frame is put right before the handler's first instruction.

use emu::registers::gpr;
use emu::{Displaced, Exception, Registers, Rflags};
use libc::c_int;
use nix::sys::ptrace;

use crate::executor::ptrace::borrow::{self, Need};
use crate::executor::ptrace::failure::errno;
use crate::executor::ptrace::registers::Fetched;
use crate::executor::ptrace::stop::{Gone, Ran, Stopped, Threads};
use crate::executor::ptrace::sys::{self, Resume};
use crate::target::space::Space;

/// What became of an exception.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// Resume the thread with this signal.
    Signal(Stopped, c_int),
    /// The thread itself can make the access: perform the instruction again.
    Retry(Stopped),
    /// The kernel refuses what it takes: have the thread execute the instruction itself.
    Refused(Stopped),
    /// There is no such thread any more.
    Gone,
}

/// The first address that is not canonical, for processors with four or five levels of paging alike.
const NOT_CANONICAL: u64 = 1 << 63;

/// A signal with what `siginfo_t` says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signal {
    number: c_int,
    code: c_int,
    address: u64,
    /// The protection key, with `SEGV_PKUERR`.
    key: u32,
}

/// How a thread is made to raise an exception.
#[derive(Clone, Copy, Debug)]
struct Provocation {
    /// What it raises.
    raises: Exception,
    /// The instruction, or another one.
    needs: [Need; 2],
    /// What the instruction works on.
    operand: u64,
}

impl Provocation {
    /// A provocation of `exception`, or else of one that raises the same signal.
    fn of(exception: Exception) -> Provocation {
        const WRITE: u32 = 1 << 1;
        let by = |raises, need, operand| Provocation { raises, needs: [need, need], operand };
        match exception {
            Exception::PageFault { address, error_code } if error_code & WRITE != 0 => {
                Provocation { raises: exception, needs: [Need::StackStore, Need::Store], operand: address }
            }
            Exception::PageFault { address, .. } => by(exception, Need::Load, address),
            // SIGSEGV
            Exception::GeneralProtection(_) | Exception::ControlProtection(_) => {
                by(Exception::GeneralProtection(0), Need::Load, NOT_CANONICAL)
            }
            // SIGBUS
            Exception::StackFault(_) | Exception::SegmentNotPresent(_) | Exception::AlignmentCheck => {
                by(Exception::StackFault(0), Need::StackStore, NOT_CANONICAL)
            }
            // SIGFPE
            Exception::DivideError | Exception::SimdFloatingPoint => {
                by(Exception::DivideError, Need::Divide, 0)
            }
            Exception::X87FloatingPoint => by(exception, Need::Wait, 0),
            Exception::InvalidOpcode => by(exception, Need::Undefined, 0),
            Exception::Debug | Exception::Breakpoint => by(Exception::Debug, Need::Debug, 0),
        }
    }

    /// Whether `siginfo_t` says nothing of where the instruction is, so that the kernel's own is right.
    fn is_placeless(self, exception: Exception) -> bool {
        self.raises == exception
            && matches!(
                exception,
                Exception::PageFault { .. } | Exception::GeneralProtection(_) | Exception::StackFault(_)
            )
    }
}

/// Turns `exception`, which `displaced` has raised, into a signal for the stopped thread.
pub(crate) fn deliver(
    threads: &mut Threads,
    exception: Exception,
    displaced: &Displaced,
    stopped: Stopped,
    registers: &mut Fetched,
    space: &mut Space,
) -> Delivery {
    let tid = stopped.tid();
    if exception == Exception::Breakpoint {
        // The stop that we are in is that of an INT3: it only has to be taken, even if it was blocked.
        threads.unblock_trap(tid);
        return Delivery::Signal(stopped, libc::SIGTRAP);
    }
    let signal = signal_of(exception, &registers.file, space);
    let provocation = Provocation::of(exception);
    let [first, second] = provocation.needs;
    let loan = borrow::loan(space, tid, first).or_else(|| borrow::loan(space, tid, second));
    let Some(loan) = loan else {
        return substitute(threads, stopped, exception, signal, registers, space);
    };
    // INT1 traps by itself; all others are stepped, should they not fault.
    let how = if provocation.raises == Exception::Debug { Resume::Continue } else { Resume::Step };
    let prepare = |registers: &mut Registers| loan.prepare(registers, provocation.operand, 0);
    let (stopped, ran, rip) = match borrow::run(threads, stopped, registers, how, prepare) {
        Ok(result) => result,
        Err(Gone) => return Delivery::Gone,
    };
    let mut signal = signal;
    if provocation.raises == Exception::Debug && rip == loan.address {
        // INT1 is a trap, but under a hypervisor that intercepts it RIP may stay.
        registers.file.rip = displaced.ip();
        signal.address = displaced.ip();
        let stored = registers.store(tid);
        threads.note(tid, "PTRACE_SETREGS", stored);
    }
    match ran {
        Ran::Signal(number @ (libc::SIGSEGV | libc::SIGBUS)) if provocation.is_placeless(exception) => {
            Delivery::Signal(stopped, number)
        }
        Ran::Signal(libc::SIGTRAP) if provocation.is_placeless(exception) => Delivery::Retry(stopped),
        Ran::Signal(number) if number == signal.number && provocation.raises == exception => {
            match set_siginfo(threads, tid, signal) {
                true => Delivery::Signal(stopped, number),
                false => Delivery::Refused(stopped),
            }
        }
        _ => substitute(threads, stopped, exception, signal, registers, space),
    }
}

/// Raises the debug exception of a thread that steps itself, after the instruction that `registers` say.
pub(crate) fn trace(
    threads: &mut Threads,
    stopped: Stopped,
    registers: &mut Fetched,
    space: &mut Space,
) -> Delivery {
    const TRAP_TRACE: c_int = 2;
    let tid = stopped.tid();
    let signal = Signal { number: libc::SIGTRAP, code: TRAP_TRACE, address: registers.file.rip, key: 0 };
    // The instruction has been performed, so it must not be executed again.
    let substitute = |threads: &mut Threads, stopped, registers: &mut Fetched, space: &Space| match substitute(
        threads,
        stopped,
        Exception::Debug,
        signal,
        registers,
        space,
    ) {
        Delivery::Refused(stopped) => Delivery::Signal(stopped, libc::SIGTRAP),
        delivery => delivery,
    };
    let Some(loan) = borrow::loan(space, tid, Need::Nothing) else {
        return substitute(threads, stopped, registers, space);
    };
    let result = borrow::run(threads, stopped, registers, Resume::Continue, |registers| {
        loan.prepare(registers, 0, 0);
        registers.rflags |= Rflags::TF;
    });
    match result {
        Ok((stopped, Ran::Signal(libc::SIGTRAP), _)) => {
            set_siginfo(threads, tid, signal);
            Delivery::Signal(stopped, libc::SIGTRAP)
        }
        Ok((stopped, ..)) => substitute(threads, stopped, registers, space),
        Err(Gone) => Delivery::Gone,
    }
}

/// Says whether the kernel does not refuse that.
fn set_siginfo(threads: &mut Threads, tid: i32, signal: Signal) -> bool {
    let info = sys::fault_siginfo(signal.number, signal.code, signal.address, signal.key);
    !threads.refused(tid, "PTRACE_SETSIGINFO", ptrace::setsiginfo(sys::pid(tid), &info))
}

/// Delivers a signal that the thread has not raised in the way it should, and puts the frame right that
/// its handler gets.
fn substitute(
    threads: &mut Threads,
    stopped: Stopped,
    exception: Exception,
    signal: Signal,
    registers: &mut Fetched,
    space: &Space,
) -> Delivery {
    // `struct rt_sigframe` (asm/sigframe.h) is a return address and a `ucontext_t`, whose registers come
    // after flags, link and stack.
    const REGISTERS: u64 = 8 + 8 + 8 + 24;
    const ERR: u64 = REGISTERS + 8 * libc::REG_ERR as u64;
    const TRAPNO: u64 = REGISTERS + 8 * libc::REG_TRAPNO as u64;
    const CR2: u64 = REGISTERS + 8 * libc::REG_CR2 as u64;
    let tid = stopped.tid();
    if !exception.is_trap() {
        registers.file.rflags |= Rflags::RF;
        let stored = registers.store(tid);
        threads.note(tid, "PTRACE_SETREGS", stored);
    }
    if !set_siginfo(threads, tid, signal) {
        return Delivery::Refused(stopped);
    }
    let stopped = match threads.run_on(stopped, Resume::Step, signal.number) {
        Ok((stopped, true)) => stopped,
        Ok((stopped, false)) => return Delivery::Refused(stopped),
        Err(Gone) => return Delivery::Gone,
    };
    let at_handler = stopped.event == 0
        && threads.note(tid, "PTRACE_GETSIGINFO", sys::is_at_handler(tid)).unwrap_or(false);
    let fetched = registers.fetch(tid);
    if at_handler && threads.note(tid, "PTRACE_GETREGS", fetched).is_some() {
        let frame = registers.file.gpr[gpr::RSP];
        let trapno = u64::from(exception.vector());
        let mut words = vec![(ERR, u64::from(exception.error_code())), (TRAPNO, trapno)];
        words.extend(exception.address().map(|address| (CR2, address)));
        for (offset, word) in words {
            let written = space.write_raw(frame.wrapping_add(offset), &word.to_le_bytes());
            threads.note(tid, "writing to /proc/PID/mem", written.map_err(|error| errno(&error)));
        }
    }
    Delivery::Signal(stopped, 0)
}

/// The signal, `si_code` and `si_addr` that the kernel sends for an exception (arch/x86/kernel/traps.c).
fn signal_of(exception: Exception, registers: &Registers, space: &Space) -> Signal {
    const SI_KERNEL: c_int = 0x80;
    const FPE_INTDIV: c_int = 1;
    const ILL_ILLOPN: c_int = 2;
    const SEGV_MAPERR: c_int = 1;
    const SEGV_ACCERR: c_int = 2;
    const SEGV_PKUERR: c_int = 4;
    const SEGV_CPERR: c_int = 10;
    const BUS_ADRALN: c_int = 1;
    const TRAP_BRKPT: c_int = 1;
    const PRESENT: u32 = 1;
    const PROTECTION_KEY: u32 = 1 << 5;
    let rip = registers.rip;
    let mut key = 0;
    let (number, code, address) = match exception {
        Exception::Breakpoint => (libc::SIGTRAP, SI_KERNEL, 0),
        Exception::DivideError => (libc::SIGFPE, FPE_INTDIV, rip),
        Exception::Debug => (libc::SIGTRAP, TRAP_BRKPT, rip),
        Exception::InvalidOpcode => (libc::SIGILL, ILL_ILLOPN, rip),
        Exception::SegmentNotPresent(_) | Exception::StackFault(_) => (libc::SIGBUS, SI_KERNEL, 0),
        Exception::GeneralProtection(_) => (libc::SIGSEGV, SI_KERNEL, 0),
        Exception::PageFault { address, error_code } => {
            let code = match () {
                () if error_code & PROTECTION_KEY != 0 => SEGV_PKUERR,
                () if error_code & PRESENT != 0 => SEGV_ACCERR,
                () => SEGV_MAPERR,
            };
            if code == SEGV_PKUERR {
                key = space.keys.of(address);
            }
            (libc::SIGSEGV, code, address)
        }
        Exception::X87FloatingPoint => {
            let x87 = &registers.extended.x87;
            (libc::SIGFPE, floating_point_code(u32::from(x87.status & !x87.control)), rip)
        }
        Exception::SimdFloatingPoint => {
            const MASKS: u32 = 7;
            let mxcsr = registers.extended.mxcsr.bits();
            (libc::SIGFPE, floating_point_code(mxcsr & !(mxcsr >> MASKS)), rip)
        }
        Exception::AlignmentCheck => (libc::SIGBUS, BUS_ADRALN, 0),
        Exception::ControlProtection(_) => (libc::SIGSEGV, SEGV_CPERR, 0),
    };
    Signal { number, code, address, key }
}

/// The `si_code` for the exception flags that are set and not masked.
fn floating_point_code(flags: u32) -> c_int {
    const FPE_FLTDIV: c_int = 3;
    const FPE_FLTOVF: c_int = 4;
    const FPE_FLTUND: c_int = 5;
    const FPE_FLTRES: c_int = 6;
    const FPE_FLTINV: c_int = 7;
    let any = |bits: u32| flags & bits != 0;
    match () {
        () if any(1 << 0) => FPE_FLTINV,
        () if any(1 << 2) => FPE_FLTDIV,
        () if any(1 << 3) => FPE_FLTOVF,
        // A denormal operand counts as an underflow.
        () if any(1 << 1 | 1 << 4) => FPE_FLTUND,
        () if any(1 << 5) => FPE_FLTRES,
        () => 0,
    }
}
