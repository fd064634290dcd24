//! Far control transfer (SDM volume 1, section 7.3.8 and volume 3, section 6.8) within user mode. Linux
//! has no call gates and no tasks, so what remains is another code segment of the same privilege. Code
//! that is not 64-bit code is left to the thread itself.

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr, segment};
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::row::{Row, by_width};
use crate::shape::row;

use super::descriptor::{Descriptor, error_code, is_null};
use super::segment::{far_pointer, may_load};
use super::shadow::{far_pop, far_push};
use crate::families::integer::flags::replace_flags;

const FLAGS: Flags = Flags::SHADOW_STACK.union(Flags::SEGMENTS);

pub(super) static ROWS: &[Row] =
    &[row!(Retf, OperandSize, FLAGS, retf), row!([Iret, Iretd, Iretq], OperandSize, FLAGS, iret)];

/// Whether control may pass to a code segment; false if only the thread itself can go there.
fn may_enter(selector: u16, returning: bool) -> Result<bool, Exception> {
    let refused = Exception::GeneralProtection(error_code(selector));
    if is_null(selector) || returning && selector & 3 != 3 {
        return Err(refused);
    }
    match Descriptor::of(selector) {
        Descriptor::Unknown => Ok(false),
        Descriptor::Present(rights) if !rights.is_code() => Err(refused),
        Descriptor::Present(rights) if !rights.is_present() => {
            Err(Exception::SegmentNotPresent(error_code(selector)))
        }
        Descriptor::Present(rights) => Ok(rights.is_64_bit()),
        Descriptor::Absent => Err(refused),
    }
}

/// Goes on at `target` in a code segment whose selector's privilege level becomes that of user mode.
fn enter(c: &mut Context<'_>, selector: u16, target: u64) -> Result<Outcome, Exception> {
    c.registers.segment[segment::CS] = selector | 3;
    c.branch(target)
}

pub(in crate::families) fn select_jmp(form: &Form<'_>) -> Option<Execute> {
    by_width!(form.operand_size(), jmp)
}

fn jmp<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (target, selector) = far_pointer::<W>(c)?;
    if !may_enter(selector, false)? {
        return Ok(Outcome::Native);
    }
    c.check_branch(target)?;
    enter(c, selector, target)
}

pub(in crate::families) fn select_call(form: &Form<'_>) -> Option<Execute> {
    by_width!(form.operand_size(), call)
}

/// The two stores are apart: if the second faults, the first has happened. Both have when the target is not
/// canonical, which only an offset of 64 bits can be, and such are Intel's processors' only.
fn call<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (target, selector) = far_pointer::<W>(c)?;
    if !may_enter(selector, false)? {
        return Ok(Outcome::Native);
    }
    let (cs, rip) = (u64::from(c.registers.segment[segment::CS]), c.registers.rip);
    let top = c.registers.gpr[gpr::RSP].wrapping_sub(2 * W::BYTES as u64);
    c.store(top.wrapping_add(W::BYTES as u64), W::truncate(cs), true)?;
    c.store(top, W::truncate(rip), true)?;
    c.check_branch(target)?;
    far_push(c, cs, rip)?;
    c.registers.gpr[gpr::RSP] = top;
    enter(c, selector, target)
}

/// Word `index` of the stack, counted from its top.
fn on_stack<W: Width>(c: &mut Context<'_>, index: usize) -> Result<u64, Exception> {
    let address = c.registers.gpr[gpr::RSP].wrapping_add((index * W::BYTES) as u64);
    Ok(c.load::<W>(address, Access::Read, true)?.zero_extend())
}

fn retf<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let selector = if c.decoded.processor.is(Facts::SELECTORS_ARE_TWO_BYTES) {
        let address = c.registers.gpr[gpr::RSP].wrapping_add(W::BYTES as u64);
        c.load::<u16>(address, Access::Read, true)?
    } else {
        on_stack::<W>(c, 1)? as u16
    };
    let target = on_stack::<W>(c, 0)?;
    let released = 2 * W::BYTES + usize::from(c.decoded.immediate as u16);
    if selector & 3 != 3 && c.decoded.processor.is(Facts::RETF_LOOKS_AT_OUTER_STACK) {
        let rsp = c.registers.gpr[gpr::RSP].wrapping_add(released as u64);
        c.load::<W>(rsp.wrapping_add(W::BYTES as u64), Access::Read, true)?;
        c.load::<W>(rsp, Access::Read, true)?;
    }
    if !may_enter(selector, true)? {
        return Ok(Outcome::Native);
    }
    c.check_branch(target)?;
    let shadow = far_pop(c, selector, target)?;
    c.registers.ssp = shadow;
    c.release(released);
    enter(c, selector, target)
}

/// Of the five words on the stack, processors read the flags first: it shows in CR2 at the end of a page.
///
/// Where the new AC is live already when RSP and SS are read, but the exception that it raises shows the flags from
/// before, systems take that for a split lock, and the instruction never ends: it is the thread's own to execute.
fn iret<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.registers.rflags.contains(Rflags::NT) {
        return Err(Exception::GeneralProtection(0));
    }
    let flags = on_stack::<W>(c, 2)?;
    let selector = on_stack::<W>(c, 1)? as u16;
    let target = on_stack::<W>(c, 0)?;
    let code_first = c.decoded.processor.is(Facts::IRET_CHECKS_CS_FIRST);
    if code_first {
        let checks = W::BITS > 16 && Rflags::from_bits_retain(flags).contains(Rflags::AC);
        let misaligned = c.registers.gpr[gpr::RSP] & (W::BYTES as u64 - 1) != 0;
        if !may_enter(selector, true)? || checks && misaligned {
            return Ok(Outcome::Native);
        }
    }
    let stack_selector = on_stack::<W>(c, 4)? as u16;
    let stack = on_stack::<W>(c, 3)?;
    if !code_first {
        if !may_enter(selector, true)? {
            return Ok(Outcome::Native);
        }
        c.check_branch(target)?;
    }
    if !may_load(segment::SS, stack_selector)? {
        return Ok(Outcome::Native);
    }
    c.check_branch(target)?;
    let shadow = far_pop(c, selector, target)?;
    c.registers.ssp = shadow;
    c.registers.segment[segment::SS] = stack_selector;
    c.registers.gpr[gpr::RSP] = stack;
    replace_flags::<W>(c, flags, Rflags::RF);
    enter(c, selector, target)
}
