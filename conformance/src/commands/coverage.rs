//! `conformance coverage`.

use std::process::ExitCode;

use clap::Args;
use conformance::diff::{Plan, diff};
use conformance::report::{Count, Coverage};

use super::{could_not_run, print_json};

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
    if arguments.json {
        return match print_json(&coverage) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => could_not_run(error),
        };
    }
    println!("{:<24} {:>6} {:>9} {:>7} {:>9}", "CPUID feature", "codes", "emulated", "native", "verified");
    for (feature, count) in &coverage.by_cpuid {
        line(feature, count);
    }
    line("all", &coverage.all);
    ExitCode::SUCCESS
}

fn line(name: &str, count: &Count) {
    println!("{name:<24} {:>6} {:>9} {:>7} {:>9}", count.codes, count.emulated, count.native, count.verified);
}
