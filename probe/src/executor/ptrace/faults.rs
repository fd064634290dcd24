//! Exceptions become the signals that the kernel would have sent.
//!
//! A signal handler sees more than `siginfo_t`: its `ucontext_t` holds TRAPNO, ERR and CR2, which only a
//! real fault sets. So the thread really faults, at an instruction that its own text already has, with
//! registers set to make the same access. That also lets the kernel do what it does at a fault: grow the
//! stack, or reset a handler whose signal is blocked. Where the same exception cannot be had, another that
//! raises the same signal stands in, and the frame is put right before the handler's first instruction.

use emu::registers::gpr;
use emu::{Exception, Registers, Rflags};
use libc::c_int;

use crate::executor::ptrace::Ptrace;
use crate::executor::ptrace::borrow::{self, Need};
use crate::executor::ptrace::stopped::{Resume, Stop};
use crate::executor::ptrace::sys;
use crate::executor::ptrace::threads::{Gone, Ran};
use crate::executor::signal::{self, Signal};
use crate::executor::{Attempt, Executor};
use crate::target::failure::errno;
use crate::target::lock;

/// The first address that is not canonical, for processors with four or five levels of paging alike.
const NOT_CANONICAL: u64 = 1 << 63;

/// Whether what [`Need::StackStore`] stores at `address` lies in two lines.
fn is_split(address: u64) -> bool {
    const LINE: u64 = 64;
    address % LINE > LINE - borrow::STACK_STORE_LENGTH
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
                // The atomic one undoes nothing where it does not fault after all, but across lines systems punish it: with
                // 10 ms, or SIGBUS (`handle_user_split_lock`).
                let needs = match is_split(address) {
                    true => [Need::Store, Need::StackStore],
                    false => [Need::StackStore, Need::Store],
                };
                Provocation { raises: exception, needs, operand: address }
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

impl Ptrace<'_> {
    /// Turns `exception`, which the instruction at `site` has raised, into a signal for the thread.
    pub(super) fn deliver(&mut self, exception: Exception, site: u64) -> Attempt {
        let tid = self.thread.tid();
        if exception == Exception::Breakpoint {
            if !self.takes_signals() || self.store_refused() {
                return Attempt::Unavailable;
            }
            // The stop that we are in is that of an INT3, or is to be: it only has to be taken, even if it was blocked.
            self.threads.unblock_trap(self.thread);
            if self.is_watched(site) {
                let signal = self.signal_of(exception);
                self.set_signal_info(signal);
            }
            return Attempt::Raised(libc::SIGTRAP);
        }
        let mut signal = self.signal_of(exception);
        let provocation = Provocation::of(exception);
        let [first, second] = provocation.needs;
        let loan = {
            let space = self.space.read();
            borrow::loan(&space, tid, first).or_else(|| borrow::loan(&space, tid, second))
        };
        let Some(loan) = loan else { return self.substitute(exception, signal) };
        // INT1 traps by itself; all others are stepped, should they not fault.
        let how = if provocation.raises == Exception::Debug { Resume::Continue } else { Resume::Step };
        let prepare = |registers: &mut Registers| loan.prepare(registers, provocation.operand, 0);
        let Ok((ran, rip)) = borrow::run(self.threads, self.thread, self.registers, how, prepare) else {
            return Attempt::Gone;
        };
        if provocation.raises == Exception::Debug && rip == loan.address {
            // INT1 is a trap, but under a hypervisor that intercepts it RIP may stay.
            signal.address = site;
            self.go_to(site);
        }
        match ran {
            Ran::Signal(number @ (libc::SIGSEGV | libc::SIGBUS)) if provocation.is_placeless(exception) => {
                Attempt::Raised(number)
            }
            Ran::Signal(libc::SIGTRAP) if provocation.is_placeless(exception) => Attempt::Retry,
            Ran::Signal(number) if number == signal.number && provocation.raises == exception => {
                match self.set_signal_info(signal) {
                    true => Attempt::Raised(number),
                    false => Attempt::Unavailable,
                }
            }
            _ => self.substitute(exception, signal),
        }
    }

    /// Raises the debug exception of a thread that steps itself, after the instruction that the registers say.
    pub(super) fn deliver_trace(&mut self) -> Attempt {
        const TRAP_TRACE: c_int = 2;
        let address = self.registers.file.rip;
        let signal = Signal { number: libc::SIGTRAP, code: TRAP_TRACE, address, key: 0 };
        let loan = borrow::loan(&self.space.read(), self.thread.tid(), Need::Nothing);
        if let Some(loan) = loan {
            let prepare = |registers: &mut Registers| {
                loan.prepare(registers, 0, 0);
                registers.rflags |= Rflags::TF;
            };
            match borrow::run(self.threads, self.thread, self.registers, Resume::Continue, prepare) {
                Ok((Ran::Signal(libc::SIGTRAP), _)) => {
                    self.set_signal_info(signal);
                    return Attempt::Raised(libc::SIGTRAP);
                }
                Ok(_) => {}
                Err(Gone) => return Attempt::Gone,
            }
        }
        match self.substitute(Exception::Debug, signal) {
            // The instruction has been performed, so it must not be executed again.
            Attempt::Unavailable => Attempt::Raised(libc::SIGTRAP),
            attempt => attempt,
        }
    }

    fn signal_of(&self, exception: Exception) -> Signal {
        let space = self.space.read();
        signal::of(exception, &self.registers.file, |address| lock(&space.keys).of(address))
    }

    /// Whether it is in a stop in which it can be given a signal. One that runs on need not be: it raises its own.
    fn takes_signals(&self) -> bool {
        matches!(self.thread.stop, Stop::Signal(_))
    }

    fn is_watched(&self, site: u64) -> bool {
        self.space.read().watched(site).is_some()
    }

    /// Says whether the kernel does not refuse that.
    fn set_signal_info(&mut self, signal: Signal) -> bool {
        let info = sys::fault_siginfo(signal.number, signal.code, signal.address, signal.key);
        let set = self.thread.set_signal_info(&info);
        !self.threads.refused(self.thread.tid(), "PTRACE_SETSIGINFO", set)
    }

    /// Delivers a signal that the thread has not raised in the way it should, and puts the frame right that
    /// its handler gets.
    fn substitute(&mut self, exception: Exception, signal: Signal) -> Attempt {
        let tid = self.thread.tid();
        if !self.takes_signals() {
            return Attempt::Unavailable;
        }
        // Passing a hardware breakpoint would be a hit that nobody sees.
        if !exception.is_trap() && !self.is_watched(self.registers.file.rip) {
            self.registers.file.rflags |= Rflags::RF;
            let stored = self.registers.store(self.thread);
            self.threads.note(tid, "PTRACE_SETREGS", stored);
        }
        if !self.set_signal_info(signal) {
            return Attempt::Unavailable;
        }
        match self.threads.run_on(self.thread, Resume::Step, signal.number) {
            Ok(true) => {}
            Ok(false) => return Attempt::Unavailable,
            Err(Gone) => return Attempt::Gone,
        }
        // The kernel reports a step into a handler as a signal's stop.
        let is_signal = matches!(self.thread.stop, Stop::Signal(_));
        let at_handler = self.threads.note(tid, "PTRACE_GETSIGINFO", self.thread.is_at_handler());
        if is_signal && at_handler == Some(true) && self.fetch() {
            self.correct_frame(exception);
        }
        Attempt::Raised(0)
    }

    /// Has the frame of the handler that the thread is about to run say that it was that exception.
    fn correct_frame(&mut self, exception: Exception) {
        // `struct rt_sigframe` (asm/sigframe.h) is a return address and a `ucontext_t`, whose registers come
        // after flags, link and stack.
        const REGISTERS: u64 = 8 + 8 + 8 + 24;
        const ERR: u64 = REGISTERS + 8 * libc::REG_ERR as u64;
        const TRAPNO: u64 = REGISTERS + 8 * libc::REG_TRAPNO as u64;
        const CR2: u64 = REGISTERS + 8 * libc::REG_CR2 as u64;
        let frame = self.registers.file.gpr[gpr::RSP];
        let trapno = u64::from(exception.vector());
        let mut words = vec![(ERR, u64::from(exception.error_code())), (TRAPNO, trapno)];
        words.extend(exception.address().map(|address| (CR2, address)));
        for (offset, word) in words {
            let written = self.space.read().write_raw(frame.wrapping_add(offset), &word.to_le_bytes());
            let written = written.map_err(|error| errno(&error));
            self.threads.note(self.thread.tid(), "writing to /proc/PID/mem", written);
        }
    }
}
