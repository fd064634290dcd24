//! What only the host's own processor can compute, under the target's control words, or answer.

pub(crate) mod answers;
pub(crate) mod fma;
pub(crate) mod optional;
mod portable;
mod presence;
pub(crate) mod sse;
pub(crate) mod x87;
