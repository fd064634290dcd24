//! AMD's 3DNow! (3DNow! Technology Manual, and APM volume 5): pairs of binary32 in MMX registers. They round to nearest
//! even, know neither infinities nor NaNs nor denormals, and raise nothing: what is too large becomes the largest number,
//! what is too small zero. What the manual calls undefined, of infinities and NaNs, is what comes of taking them for
//! numbers or of IEEE's rules.
//!
//! The approximations, PFRCP and PFRSQRT and the steps that go on from them, are defined by their precision only, and
//! have no rows.

use crate::decode::flags::Flags;
use crate::families::packed::arith::horizontal;
use crate::model::format::Single;
use crate::run::row::Row;
use crate::shape::row;
use crate::vector::soft::{self, Control};

const NONE: Flags = Flags::empty();
const FLOAT: Flags = Flags::FLOAT;

pub(super) static ROWS: &[Row] = &[
    row!(Pfadd, Lanes<u32>, FLOAT, add),
    row!(Pfsub, Lanes<u32>, FLOAT, subtract),
    row!(Pfsubr, Lanes<u32>, FLOAT, |first, second| subtract(second, first)),
    row!(Pfmul, Lanes<u32>, FLOAT, multiply),
    row!(Pfacc, Blocks<u32>, FLOAT, pfacc),
    row!(Pfnacc, Blocks<u32>, FLOAT, pfnacc),
    row!(Pfpnacc, Blocks<u32>, FLOAT, pfpnacc),
    row!(Pfmax, Lanes<u32>, FLOAT, |first, second| larger(first, second, order(first) < order(second))),
    row!(Pfmin, Lanes<u32>, FLOAT, |first, second| larger(first, second, order(second) < order(first))),
    row!(Pfcmpeq, Compare<u32>, FLOAT, |first: &u32, second: &u32| order(*first) == order(*second)),
    row!(Pfcmpge, Compare<u32>, FLOAT, |first: &u32, second: &u32| order(*first) >= order(*second)),
    row!(Pfcmpgt, Compare<u32>, FLOAT, |first: &u32, second: &u32| order(*first) > order(*second)),
    row!(Pf2id, EachLane<u32>, FLOAT, |source| f32::from_bits(source) as i32 as u32),
    row!(Pf2iw, EachLane<u32>, FLOAT, |source| f32::from_bits(source) as i16 as i32 as u32),
    row!(Pi2fd, EachLane<u32>, FLOAT, |source| truncated(source as i32)),
    row!(Pi2fw, EachLane<u32>, FLOAT, |source| truncated(i32::from(source as i16))),
    row!(Pswapd, EachBlock<u32>, NONE, pswapd),
    row!(Pmulhrw, Lanes<i16>, NONE, pmulhrw),
];

const SIGN: u32 = 1 << 31;
/// The exponent and the fraction of the largest number.
const LARGEST: u32 = 0x7f7f_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// A number, or zero in place of a denormal.
#[inline(always)]
fn flushed(number: u32) -> u32 {
    if number & INFINITY == 0 { number & SIGN } else { number }
}

/// The largest number in place of an infinity that came of numbers.
#[inline(always)]
fn saturated(result: u64) -> u32 {
    let result = result as u32;
    if result & !SIGN == INFINITY { result & SIGN | LARGEST } else { result }
}

/// A sum that is zero has the sign of the first source, but for zeros that are added.
fn add(first: u32, second: u32) -> u32 {
    let (first, second) = (flushed(first), flushed(second));
    if first == second ^ SIGN && first & !SIGN != 0 {
        return first & SIGN;
    }
    saturated(soft::add::<Single>(first.into(), second.into(), false, &mut Control::flushing()))
}

fn subtract(first: u32, second: u32) -> u32 {
    add(first, second ^ SIGN)
}

fn multiply(first: u32, second: u32) -> u32 {
    saturated(soft::multiply::<Single>(first.into(), second.into(), &mut Control::flushing()))
}

fn pfacc<const N: usize>(first: &[u32; N], second: &[u32; N]) -> [u32; N] {
    horizontal(first, second, add)
}

fn pfnacc<const N: usize>(first: &[u32; N], second: &[u32; N]) -> [u32; N] {
    horizontal(first, second, subtract)
}

/// The difference of the first source's numbers, and the sum of the second's.
fn pfpnacc<const N: usize>(first: &[u32; N], second: &[u32; N]) -> [u32; N] {
    let (differences, sums) = (pfnacc(first, second), pfacc(first, second));
    core::array::from_fn(|index| if index < N / 2 { differences[index] } else { sums[index] })
}

/// A number as an integer that compares as it does; denormals and both zeros are zero.
#[inline(always)]
fn order(number: u32) -> i32 {
    let magnitude = (flushed(number) & !SIGN) as i32;
    if number & SIGN == 0 { magnitude } else { -magnitude }
}

/// The second or the first; a zero is positive.
#[inline(always)]
fn larger(first: u32, second: u32, is_second: bool) -> u32 {
    let chosen = if is_second { second } else { first };
    if order(chosen) == 0 { 0 } else { chosen }
}

/// An integer as a number; digits that it has no room for are dropped.
fn truncated(integer: i32) -> u32 {
    let mut control = Control::flushing();
    control.rounding = 3;
    soft::from_integer::<Single>(integer.into(), &mut control) as u32
}

fn pswapd<const N: usize>(source: &[u32; N]) -> [u32; N] {
    core::array::from_fn(|index| source[index ^ 1])
}

/// The high half of the product, rounded.
#[inline(always)]
fn pmulhrw(first: i16, second: i16) -> i16 {
    ((i32::from(first) * i32::from(second) + 0x8000) >> 16) as i16
}
