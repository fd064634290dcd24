//! From a stop to the resume: sessions, the probes in them, hits, and the lives of threads and mappings.

pub(crate) mod builder;
pub(crate) mod call;
pub(crate) mod calls;
pub(crate) mod compat;
mod copies;
pub(crate) mod cover;
mod embryo;
pub mod event;
mod follow;
mod goroutine;
pub mod hit;
pub(crate) mod host;
mod kin;
pub(crate) mod leave;
mod lifecycle;
pub(crate) mod lost;
mod machine;
mod pause;
pub(crate) mod perform;
mod placement;
mod sequences;
pub(crate) mod session;
pub(crate) mod shared;
mod tail;
pub(crate) mod tracer;
mod trap;
mod workers;
