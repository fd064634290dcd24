//! The thread that expressions look at.

use serde::{Deserialize, Serialize};

/// A general register, RIP, RFLAGS, or a segment base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "they are the processor's names")]
#[repr(u8)]
pub enum Register {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    Rip,
    Rflags,
    FsBase,
    GsBase,
}

impl Register {
    /// All of them, in the order of their numbers.
    pub const ALL: [Register; 20] = [
        Register::Rax,
        Register::Rcx,
        Register::Rdx,
        Register::Rbx,
        Register::Rsp,
        Register::Rbp,
        Register::Rsi,
        Register::Rdi,
        Register::R8,
        Register::R9,
        Register::R10,
        Register::R11,
        Register::R12,
        Register::R13,
        Register::R14,
        Register::R15,
        Register::Rip,
        Register::Rflags,
        Register::FsBase,
        Register::GsBase,
    ];
}

/// A register that is fetched only when it is asked for, a quadword at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExtendedRegister {
    /// ZMM0 to ZMM31, whose low parts are YMM and XMM: eight quadwords.
    Vector(u8),
    /// ST(0) to ST(7): the significand, then sign and exponent.
    St(u8),
    /// K0 to K7: one quadword.
    Opmask(u8),
}

/// What is known of a hit besides registers and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Circumstance {
    /// The process.
    Pid,
    /// The thread.
    Tid,
    /// The processor on which the thread ran last.
    Cpu,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    Time,
    /// The first eight bytes of the thread's name.
    CommLow,
    /// The other eight.
    CommHigh,
    /// The selector in CS.
    CodeSegment,
    /// The selector in SS.
    StackSegment,
}

/// A stopped thread, as far as expressions look at it.
pub trait Machine {
    /// What a register holds.
    fn register(&mut self, register: Register) -> u64;

    /// A quadword of a register; `None` if there is no such register, or if it cannot be had.
    fn extended(&mut self, register: ExtendedRegister, quadword: u8) -> Option<u64>;

    /// `None` if it cannot be had.
    fn circumstance(&mut self, what: Circumstance) -> Option<u64>;

    /// Fills `bytes` from memory as far as it can be read, and returns how far that is.
    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize;
}

/// A stopped thread that can be changed.
pub trait MachineMut: Machine {
    /// Changes a register. What the system would not store is found out before.
    fn set_register(&mut self, register: Register, value: u64);

    /// Changes a quadword of a register. Says whether there is such a register, and it can be had.
    fn set_extended(&mut self, register: ExtendedRegister, quadword: u8, value: u64) -> bool;

    /// Stores all of `bytes` in memory, or nothing. Says whether it could.
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool;
}
