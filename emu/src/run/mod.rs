//! An execution: what every row needs to perform an instruction, and the row that names what does.

pub(crate) mod context;
mod elements;
pub(crate) mod phases;
pub(crate) mod place;
pub(crate) mod row;
