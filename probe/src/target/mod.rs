//! Processes as the kernel shows them: what is mapped, which files those are, and the bytes that breakpoints displace.

pub(crate) mod keys;
pub(crate) mod launch;
pub(crate) mod linker;
pub(crate) mod mapped;
pub mod maps;
pub(crate) mod pages;
pub(crate) mod procfs;
pub(crate) mod rseq;
pub(crate) mod space;
pub(crate) mod state;
