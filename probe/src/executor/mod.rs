//! What performs a displaced instruction on behalf of a thread.

pub(crate) mod ptrace;
