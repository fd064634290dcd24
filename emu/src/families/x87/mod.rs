//! The x87 instructions (SDM volume 1, chapter 8), and what else lives in their registers.

mod arithmetic;
mod compare;
mod control;
mod extended;
mod state;
mod transcendental;
mod transfer;

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::operand::Kind;
use crate::decode::processor::Facts;
use crate::host::x87::{Answer, Binary};
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::Float80;
use crate::model::width::Width;
use crate::model::x87::status::ES;
use crate::run::context::Context;
use crate::run::row::Row;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[
    arithmetic::ROWS,
    compare::ROWS,
    control::ROWS,
    extended::ROWS,
    state::ROWS,
    transcendental::ROWS,
    transfer::ROWS,
];

/// What a row is that computes on floating-point operands, or converts them.
const FLOAT: Flags = Flags::X87.union(Flags::FLOAT);

/// How many registers an instruction pops.
fn pops(form: &Form<'_>) -> i32 {
    form.instruction.fpu_stack_increment_info().increment().max(0)
}

/// A number in memory that is an operand of arithmetic.
trait Number {
    type Bits: Width;
    fn apply<O: Binary>(control: u16, left: &Float80, right: Self::Bits) -> Answer;
}

macro_rules! numbers {
    ($($name:ident($bits:ty): $form:ident;)+) => { $(
        struct $name;
        impl Number for $name {
            type Bits = $bits;
            #[inline(always)]
            fn apply<O: Binary>(control: u16, left: &Float80, right: $bits) -> Answer {
                O::$form(control, left, right)
            }
        }
    )+ };
}

numbers! {
    Single(u32): m32fp;
    Double(u64): m64fp;
    Word(u16): m16int;
    Doubleword(u32): m32int;
}

/// Picks a function by the format of the number in memory, and by whether it pops.
macro_rules! by_number {
    ($form:ident, $function:ident, <$operation:ident>) => {
        match ($form.instruction.memory_size(), $crate::families::x87::pops($form)) {
            (MemorySize::Float32, 0) => Some($function::<$operation, Single, 0> as Execute),
            (MemorySize::Float64, 0) => Some($function::<$operation, Double, 0> as Execute),
            (MemorySize::Int16, 0) => Some($function::<$operation, Word, 0> as Execute),
            (MemorySize::Int32, 0) => Some($function::<$operation, Doubleword, 0> as Execute),
            (MemorySize::Float32, _) => Some($function::<$operation, Single, 1> as Execute),
            (MemorySize::Float64, _) => Some($function::<$operation, Double, 1> as Execute),
            (MemorySize::Int16, _) => Some($function::<$operation, Word, 1> as Execute),
            (MemorySize::Int32, _) => Some($function::<$operation, Doubleword, 1> as Execute),
            _ => None,
        }
    };
}
use by_number;

/// Whether the instruction has a memory operand.
fn in_memory(form: &Form<'_>) -> bool {
    form.shape(0) == Shape::Memory || form.shape(1) == Shape::Memory
}

/// Looks at a part of the memory operand without reading or writing it.
fn check_part(
    c: &mut Context<'_>,
    offset: usize,
    length: usize,
    alignment: usize,
    access: Access,
) -> Result<(), Exception> {
    let length = length.clamp(1, 16);
    let address = c.decoded.address.linear_of_part(c.registers, offset as u64, length as u8 - 1);
    c.check(address, length, alignment, c.decoded.address.stack)?;
    c.memory.read(address, &mut [0; 16][..length], access)?;
    Ok(())
}

/// Looks at the first word, of `first` bytes, and the last byte of an image in memory: processors do so before
/// they go through it, and fault there.
fn check_ends(c: &mut Context<'_>, first: usize, length: usize, access: Access) -> Result<(), Exception> {
    check_part(c, 0, first, first, access)?;
    check_part(c, length - 1, 1, 1, access)
}

