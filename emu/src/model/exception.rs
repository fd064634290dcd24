//! Exceptions as values (SDM volume 3, chapter 6).

use core::fmt;

use crate::model::memory::{Access, MemoryFault};

/// What an instruction raised instead of completing, or, for the traps, on completing.
///
/// A new one is a change of this crate's interface: who executes must deliver each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exception {
    /// #DE, vector 0.
    DivideError,
    /// #DB, vector 1, by INT1: a trap.
    Debug,
    /// #BP, vector 3, by INT3: a trap.
    Breakpoint,
    /// #UD, vector 6.
    InvalidOpcode,
    /// #NP, vector 11, with its error code.
    SegmentNotPresent(u16),
    /// #SS, vector 12, with its error code.
    StackFault(u16),
    /// #GP, vector 13, with its error code.
    GeneralProtection(u16),
    /// #PF, vector 14: CR2 and the error code.
    PageFault {
        /// CR2: the linear address.
        address: u64,
        /// Bits P (0), W/R (1), U/S (2), PK (5), SS (6).
        error_code: u32,
    },
    /// #MF, vector 16.
    X87FloatingPoint,
    /// #AC, vector 17; its error code is zero.
    AlignmentCheck,
    /// #XM, vector 19.
    SimdFloatingPoint,
    /// #CP, vector 21, with its error code.
    ControlProtection(u16),
}

impl Exception {
    /// The vector number.
    #[must_use]
    pub fn vector(self) -> u8 {
        match self {
            Exception::DivideError => 0,
            Exception::Debug => 1,
            Exception::Breakpoint => 3,
            Exception::InvalidOpcode => 6,
            Exception::SegmentNotPresent(_) => 11,
            Exception::StackFault(_) => 12,
            Exception::GeneralProtection(_) => 13,
            Exception::PageFault { .. } => 14,
            Exception::X87FloatingPoint => 16,
            Exception::AlignmentCheck => 17,
            Exception::SimdFloatingPoint => 19,
            Exception::ControlProtection(_) => 21,
        }
    }

    /// The error code, zero for the vectors that push none.
    #[must_use]
    pub fn error_code(self) -> u32 {
        match self {
            Exception::SegmentNotPresent(code)
            | Exception::StackFault(code)
            | Exception::GeneralProtection(code)
            | Exception::ControlProtection(code) => u32::from(code),
            Exception::PageFault { error_code, .. } => error_code,
            _ => 0,
        }
    }

    /// CR2, for a page fault.
    #[must_use]
    pub fn address(self) -> Option<u64> {
        match self {
            Exception::PageFault { address, .. } => Some(address),
            _ => None,
        }
    }

    /// Whether the saved RIP is that of the next instruction.
    #[must_use]
    pub fn is_trap(self) -> bool {
        matches!(self, Exception::Debug | Exception::Breakpoint)
    }

    /// The manual's mnemonic, such as "#GP".
    #[must_use]
    pub fn mnemonic(self) -> &'static str {
        match self {
            Exception::DivideError => "#DE",
            Exception::Debug => "#DB",
            Exception::Breakpoint => "#BP",
            Exception::InvalidOpcode => "#UD",
            Exception::SegmentNotPresent(_) => "#NP",
            Exception::StackFault(_) => "#SS",
            Exception::GeneralProtection(_) => "#GP",
            Exception::PageFault { .. } => "#PF",
            Exception::X87FloatingPoint => "#MF",
            Exception::AlignmentCheck => "#AC",
            Exception::SimdFloatingPoint => "#XM",
            Exception::ControlProtection(_) => "#CP",
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exception::PageFault { address, error_code } => {
                write!(f, "#PF({error_code:#x}) at {address:#x}")
            }
            other => write!(f, "{}({:#x})", other.mnemonic(), other.error_code()),
        }
    }
}

impl core::error::Error for Exception {}

impl From<MemoryFault> for Exception {
    fn from(fault: MemoryFault) -> Self {
        const USER: u32 = 1 << 2;
        let error_code = USER
            | u32::from(fault.present)
            | u32::from(fault.access == Access::Write) << 1
            | u32::from(fault.protection_key) << 5;
        Exception::PageFault { address: fault.address, error_code }
    }
}
