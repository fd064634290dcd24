//! Arithmetic and comparison of packed integers (SDM volume 1, sections 9.4 and 12.6).

use crate::decode::flags::Flags;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Paddb, Lanes<u8>, NONE, u8::wrapping_add),
    row!(Paddw, Lanes<u16>, NONE, u16::wrapping_add),
    row!(Paddd, Lanes<u32>, NONE, u32::wrapping_add),
    row!(Paddq, Lanes<u64>, NONE, u64::wrapping_add),
    row!(Paddsb, Lanes<i8>, NONE, i8::saturating_add),
    row!(Paddsw, Lanes<i16>, NONE, i16::saturating_add),
    row!(Paddusb, Lanes<u8>, NONE, u8::saturating_add),
    row!(Paddusw, Lanes<u16>, NONE, u16::saturating_add),
    row!(Psubb, Lanes<u8>, NONE, u8::wrapping_sub),
    row!(Psubw, Lanes<u16>, NONE, u16::wrapping_sub),
    row!(Psubd, Lanes<u32>, NONE, u32::wrapping_sub),
    row!(Psubq, Lanes<u64>, NONE, u64::wrapping_sub),
    row!(Psubsb, Lanes<i8>, NONE, i8::saturating_sub),
    row!(Psubsw, Lanes<i16>, NONE, i16::saturating_sub),
    row!(Psubusb, Lanes<u8>, NONE, u8::saturating_sub),
    row!(Psubusw, Lanes<u16>, NONE, u16::saturating_sub),
    row!(Pminsb, Lanes<i8>, NONE, i8::min),
    row!(Pminsw, Lanes<i16>, NONE, i16::min),
    row!(Pminsd, Lanes<i32>, NONE, i32::min),
    row!(Pminub, Lanes<u8>, NONE, u8::min),
    row!(Pminuw, Lanes<u16>, NONE, u16::min),
    row!(Pminud, Lanes<u32>, NONE, u32::min),
    row!(Pmaxsb, Lanes<i8>, NONE, i8::max),
    row!(Pmaxsw, Lanes<i16>, NONE, i16::max),
    row!(Pmaxsd, Lanes<i32>, NONE, i32::max),
    row!(Pmaxub, Lanes<u8>, NONE, u8::max),
    row!(Pmaxuw, Lanes<u16>, NONE, u16::max),
    row!(Pmaxud, Lanes<u32>, NONE, u32::max),
    row!(Pavgb, Lanes<u8>, NONE, pavgb),
    row!(Pavgw, Lanes<u16>, NONE, pavgw),
    row!(Pabsb, EachLane<i8>, NONE, i8::wrapping_abs),
    row!(Pabsw, EachLane<i16>, NONE, i16::wrapping_abs),
    row!(Pabsd, EachLane<i32>, NONE, i32::wrapping_abs),
    row!(Psignb, Lanes<i8>, NONE, |first: i8, second: i8| first.wrapping_mul(second.signum())),
    row!(Psignw, Lanes<i16>, NONE, |first: i16, second: i16| first.wrapping_mul(second.signum())),
    row!(Psignd, Lanes<i32>, NONE, |first: i32, second: i32| first.wrapping_mul(second.signum())),
    row!(Pmullw, Lanes<u16>, NONE, u16::wrapping_mul),
    row!(Pmulld, Lanes<u32>, NONE, u32::wrapping_mul),
    row!(Pmulhw, Lanes<i16>, NONE, pmulhw),
    row!(Pmulhuw, Lanes<u16>, NONE, pmulhuw),
    row!(Pmulhrsw, Lanes<i16>, NONE, pmulhrsw),
    row!(Pmuludq, Lanes<u64>, NONE, pmuludq),
    row!(Pmuldq, Lanes<i64>, NONE, pmuldq),
    row!(Pmaddwd, Lanes<i32>, NONE, pmaddwd),
    row!(Pmaddubsw, Lanes<i16>, NONE, pmaddubsw),
    row!(Psadbw, Lanes<u64>, NONE, psadbw),
    row!(Mpsadbw, Block128Imm<u8>, NONE, mpsadbw),
    row!(Phaddw, Blocks<u16>, NONE, phaddw),
    row!(Phaddd, Blocks<u32>, NONE, phaddd),
    row!(Phaddsw, Blocks<i16>, NONE, phaddsw),
    row!(Phsubw, Blocks<u16>, NONE, phsubw),
    row!(Phsubd, Blocks<u32>, NONE, phsubd),
    row!(Phsubsw, Blocks<i16>, NONE, phsubsw),
    row!(Phminposuw, EachBlock128<u16>, NONE, phminposuw),
    row!(Pcmpeqb, Lanes<u8>, NONE, |first, second| if first == second { !0 } else { 0 }),
    row!(Pcmpeqw, Lanes<u16>, NONE, |first, second| if first == second { !0 } else { 0 }),
    row!(Pcmpeqd, Lanes<u32>, NONE, |first, second| if first == second { !0 } else { 0 }),
    row!(Pcmpeqq, Lanes<u64>, NONE, |first, second| if first == second { !0 } else { 0 }),
    row!(Pcmpgtb, Lanes<i8>, NONE, |first, second| if first > second { !0 } else { 0 }),
    row!(Pcmpgtw, Lanes<i16>, NONE, |first, second| if first > second { !0 } else { 0 }),
    row!(Pcmpgtd, Lanes<i32>, NONE, |first, second| if first > second { !0 } else { 0 }),
    row!(Pcmpgtq, Lanes<i64>, NONE, |first, second| if first > second { !0 } else { 0 }),
];

