//! Flag control (SDM volume 1, section 7.3.13) and instructions that do nothing.

use crate::context::Context;
use crate::exception::Exception;
use crate::outcome::Outcome;
use crate::registers::{Rflags, gpr};
use crate::shape::row;
use crate::table::{Flags, Row};

pub(super) static ROWS: &[Row] = &[
    row!(Clc, Whole, Flags::empty(), |c| change(c, Rflags::CF, Rflags::empty())),
    row!(Stc, Whole, Flags::empty(), |c| change(c, Rflags::empty(), Rflags::CF)),
    row!(Cmc, Whole, Flags::empty(), cmc),
    row!(Cld, Whole, Flags::empty(), |c| change(c, Rflags::DF, Rflags::empty())),
    row!(Std, Whole, Flags::empty(), |c| change(c, Rflags::empty(), Rflags::DF)),
    row!(Lahf, Whole, Flags::empty(), lahf),
    row!(Sahf, Whole, Flags::empty(), sahf),
    row!([Nop, Reservednop, Pause, Endbr32, Endbr64], Whole, Flags::empty(), nop),
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
