//! What the processor says of itself: identification, time, randomness, descriptors.
//!
//! Each function is one instruction, executed here. The caller has made sure that it can neither fault
//! nor be missing.
#![allow(unsafe_code, reason = "these instructions have no safe intrinsics")]

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc, CpuidResult};

/// CPUID.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// RDTSC.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: every x86-64 processor has it, and it changes nothing.
    unsafe { _rdtsc() }
}

/// RDTSCP: the time, and TSC_AUX. The processor must have it.
pub(crate) fn rdtscp() -> (u64, u32) {
    let (low, high, aux): (u32, u32, u32);
    // SAFETY: it writes the three registers named; a processor without it raises #UD, which is no UB.
    unsafe {
        asm!("rdtscp", out("eax") low, out("edx") high, out("ecx") aux, options(nomem, nostack, preserves_flags));
    }
    (u64::from(high) << 32 | u64::from(low), aux)
}

/// RDPID: TSC_AUX. The processor must have it.
pub(crate) fn rdpid() -> u64 {
    let aux: u64;
    // SAFETY: it writes the register named; a processor without it raises #UD, which is no UB.
    unsafe { asm!("rdpid {}", out(reg) aux, options(nomem, nostack, preserves_flags)) };
    aux
}

/// RDRAND of 64 bits, and whether there were any. The processor must have it.
pub(crate) fn rdrand() -> (u64, bool) {
    let (value, carry): (u64, u8);
    // SAFETY: it writes the registers named and the flags; a processor without it raises #UD.
    unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) carry, options(nomem, nostack)) };
    (value, carry != 0)
}

/// RDSEED of 64 bits, and whether there were any. The processor must have it.
pub(crate) fn rdseed() -> (u64, bool) {
    let (value, carry): (u64, u8);
    // SAFETY: it writes the registers named and the flags; a processor without it raises #UD.
    unsafe { asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) carry, options(nomem, nostack)) };
    (value, carry != 0)
}

/// XGETBV of XCR0. The processor and the operating system must have XSAVE.
pub(crate) fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: it writes the registers named; without XSAVE it raises #UD, which is no UB.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// RDPRU of register `number`. The processor must have it.
pub(crate) fn rdpru(number: u32) -> (u64, bool) {
    let (low, high): (u32, u32);
    let carry: u8;
    // SAFETY: it writes the registers named and the flags; a processor without it raises #UD.
    unsafe {
        asm!(".byte 0x0f, 0x01, 0xfd", "setc {}", out(reg_byte) carry, in("ecx") number,
            out("eax") low, out("edx") high, options(nomem, nostack));
    }
    (u64::from(high) << 32 | u64::from(low), carry != 0)
}

/// LAR: the access rights of a segment, if it is one whose rights may be known.
pub(crate) fn lar(selector: u16) -> Option<u32> {
    let (rights, zero): (u32, u8);
    // SAFETY: it reads a descriptor, writes the register named and ZF, and faults on no selector.
    unsafe {
        asm!("lar {0:e}, {1:e}", "setz {2}", inout(reg) 0u32 => rights, in(reg) u32::from(selector),
            lateout(reg_byte) zero, options(nostack));
    }
    (zero != 0).then_some(rights)
}

/// LSL: the limit of a segment, if it is one whose limit may be known.
pub(crate) fn lsl(selector: u16) -> Option<u32> {
    let (limit, zero): (u32, u8);
    // SAFETY: it reads a descriptor, writes the register named and ZF, and faults on no selector.
    unsafe {
        asm!("lsl {0:e}, {1:e}", "setz {2}", inout(reg) 0u32 => limit, in(reg) u32::from(selector),
            lateout(reg_byte) zero, options(nostack));
    }
    (zero != 0).then_some(limit)
}

/// Declares the instructions that store a system register; with UMIP the kernel answers.
macro_rules! store_register {
    ($(#[$doc:meta] $name:ident = $instruction:literal;)+) => { $(
        #[$doc]
        pub(crate) fn $name() -> u64 {
            let value: u64;
            // SAFETY: it writes the register named, of which the kernel that emulates it where UMIP makes
            // it fault leaves the upper half.
            unsafe { asm!($instruction, inout(reg) 0u64 => value, options(nostack, preserves_flags)) };
            value
        }
    )+ };
}

store_register! {
    /// SLDT.
    sldt = "sldt {0:e}";
    /// STR.
    str_ = "str {0:e}";
    /// SMSW: CR0.
    smsw = "smsw {}";
}

/// Declares the instructions that store a descriptor table's limit and base.
macro_rules! store_table {
    ($(#[$doc:meta] $name:ident = $instruction:literal;)+) => { $(
        #[$doc]
        pub(crate) fn $name() -> [u8; 10] {
            let mut table = [0; 10];
            // SAFETY: it writes the ten bytes of `table`. If UMIP makes it fault, Linux emulates it.
            unsafe { asm!($instruction, in(reg) &mut table, options(nostack, preserves_flags)) };
            table
        }
    )+ };
}

store_table! {
    /// SGDT.
    sgdt = "sgdt [{}]";
    /// SIDT.
    sidt = "sidt [{}]";
}
