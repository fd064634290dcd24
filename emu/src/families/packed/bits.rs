//! Counts of bits, rotations, and shifts with a count for each element (SDM volume 1, sections 5.15.1 and 5.19).

use crate::decode::flags::Flags;
use crate::model::width::Width;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Vpsllvw, Lanes<u16>, NONE, left),
    row!(Vpsllvd, Lanes<u32>, NONE, left),
    row!(Vpsllvq, Lanes<u64>, NONE, left),
    row!(Vpsrlvw, Lanes<u16>, NONE, right),
    row!(Vpsrlvd, Lanes<u32>, NONE, right),
    row!(Vpsrlvq, Lanes<u64>, NONE, right),
    row!(Vpsravw, Lanes<i16>, NONE, |lane: i16, count: i16| lane >> (count as u16).min(15)),
    row!(Vpsravd, Lanes<i32>, NONE, |lane: i32, count: i32| lane >> (count as u32).min(31)),
    row!(Vpsravq, Lanes<i64>, NONE, |lane: i64, count: i64| lane >> (count as u64).min(63)),
    row!(Vprold, EachLaneImm<u32>, NONE, |lane: u32, count: u8| lane.rotate_left(u32::from(count))),
    row!(Vprolq, EachLaneImm<u64>, NONE, |lane: u64, count: u8| lane.rotate_left(u32::from(count))),
    row!(Vprord, EachLaneImm<u32>, NONE, |lane: u32, count: u8| lane.rotate_right(u32::from(count))),
    row!(Vprorq, EachLaneImm<u64>, NONE, |lane: u64, count: u8| lane.rotate_right(u32::from(count))),
    row!(Vprolvd, Lanes<u32>, NONE, u32::rotate_left),
    row!(Vprolvq, Lanes<u64>, NONE, |lane: u64, count: u64| lane.rotate_left(count as u32)),
    row!(Vprorvd, Lanes<u32>, NONE, u32::rotate_right),
    row!(Vprorvq, Lanes<u64>, NONE, |lane: u64, count: u64| lane.rotate_right(count as u32)),
    row!(Vpshldw, LanesImm<u16>, NONE, |high, low, count| double_left::<u16>(high, low, u64::from(count))),
    row!(Vpshldd, LanesImm<u32>, NONE, |high, low, count| double_left::<u32>(high, low, u64::from(count))),
    row!(Vpshldq, LanesImm<u64>, NONE, |high, low, count| double_left::<u64>(high, low, u64::from(count))),
    row!(Vpshrdw, LanesImm<u16>, NONE, |low, high, count| double_right::<u16>(low, high, u64::from(count))),
    row!(Vpshrdd, LanesImm<u32>, NONE, |low, high, count| double_right::<u32>(low, high, u64::from(count))),
    row!(Vpshrdq, LanesImm<u64>, NONE, |low, high, count| double_right::<u64>(low, high, u64::from(count))),
    row!(Vpshldvw, Ternary<u16>, NONE, |high, low, count| double_left::<u16>(high, low, u64::from(count))),
    row!(Vpshldvd, Ternary<u32>, NONE, |high, low, count| double_left::<u32>(high, low, u64::from(count))),
    row!(Vpshldvq, Ternary<u64>, NONE, double_left),
    row!(Vpshrdvw, Ternary<u16>, NONE, |low, high, count| double_right::<u16>(low, high, u64::from(count))),
    row!(Vpshrdvd, Ternary<u32>, NONE, |low, high, count| double_right::<u32>(low, high, u64::from(count))),
    row!(Vpshrdvq, Ternary<u64>, NONE, double_right),
    row!(Vpopcntb, EachLane<u8>, NONE, |lane: u8| lane.count_ones() as u8),
    row!(Vpopcntw, EachLane<u16>, NONE, |lane: u16| lane.count_ones() as u16),
    row!(Vpopcntd, EachLane<u32>, NONE, u32::count_ones),
    row!(Vpopcntq, EachLane<u64>, NONE, |lane: u64| u64::from(lane.count_ones())),
    row!(Vplzcntd, EachLane<u32>, NONE, u32::leading_zeros),
    row!(Vplzcntq, EachLane<u64>, NONE, |lane: u64| u64::from(lane.leading_zeros())),
    row!(Vpconflictd, Across<u32>, NONE, One, |[lanes, ..]: [&[u32]; 3], index, _| conflict(lanes, index)
        as u32),
    row!(Vpconflictq, Across<u64>, NONE, One, |[lanes, ..]: [&[u64]; 3], index, _| conflict(lanes, index)),
    row!(Vpmultishiftqb, Lanes<u64>, NONE, multishift).masked_by(1).whole(),
    row!(Vdbpsadbw, Block128Imm<u16>, NONE, dbpsadbw),
];

/// Zero if the count is the width or more.
#[inline(always)]
fn left<W: Width>(lane: W, count: W) -> W {
    lane.shift_left(count.zero_extend().min(64) as u32)
}

#[inline(always)]
fn right<W: Width>(lane: W, count: W) -> W {
    lane.shift_right(count.zero_extend().min(64) as u32)
}

/// The high half of both, shifted by the count modulo the width.
#[inline(always)]
fn double_left<W: Width>(high: W, low: W, count: u64) -> W {
    let count = count as u32 & (W::BITS - 1);
    high.shift_left(count) | low.shift_right(W::BITS - count)
}

/// The low half of both, shifted by the count modulo the width.
#[inline(always)]
fn double_right<W: Width>(low: W, high: W, count: u64) -> W {
    let count = count as u32 & (W::BITS - 1);
    low.shift_right(count) | high.shift_left(W::BITS - count)
}

/// A bit for each lane below that is equal.
#[inline(always)]
fn conflict<T: Copy + PartialEq>(lanes: &[T], index: usize) -> u64 {
    let equal = (0..).zip(&lanes[..index]).filter(|(_, lane)| **lane == lanes[index]);
    equal.fold(0, |bits, (below, _)| bits | 1 << (below & 63))
}

/// Eight bits from anywhere in the second source's quadword, which is a circle, for each byte of the first.
#[inline(always)]
fn multishift(counts: u64, quadword: u64) -> u64 {
    u64::from_le_bytes(counts.to_le_bytes().map(|count| quadword.rotate_right(u32::from(count)) as u8))
}

/// Doublewords of the second source that the immediate chooses, as bytes: four of them at one offset for each word,
/// against four of the first.
#[inline(always)]
fn dbpsadbw(first: &[u16; 8], second: &[u16; 8], immediate: u8) -> [u16; 8] {
    let first: &[u8; 16] = bytemuck::cast_ref(first);
    let second: &[u32; 4] = bytemuck::cast_ref(second);
    let chosen: [u32; 4] = core::array::from_fn(|index| second[usize::from(immediate >> (2 * index) & 3)]);
    let chosen: [u8; 16] = bytemuck::cast(chosen);
    core::array::from_fn(|word| {
        let (quadword, offset) = (8 * (word / 4), word & 3);
        let difference = |at: usize| {
            first[quadword + 4 * (offset / 2) + at].abs_diff(chosen[(quadword + offset + at) & 15])
        };
        (0..4).map(|at| u16::from(difference(at))).sum()
    })
}
