//! What is computed at a hit, and of what type it is.

mod expression;
pub mod types;

pub use expression::{
    Binary, Circumstance, Expression, ExtendedRegister, Machine, MachineMut, Register, Unary, Undefined,
    Width, float_of_extended,
};
