//! Flag control (SDM volume 1, section 7.3.13) and instructions that do nothing.

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;

use crate::families::undefined;

pub(super) static ROWS: &[Row] = &[
    row!(Clc, change(Rflags::CF, Rflags::empty()), Flags::empty()),
    row!(Stc, change(Rflags::empty(), Rflags::CF), Flags::empty()),
    row!(Cmc, Whole, Flags::empty(), cmc),
    row!(Cld, change(Rflags::DF, Rflags::empty()), Flags::empty()),
    row!(Std, change(Rflags::empty(), Rflags::DF), Flags::empty()),
    row!(Lahf, Whole, Flags::empty(), lahf),
    row!(Sahf, Whole, Flags::empty(), sahf),
    row!([Pushf, Pushfq], OperandSize, Flags::empty(), pushf),
    row!([Popf, Popfq], OperandSize, Flags::empty(), popf),
    row!([Nop, Endbr32, Endbr64], Whole, Flags::empty(), nop),
    row!(Reservednop, Select, Flags::empty(), select_reserved_nop),
    row!(Pause, Select, Flags::empty(), select_pause),
];

#[inline(always)]
fn change(c: &mut Context<'_>, clear: Rflags, set: Rflags) -> Result<Outcome, Exception> {
    c.registers.rflags = c.registers.rflags.difference(clear) | set;
    Ok(Outcome::Next)
}

fn cmc(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.registers.rflags.toggle(Rflags::CF);
    Ok(Outcome::Next)
}

/// The flags that LAHF and SAHF know: the low byte.
const LOW: Rflags = Rflags::CF.union(Rflags::PF).union(Rflags::AF).union(Rflags::ZF).union(Rflags::SF);

fn lahf(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let low = c.registers.rflags & LOW | Rflags::FIXED;
    let rax = &mut c.registers.gpr[gpr::RAX];
    *rax = *rax & !0xff00 | low.bits() << 8;
    Ok(Outcome::Next)
}

fn sahf(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let ah = Rflags::from_bits_retain(c.registers.gpr[gpr::RAX] >> 8);
    change(c, LOW, ah & LOW)
}

/// A memory operand is not accessed.
fn nop(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    Ok(Outcome::Next)
}

/// Some processors have the prefetches of 0F 0D for memory only.
fn select_reserved_nop(form: &Form<'_>) -> Option<Execute> {
    use iced_x86::Code as C;
    let prefetch = matches!(
        form.instruction.code(),
        C::Reservednop_rm16_r16_0F0D | C::Reservednop_rm32_r32_0F0D | C::Reservednop_rm64_r64_0F0D
    );
    let memory_only = prefetch && form.processor.is(Facts::PREFETCH_OF_REGISTER_IS_UNDEFINED);
    Some(if memory_only && form.shape(0) != Shape::Memory { undefined } else { nop })
}

/// With REX.B it is to some processors an exchange of R8 and RAX, to which REP means nothing.
fn select_pause(form: &Form<'_>) -> Option<Execute> {
    fn xchg<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let (rax, r8) = (c.general::<W>(gpr::RAX), c.general::<W>(gpr::R8));
        c.set_general(gpr::RAX, r8);
        c.set_general(gpr::R8, rax);
        Ok(Outcome::Next)
    }
    const REX_W: u8 = 8;
    const REX_B: u8 = 1;
    if form.processor.is(Facts::PAUSE_IGNORES_REX_B) {
        return Some(nop);
    }
    let rex = form.prefixes().last().filter(|byte| byte & 0xf0 == 0x40).unwrap_or(0);
    let narrow = form.prefixes().any(|byte| byte == 0x66);
    Some(match (rex & REX_B != 0, rex & REX_W != 0, narrow) {
        (false, _, _) => nop,
        (true, true, _) => xchg::<u64>,
        (true, false, true) => xchg::<u16>,
        (true, false, false) => xchg::<u32>,
    })
}

/// TF is the thread's own, whatever an executor does to stop it.
fn pushf<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let image = c.registers.rflags.difference(Rflags::RF | Rflags::VM);
    c.push(W::truncate(image.bits()))?;
    Ok(Outcome::Next)
}

/// The debug exception that a new TF asks for comes after the next instruction, not after this one.
fn popf<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let image = c.peek::<W>()?.zero_extend();
    replace_flags::<W>(c, image, Rflags::empty());
    c.release(W::BYTES);
    Ok(Outcome::Next)
}

/// Replaces the flags that user mode may change, and `more`, by those of an image. IF is among them
/// where IOPL lets it, IOPL never; RF is cleared where it is not set.
pub(in crate::families) fn replace_flags<W: Width>(c: &mut Context<'_>, image: u64, more: Rflags) {
    let low = Rflags::STATUS | Rflags::TF | Rflags::DF | Rflags::NT;
    let high = if W::BITS == 16 { Rflags::empty() } else { Rflags::AC | Rflags::ID | more };
    let flags = c.registers.rflags;
    let interrupts = if flags.contains(Rflags::IOPL) { Rflags::IF } else { Rflags::empty() };
    let changed = low | high | interrupts;
    let image = Rflags::from_bits_retain(image);
    c.registers.rflags = flags.difference(changed | Rflags::RF) | image & changed;
}
