//! What only the host's own processor can compute or answer.

pub(crate) mod answers;
pub(crate) mod sse;
pub(crate) mod x87;