/// Looks at a number: one of ten bytes is accessed as eight and two.
fn check_number(c: &mut Context<'_>, length: usize, access: Access) -> Result<(), Exception> {
    if length == 10 {
        check_part(c, 0, 8, 8, access)?;
        check_part(c, 8, 2, 1, access)
    } else {
        check_part(c, 0, length, length, access)
    }
}

/// Reads a part of the memory operand, which has been looked at.
fn read_at(c: &mut Context<'_>, offset: usize, bytes: &mut [u8], access: Access) -> Result<(), Exception> {
    let address = c.decoded.address.linear_of_part(c.registers, offset as u64, 0);
    c.memory.read(address, bytes, access)?;
    Ok(())
}

/// Writes a part of the memory operand, which has been looked at.
fn write_at(c: &mut Context<'_>, offset: usize, bytes: &[u8]) -> Result<(), Exception> {
    let address = c.decoded.address.linear_of_part(c.registers, offset as u64, 0);
    c.memory.write(address, bytes)?;
    Ok(())
}

/// Reads the memory operand, which has been looked at.
fn read_slice(c: &mut Context<'_>, bytes: &mut [u8]) -> Result<(), Exception> {
    read_at(c, 0, bytes, Access::Read)
}

/// Writes the memory operand, which has been looked at.
fn write_slice(c: &mut Context<'_>, bytes: &[u8]) -> Result<(), Exception> {
    write_at(c, 0, bytes)
}

/// Reads the memory operand, a number of ten bytes.
fn read_m80(c: &mut Context<'_>) -> Result<[u8; 10], Exception> {
    check_number(c, 10, Access::Read)?;
    let mut bytes = [0; 10];
    read_slice(c, &mut bytes)?;
    Ok(bytes)
}

/// Reads the memory operand.
#[inline(always)]
fn read<W: Width>(c: &mut Context<'_>) -> Result<W, Exception> {
    c.load(c.linear(), Access::Read, c.decoded.address.stack)
}

impl Float80 {
    /// From the ten bytes of its form in memory.
    fn from_bytes(bytes: &[u8; 10]) -> Float80 {
        let [a, b, c, d, e, f, g, h, i, j] = *bytes;
        Float80 {
            significand: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sign_exponent: u16::from_le_bytes([i, j]),
        }
    }

    /// The ten bytes of its form in memory.
    fn to_bytes(self) -> [u8; 10] {
        let [a, b, c, d, e, f, g, h] = self.significand.to_le_bytes();
        let [i, j] = self.sign_exponent.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }
}

/// Runs a waiting instruction that is not one of control: #MF comes first if an exception is pending;
/// afterwards FOP, FIP and FDP are this instruction's. Intel's processors write FOP only where the
/// instruction has raised an unmasked exception, and some write FDP only then (SDM volume 1, sections 8.1.8
/// and 8.1.9).
#[inline(always)]
pub(crate) fn waiting(
    c: &mut Context<'_>,
    body: impl FnOnce(&mut Context<'_>) -> Result<(), Exception>,
) -> Result<Outcome, Exception> {
    c.registers.extended.x87.check_pending()?;
    body(c)?;
    let raised = c.registers.extended.x87.status & ES != 0;
    let processor = c.decoded.processor;
    let in_memory = c.decoded.operand[0].kind == Kind::Memory || c.decoded.operand[1].kind == Kind::Memory;
    // From the effective address: FDP is an offset within its segment.
    let data_pointer = (in_memory && (raised || !processor.is(Facts::FDP_EXCEPTION_ONLY)))
        .then(|| c.decoded.address.effective(c.registers));
    let x87 = &mut c.registers.extended.x87;
    if raised || processor.is(Facts::FOP_ALWAYS_WRITTEN) {
        x87.opcode = c.decoded.x87_opcode();
    }
    x87.instruction_pointer = c.decoded.ip();
    if let Some(data_pointer) = data_pointer {
        x87.data_pointer = data_pointer;
    }
    Ok(Outcome::Next)
}
