//! `stepless step`.

mod calls;
mod print;

use clap::Args;
use probe::run_on::Region;

use crate::args::Tracing;
pub(crate) use print::Printer;

/// What `step` has besides what `trace` has.
#[derive(Debug, Args)]
pub(crate) struct Stepping {
    /// At each hit, N instructions at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    instructions: Option<u64>,
    /// At each hit, until the function has returned; so it is without --instructions.
    #[arg(long)]
    until_return: bool,
    /// Show vector registers, too.
    #[arg(long)]
    vectors: bool,
    /// Show calls, returns, system calls and signals alone.
    #[arg(long)]
    calls: bool,
    #[command(flatten)]
    pub(crate) tracing: Tracing,
}

/// What is wanted of each hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    instructions: Option<u64>,
    until_return: bool,
    vectors: bool,
    calls: bool,
}

impl Stepping {
    pub(crate) fn steps(&self) -> Steps {
        Steps {
            instructions: self.instructions,
            until_return: self.until_return || self.instructions.is_none(),
            vectors: self.vectors,
            calls: self.calls,
        }
    }
}

impl Steps {
    /// What the warden does.
    pub(crate) fn region(self) -> Region {
        let mut region = Region::new();
        if let Some(most) = self.instructions {
            region = region.instructions(most);
        }
        if self.until_return {
            region = region.until_return();
        }
        if self.vectors {
            region = region.extended();
        }
        if self.calls { region } else { region.accesses() }
    }
}
