//! The instruction set, a family a file: its rows, then the functions that do the work.

use crate::table::Row;

mod arith;
mod x87;

/// The tables of all families.
pub(crate) static ALL: &[&[Row]] = &[
    arith::ROWS,
    x87::arithmetic::ROWS,
    x87::compare::ROWS,
    x87::control::ROWS,
    x87::transcendental::ROWS,
    x87::transfer::ROWS,
];
