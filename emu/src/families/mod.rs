//! The instruction set, a family a file: its rows, then the functions that do the work.

use crate::table::Row;

mod arith;
mod packed_arith;

/// The tables of all families.
pub(crate) static ALL: &[&[Row]] = &[arith::ROWS, packed_arith::ROWS];
