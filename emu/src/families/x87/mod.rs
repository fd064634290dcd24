//! The x87 instructions (SDM volume 1, chapter 8), and what else lives in their registers.

pub(super) mod arithmetic;
pub(super) mod compare;
pub(super) mod control;
pub(super) mod extended;
pub(super) mod state;
pub(super) mod transcendental;
pub(super) mod transfer;

use crate::context::Context;
use crate::exception::Exception;
use crate::host::x87::{Answer, Binary};
use crate::memory::Access;
use crate::registers::Float80;
use crate::table::{Flags, Form, Shape};
use crate::width::Width;

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
    let address = c.displaced.address.linear_of_part(c.registers, offset as u64, length as u8 - 1);
    c.check(address, length, alignment, c.displaced.address.stack)?;
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
    let address = c.displaced.address.linear_of_part(c.registers, offset as u64, 0);
    c.memory.read(address, bytes, access)?;
    Ok(())
}

/// Writes a part of the memory operand, which has been looked at.
fn write_at(c: &mut Context<'_>, offset: usize, bytes: &[u8]) -> Result<(), Exception> {
    let address = c.displaced.address.linear_of_part(c.registers, offset as u64, 0);
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
    c.load(c.linear(), Access::Read, c.displaced.address.stack)
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
