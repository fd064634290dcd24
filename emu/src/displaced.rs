//! An instruction, decoded once and ready to execute.

use core::fmt;

use iced_x86::{Code, Decoder, DecoderError, Instruction, Mnemonic};

use crate::decode::decoded::Decoded;
use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::decode::processor::Processor;
use crate::families;
use crate::model::exception::Exception;
use crate::model::memory::UserMemory;
use crate::model::outcome::Outcome;
use crate::model::refusal::Refusal;
use crate::model::registers::Registers;
use crate::model::touches::Touches;
use crate::reserved;
use crate::run::context::{Context, Execute};
use crate::run::phases::Phases;
use crate::run::row::Row;
use crate::table;

/// An instruction that a probe displaced: plain data, decoded and resolved to the one function that
/// performs it.
#[derive(Clone, Copy)]
pub struct Displaced {
    execute: Execute,
    decoded: Decoded,
    phases: Phases,
    touches: Touches,
    row: &'static Row,
}

/// On which of the operands that hold floating-point numbers an instruction computes. One that only moves or
/// selects their bits computes on none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FloatingPoint {
    /// None.
    None,
    /// The last register or memory operand: SQRTSS, which copies elements of the first.
    Last,
    /// All that it reads.
    All,
}

/// The component of XCR0 that APX's registers are.
const APX: u64 = 1 << 19;

impl Displaced {
    /// Decodes the instruction at the start of `bytes`, which lies at address `ip`, for the processor at hand.
    ///
    /// # Errors
    /// A [`Refusal`] that says why this instruction cannot be emulated.
    #[cfg(feature = "std")]
    pub fn decode(bytes: &[u8], ip: u64) -> Result<Displaced, Refusal> {
        Self::decode_on(bytes, ip, Processor::host())
    }

    /// Decodes the instruction at the start of `bytes`, which lies at address `ip`, for any processor: what it lacks
    /// raises #UD.
    ///
    /// What only a processor can compute (RCPPS, FSIN, CPUID) comes from the one at hand all the same.
    ///
    /// # Errors
    /// A [`Refusal`] that says why this instruction cannot be emulated.
    pub fn decode_on(bytes: &[u8], ip: u64, processor: &'static Processor) -> Result<Displaced, Refusal> {
        let options = processor.decoder_options();
        let mut decoder = Decoder::with_ip(64, bytes, ip, options);
        let instruction = decoder.decode();
        let error = decoder.last_error();
        if error == DecoderError::None {
            let code = instruction.code();
            let row = table::row(code).ok_or(Refusal::NoRow(code))?;
            return Self::of(instruction, row, bytes, processor);
        }
        match (reserved::raises(bytes, &instruction, error, options, processor.xcr0 & APX != 0), error) {
            (Some((instruction, row)), _) => Self::of(instruction, row, bytes, processor),
            (None, DecoderError::NoMoreBytes) => Err(Refusal::Truncated { length: bytes.len() }),
            (None, _) => Err(reserved::unknown(bytes)),
        }
    }

    fn of(
        instruction: Instruction,
        row: &'static Row,
        bytes: &[u8],
        processor: &'static Processor,
    ) -> Result<Displaced, Refusal> {
        let code = instruction.code();
        let form = Form { instruction: &instruction, bytes, processor };
        let selected = || Some(((row.select)(&form)?, Phases::of(&form, row.vector.as_ref())?));
        let (execute, phases) = match processor.can(code.cpuid_features()) {
            Some(false) => (families::undefined_unless_too_long(&form), Phases::default()),
            None => (families::native as Execute, Phases::default()),
            Some(true) if row.flags.contains(Flags::BY_HOST) => selected().ok_or(Refusal::NotOnHost(code))?,
            Some(true) => selected().ok_or(Refusal::NoForm(code))?,
        };
        let undefined = is_undefined(execute);
        Ok(Displaced {
            execute,
            phases,
            decoded: Decoded::of(instruction, row.flags, bytes, processor),
            touches: if undefined {
                Touches::empty()
            } else {
                Touches::of(&instruction, row.flags, processor)
            },
            row,
        })
    }

