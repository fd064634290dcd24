//! Why an instruction is not emulated.

use core::fmt;

use iced_x86::Code;

/// The reason why [`Displaced::decode`](crate::Displaced::decode) refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The bytes are no instruction that the decoder knows.
    Invalid {
        /// The first byte.
        first: u8,
    },
    /// The bytes end before the instruction does.
    Truncated {
        /// How many there were.
        length: usize,
    },
    /// No row of the opcode tables has this instruction.
    NoRow(Code),
    /// The row has no function for this combination of operands.
    NoForm(Code),
}

impl Refusal {
    /// The instruction, where the bytes were one.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Refusal::NoRow(code) | Refusal::NoForm(code) => Some(code),
            Refusal::Invalid { .. } | Refusal::Truncated { .. } => None,
        }
    }

    /// The reason in a few words without values, to count by.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Invalid { .. } => "not an instruction",
            Refusal::Truncated { .. } => "truncated",
            Refusal::NoRow(_) => "not emulated yet",
            Refusal::NoForm(_) => "operands not emulated",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Invalid { first } => write!(f, "not an instruction (first byte {first:#04x})"),
            Refusal::Truncated { length } => write!(f, "the instruction is longer than the {length} bytes"),
            Refusal::NoRow(code) => write!(f, "{code:?} is not emulated yet"),
            Refusal::NoForm(code) => write!(f, "these operands of {code:?} are not emulated"),
        }
    }
}

impl std::error::Error for Refusal {}
