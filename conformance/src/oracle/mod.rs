//! The oracle: the processor itself, executing one instruction from a state that we choose.
//!
//! A child process executes batches of cases; see [`Oracle::run`]. What is mapped in it is in
//! [`places`].

mod affinity;
mod child;
mod cpu;
mod patience;
pub mod places;
mod runner;
mod shared;

pub use affinity::SharedCore;
pub use child::{Case, Error, Memory, Mode, Observed, Oracle, Patch, Place, Stop};
pub(crate) use child::{USER_CS, USER_SS};
pub use cpu::{has_fsgsbase, mxcsr_mask, permits_tiles, xsave_layout};
pub(crate) use patience::locks;
