//! AMD's XOP (APM volume 4): selection, comparison, shifts and sums of packed integers, with four operands.

use crate::decode::flags::Flags;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Vpcmov, LanesWith<u64>, NONE, |a: u64, b: u64, selector: u64| a & selector | b & !selector),
    row!(Vpperm, Block128With<u8>, NONE, vpperm),
    row!(Vpermil2ps, Across<u32>, NONE, With, vpermil2ps),
    row!(Vpermil2pd, Across<u64>, NONE, With, vpermil2pd),
    row!(Vpcomb, CompareImm<i8>, NONE, relation),
    row!(Vpcomw, CompareImm<i16>, NONE, relation),
    row!(Vpcomd, CompareImm<i32>, NONE, relation),
    row!(Vpcomq, CompareImm<i64>, NONE, relation),
    row!(Vpcomub, CompareImm<u8>, NONE, relation),
    row!(Vpcomuw, CompareImm<u16>, NONE, relation),
    row!(Vpcomud, CompareImm<u32>, NONE, relation),
    row!(Vpcomuq, CompareImm<u64>, NONE, relation),
    row!(Vprotb, ByNumbers<u8>, NONE, |lane: u8, number| lane.rotate_left(distance(number, 8))),
    row!(Vprotw, ByNumbers<u16>, NONE, |lane: u16, number| lane.rotate_left(distance(number, 16))),
    row!(Vprotd, ByNumbers<u32>, NONE, |lane: u32, number| lane.rotate_left(distance(number, 32))),
    row!(Vprotq, ByNumbers<u64>, NONE, |lane: u64, number| lane.rotate_left(distance(number, 64))),
    row!(Vpshab, ByNumbers<i8>, NONE, |lane: i8, number| shift(lane.into(), number, 8) as i8),
    row!(Vpshaw, ByNumbers<i16>, NONE, |lane: i16, number| shift(lane.into(), number, 16) as i16),
    row!(Vpshad, ByNumbers<i32>, NONE, |lane: i32, number| shift(lane.into(), number, 32) as i32),
    row!(Vpshaq, ByNumbers<i64>, NONE, |lane: i64, number| shift(lane.into(), number, 64) as i64),
    row!(Vpshlb, ByNumbers<u8>, NONE, |lane: u8, number| shift(lane.into(), number, 8) as u8),
    row!(Vpshlw, ByNumbers<u16>, NONE, |lane: u16, number| shift(lane.into(), number, 16) as u16),
    row!(Vpshld, ByNumbers<u32>, NONE, |lane: u32, number| shift(lane.into(), number, 32) as u32),
    row!(Vpshlq, ByNumbers<u64>, NONE, |lane: u64, number| shift(lane.into(), number, 64) as u64),
    row!(Vpmacsww, LanesWith<i16>, NONE, |a: i16, b, sum| a.wrapping_mul(b).wrapping_add(sum)),
    row!(Vpmacssww, LanesWith<i16>, NONE, |a: i16, b: i16, sum: i16| {
        (i32::from(a) * i32::from(b) + i32::from(sum)).clamp(-0x8000, 0x7fff) as i16
    }),
    row!(Vpmacswd, LanesWith<i32>, NONE, |a: i32, b: i32, sum| ((a >> 16) * (b >> 16)).wrapping_add(sum)),
    row!(Vpmacsswd, LanesWith<i32>, NONE, |a: i32, b: i32, sum| ((a >> 16) * (b >> 16)).saturating_add(sum)),
    row!(Vpmacsdd, LanesWith<i32>, NONE, |a: i32, b, sum| a.wrapping_mul(b).wrapping_add(sum)),
    row!(Vpmacssdd, LanesWith<i32>, NONE, |a: i32, b: i32, sum: i32| {
        saturated(i64::from(a) * i64::from(b) + i64::from(sum))
    }),
    row!(Vpmacsdql, LanesWith<i64>, NONE, |a, b, sum| low_product(a, b).wrapping_add(sum)),
    row!(Vpmacssdql, LanesWith<i64>, NONE, |a, b, sum| low_product(a, b).saturating_add(sum)),
    row!(Vpmacsdqh, LanesWith<i64>, NONE, |a: i64, b: i64, sum| ((a >> 32) * (b >> 32)).wrapping_add(sum)),
    row!(Vpmacssdqh, LanesWith<i64>, NONE, |a: i64, b: i64, sum| ((a >> 32) * (b >> 32)).saturating_add(sum)),
    row!(Vpmadcswd, LanesWith<i32>, NONE, |a, b, sum: i32| (products(a, b) + i64::from(sum)) as i32),
    row!(Vpmadcsswd, LanesWith<i32>, NONE, |a, b, sum: i32| saturated(products(a, b) + i64::from(sum))),
    row!(Vphaddbw, EachLane<u16>, NONE, |lane: u16| sum::<2, 8>(lane.into(), signed) as u16),
    row!(Vphaddbd, EachLane<u32>, NONE, |lane: u32| sum::<4, 8>(lane.into(), signed) as u32),
    row!(Vphaddbq, EachLane<u64>, NONE, |lane| sum::<8, 8>(lane, signed)),
    row!(Vphaddwd, EachLane<u32>, NONE, |lane: u32| sum::<2, 16>(lane.into(), signed) as u32),
    row!(Vphaddwq, EachLane<u64>, NONE, |lane| sum::<4, 16>(lane, signed)),
    row!(Vphadddq, EachLane<u64>, NONE, |lane| sum::<2, 32>(lane, signed)),
    row!(Vphaddubw, EachLane<u16>, NONE, |lane: u16| sum::<2, 8>(lane.into(), unsigned) as u16),
    row!(Vphaddubd, EachLane<u32>, NONE, |lane: u32| sum::<4, 8>(lane.into(), unsigned) as u32),
    row!(Vphaddubq, EachLane<u64>, NONE, |lane| sum::<8, 8>(lane, unsigned)),
    row!(Vphadduwd, EachLane<u32>, NONE, |lane: u32| sum::<2, 16>(lane.into(), unsigned) as u32),
    row!(Vphadduwq, EachLane<u64>, NONE, |lane| sum::<4, 16>(lane, unsigned)),
    row!(Vphaddudq, EachLane<u64>, NONE, |lane| sum::<2, 32>(lane, unsigned)),
    row!(Vphsubbw, EachLane<u16>, NONE, |lane: u16| difference::<8>(lane.into()) as u16),
    row!(Vphsubwd, EachLane<u32>, NONE, |lane: u32| difference::<16>(lane.into()) as u32),
    row!(Vphsubdq, EachLane<u64>, NONE, difference::<32>),
];

