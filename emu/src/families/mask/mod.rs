//! Instructions on mask registers, and those whose result is one.

use crate::run::row::Row;

pub(super) mod compare;
pub(super) mod instructions;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[
    compare::ROWS,
    instructions::ROWS,
    instructions::ADD,
    instructions::AND,
    instructions::ANDN,
    instructions::OR,
    instructions::XNOR,
    instructions::XOR,
];
