//! `conformance coverage`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use conformance::diff::{Plan, diff};
use conformance::report::{Count, Coverage};

use super::{Out, conclude, could_not_run, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many cases of each encoding are compared.
    #[arg(long, value_name = "N", default_value_t = 16)]
    cases: u64,
    /// What the cases are drawn from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let plan = Plan { cases: Some(arguments.cases.max(1)), seed: arguments.seed, ..Plan::default() };
    let report = match diff(&plan) {
        Ok(report) => report,
        Err(failure) => return could_not_run(failure),
    };
    let coverage = Coverage::of(&report);
    let printed = if arguments.json { print_json(&coverage) } else { to_stdout(|out| print(out, &coverage)) };
    conclude(printed, true)
}

fn print(out: Out<'_>, coverage: &Coverage) -> io::Result<()> {
    writeln!(
        out,
        "{:<24} {:>6} {:>9} {:>7} {:>9}",
        "CPUID feature", "codes", "emulated", "native", "verified"
    )?;
    for (feature, count) in &coverage.by_cpuid {
        line(out, feature, count)?;
    }
    line(out, "all", &coverage.all)
}

fn line(out: Out<'_>, name: &str, count: &Count) -> io::Result<()> {
    let Count { codes, emulated, native, verified } = count;
    writeln!(out, "{name:<24} {codes:>6} {emulated:>9} {native:>7} {verified:>9}")
}
