//! Shifts of packed integers and of whole vectors (SDM volume 1, section 9.4.6).

use crate::decode::flags::Flags;
use crate::model::lane::Xmm;
use crate::model::width::Width;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!([Psllw, Vpsllw], LaneShift<u16>, NONE, left),
    row!([Pslld, Vpslld], LaneShift<u32>, NONE, left),
    row!([Psllq, Vpsllq], LaneShift<u64>, NONE, left),
    row!([Psrlw, Vpsrlw], LaneShift<u16>, NONE, right),
    row!([Psrld, Vpsrld], LaneShift<u32>, NONE, right),
    row!([Psrlq, Vpsrlq], LaneShift<u64>, NONE, right),
    row!([Psraw, Vpsraw], LaneShift<i16>, NONE, |lane: i16, count: u64| lane >> count.min(15)),
    row!([Psrad, Vpsrad], LaneShift<i32>, NONE, |lane: i32, count: u64| lane >> count.min(31)),
    row!(Vpsraq, LaneShift<i64>, NONE, |lane: i64, count: u64| lane >> count.min(63)),
    row!([Pslldq, Vpslldq], EachBlock128Imm<u64>, NONE, pslldq),
    row!([Psrldq, Vpsrldq], EachBlock128Imm<u64>, NONE, psrldq),
];

/// Zero if the count is the width or more.
#[inline(always)]
fn left<W: Width>(lane: W, count: u64) -> W {
    lane.shift_left(count.min(64) as u32)
}

#[inline(always)]
fn right<W: Width>(lane: W, count: u64) -> W {
    lane.shift_right(count.min(64) as u32)
}

/// By as many bytes as the immediate says.
#[inline(always)]
fn pslldq(block: &Xmm, count: u8) -> Xmm {
    bytemuck::cast(bytemuck::cast::<Xmm, u128>(*block).checked_shl(8 * u32::from(count)).unwrap_or(0))
}

#[inline(always)]
fn psrldq(block: &Xmm, count: u8) -> Xmm {
    bytemuck::cast(bytemuck::cast::<Xmm, u128>(*block).checked_shr(8 * u32::from(count)).unwrap_or(0))
}
