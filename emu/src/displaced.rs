//! An instruction, decoded once and ready to execute.

use core::fmt;

use iced_x86::{
    Code, Decoder, DecoderError, EncodingKind, Instruction, InstructionInfoFactory, OpAccess,
    OpCodeTableKind, OpKind, Register,
};

use crate::condition::Condition;
use crate::context::{Context, Execute};
use crate::families;
use crate::operand::{Address, Operand, is_canonical};
use crate::processor::Processor;
use crate::reserved;
use crate::table::{self, Flags, Form, Row};
use crate::vector::phases::Phases;
use crate::{Exception, Outcome, Refusal, Registers, Rflags, Touches, UserMemory};

/// An instruction that a probe displaced: plain data, decoded and resolved to the one function that
/// performs it.
#[derive(Clone, Copy)]
pub struct Displaced {
    execute: Execute,
    next_ip: u64,
    /// The immediate, extended to 64 bits as the instruction says, or the branch target, or FOP.
    pub(crate) immediate: u64,
    pub(crate) address: Address,
    pub(crate) operand: [Operand; 5],
    pub(crate) condition: Condition,
    /// The processor that it is executed as on.
    pub(crate) processor: &'static Processor,
    /// The flags that it leaves undefined and the processor clears.
    pub(crate) cleared: Rflags,
    pub(crate) phases: Phases,
    touches: Touches,
    row: &'static Row,
    instruction: Instruction,
}

/// On which of the operands that hold floating-point numbers an instruction computes. One that only moves or
/// selects their bits computes on none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatingPoint {
    /// None.
    None,
    /// The last register or memory operand: SQRTSS, which copies elements of the first.
    Last,
    /// All that it reads.
    All,
}

impl Displaced {
    /// Decodes the instruction at the start of `bytes`, which lies at address `ip`, for the processor at hand.
    ///
    /// # Errors
    /// A [`Refusal`] that says why this instruction cannot be emulated.
    pub fn decode(bytes: &[u8], ip: u64) -> Result<Displaced, Refusal> {
        Self::decode_on(bytes, ip, Processor::host())
    }

