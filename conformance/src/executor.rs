//! What performs displaced instructions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use probe::locate::{Locate, LocateError, Site};
use probe::maps::Maps;

/// How probes are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Executor {
    /// By INT3, for a tracer.
    #[default]
    Ptrace,
    /// By hardware breakpoints, four at a time.
    Hardware,
    /// By INT3, or jumps where they are safe, for the program itself, into which this library is loaded.
    Own,
}

/// How many hardware breakpoints a thread has.
pub(crate) const AT_A_TIME: usize = 4;

/// Some of the sites of another place: as many as there are hardware breakpoints.
pub(crate) struct Window<L> {
    pub(crate) all: L,
    /// The index of the first.
    pub(crate) from: usize,
    /// How many there are in all, once that is known.
    pub(crate) total: Arc<AtomicUsize>,
}

impl<L: Locate> Locate for Window<L> {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        let sites = self.all.locate(maps)?;
        self.total.store(sites.len(), Ordering::Relaxed);
        Ok(sites.into_iter().skip(self.from).take(AT_A_TIME).collect())
    }

    fn is_by_hardware(&self) -> bool {
        true
    }
}
