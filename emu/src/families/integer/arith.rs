//! Addition, subtraction, comparison and logic (SDM volume 1, section 7.3.2 and 7.3.4).

use crate::decode::flags::Flags;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Add, Rmw, Flags::LOCK, add),
    row!(Or, Rmw, Flags::LOCK, or),
    row!(Adc, Rmw, Flags::LOCK, adc),
    row!(Sbb, Rmw, Flags::LOCK, sbb),
    row!(And, Rmw, Flags::LOCK, and),
    row!(Sub, Rmw, Flags::LOCK, sub),
    row!(Xor, Rmw, Flags::LOCK, xor),
    row!(Cmp, Compare, Flags::empty(), cmp),
    row!(Test, Compare, Flags::empty(), test),
    row!(Inc, Unary, Flags::LOCK, inc),
    row!(Dec, Unary, Flags::LOCK, dec),
    row!(Neg, Unary, Flags::LOCK, neg),
    row!(Not, Unary, Flags::LOCK, not),
];

/// SF, ZF and PF of a result.
#[inline(always)]
pub(crate) fn result_flags<W: Width>(result: W) -> Rflags {
    let value = result.zero_extend();
    let parity = (value as u8).count_ones() & 1 ^ 1;
    Rflags::from_bits_retain(
        u64::from(parity) << 2 | u64::from(value == 0) << 6 | (value >> (W::BITS - 1) & 1) << 7,
    )
}

/// The flags with the status flags replaced.
#[inline(always)]
fn with_status(flags: Rflags, status: Rflags) -> Rflags {
    flags.difference(Rflags::STATUS) | status
}

/// A flag if a condition holds.
#[inline(always)]
pub(crate) fn flag(flag: Rflags, set: bool) -> Rflags {
    Rflags::from_bits_retain(flag.bits() * u64::from(set))
}

/// The status flags of left + right + carry = result: carries out of the top bit and out of bit 3, and
/// signed overflow.
#[inline(always)]
pub(crate) fn addition_flags<W: Width>(left: W, right: W, result: W) -> Rflags {
    let carries = left & right | (left | right) & !result;
    let overflow = (left ^ result) & (right ^ result);
    result_flags(result) | carry_flags(carries, overflow)
}

/// The status flags of left - right - borrow = result.
#[inline(always)]
pub(crate) fn subtraction_flags<W: Width>(left: W, right: W, result: W) -> Rflags {
    let borrows = !left & right | (!left | right) & result;
    let overflow = (left ^ right) & (left ^ result);
    result_flags(result) | carry_flags(borrows, overflow)
}

#[inline(always)]
fn carry_flags<W: Width>(carries: W, overflow: W) -> Rflags {
    let (carries, overflow) = (carries.zero_extend(), overflow.zero_extend());
    let top = W::BITS - 1;
    Rflags::from_bits_retain(carries >> top & 1 | (carries >> 3 & 1) << 4 | (overflow >> top & 1) << 11)
}

#[inline(always)]
fn carry<W: Width>(flags: Rflags) -> W {
    W::truncate(flags.bits() & 1)
}

#[inline(always)]
pub(crate) fn add<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    let result = dst.wrapping_add(src);
    (result, with_status(flags, addition_flags(dst, src, result)))
}

#[inline(always)]
fn adc<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    let result = dst.wrapping_add(src).wrapping_add(carry(flags));
    (result, with_status(flags, addition_flags(dst, src, result)))
}

#[inline(always)]
fn sub<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    let result = dst.wrapping_sub(src);
    (result, with_status(flags, subtraction_flags(dst, src, result)))
}

#[inline(always)]
fn sbb<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    let result = dst.wrapping_sub(src).wrapping_sub(carry(flags));
    (result, with_status(flags, subtraction_flags(dst, src, result)))
}

/// AF is undefined after logic; processors clear it.
#[inline(always)]
fn logic<W: Width>(result: W, flags: Rflags) -> (W, Rflags) {
    (result, with_status(flags, result_flags(result)))
}

#[inline(always)]
fn and<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    logic(dst & src, flags)
}

#[inline(always)]
fn or<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    logic(dst | src, flags)
}

#[inline(always)]
fn xor<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    logic(dst ^ src, flags)
}

#[inline(always)]
pub(crate) fn cmp<W: Width>(left: W, right: W, flags: Rflags) -> Rflags {
    sub(left, right, flags).1
}

#[inline(always)]
fn test<W: Width>(left: W, right: W, flags: Rflags) -> Rflags {
    and(left, right, flags).1
}

/// INC and DEC leave CF.
#[inline(always)]
fn keep_carry<W: Width>((result, after): (W, Rflags), before: Rflags) -> (W, Rflags) {
    (result, after.difference(Rflags::CF) | before & Rflags::CF)
}

#[inline(always)]
fn inc<W: Width>(dst: W, flags: Rflags) -> (W, Rflags) {
    keep_carry(add(dst, W::truncate(1), flags), flags)
}

#[inline(always)]
fn dec<W: Width>(dst: W, flags: Rflags) -> (W, Rflags) {
    keep_carry(sub(dst, W::truncate(1), flags), flags)
}

#[inline(always)]
fn neg<W: Width>(dst: W, flags: Rflags) -> (W, Rflags) {
    sub(W::default(), dst, flags)
}

#[inline(always)]
fn not<W: Width>(dst: W, flags: Rflags) -> (W, Rflags) {
    (!dst, flags)
}
