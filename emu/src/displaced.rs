//! An instruction, decoded once and ready to execute.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction};

use crate::{Exception, Outcome, Refusal, Registers, Touches, UserMemory};

/// An instruction that a probe displaced: plain data, decoded and resolved to the one function that
/// performs it.
#[derive(Clone, Copy, Debug)]
pub struct Displaced {
    instruction: Instruction,
}

impl Displaced {
    /// Decodes the instruction at the start of `bytes`, which lies at address `ip`.
    ///
    /// # Errors
    /// A [`Refusal`] that says why this instruction cannot be emulated.
    pub fn decode(bytes: &[u8], ip: u64) -> Result<Displaced, Refusal> {
        let mut decoder = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        match decoder.last_error() {
            DecoderError::None => {}
            DecoderError::NoMoreBytes => return Err(Refusal::Truncated { length: bytes.len() }),
            _ => return Err(Refusal::Invalid { first: bytes.first().copied().unwrap_or(0) }),
        }
        Err(Refusal::NoRow(instruction.code()))
    }

    /// Performs the instruction: reads and writes `registers` and `memory` as the processor would.
    ///
    /// `registers.rip` is set to the instruction's own address first, so it need not be right.
    ///
    /// # Errors
    /// The exception that the processor would have raised. Nothing has changed then, except where the
    /// architecture says otherwise (REP, gathers, masked moves), and RIP is that of this instruction, or
    /// of the next one if the exception is a trap.
    pub fn execute(
        &self,
        registers: &mut Registers,
        memory: &mut dyn UserMemory,
    ) -> Result<Outcome, Exception> {
        let _ = (registers, memory);
        Err(Exception::InvalidOpcode)
    }

    /// What an executor must fetch and store.
    #[must_use]
    pub fn touches(&self) -> Touches {
        Touches::empty()
    }

    /// The decoded instruction.
    #[must_use]
    pub fn instruction(&self) -> &Instruction {
        &self.instruction
    }

    /// iced-x86's name of the encoding.
    #[must_use]
    pub fn code(&self) -> Code {
        self.instruction.code()
    }

    /// The length in bytes, 1 to 15.
    #[must_use]
    pub fn length(&self) -> usize {
        self.instruction.len()
    }

    /// The address that it was decoded for.
    #[must_use]
    pub fn ip(&self) -> u64 {
        self.instruction.ip()
    }

    /// The table row that it belongs to, as the table prints it.
    #[must_use]
    pub fn row(&self) -> &'static str {
        ""
    }
}
