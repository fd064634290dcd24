//! Segment registers and the bases of FS and GS (SDM volume 1, section 7.3.14 and 7.3.16.2; volume 3,
//! section 5.2 to 5.7).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::operand::SegmentBase;
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::segment;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::run::row::by_width;
use crate::shape::row;

use super::descriptor::{Descriptor, error_code, is_null};
use super::privileged::privileged;

pub(super) static ROWS: &[Row] = &[
    row!([Lfs, Lgs, Lss], Wide, Flags::SEGMENTS, load_far_pointer),
    row!([Rdfsbase, Rdgsbase], Wide, Flags::empty(), read_base),
    row!([Wrfsbase, Wrgsbase], Wide, Flags::SEGMENTS, write_base),
];

/// Whether a selector may be loaded into a data segment register; false if only the thread itself can
/// tell. CPL is 3.
pub(super) fn may_load(number: usize, selector: u16) -> Result<bool, Exception> {
    let refused = Exception::GeneralProtection(error_code(selector));
    let stack = number == segment::SS;
    if is_null(selector) {
        return if stack { Err(refused) } else { Ok(true) };
    }
    let rights = match Descriptor::of(selector) {
        Descriptor::Unknown => return Ok(false),
        Descriptor::Absent => return Err(refused),
        Descriptor::Present(rights) => rights,
    };
    let fits = if stack {
        selector & 3 == 3 && rights.privilege() == 3 && rights.is_writable()
    } else {
        rights.is_readable()
    };
    match (fits, rights.is_present(), stack) {
        (false, _, _) => Err(refused),
        (true, true, _) => Ok(true),
        (true, false, true) => Err(Exception::StackFault(error_code(selector))),
        (true, false, false) => Err(Exception::SegmentNotPresent(error_code(selector))),
    }
}

/// Loads a selector that [`may_load`] has let pass. The base of FS and GS comes with it: no descriptor of
/// the GDT that user mode can load has one, apart from the thread's own.
fn load(c: &mut Context<'_>, number: usize, selector: u16) {
    if let Some(register) = c.registers.segment.get_mut(number) {
        *register = selector;
    }
    if !is_null(selector) || c.decoded.processor.is(Facts::NULL_SELECTOR_CLEARS_BASE) {
        match number {
            segment::FS => c.registers.fs_base = 0,
            segment::GS => c.registers.gs_base = 0,
            _ => {}
        }
    }
}

/// MOV to and from segment registers, and those of the kernel.
pub(in crate::families) fn select_mov(form: &Form<'_>) -> Option<Execute> {
    let is_segment = |index| {
        let instruction = form.instruction;
        instruction.op_kind(index) == OpKind::Register && instruction.op_register(index).is_segment_register()
    };
    match (form.shape(0), form.shape(1)) {
        (Shape::Other, _) if is_segment(0) => Some(mov_to_segment),
        (Shape::Memory, _) if is_segment(1) => Some(mov_from_segment::<u16>),
        (Shape::Register, _) if is_segment(1) => by_width!(form.size(0), mov_from_segment),
        // Control, debug and test registers.
        (Shape::Other, Shape::Register) | (Shape::Register, Shape::Other) => Some(privileged),
        _ => None,
    }
}

fn mov_to_segment(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let number = usize::from(c.decoded.operand[0].number);
    let selector = c.read::<u16>(1)?;
    if number == segment::CS {
        return Err(Exception::InvalidOpcode);
    }
    if !may_load(number, selector)? {
        return Ok(Outcome::Native);
    }
    load(c, number, selector);
    Ok(if number == segment::SS { Outcome::NextInhibited } else { Outcome::Next })
}

/// The selector in operand `index`.
fn selector(c: &Context<'_>, index: usize) -> u16 {
    let number = usize::from(c.decoded.operand[index].number);
    c.registers.segment.get(number).copied().unwrap_or(0)
}

fn mov_from_segment<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = selector(c, 1);
    c.write(0, W::truncate(u64::from(value)))?;
    Ok(Outcome::Next)
}

/// PUSH FS and GS.
pub(in crate::families) fn push<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = selector(c, 0);
    c.push(W::truncate(u64::from(value)))?;
    Ok(Outcome::Next)
}

/// POP FS and GS.
pub(in crate::families) fn pop<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let number = usize::from(c.decoded.operand[0].number);
    let selector = match c.decoded.processor.is(Facts::SELECTORS_ARE_TWO_BYTES) {
        true => c.peek::<u16>()?,
        false => c.peek::<W>()?.zero_extend() as u16,
    };
    if !may_load(number, selector)? {
        return Ok(Outcome::Native);
    }
    load(c, number, selector);
    c.release(W::BYTES);
    Ok(Outcome::Next)
}

/// An offset and the selector behind it, in memory.
pub(super) fn far_pointer<W: Width>(c: &mut Context<'_>) -> Result<(u64, u16), Exception> {
    let address = c.decoded.address;
    let start = address.linear_of_part(c.registers, 0, W::BYTES as u8 - 1);
    let offset = c.load::<W>(start, Access::Read, address.stack)?;
    let behind = address.linear_of_part(c.registers, W::BYTES as u64, 1);
    let selector = c.load::<u16>(behind, Access::Read, address.stack)?;
    Ok((offset.zero_extend(), selector))
}

fn load_far_pointer<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let number = match c.decoded.instruction.mnemonic() {
        Mnemonic::Lfs => segment::FS,
        Mnemonic::Lgs => segment::GS,
        _ => segment::SS,
    };
    let (offset, selector) = far_pointer::<W>(c)?;
    if !may_load(number, selector)? {
        return Ok(Outcome::Native);
    }
    load(c, number, selector);
    c.write(0, W::truncate(offset))?;
    Ok(Outcome::Next)
}

/// Which of the two bases RDFSBASE and its like mean.
fn base_of(instruction: &Instruction) -> SegmentBase {
    match instruction.mnemonic() {
        Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => SegmentBase::of(Register::FS),
        _ => SegmentBase::of(Register::GS),
    }
}

fn read_base<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let base = base_of(&c.decoded.instruction).base(c.registers);
    c.write(0, W::truncate(base))?;
    Ok(Outcome::Next)
}

fn write_base<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let base = c.read::<W>(0)?.zero_extend();
    if !c.decoded.is_canonical(base) {
        return Err(Exception::GeneralProtection(0));
    }
    match base_of(&c.decoded.instruction) {
        SegmentBase::Fs => c.registers.fs_base = base,
        _ => c.registers.gs_base = base,
    }
    Ok(Outcome::Next)
}
