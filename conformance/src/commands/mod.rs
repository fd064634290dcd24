//! The subcommands, one each.

pub(crate) mod bytes;
pub(crate) mod coverage;
pub(crate) mod diff;
pub(crate) mod everywhere;
pub(crate) mod litmus;
pub(crate) mod lockstep;
pub(crate) mod record;
pub(crate) mod replay;

use std::fmt;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use conformance::executor;
use serde::Serialize;

/// It ran, and something does not hold.
pub(crate) const DOES_NOT_HOLD: u8 = 1;
/// Wrong usage, or it could not run.
pub(crate) const COULD_NOT_RUN: u8 = 2;

/// Says on stderr why it could not run.
pub(crate) fn could_not_run(why: impl fmt::Display) -> ExitCode {
    // A closed stderr is the user's wish.
    let _ = writeln!(io::stderr(), "conformance: {why}");
    ExitCode::from(COULD_NOT_RUN)
}

/// The exit status of a command that has printed, or could not, whether what it checked holds.
pub(crate) fn conclude(printed: io::Result<()>, holds: bool) -> ExitCode {
    match printed {
        Ok(()) if holds => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(DOES_NOT_HOLD),
        Err(error) => could_not_run(format_args!("stdout: {error}")),
    }
}

/// `--executor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Executor {
    /// A tracer.
    Ptrace,
    /// Hardware breakpoints.
    Hardware,
    /// The process itself, into which this is loaded.
    #[value(name = "self")]
    Itself,
}

impl Executor {
    pub(crate) fn chosen(self) -> executor::Executor {
        match self {
            Executor::Ptrace => executor::Executor::Ptrace,
            Executor::Hardware => executor::Executor::Hardware,
            Executor::Itself => executor::Executor::Own,
        }
    }
}

/// Where commands print.
pub(crate) type Out<'a> = &'a mut BufWriter<StdoutLock<'static>>;

/// Runs `print` with stdout. That the reader has gone away is no failure: it has what it wanted.
pub(crate) fn to_stdout(print: impl FnOnce(Out<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match print(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints the one JSON document of a command.
pub(crate) fn print_json(document: &impl Serialize) -> io::Result<()> {
    to_stdout(|out| {
        serde_json::to_writer(&mut *out, document)?;
        writeln!(out)
    })
}

/// A seed that differs from run to run.
pub(crate) fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_000)
}
