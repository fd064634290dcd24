//! Threads in ptrace-stops.

pub(crate) mod affinity;
pub(crate) mod borrow;
pub(crate) mod failure;
pub(crate) mod faults;
pub(crate) mod mask;
pub(crate) mod memory;
pub(crate) mod registers;
pub(crate) mod stop;
pub(crate) mod sys;
pub(crate) mod xstate;
