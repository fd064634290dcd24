//! Multiplication, division and the conversions before them (SDM volume 1, section 7.3.2).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::families::integer::arith::flag;
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Destination, Imm, Mem, Reg, Source};
use crate::run::row::Row;
use crate::run::row::by_width;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Mul, Wide, Flags::empty(), mul),
    row!(Imul, Select, Flags::empty(), select_imul),
    row!(Div, Wide, Flags::empty(), div),
    row!(Idiv, Wide, Flags::empty(), idiv),
    row!(Cbw, Whole, Flags::empty(), extend_accumulator::<u8, u16>),
    row!(Cwde, Whole, Flags::empty(), extend_accumulator::<u16, u32>),
    row!(Cdqe, Whole, Flags::empty(), extend_accumulator::<u32, u64>),
    row!(Cwd, Whole, Flags::empty(), sign_to_rdx::<u16>),
    row!(Cdq, Whole, Flags::empty(), sign_to_rdx::<u32>),
    row!(Cqo, Whole, Flags::empty(), sign_to_rdx::<u64>),
];

/// CF and OF say that the upper half counts. The other status flags are undefined.
#[inline(always)]
fn overflow_flags(c: &mut Context<'_>, overflow: bool) {
    let kept = c.registers.rflags.difference(Rflags::CF | Rflags::OF);
    c.registers.rflags = kept | flag(Rflags::CF | Rflags::OF, overflow);
}

/// The double-width value in AX, or in DX:AX and its wider kin.
#[inline(always)]
fn double_accumulator<W: Width>(c: &Context<'_>) -> u128 {
    if W::BITS == 8 {
        return u128::from(c.general::<u16>(gpr::RAX));
    }
    let low = c.general::<W>(gpr::RAX).zero_extend();
    let high = c.general::<W>(gpr::RDX).zero_extend();
    u128::from(high) << W::BITS | u128::from(low)
}

/// Writes the halves of AX, or of DX:AX and its wider kin.
#[inline(always)]
fn set_double_accumulator<W: Width>(c: &mut Context<'_>, low: W, high: W) {
    if W::BITS == 8 {
        let both = high.zero_extend() << 8 | low.zero_extend();
        c.set_general(gpr::RAX, both as u16);
    } else {
        c.set_general(gpr::RAX, low);
        c.set_general(gpr::RDX, high);
    }
}

fn mul<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let src = c.read::<W>(0)?;
    let accumulator = c.general::<W>(gpr::RAX);
    let product = u128::from(accumulator.zero_extend()) * u128::from(src.zero_extend());
    let high = W::truncate_wide(product >> W::BITS);
    set_double_accumulator(c, W::truncate_wide(product), high);
    overflow_flags(c, high != W::default());
    Ok(Outcome::Next)
}

fn select_imul(form: &Form<'_>) -> Option<Execute> {
    match (form.instruction.op_count(), form.shape(1)) {
        (1, _) => by_width!(form.size(0), imul_double),
        (2, Shape::Register) => by_width!(form.size(0), imul, <Reg<0>, Reg<1>>),
        (2, Shape::Memory) => by_width!(form.size(0), imul, <Reg<0>, Mem>),
        (3, Shape::Register) => by_width!(form.size(0), imul, <Reg<1>, Imm>),
        (3, Shape::Memory) => by_width!(form.size(0), imul, <Mem, Imm>),
        _ => None,
    }
}

/// The product of two signed numbers, and whether it does not fit the width.
#[inline(always)]
fn signed_product<W: Width>(left: W, right: W) -> (i128, bool) {
    let product = i128::from(left.signed()) * i128::from(right.signed());
    (product, i128::from(W::truncate_wide(product as u128).signed()) != product)
}

fn imul_double<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let src = c.read::<W>(0)?;
    let (product, overflow) = signed_product(c.general::<W>(gpr::RAX), src);
    let high = W::truncate_wide((product >> W::BITS) as u128);
    set_double_accumulator(c, W::truncate_wide(product as u128), high);
    overflow_flags(c, overflow);
    Ok(Outcome::Next)
}

fn imul<W: Width, L: Source, R: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (left, right) = (L::read::<W>(c)?, R::read::<W>(c)?);
    let (product, overflow) = signed_product(left, right);
    Reg::<0>::write(c, W::truncate_wide(product as u128))?;
    overflow_flags(c, overflow);
    Ok(Outcome::Next)
}

/// The status flags are undefined after a division.
fn div<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let divisor = u128::from(c.read::<W>(0)?.zero_extend());
    let dividend = double_accumulator::<W>(c);
    let quotient = dividend.checked_div(divisor).ok_or(Exception::DivideError)?;
    if quotient >> W::BITS != 0 {
        return Err(Exception::DivideError);
    }
    let remainder = dividend - quotient * divisor;
    set_double_accumulator(c, W::truncate_wide(quotient), W::truncate_wide(remainder));
    Ok(Outcome::Next)
}

fn idiv<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let divisor = i128::from(c.read::<W>(0)?.signed());
    let unused = 128 - 2 * W::BITS;
    let dividend = (double_accumulator::<W>(c) << unused) as i128 >> unused;
    let quotient = dividend.checked_div(divisor).ok_or(Exception::DivideError)?;
    let low = W::truncate_wide(quotient as u128);
    if i128::from(low.signed()) != quotient {
        return Err(Exception::DivideError);
    }
    let remainder = dividend.wrapping_sub(quotient.wrapping_mul(divisor));
    set_double_accumulator(c, low, W::truncate_wide(remainder as u128));
    Ok(Outcome::Next)
}

/// CBW, CWDE, CDQE.
fn extend_accumulator<N: Width, W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = c.general::<N>(gpr::RAX).sign_extend();
    c.set_general(gpr::RAX, W::truncate(value));
    Ok(Outcome::Next)
}

/// CWD, CDQ, CQO.
fn sign_to_rdx<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let sign = c.general::<W>(gpr::RAX).signed() >> 63;
    c.set_general(gpr::RDX, W::truncate(sign as u64));
    Ok(Outcome::Next)
}
