//! Logic of whole vectors, which is the same for integers and floating point (SDM volume 1, section 9.4.5).

use core::ops::{BitAnd, BitOr, BitXor};

use crate::decode::flags::Flags;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!([Pand, Andps, Andpd, Vpand, Vpandq, Vandpd], Lanes<u64>, NONE, u64::bitand),
    row!([Pandn, Andnps, Andnpd, Vpandn, Vpandnq, Vandnpd], Lanes<u64>, NONE, and_not),
    row!([Por, Orps, Orpd, Vpor, Vporq, Vorpd], Lanes<u64>, NONE, u64::bitor),
    row!([Pxor, Xorps, Xorpd, Vpxor, Vpxorq, Vxorpd], Lanes<u64>, NONE, u64::bitxor),
    row!([Vpandd, Vandps], Lanes<u64>, NONE, u64::bitand).masked_by(4),
    row!([Vpandnd, Vandnps], Lanes<u64>, NONE, and_not).masked_by(4),
    row!([Vpord, Vorps], Lanes<u64>, NONE, u64::bitor).masked_by(4),
    row!([Vpxord, Vxorps], Lanes<u64>, NONE, u64::bitxor).masked_by(4),
    row!(Vpternlogd, TernaryImm<u64>, NONE, ternary).masked_by(4),
    row!(Vpternlogq, TernaryImm<u64>, NONE, ternary),
];

#[inline(always)]
fn and_not(first: u64, second: u64) -> u64 {
    !first & second
}

/// Each bit of the result is that of the immediate which the three bits of the sources count, the first highest.
#[inline(always)]
fn ternary(first: u64, second: u64, third: u64, immediate: u8) -> u64 {
    let of = |bit: u32, source: u64| if bit != 0 { source } else { !source };
    (0..8).filter(|minterm| immediate >> minterm & 1 != 0).fold(0, |bits, minterm| {
        bits | of(minterm & 4, first) & of(minterm & 2, second) & of(minterm & 1, third)
    })
}
