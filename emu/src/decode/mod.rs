//! What decoding finds out, as plain data: nothing here executes anything.

pub(crate) mod decoded;
pub(crate) mod flags;
pub(crate) mod form;
pub(crate) mod operand;
pub(crate) mod prefix;
pub(crate) mod processor;
mod touched;
