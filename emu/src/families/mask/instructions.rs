//! The mask registers, K0 to K7 (SDM volume 1, section 15.6.1), and the ends of AVX code.

use crate::decode::flags::Flags;
use crate::decode::operand::Kind;
use crate::families::integer::arith::flag;
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

/// The four rows of an entry of the manual, one for each width: fn(W, W) -> W of the two sources.
macro_rules! binary_rows {
    ($function:ident: $b:ident, $w:ident, $d:ident, $q:ident) => {
        [
            row!($b, Whole, NONE, |c| binary::<u8>(c, $function)),
            row!($w, Whole, NONE, |c| binary::<u16>(c, $function)),
            row!($d, Whole, NONE, |c| binary::<u32>(c, $function)),
            row!($q, Whole, NONE, |c| binary::<u64>(c, $function)),
        ]
    };
}

pub(super) static ROWS: &[Row] = &[
    row!(Kmovb, Whole, NONE, kmov::<u8>),
    row!(Kmovw, Whole, NONE, kmov::<u16>),
    row!(Kmovd, Whole, NONE, kmov::<u32>),
    row!(Kmovq, Whole, NONE, kmov::<u64>),
    row!(Knotb, Whole, NONE, knot::<u8>),
    row!(Knotw, Whole, NONE, knot::<u16>),
    row!(Knotd, Whole, NONE, knot::<u32>),
    row!(Knotq, Whole, NONE, knot::<u64>),
    row!(Kunpckbw, Whole, NONE, kunpck::<u8>),
    row!(Kunpckwd, Whole, NONE, kunpck::<u16>),
    row!(Kunpckdq, Whole, NONE, kunpck::<u32>),
    row!(Kshiftlb, Whole, NONE, |c| shift::<u8>(c, u8::shift_left)),
    row!(Kshiftlw, Whole, NONE, |c| shift::<u16>(c, u16::shift_left)),
    row!(Kshiftld, Whole, NONE, |c| shift::<u32>(c, u32::shift_left)),
    row!(Kshiftlq, Whole, NONE, |c| shift::<u64>(c, u64::shift_left)),
    row!(Kshiftrb, Whole, NONE, |c| shift::<u8>(c, u8::shift_right)),
    row!(Kshiftrw, Whole, NONE, |c| shift::<u16>(c, u16::shift_right)),
    row!(Kshiftrd, Whole, NONE, |c| shift::<u32>(c, u32::shift_right)),
    row!(Kshiftrq, Whole, NONE, |c| shift::<u64>(c, u64::shift_right)),
    row!(Kortestb, Whole, NONE, kortest::<u8>),
    row!(Kortestw, Whole, NONE, kortest::<u16>),
    row!(Kortestd, Whole, NONE, kortest::<u32>),
    row!(Kortestq, Whole, NONE, kortest::<u64>),
    row!(Ktestb, Whole, NONE, ktest::<u8>),
    row!(Ktestw, Whole, NONE, ktest::<u16>),
    row!(Ktestd, Whole, NONE, ktest::<u32>),
    row!(Ktestq, Whole, NONE, ktest::<u64>),
    row!(Vzeroupper, Whole, Flags::SSE, |c| Ok(vzero(c, 2))),
    row!(Vzeroall, Whole, Flags::SSE, |c| Ok(vzero(c, 0))),
];

pub(super) static AND: &[Row] = &binary_rows!(kand: Kandb, Kandw, Kandd, Kandq);
pub(super) static ANDN: &[Row] = &binary_rows!(kandn: Kandnb, Kandnw, Kandnd, Kandnq);
pub(super) static OR: &[Row] = &binary_rows!(kor: Korb, Korw, Kord, Korq);
pub(super) static XOR: &[Row] = &binary_rows!(kxor: Kxorb, Kxorw, Kxord, Kxorq);
pub(super) static XNOR: &[Row] = &binary_rows!(kxnor: Kxnorb, Kxnorw, Kxnord, Kxnorq);
pub(super) static ADD: &[Row] = &binary_rows!(kadd: Kaddb, Kaddw, Kaddd, Kaddq);

/// The low bits of the mask register that operand `index` names.
#[inline(always)]
fn mask<W: Width>(c: &Context<'_>, index: usize) -> W {
    W::truncate(c.registers.extended.opmask[usize::from(c.decoded.operand[index].number & 7)])
}

/// Writes the mask register that operand 0 names, and clears what lies above.
#[inline(always)]
fn set_mask(c: &mut Context<'_>, value: u64) -> Outcome {
    c.registers.extended.opmask[usize::from(c.decoded.operand[0].number & 7)] = value;
    Outcome::Next
}

fn kmov<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value: W = match c.decoded.operand[1].kind {
        Kind::Other => mask(c, 1),
        _ => c.read(1)?,
    };
    match c.decoded.operand[0].kind {
        Kind::Other => return Ok(set_mask(c, value.zero_extend())),
        Kind::Memory => c.write(0, value)?,
        _ => c.write(0, value.zero_extend())?,
    }
    Ok(Outcome::Next)
}

fn binary<W: Width>(c: &mut Context<'_>, operation: impl Fn(W, W) -> W) -> Result<Outcome, Exception> {
    let result = operation(mask(c, 1), mask(c, 2));
    Ok(set_mask(c, result.zero_extend()))
}

fn kand<W: Width>(first: W, second: W) -> W {
    first & second
}

fn kandn<W: Width>(first: W, second: W) -> W {
    !first & second
}

fn kor<W: Width>(first: W, second: W) -> W {
    first | second
}

fn kxor<W: Width>(first: W, second: W) -> W {
    first ^ second
}

fn kxnor<W: Width>(first: W, second: W) -> W {
    !(first ^ second)
}

fn kadd<W: Width>(first: W, second: W) -> W {
    first.wrapping_add(second)
}

fn knot<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let result = !mask::<W>(c, 1);
    Ok(set_mask(c, result.zero_extend()))
}

/// The first source lies above the second.
fn kunpck<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (first, second) = (mask::<W>(c, 1).zero_extend(), mask::<W>(c, 2).zero_extend());
    Ok(set_mask(c, first << W::BITS | second))
}

/// All eight bits of the count matter.
fn shift<W: Width>(c: &mut Context<'_>, operation: impl Fn(W, u32) -> W) -> Result<Outcome, Exception> {
    let result = operation(mask(c, 1), u32::from(c.decoded.immediate as u8));
    Ok(set_mask(c, result.zero_extend()))
}

/// ZF if both are zero, CF if together they are all ones.
fn kortest<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let either = mask::<W>(c, 0) | mask(c, 1);
    c.set_status(flag(Rflags::ZF, either == W::default()) | flag(Rflags::CF, !either == W::default()));
    Ok(Outcome::Next)
}

/// ZF if no bit is in both, CF if none is in the second alone.
fn ktest<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (first, second) = (mask::<W>(c, 0), mask::<W>(c, 1));
    let (both, second_alone) = (first & second, !first & second);
    c.set_status(flag(Rflags::ZF, both == W::default()) | flag(Rflags::CF, second_alone == W::default()));
    Ok(Outcome::Next)
}

/// Clears the first sixteen vector registers above so many quadwords.
fn vzero(c: &mut Context<'_>, quadwords: usize) -> Outcome {
    for vector in c.registers.extended.vector.iter_mut().take(16) {
        vector.0[quadwords.min(8)..].fill(0);
    }
    Outcome::Next
}
