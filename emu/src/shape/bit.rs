//! The shape of the bit tests, whose bit can lie far from the memory operand.

use crate::decode::form::{Form, Shape};
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Destination, Imm, Reg, Source};
use crate::run::row::by_width;

/// Copies a bit to CF and changes it: BTS and its like.
pub(crate) trait Bit {
    /// Whether it changes the bit at all.
    const WRITES: bool;
    /// `bit` is a one in the bit's place.
    fn apply<W: Width>(dst: W, bit: W) -> W;
}

pub(crate) fn bit<O: Bit>(form: &Form<'_>) -> Option<Execute> {
    match (form.shape(0), form.shape(1), form.locked()) {
        (Shape::Register, Shape::Register, _) => by_width!(form.size(0), register, <O, Reg<1>>),
        (Shape::Register, Shape::Immediate, _) => by_width!(form.size(0), register, <O, Imm>),
        (Shape::Memory, Shape::Register, false) => by_width!(form.size(0), memory, <O, Far>),
        (Shape::Memory, Shape::Immediate, false) => by_width!(form.size(0), memory, <O, Near>),
        (Shape::Memory, Shape::Register, true) => by_width!(form.size(0), locked, <O, Far>),
        (Shape::Memory, Shape::Immediate, true) => by_width!(form.size(0), locked, <O, Near>),
        _ => None,
    }
}

/// Where in memory the bit is.
trait Place {
    /// The address of the unit of the operand's size that has the bit, and the bit's number there.
    fn find<W: Width>(c: &mut Context<'_>) -> Result<(u64, u32), Exception>;
}
/// At an offset in a register: signed, and counted from the operand through all of memory.
struct Far;
/// Within the operand.
struct Near;

impl Place for Far {
    #[inline(always)]
    fn find<W: Width>(c: &mut Context<'_>) -> Result<(u64, u32), Exception> {
        let offset = Reg::<1>::read::<W>(c)?.signed();
        let units = offset >> W::BITS.trailing_zeros();
        let bytes = units.wrapping_mul(W::BYTES as i64) as u64;
        Ok((c.decoded.address.linear_offset(c.registers, bytes), within::<W>(offset as u64)))
    }
}

impl Place for Near {
    #[inline(always)]
    fn find<W: Width>(c: &mut Context<'_>) -> Result<(u64, u32), Exception> {
        Ok((c.linear(), within::<W>(c.decoded.immediate)))
    }
}

/// The bit's number within its unit.
#[inline(always)]
fn within<W: Width>(offset: u64) -> u32 {
    offset as u32 & (W::BITS - 1)
}

/// Only CF is defined, and ZF as it was; processors leave the others too.
#[inline(always)]
fn change<W: Width, O: Bit>(dst: W, number: u32, flags: Rflags) -> (W, Rflags) {
    let carry = Rflags::from_bits_retain(u64::from(dst.bit(number)));
    (O::apply(dst, W::truncate(1).shift_left(number)), flags.difference(Rflags::CF) | carry)
}

fn register<W: Width, O: Bit, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let number = within::<W>(S::read::<W>(c)?.zero_extend());
    let (result, flags) = change::<W, O>(Reg::<0>::read::<W>(c)?, number, c.registers.rflags);
    if O::WRITES {
        Reg::<0>::write(c, result)?;
    }
    c.registers.rflags = flags;
    Ok(Outcome::Next)
}

fn memory<W: Width, O: Bit, P: Place>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (address, number) = P::find::<W>(c)?;
    let (access, stack) = (if O::WRITES { Access::Write } else { Access::Read }, c.decoded.address.stack);
    let dst = c.load::<W>(address, access, stack)?;
    let (result, flags) = change::<W, O>(dst, number, c.registers.rflags);
    if O::WRITES {
        c.store(address, result, stack)?;
    }
    c.registers.rflags = flags;
    Ok(Outcome::Next)
}

fn locked<W: Width, O: Bit, P: Place>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (address, number) = P::find::<W>(c)?;
    let before = c.registers.rflags;
    let mut after = before;
    c.update(address, c.decoded.address.stack, |dst: W| {
        let (result, flags) = change::<W, O>(dst, number, before);
        after = flags;
        result
    })?;
    c.registers.rflags = after;
    Ok(Outcome::Next)
}
