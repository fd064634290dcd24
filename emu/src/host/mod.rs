//! What only the host's own processor can compute or answer.

pub(crate) mod answers;
