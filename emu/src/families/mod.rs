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
mod identity;
mod muldiv;
mod segment;
mod shadow;
mod shift;
mod stack;
mod string;
mod system;

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
    string::ROWS,
];

pub(crate) use system::undefined;
