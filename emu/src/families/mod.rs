//! The instruction set, a family a file: its rows, then the functions that do the work.

use crate::table::Row;

#[cfg(test)]
mod absent;
#[cfg(test)]
mod absent_integer;
#[cfg(test)]
mod absent_vector;
mod arith;
mod bits;
mod bmi;
mod branch;
mod broadcast;
mod cache;
mod crypto;
mod data;
mod descriptor;
mod direct;
mod dot_product;
#[cfg(test)]
mod elements;
mod exchange;
mod far;
mod flags;
mod float_arith;
mod float_avx512;
mod float_compare;
mod float_convert;
mod float_convert_wide;
mod float_fused;
mod float_half;
mod float_round;
mod gather;
mod hash;
mod identity;
mod insert_extract;
mod mask;
mod mask_compare;
mod muldiv;
mod mxcsr;
mod narrow;
mod packed_arith;
mod packed_bits;
mod packed_logic;
mod packed_shift;
mod permute;
mod segment;
mod shadow;
mod shift;
mod shuffle;
mod sign;
mod stack;
mod string;
mod string_compare;
mod system;
mod vector_move;
mod vector_store;
mod x87;

/// The tables of all families.
pub(crate) static ALL: &[&[Row]] = &[
    arith::ROWS,
    bits::ROWS,
    bmi::ROWS,
    branch::ROWS,
    broadcast::ROWS,
    cache::ROWS,
    crypto::ROWS,
    data::ROWS,
    descriptor::ROWS,
    direct::ROWS,
    dot_product::ROWS,
    exchange::ROWS,
    far::ROWS,
    flags::ROWS,
    float_arith::ROWS,
    float_avx512::ROWS,
    float_compare::ROWS,
    float_convert::ROWS,
    float_convert_wide::ROWS,
    float_fused::ROWS,
    float_half::ROWS,
    float_round::ROWS,
    gather::ROWS,
    hash::ROWS,
    identity::ROWS,
    insert_extract::ROWS,
    mask::ROWS,
    mask::ADD,
    mask::AND,
    mask::ANDN,
    mask::OR,
    mask::XNOR,
    mask::XOR,
    muldiv::ROWS,
    mask_compare::ROWS,
    mxcsr::ROWS,
    narrow::ROWS,
    packed_arith::ROWS,
    packed_logic::ROWS,
    packed_bits::ROWS,
    packed_shift::ROWS,
    permute::ROWS,
    segment::ROWS,
    shadow::ROWS,
    shift::ROWS,
    shuffle::ROWS,
    sign::ROWS,
    stack::ROWS,
    string::ROWS,
    string_compare::ROWS,
    system::ROWS,
    vector_move::ROWS,
    vector_store::ROWS,
    x87::arithmetic::ROWS,
    x87::compare::ROWS,
    x87::control::ROWS,
    x87::extended::ROWS,
    x87::state::ROWS,
    x87::transcendental::ROWS,
    x87::transfer::ROWS,
];

pub(crate) use system::{native, undefined, undefined_unless_too_long};