    /// Performs the instruction: reads and writes `registers` and `memory` as the processor would.
    ///
    /// `registers.rip` is set to the instruction's own address first, so it need not be right.
    ///
    /// # Errors
    /// The exception that the processor would have raised. Nothing has changed then, except where the
    /// architecture says otherwise (REP, gathers, masked moves), and RIP is that of this instruction, or
    /// of the next one if the exception is a trap.
    #[inline]
    pub fn execute(
        &self,
        registers: &mut Registers,
        memory: &mut dyn UserMemory,
    ) -> Result<Outcome, Exception> {
        registers.rip = self.decoded.next_ip;
        let result =
            (self.execute)(&mut Context { decoded: &self.decoded, phases: &self.phases, registers, memory });
        let done = match result {
            Ok(outcome) => !matches!(outcome, Outcome::Again | Outcome::Native),
            Err(exception) => exception.is_trap(),
        };
        if !done {
            registers.rip = self.decoded.instruction.ip();
        }
        result
    }

    /// What an executor must fetch and store.
    #[must_use]
    pub fn touches(&self) -> Touches {
        self.touches
    }

    /// Whether a mask says which parts of its operands it accesses or changes: an opmask register other than K0, or a
    /// vector register (MASKMOVQ, MASKMOVDQU, VMASKMOV, VPMASKMOV). Debug registers do not ask the mask: a breakpoint on
    /// any part of its operand in memory is hit (Zen 5, but for MASKMOVDQU).
    #[must_use]
    pub fn is_masked(&self) -> bool {
        use Mnemonic::{Maskmovdqu, Maskmovq, Vmaskmovdqu, Vmaskmovpd, Vmaskmovps, Vpmaskmovd, Vpmaskmovq};
        let instruction = self.instruction();
        instruction.has_op_mask()
            || matches!(
                instruction.mnemonic(),
                Maskmovdqu | Maskmovq | Vmaskmovdqu | Vmaskmovpd | Vmaskmovps | Vpmaskmovd | Vpmaskmovq
            )
    }

    /// Whether its processor raises #UD for it in whatever state: it lacks a feature, its system has not enabled the
    /// registers, or the bytes mean nothing there. One that touches nothing, too.
    #[must_use]
    pub fn is_undefined(&self) -> bool {
        is_undefined(self.execute)
    }

    /// On which of its operands it computes as floating-point numbers.
    #[must_use]
    pub fn floating_point(&self) -> FloatingPoint {
        match self.row.flags {
            flags if !flags.contains(Flags::FLOAT) => FloatingPoint::None,
            flags if flags.contains(Flags::LAST_SOURCE) => FloatingPoint::Last,
            _ => FloatingPoint::All,
        }
    }

    /// Whether the host's own instruction computes the result, which is then that of another processor if it is not
    /// the host that it was decoded for: RCPPS, FSIN.
    #[must_use]
    pub fn is_by_host(&self) -> bool {
        self.row.flags.contains(Flags::BY_HOST)
    }

    /// The decoded instruction.
    #[must_use]
    pub fn instruction(&self) -> &Instruction {
        &self.decoded.instruction
    }

    /// iced-x86's name of the encoding.
    #[must_use]
    pub fn code(&self) -> Code {
        self.decoded.instruction.code()
    }

    /// The length in bytes, 1 to 15.
    #[must_use]
    pub fn length(&self) -> usize {
        self.decoded.instruction.len()
    }

    /// The address that it was decoded for.
    #[must_use]
    pub fn ip(&self) -> u64 {
        self.decoded.instruction.ip()
    }

    /// The table row that it belongs to, as the table prints it.
    #[must_use]
    pub fn row(&self) -> &'static str {
        self.row.name
    }
}

/// Whether that is the one function that raises #UD. A function that is compiled to the same code does the same.
fn is_undefined(execute: Execute) -> bool {
    core::ptr::fn_addr_eq(execute, families::undefined as Execute)
}

impl fmt::Debug for Displaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Displaced")
            .field("code", &self.code())
            .field("ip", &format_args!("{:#x}", self.ip()))
            .field("length", &self.length())
            .field("row", &self.row.name)
            .finish_non_exhaustive()
    }
}
