//! What instructions work on and what becomes of them: registers, memory, formats of numbers, exceptions.

pub mod registers;
pub mod xsave;

pub(crate) mod condition;
pub(crate) mod exception;
pub(crate) mod flat;
pub(crate) mod format;
pub(crate) mod lane;
pub(crate) mod memory;
mod mmx;
pub(crate) mod outcome;
pub(crate) mod refusal;
pub(crate) mod tiles;
pub(crate) mod touches;
pub(crate) mod width;
pub(crate) mod x87;