    /// As [`Displaced::decode`], for another processor: what it lacks raises #UD.
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
        match (reserved::raises(bytes, &instruction, error, options), error) {
            (Some((instruction, row)), _) => Self::of(instruction, row, bytes, processor),
            (None, DecoderError::NoMoreBytes) => Err(Refusal::Truncated { length: bytes.len() }),
            (None, _) => Err(Refusal::Invalid { first: bytes.first().copied().unwrap_or(0) }),
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
        let execute = match processor.can(code.cpuid_features()) {
            Some(false) => families::undefined,
            None => families::native,
            Some(true) => (row.select)(&form).ok_or(Refusal::NoForm(code))?,
        };
        let phases = match &row.vector {
            Some(layout) => Phases::of(&form, layout).ok_or(Refusal::NoForm(code))?,
            None => Phases::default(),
        };
        let mut operand = [Operand::default(); 5];
        for (index, operand) in (0..instruction.op_count()).zip(&mut operand) {
            *operand = Operand::of(&instruction, index);
        }
        Ok(Displaced {
            execute,
            next_ip: instruction.next_ip(),
            immediate: if is_x87(code) { x87_opcode(bytes) } else { immediate(&instruction) },
            address: Address::of(&instruction, processor),
            operand,
            condition: Condition::of(instruction.condition_code()),
            processor,
            cleared: row.flags.cleared(processor),
            phases,
            touches: touches(&instruction, row.flags),
            row,
            instruction,
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
        registers.rip = self.next_ip;
        let result = (self.execute)(&mut Context { displaced: self, registers, memory });
        let done = match result {
            Ok(outcome) => !matches!(outcome, Outcome::Again | Outcome::Native),
            Err(exception) => exception.is_trap(),
        };
        if !done {
            registers.rip = self.instruction.ip();
        }
        result
    }

    /// Whether an address is canonical on this processor.
    #[inline(always)]
    pub(crate) fn is_canonical(&self, address: u64) -> bool {
        is_canonical(address, self.processor.sign_bits())
    }

    /// FOP of an x87 instruction.
    #[inline(always)]
    pub(crate) fn x87_opcode(&self) -> u16 {
        self.immediate as u16
    }

    /// What an executor must fetch and store.
    #[must_use]
    pub fn touches(&self) -> Touches {
        self.touches
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
        self.row.name
    }
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

/// Whether it is encoded with one of the escape opcodes D8 to DF.
fn is_x87(code: Code) -> bool {
    let operation = code.op_code();
    let first = operation.op_code() >> (8 * operation.op_code_len().saturating_sub(1));
    operation.table() == OpCodeTableKind::Normal && (0xd8..=0xdf).contains(&first)
}

/// FOP: the low three bits of the escape opcode, and the byte after it (SDM volume 1, section 8.1.9).
fn x87_opcode(bytes: &[u8]) -> u64 {
    let escape = bytes.iter().position(|byte| (0xd8..=0xdf).contains(byte)).unwrap_or(0);
    let byte = |index: usize| bytes.get(index).copied().map_or(0, u64::from);
    (byte(escape) & 7) << 8 | byte(escape + 1)
}

fn immediate(instruction: &Instruction) -> u64 {
    (0..instruction.op_count())
        .find_map(|index| match instruction.op_kind(index) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                Some(instruction.near_branch_target())
            }
            OpKind::Register | OpKind::Memory | OpKind::FarBranch16 | OpKind::FarBranch32 => None,
            _ => instruction.try_immediate(index).ok(),
        })
        .unwrap_or(0)
}

/// From the operands, and from the row's flags what the operands do not say.
fn touches(instruction: &Instruction, flags: Flags) -> Touches {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let mut touches = Touches::empty();
    for memory in info.used_memory() {
        touches |= match memory.access() {
            OpAccess::Read | OpAccess::CondRead => Touches::MEMORY_READ,
            OpAccess::Write | OpAccess::CondWrite => Touches::MEMORY_WRITE,
            OpAccess::ReadWrite | OpAccess::ReadCondWrite => Touches::MEMORY_READ | Touches::MEMORY_WRITE,
            OpAccess::None | OpAccess::NoMemAccess => Touches::empty(),
        };
    }
    let encoding = instruction.code().op_code().encoding();
    for register in info.used_registers() {
        // VZEROUPPER names registers that not every processor has.
        let register = match register.register() {
            register if encoding == EncodingKind::VEX && register.is_zmm() => Register::YMM0,
            register => register,
        };
        touches |= register_touches(register);
    }
    // Other encodings clear what lies above an XMM register.
    let legacy = encoding == EncodingKind::Legacy;
    if !legacy && touches.contains(Touches::SSE) {
        touches |= Touches::AVX;
    }
    let in_memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
    let atomic = instruction.has_lock_prefix() || flags.contains(Flags::ATOMIC) && in_memory;
    touches.set(Touches::ATOMIC, atomic);
    for (flag, touch) in [
        (Flags::X87, Touches::X87),
        (Flags::SSE, Touches::SSE),
        (Flags::THIS_CORE, Touches::THIS_CORE),
        (Flags::SHADOW_STACK, Touches::SHADOW_STACK),
        (Flags::PKRU, Touches::PKRU),
        (Flags::SEGMENTS, Touches::SEGMENTS),
        (Flags::EXTENDED, Touches::EXTENDED),
    ] {
        if flags.contains(flag) {
            touches |= touch;
        }
    }
    touches
}

fn register_touches(register: Register) -> Touches {
    if register.is_mm() || register.is_st() {
        Touches::X87
    } else if register.is_xmm() {
        Touches::SSE
    } else if register.is_ymm() {
        Touches::SSE | Touches::AVX
    } else if register.is_zmm() || register.is_k() {
        Touches::SSE | Touches::AVX | Touches::AVX512
    } else {
        Touches::empty()
    }
}
