//! Floating point in vector registers.

use crate::run::row::Row;

pub(super) mod arith;
pub(super) mod avx512;
pub(super) mod compare;
pub(super) mod convert;
pub(super) mod convert_wide;
pub(super) mod fused;
pub(super) mod half;
pub(super) mod mxcsr;
pub(super) mod round;
pub(super) mod three_d_now;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[
    arith::ROWS,
    avx512::ROWS,
    compare::ROWS,
    convert::ROWS,
    convert_wide::ROWS,
    fused::ROWS,
    half::ROWS,
    mxcsr::ROWS,
    round::ROWS,
    three_d_now::ROWS,
];
