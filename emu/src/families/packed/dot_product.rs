//! Sums of products that are added to the destination: VNNI and IFMA (SDM volume 1, section 5.19).

use crate::decode::flags::Flags;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Vpdpbusd, Ternary<u32>, NONE, |sum, a, b| wrapping(sum, bytes(a, unsigned, b, signed))),
    row!(Vpdpbusds, Ternary<u32>, NONE, |sum, a, b| saturating(sum, bytes(a, unsigned, b, signed))),
    row!(Vpdpbssd, Ternary<u32>, NONE, |sum, a, b| wrapping(sum, bytes(a, signed, b, signed))),
    row!(Vpdpbssds, Ternary<u32>, NONE, |sum, a, b| saturating(sum, bytes(a, signed, b, signed))),
    row!(Vpdpbsud, Ternary<u32>, NONE, |sum, a, b| wrapping(sum, bytes(a, signed, b, unsigned))),
    row!(Vpdpbsuds, Ternary<u32>, NONE, |sum, a, b| saturating(sum, bytes(a, signed, b, unsigned))),
    row!(Vpdpbuud, Ternary<u32>, NONE, |sum, a, b| wrapping(sum, bytes(a, unsigned, b, unsigned))),
    row!(Vpdpbuuds, Ternary<u32>, NONE, |sum, a, b| saturating_unsigned(
        sum,
        bytes(a, unsigned, b, unsigned)
    )),
    row!(Vpdpwssd, Ternary<u32>, NONE, |sum, a, b| wrapping(sum, words(a, signed_word, b, signed_word))),
    row!(Vpdpwssds, Ternary<u32>, NONE, |sum, a, b| saturating(sum, words(a, signed_word, b, signed_word))),
    row!(Vpdpwsud, Ternary<u32>, NONE, |sum, a, b| wrapping(sum, words(a, signed_word, b, unsigned_word))),
    row!(Vpdpwsuds, Ternary<u32>, NONE, |sum, a, b| saturating(sum, words(a, signed_word, b, unsigned_word))),
    row!(Vpdpwusd, Ternary<u32>, NONE, |sum, a, b| wrapping(sum, words(a, unsigned_word, b, signed_word))),
    row!(Vpdpwusds, Ternary<u32>, NONE, |sum, a, b| saturating(sum, words(a, unsigned_word, b, signed_word))),
    row!(Vpdpwuud, Ternary<u32>, NONE, |sum, a, b| wrapping(sum, words(a, unsigned_word, b, unsigned_word))),
    row!(Vpdpwuuds, Ternary<u32>, NONE, |sum, a, b| {
        saturating_unsigned(sum, words(a, unsigned_word, b, unsigned_word))
    }),
    row!(Vpmadd52luq, Ternary<u64>, NONE, |sum: u64, a, b| sum.wrapping_add(product(a, b) as u64 & LOW_52)),
    row!(Vpmadd52huq, Ternary<u64>, NONE, |sum: u64, a, b| sum.wrapping_add((product(a, b) >> 52) as u64)),
];

#[inline(always)]
fn unsigned(byte: u8) -> i64 {
    i64::from(byte)
}

#[inline(always)]
fn signed(byte: u8) -> i64 {
    i64::from(byte as i8)
}

#[inline(always)]
fn unsigned_word(word: u16) -> i64 {
    i64::from(word)
}

#[inline(always)]
fn signed_word(word: u16) -> i64 {
    i64::from(word as i16)
}

/// The sum of the products of four bytes.
#[inline(always)]
fn bytes(first: u32, of_first: fn(u8) -> i64, second: u32, of_second: fn(u8) -> i64) -> i64 {
    let pairs = first.to_le_bytes().into_iter().zip(second.to_le_bytes());
    pairs.map(|(first, second)| of_first(first) * of_second(second)).sum()
}

/// The sum of the products of two words.
#[inline(always)]
fn words(first: u32, of_first: fn(u16) -> i64, second: u32, of_second: fn(u16) -> i64) -> i64 {
    of_first(first as u16) * of_second(second as u16)
        + of_first((first >> 16) as u16) * of_second((second >> 16) as u16)
}

#[inline(always)]
fn wrapping(sum: u32, products: i64) -> u32 {
    sum.wrapping_add(products as u32)
}

#[inline(always)]
fn saturating(sum: u32, products: i64) -> u32 {
    (i64::from(sum as i32) + products).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32
}

#[inline(always)]
fn saturating_unsigned(sum: u32, products: i64) -> u32 {
    (i64::from(sum) + products).clamp(0, i64::from(u32::MAX)) as u32
}

const LOW_52: u64 = (1 << 52) - 1;

/// Of the low 52 bits.
#[inline(always)]
fn product(first: u64, second: u64) -> u128 {
    u128::from(first & LOW_52) * u128::from(second & LOW_52)
}