#[inline(always)]
fn pavgb(first: u8, second: u8) -> u8 {
    (u16::from(first) + u16::from(second)).div_ceil(2) as u8
}

#[inline(always)]
fn pavgw(first: u16, second: u16) -> u16 {
    (u32::from(first) + u32::from(second)).div_ceil(2) as u16
}

#[inline(always)]
fn pmulhw(first: i16, second: i16) -> i16 {
    ((i32::from(first) * i32::from(second)) >> 16) as i16
}

#[inline(always)]
fn pmulhuw(first: u16, second: u16) -> u16 {
    ((u32::from(first) * u32::from(second)) >> 16) as u16
}

#[inline(always)]
fn pmulhrsw(first: i16, second: i16) -> i16 {
    ((((i32::from(first) * i32::from(second)) >> 14) + 1) >> 1) as i16
}

#[inline(always)]
fn pmuludq(first: u64, second: u64) -> u64 {
    u64::from(first as u32) * u64::from(second as u32)
}

#[inline(always)]
fn pmuldq(first: i64, second: i64) -> i64 {
    i64::from(first as i32) * i64::from(second as i32)
}

/// Only four products of -32768 by itself overflow the sum, which then wraps around.
#[inline(always)]
fn pmaddwd(first: i32, second: i32) -> i32 {
    let low = i32::from(first as i16) * i32::from(second as i16);
    (first >> 16).wrapping_mul(second >> 16).wrapping_add(low)
}

/// The first source's bytes are unsigned, the second's are signed.
#[inline(always)]
fn pmaddubsw(first: i16, second: i16) -> i16 {
    let low = i32::from(first as u8) * i32::from(second as i8);
    let high = i32::from(first as u16 >> 8) * i32::from(second >> 8);
    (low + high).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

#[inline(always)]
fn psadbw(first: u64, second: u64) -> u64 {
    let pairs = first.to_le_bytes().into_iter().zip(second.to_le_bytes());
    pairs.map(|(first, second)| u64::from(first.abs_diff(second))).sum()
}

/// Four bytes of the second source, against those at eight offsets in the first.
#[inline(always)]
fn mpsadbw(first: &[u8; 16], second: &[u8; 16], immediate: u8) -> [u8; 16] {
    let start = usize::from(immediate & 4);
    let of = 4 * usize::from(immediate & 3);
    bytemuck::cast(core::array::from_fn::<u16, 8, _>(|offset| {
        let difference = |byte: usize| first[(start + offset + byte) & 15].abs_diff(second[(of + byte) & 15]);
        (0..4).map(|byte| u16::from(difference(byte))).sum()
    }))
}

/// Neighbouring lanes of the first source, then of the second.
#[inline(always)]
pub(crate) fn horizontal<T: Copy, const N: usize>(
    first: &[T; N],
    second: &[T; N],
    operation: impl Fn(T, T) -> T,
) -> [T; N] {
    core::array::from_fn(|index| {
        let pair = 2 * index;
        let source = if pair < N { first } else { second };
        operation(source[pair % N], source[(pair + 1) % N])
    })
}

#[inline(always)]
fn phaddw<const N: usize>(first: &[u16; N], second: &[u16; N]) -> [u16; N] {
    horizontal(first, second, u16::wrapping_add)
}

#[inline(always)]
fn phaddd<const N: usize>(first: &[u32; N], second: &[u32; N]) -> [u32; N] {
    horizontal(first, second, u32::wrapping_add)
}

#[inline(always)]
fn phaddsw<const N: usize>(first: &[i16; N], second: &[i16; N]) -> [i16; N] {
    horizontal(first, second, i16::saturating_add)
}

#[inline(always)]
fn phsubw<const N: usize>(first: &[u16; N], second: &[u16; N]) -> [u16; N] {
    horizontal(first, second, u16::wrapping_sub)
}

#[inline(always)]
fn phsubd<const N: usize>(first: &[u32; N], second: &[u32; N]) -> [u32; N] {
    horizontal(first, second, u32::wrapping_sub)
}

#[inline(always)]
fn phsubsw<const N: usize>(first: &[i16; N], second: &[i16; N]) -> [i16; N] {
    horizontal(first, second, i16::saturating_sub)
}

/// The least word, the first of equals, and its number.
#[inline(always)]
fn phminposuw(source: &[u16; 8]) -> [u16; 8] {
    let mut least = (source[0], 0);
    for (index, word) in (0..).zip(source) {
        least = least.min((*word, index));
    }
    [least.0, least.1, 0, 0, 0, 0, 0, 0]
}
