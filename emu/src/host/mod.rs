//! Arithmetic on the host's own units, under the target's control words.

pub(crate) mod crypto;
mod portable;
pub(crate) mod sse;
pub(crate) mod x87;
