//! Exceptions as the signals that the kernel sends for them.

use emu::{Exception, Registers};
use libc::c_int;

/// A signal with what `siginfo_t` says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal {
    pub(crate) number: c_int,
    pub(crate) code: c_int,
    pub(crate) address: u64,
    /// The protection key, with `SEGV_PKUERR`.
    pub(crate) key: u32,
}

/// The signal, `si_code` and `si_addr` that the kernel sends for an exception (arch/x86/kernel/traps.c). `key_of` knows
/// the protection key of an address.
pub(crate) fn of(exception: Exception, registers: &Registers, key_of: impl FnOnce(u64) -> u32) -> Signal {
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
                key = key_of(address);
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
