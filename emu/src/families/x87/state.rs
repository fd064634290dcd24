//! FXSAVE and FXRSTOR (SDM volume 1, section 10.5).

use super::{check_part, read_slice, write_slice};
use crate::decode::flags::Flags;
use crate::decode::processor::{Facts, Processor};
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Mxcsr, X87};
use crate::model::x87::status::ES;
use crate::model::xsave::{self, LEGACY_LENGTH, feature};
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Fxsave, Whole, Flags::X87.union(Flags::SSE), fxsave::<Narrow>),
    row!(Fxsave64, Whole, Flags::X87.union(Flags::SSE), fxsave::<Wide>),
    row!(Fxrstor, Whole, Flags::X87.union(Flags::SSE), fxrstor::<Narrow>),
    row!(Fxrstor64, Whole, Flags::X87.union(Flags::SSE), fxrstor::<Wide>),
];

/// How FIP and FDP stand in an image.
pub(super) trait Pointers {
    /// What is kept of one.
    const MASK: u64;
}

/// Without REX.W: 32 bits, then a selector, which is zero as the kernel's own images have no place for it.
pub(super) struct Narrow;
/// With REX.W: 64 bits.
pub(super) struct Wide;

impl Pointers for Narrow {
    const MASK: u64 = 0xffff_ffff;
}

impl Pointers for Wide {
    const MASK: u64 = u64::MAX;
}

/// The state as an image has it: AMD's processors keep the pointers to themselves while no unmasked exception
/// is pending (APM volume 2, section 11.5.10).
pub(super) fn saved<P: Pointers>(x87: &X87, processor: &Processor) -> X87 {
    let mut saved = x87.clone();
    if x87.status & ES == 0 && processor.is(Facts::X87_POINTERS_ARE_HIDDEN) {
        (saved.opcode, saved.instruction_pointer, saved.data_pointer) = (0, 0, 0);
    }
    saved.instruction_pointer &= P::MASK;
    saved.data_pointer &= P::MASK;
    saved
}

/// The state that an image means: bits that the processor does not have are not taken, and pointers are extended
/// from those that it has.
pub(super) fn restored<P: Pointers>(mut x87: X87, processor: &Processor) -> X87 {
    let unused = 64u8.wrapping_sub(processor.x87_pointer_bits) & 63;
    let extended = |pointer: u64| ((pointer << unused) as i64 >> unused) as u64;
    x87.opcode &= 0x7ff;
    x87.instruction_pointer = extended(x87.instruction_pointer & P::MASK);
    x87.data_pointer &= P::MASK;
    if !processor.is(Facts::FDP_IS_LOADED_WHOLE) {
        x87.data_pointer = extended(x87.data_pointer);
    }
    x87.set_control(x87.control);
    x87
}

/// The faults of an image of FXSAVE: #GP if it is not aligned, or what its first four bytes raise, by their address
/// and then by #AC; and what its last byte and then its first one raise.
fn check_image(c: &mut Context<'_>, access: Access) -> Result<(), Exception> {
    let first_only = c.decoded.processor.is(Facts::ALIGNMENT_BEFORE_CANONICAL_END);
    let first_word = c.decoded.address.linear_of_part(c.registers, 0, 3);
    c.check(first_word, if first_only { 1 } else { 4 }, 4, c.decoded.address.stack)?;
    check_aligned(c, 16)?;
    check_part(c, LEGACY_LENGTH - 1, 1, 1, access)?;
    check_part(c, 0, 1, 1, access)
}

/// Where the operand begins.
fn address(c: &Context<'_>) -> u64 {
    c.decoded.address.linear_of_part(c.registers, 0, 0)
}

/// #GP if the operand is not aligned.
pub(super) fn check_aligned(c: &Context<'_>, alignment: u64) -> Result<(), Exception> {
    if address(c) & (alignment - 1) == 0 { Ok(()) } else { Err(Exception::GeneralProtection(0)) }
}

/// MXCSR as an image has it, or #GP for a bit that this processor does not have.
pub(super) fn checked_mxcsr(image: &[u8], processor: &Processor) -> Result<Mxcsr, Exception> {
    let bytes = image.get(xsave::MXCSR..).and_then(|rest| rest.first_chunk());
    let mxcsr = Mxcsr::from_bits_retain(bytes.copied().map_or(0, u32::from_le_bytes));
    if processor.mxcsr_mask.contains(mxcsr) { Ok(mxcsr) } else { Err(Exception::GeneralProtection(0)) }
}

/// The bytes of the legacy region that FXSAVE writes; the rest of it is for software.
const WRITTEN: usize = 416;

fn fxsave<P: Pointers>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    check_image(c, Access::Write)?;
    let extended = &c.registers.extended;
    let mut image = [0; WRITTEN];
    xsave::write_x87(&saved::<P>(&extended.x87, c.decoded.processor), &mut image);
    xsave::write_mxcsr(extended.mxcsr, c.decoded.processor.mxcsr_mask, &mut image);
    xsave::write_component(feature::SSE, extended, 0, &mut image[xsave::XMM..]);
    write_slice(c, &image)?;
    Ok(Outcome::Next)
}

fn fxrstor<P: Pointers>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    check_image(c, Access::Read)?;
    let mut image = [0; WRITTEN];
    read_slice(c, &mut image)?;
    let mxcsr = checked_mxcsr(&image, c.decoded.processor)?;
    let extended = &mut c.registers.extended;
    extended.x87 = restored::<P>(xsave::read_x87(&image), c.decoded.processor);
    extended.mxcsr = mxcsr;
    xsave::read_component(feature::SSE, &image[xsave::XMM..], extended, &mut 0);
    Ok(Outcome::Next)
}
