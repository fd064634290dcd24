//! The signal that Linux sends for an exception (arch/x86/kernel/traps.c, arch/x86/mm/fault.c).

use emu::Registers;
use emu::registers::Extended;

use super::format::Raised;

/// The signal and its `si_code` for an exception of `vector`, after which the registers are these; `mapped` says
/// whether something is mapped where a page fault was. `None` for a vector that user mode does not get.
#[must_use]
pub fn of(vector: u8, registers: &Registers, mapped: bool) -> Option<(i32, i32)> {
    const SI_KERNEL: i32 = 0x80;
    const FPE_INTDIV: i32 = 1;
    const ILL_ILLOPN: i32 = 2;
    const SEGV_MAPERR: i32 = 1;
    const SEGV_ACCERR: i32 = 2;
    const SEGV_CPERR: i32 = 10;
    const BUS_ADRALN: i32 = 1;
    const TRAP_BRKPT: i32 = 1;
    Some(match vector {
        0 => (libc::SIGFPE, FPE_INTDIV),
        1 => (libc::SIGTRAP, TRAP_BRKPT),
        3 => (libc::SIGTRAP, SI_KERNEL),
        6 => (libc::SIGILL, ILL_ILLOPN),
        11 | 12 => (libc::SIGBUS, SI_KERNEL),
        13 => (libc::SIGSEGV, SI_KERNEL),
        14 => (libc::SIGSEGV, if mapped { SEGV_ACCERR } else { SEGV_MAPERR }),
        16 | 19 => (libc::SIGFPE, floating_point(vector, &registers.extended)),
        17 => (libc::SIGBUS, BUS_ADRALN),
        21 => (libc::SIGSEGV, SEGV_CPERR),
        _ => return None,
    })
}

/// The `si_code` for the first exception that is flagged and not masked.
fn floating_point(vector: u8, extended: &Extended) -> i32 {
    /// Where the masks lie above the flags in MXCSR.
    const MASKS: u32 = 7;
    // FPE_FLTINV, FPE_FLTDIV, FPE_FLTOVF, FPE_FLTUND (for denormal operands, too), FPE_FLTRES, each with its flags.
    const CODES: [(u32, i32); 5] = [(1 << 0, 7), (1 << 2, 3), (1 << 3, 4), (1 << 1 | 1 << 4, 5), (1 << 5, 6)];
    let pending = if vector == 16 {
        u32::from(extended.x87.status & !extended.x87.control)
    } else {
        let mxcsr = extended.mxcsr.bits();
        mxcsr & !(mxcsr >> MASKS)
    };
    CODES.iter().find(|(flags, _)| pending & flags != 0).map_or(0, |(_, code)| *code)
}

/// Whether a recorded exception came with a signal and with this one.
#[must_use]
pub fn is(raised: &Raised, (signal, si_code): (i32, i32)) -> bool {
    // Only the low bits are recorded.
    i32::from(raised.signal) == signal && raised.si_code == si_code as i8
}
