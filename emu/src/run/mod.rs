//! An execution: what every row needs to perform an instruction, and the row that names what does.

pub(crate) mod context;
pub(crate) mod place;
pub(crate) mod row;
