//! The instruction set, a family a file: its rows, then the functions that do the work.

use crate::table::Row;

mod arith;
mod bits;
mod bmi;
mod branch;
mod data;
mod direct;
mod exchange;
mod flags;
mod muldiv;
mod shift;
mod stack;
mod string;

/// The tables of all families.
pub(crate) static ALL: &[&[Row]] = &[
    arith::ROWS,
    bits::ROWS,
    bmi::ROWS,
    branch::ROWS,
    data::ROWS,
    direct::ROWS,
    exchange::ROWS,
    flags::ROWS,
    muldiv::ROWS,
    shift::ROWS,
    stack::ROWS,
    string::ROWS,
];
