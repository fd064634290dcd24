//! The instruction set, a family a file: its rows, then the functions that do the work.

use crate::table::Row;

#[cfg(test)]
mod absent;
mod arith;
mod bits;
mod bmi;
mod branch;
mod cache;
mod data;
mod descriptor;
mod direct;
mod exchange;
mod far;
mod flags;
mod float_arith;
mod float_compare;
mod float_convert;
mod float_round;
mod identity;
mod muldiv;
mod mxcsr;
mod packed_arith;
mod segment;
mod shadow;
mod shift;
mod stack;
mod string;
mod system;
mod x87;

/// The tables of all families.
pub(crate) static ALL: &[&[Row]] = &[
    arith::ROWS,
    bits::ROWS,
    bmi::ROWS,
    cache::ROWS,
    descriptor::ROWS,
    far::ROWS,
    identity::ROWS,
    segment::ROWS,
    shadow::ROWS,
    system::ROWS,
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
    x87::state::ROWS,
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

pub(crate) use system::undefined;