/// Bytes of both sources, the second behind the first, each after one of eight operations of its own.
#[inline(always)]
fn vpperm(first: &[u8; 16], second: &[u8; 16], selectors: &[u8; 16]) -> [u8; 16] {
    selectors.map(|selector| {
        let source = if selector & 0x10 == 0 { first } else { second };
        let byte = source[usize::from(selector & 0xf)];
        match selector >> 5 {
            0 => byte,
            1 => !byte,
            2 => byte.reverse_bits(),
            3 => !byte.reverse_bits(),
            4 => 0,
            5 => 0xff,
            6 => ((byte as i8) >> 7) as u8,
            _ => !((byte as i8) >> 7) as u8,
        }
    })
}

/// Whether bit 3 of a selector makes a zero, of which the immediate says when.
#[inline(always)]
fn is_zeroed(selector: u32, immediate: u8) -> bool {
    immediate & 2 != 0 && (selector >> 3 & 1) as u8 != immediate & 1
}

/// Bits 0 and 1 of a selector number the lane of the same block of 128 bits, and bit 2 the source.
#[inline(always)]
fn vpermil2ps([first, second, selectors]: [&[u32]; 3], index: usize, immediate: u8) -> u32 {
    let selector = selectors[index];
    let source = if selector & 4 == 0 { first } else { second };
    if is_zeroed(selector, immediate) { 0 } else { source[index & !3 | selector as usize & 3] }
}

/// As [`vpermil2ps`], but bit 1 numbers the lane.
#[inline(always)]
fn vpermil2pd([first, second, selectors]: [&[u64]; 3], index: usize, immediate: u8) -> u64 {
    let selector = selectors[index] as u32;
    let source = if selector & 4 == 0 { first } else { second };
    if is_zeroed(selector, immediate) { 0 } else { source[index & !1 | (selector >> 1) as usize & 1] }
}

#[inline(always)]
fn relation<T: Ord>(first: T, second: T, immediate: u8) -> bool {
    match immediate & 7 {
        0 => first < second,
        1 => first <= second,
        2 => first > second,
        3 => first >= second,
        4 => first == second,
        5 => first != second,
        6 => false,
        _ => true,
    }
}

/// How far left, of so many bits: what is negative goes to the right.
#[inline(always)]
fn distance(number: i8, bits: u32) -> u32 {
    number as u32 & (bits - 1)
}

/// Shifted left, or right by what is negative; the number counts modulo the lane's bits.
#[inline(always)]
fn shift(lane: i128, number: i8, bits: u32) -> i128 {
    if number < 0 { lane >> distance(number.wrapping_neg(), bits) } else { lane << distance(number, bits) }
}

#[inline(always)]
fn saturated(sum: i64) -> i32 {
    sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

#[inline(always)]
fn low_product(first: i64, second: i64) -> i64 {
    i64::from(first as i32) * i64::from(second as i32)
}

/// The sum of the products of two words.
#[inline(always)]
fn products(first: i32, second: i32) -> i64 {
    let low = i64::from(first as i16) * i64::from(second as i16);
    low + i64::from(first >> 16) * i64::from(second >> 16)
}

/// Part `index` of so many bits.
#[inline(always)]
fn signed(lane: u64, bits: u32, index: u32) -> u64 {
    ((lane >> (bits * index) << (64 - bits)) as i64 >> (64 - bits)) as u64
}

/// Part `index` of so many bits.
#[inline(always)]
fn unsigned(lane: u64, bits: u32, index: u32) -> u64 {
    lane >> (bits * index) << (64 - bits) >> (64 - bits)
}

/// The sum of `PARTS` parts of `BITS` bits.
#[inline(always)]
fn sum<const PARTS: u32, const BITS: u32>(lane: u64, part: fn(u64, u32, u32) -> u64) -> u64 {
    (0..PARTS).fold(0, |sum: u64, index| sum.wrapping_add(part(lane, BITS, index)))
}

/// The first of two signed parts of `BITS` bits, less the second.
#[inline(always)]
fn difference<const BITS: u32>(lane: u64) -> u64 {
    signed(lane, BITS, 0).wrapping_sub(signed(lane, BITS, 1))
}
