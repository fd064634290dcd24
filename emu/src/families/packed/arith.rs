//! Arithmetic and comparison of packed integers (SDM volume 1, sections 9.4 and 12.6).

use crate::decode::flags::Flags;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!([Paddb, Vpaddb], Lanes<u8>, NONE, u8::wrapping_add),
    row!([Paddw, Vpaddw], Lanes<u16>, NONE, u16::wrapping_add),
    row!([Paddd, Vpaddd], Lanes<u32>, NONE, u32::wrapping_add),
    row!([Paddq, Vpaddq], Lanes<u64>, NONE, u64::wrapping_add),
    row!([Paddsb, Vpaddsb], Lanes<i8>, NONE, i8::saturating_add),
    row!([Paddsw, Vpaddsw], Lanes<i16>, NONE, i16::saturating_add),
    row!([Paddusb, Vpaddusb], Lanes<u8>, NONE, u8::saturating_add),
    row!([Paddusw, Vpaddusw], Lanes<u16>, NONE, u16::saturating_add),
    row!([Psubb, Vpsubb], Lanes<u8>, NONE, u8::wrapping_sub),
    row!([Psubw, Vpsubw], Lanes<u16>, NONE, u16::wrapping_sub),
    row!([Psubd, Vpsubd], Lanes<u32>, NONE, u32::wrapping_sub),
    row!([Psubq, Vpsubq], Lanes<u64>, NONE, u64::wrapping_sub),
    row!([Psubsb, Vpsubsb], Lanes<i8>, NONE, i8::saturating_sub),
    row!([Psubsw, Vpsubsw], Lanes<i16>, NONE, i16::saturating_sub),
    row!([Psubusb, Vpsubusb], Lanes<u8>, NONE, u8::saturating_sub),
    row!([Psubusw, Vpsubusw], Lanes<u16>, NONE, u16::saturating_sub),
    row!([Pminsb, Vpminsb], Lanes<i8>, NONE, i8::min),
    row!([Pminsw, Vpminsw], Lanes<i16>, NONE, i16::min),
    row!([Pminsd, Vpminsd], Lanes<i32>, NONE, i32::min),
    row!([Pminub, Vpminub], Lanes<u8>, NONE, u8::min),
    row!([Pminuw, Vpminuw], Lanes<u16>, NONE, u16::min),
    row!([Pminud, Vpminud], Lanes<u32>, NONE, u32::min),
    row!([Pmaxsb, Vpmaxsb], Lanes<i8>, NONE, i8::max),
    row!([Pmaxsw, Vpmaxsw], Lanes<i16>, NONE, i16::max),
    row!([Pmaxsd, Vpmaxsd], Lanes<i32>, NONE, i32::max),
    row!([Pmaxub, Vpmaxub], Lanes<u8>, NONE, u8::max),
    row!([Pmaxuw, Vpmaxuw], Lanes<u16>, NONE, u16::max),
    row!([Pmaxud, Vpmaxud], Lanes<u32>, NONE, u32::max),
    row!(Vpminsq, Lanes<i64>, NONE, i64::min),
    row!(Vpminuq, Lanes<u64>, NONE, u64::min),
    row!(Vpmaxsq, Lanes<i64>, NONE, i64::max),
    row!(Vpmaxuq, Lanes<u64>, NONE, u64::max),
    row!([Pavgb, Vpavgb, Pavgusb], Lanes<u8>, NONE, pavgb),
    row!([Pavgw, Vpavgw], Lanes<u16>, NONE, pavgw),
    row!([Pabsb, Vpabsb], EachLane<i8>, NONE, i8::wrapping_abs),
    row!([Pabsw, Vpabsw], EachLane<i16>, NONE, i16::wrapping_abs),
    row!([Pabsd, Vpabsd], EachLane<i32>, NONE, i32::wrapping_abs),
    row!(Vpabsq, EachLane<i64>, NONE, i64::wrapping_abs),
    row!([Psignb, Vpsignb], Lanes<i8>, NONE, |first: i8, second: i8| first.wrapping_mul(second.signum())),
    row!([Psignw, Vpsignw], Lanes<i16>, NONE, |first: i16, second: i16| first.wrapping_mul(second.signum())),
    row!([Psignd, Vpsignd], Lanes<i32>, NONE, |first: i32, second: i32| first.wrapping_mul(second.signum())),
    row!([Pmullw, Vpmullw], Lanes<u16>, NONE, u16::wrapping_mul),
    row!([Pmulld, Vpmulld], Lanes<u32>, NONE, u32::wrapping_mul),
    row!(Vpmullq, Lanes<u64>, NONE, u64::wrapping_mul),
    row!([Pmulhw, Vpmulhw], Lanes<i16>, NONE, pmulhw),
    row!([Pmulhuw, Vpmulhuw], Lanes<u16>, NONE, pmulhuw),
    row!([Pmulhrsw, Vpmulhrsw], Lanes<i16>, NONE, pmulhrsw),
    row!([Pmuludq, Vpmuludq], Lanes<u64>, NONE, pmuludq),
    row!([Pmuldq, Vpmuldq], Lanes<i64>, NONE, pmuldq),
    row!([Pmaddwd, Vpmaddwd], Lanes<i32>, NONE, pmaddwd).whole(),
    row!([Pmaddubsw, Vpmaddubsw], Lanes<i16>, NONE, pmaddubsw).whole(),
    row!([Psadbw, Vpsadbw], Lanes<u64>, NONE, psadbw),
    row!([Mpsadbw, Vmpsadbw], Across<u16>, NONE, Two, mpsadbw),
    row!([Phaddw, Vphaddw], Blocks<u16>, NONE, phaddw),
    row!([Phaddd, Vphaddd], Blocks<u32>, NONE, phaddd),
    row!([Phaddsw, Vphaddsw], Blocks<i16>, NONE, phaddsw),
    row!([Phsubw, Vphsubw], Blocks<u16>, NONE, phsubw),
    row!([Phsubd, Vphsubd], Blocks<u32>, NONE, phsubd),
    row!([Phsubsw, Vphsubsw], Blocks<i16>, NONE, phsubsw),
    row!([Phminposuw, Vphminposuw], EachBlock128<u16>, NONE, phminposuw),
    row!([Pcmpeqb, Vpcmpeqb], Compare<u8>, NONE, u8::eq),
    row!([Pcmpeqw, Vpcmpeqw], Compare<u16>, NONE, u16::eq),
    row!([Pcmpeqd, Vpcmpeqd], Compare<u32>, NONE, u32::eq),
    row!([Pcmpeqq, Vpcmpeqq], Compare<u64>, NONE, u64::eq),
    row!([Pcmpgtb, Vpcmpgtb], Compare<i8>, NONE, i8::gt),
    row!([Pcmpgtw, Vpcmpgtw], Compare<i16>, NONE, i16::gt),
    row!([Pcmpgtd, Vpcmpgtd], Compare<i32>, NONE, i32::gt),
    row!([Pcmpgtq, Vpcmpgtq], Compare<i64>, NONE, i64::gt),
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

/// Four bytes of the second source, against those at eight offsets in the first; each block of two has three bits of
/// the immediate.
#[inline(always)]
fn mpsadbw([first, second, _]: [&[u16]; 3], index: usize, immediate: u8) -> u16 {
    let (block, offset) = (index & !7, index & 7);
    let immediate = usize::from(immediate >> (3 * (index >> 3 & 1)));
    let byte = |words: &[u16], at: usize| words[block + (at >> 1 & 7)].to_le_bytes()[at & 1];
    let difference = |at: usize| {
        byte(first, (immediate & 4) + offset + at).abs_diff(byte(second, 4 * (immediate & 3) + at))
    };
    (0..4).map(|at| u16::from(difference(at))).sum()
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
