//! The subcommands, one each.

pub(crate) mod bytes;
pub(crate) mod coverage;
pub(crate) mod diff;
pub(crate) mod everywhere;
pub(crate) mod lockstep;

use std::process::ExitCode;

use serde::Serialize;

/// It ran, and something does not hold.
pub(crate) const DOES_NOT_HOLD: u8 = 1;
/// Wrong usage, or it could not run.
pub(crate) const COULD_NOT_RUN: u8 = 2;

/// Says on stderr why it could not run.
pub(crate) fn could_not_run(why: impl std::fmt::Display) -> ExitCode {
    eprintln!("conformance: {why}");
    ExitCode::from(COULD_NOT_RUN)
}

/// Prints the one JSON document of a command.
pub(crate) fn print_json(document: &impl Serialize) -> Result<(), serde_json::Error> {
    println!("{}", serde_json::to_string(document)?);
    Ok(())
}

/// A seed that differs from run to run.
pub(crate) fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_000)
}
