//! Instructions on lanes of integers, or of bits whatever they mean.

use crate::run::row::Row;

pub(super) mod arith;
pub(super) mod bits;
pub(super) mod broadcast;
pub(super) mod crypto;
pub(super) mod dot_product;
pub(super) mod gather;
pub(super) mod hash;
pub(super) mod insert_extract;
pub(super) mod logic;
pub(super) mod narrow;
pub(super) mod permute;
pub(super) mod shift;
pub(super) mod shuffle;
pub(super) mod sign;
pub(super) mod string_compare;
pub(super) mod vector_move;
pub(super) mod xop;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[
    arith::ROWS,
    bits::ROWS,
    broadcast::ROWS,
    crypto::ROWS,
    dot_product::ROWS,
    gather::ROWS,
    hash::ROWS,
    insert_extract::ROWS,
    logic::ROWS,
    narrow::ROWS,
    permute::ROWS,
    shift::ROWS,
    shuffle::ROWS,
    sign::ROWS,
    string_compare::ROWS,
    vector_move::ROWS,
    xop::ROWS,
];
