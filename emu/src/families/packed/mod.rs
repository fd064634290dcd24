//! Instructions on lanes of integers, or of bits whatever they mean.

use crate::run::row::Row;

pub(super) mod arith;
pub(super) mod crypto;
pub(super) mod insert_extract;
pub(super) mod logic;
pub(super) mod shift;
pub(super) mod shuffle;
pub(super) mod string_compare;
pub(super) mod vector_move;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[
    arith::ROWS,
    crypto::ROWS,
    insert_extract::ROWS,
    logic::ROWS,
    shift::ROWS,
    shuffle::ROWS,
    string_compare::ROWS,
    vector_move::ROWS,
];
