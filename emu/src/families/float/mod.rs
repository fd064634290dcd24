//! SSE floating point.

use crate::run::row::Row;

pub(super) mod arith;
pub(super) mod compare;
pub(super) mod convert;
pub(super) mod mxcsr;
pub(super) mod round;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[arith::ROWS, compare::ROWS, convert::ROWS, mxcsr::ROWS, round::ROWS];
