//! The integer instructions of every program: arithmetic, bits, moves, control, strings.

use crate::run::row::Row;

pub(super) mod arith;
pub(super) mod bits;
pub(super) mod bmi;
pub(super) mod branch;
pub(super) mod data;
pub(super) mod direct;
pub(super) mod exchange;
pub(super) mod flags;
pub(super) mod muldiv;
pub(super) mod shift;
pub(super) mod stack;
pub(super) mod string;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[
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
