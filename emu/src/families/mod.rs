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
mod float_arith;
mod float_compare;
mod float_convert;
mod float_round;
mod muldiv;
mod mxcsr;
mod packed_arith;
mod shift;
mod stack;
mod string;
mod x87;

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
    x87::arithmetic::ROWS,
    x87::compare::ROWS,
    x87::control::ROWS,
    x87::transcendental::ROWS,
    x87::transfer::ROWS,
    packed_arith::ROWS,
    float_arith::ROWS,
    float_compare::ROWS,
    float_convert::ROWS,
    float_round::ROWS,
    mxcsr::ROWS,
    string::ROWS,
];
