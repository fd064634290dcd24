//! The instruction set, a family a file: its rows, then the functions that do the work.

use crate::table::Row;

mod arith;
mod branch;
mod data;
mod exchange;
mod flags;
mod float_arith;
mod float_compare;
mod float_convert;
mod float_round;
mod insert_extract;
mod muldiv;
mod mxcsr;
mod packed_arith;
mod packed_logic;
mod packed_shift;
mod shift;
mod shuffle;
mod stack;
mod string_compare;
mod vector_move;
mod x87;

/// The tables of all families.
pub(crate) static ALL: &[&[Row]] = &[
    arith::ROWS,
    branch::ROWS,
    data::ROWS,
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
    packed_logic::ROWS,
    packed_shift::ROWS,
    shuffle::ROWS,
    string_compare::ROWS,
    vector_move::ROWS,
    insert_extract::ROWS,
    float_arith::ROWS,
    float_compare::ROWS,
    float_convert::ROWS,
    float_round::ROWS,
    mxcsr::ROWS,
];
