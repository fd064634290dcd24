//! `conformance coverage`.

use std::collections::BTreeMap;
use std::fmt::Display;
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
    line(out, "all", &coverage.all)?;
    line(out, "of no processor of today", &coverage.obsolete.count)?;
    let not_emulated = coverage.not_emulated.iter().map(|skipped| (&skipped.reason, &skipped.code));
    list(out, "not emulated", not_emulated)?;
    let unverified = coverage.unverified.iter().map(|unverified| {
        let reason = match unverified.second_source {
            Some(source) => format!("{}; held by {source}", unverified.reason),
            None => unverified.reason.clone(),
        };
        (reason, &unverified.code)
    });
    list(out, "unverified", unverified)?;
    let obsolete = coverage.obsolete.not_emulated.iter().map(|skipped| (&skipped.reason, &skipped.code));
    list(out, "of no processor of today, not emulated", obsolete)
}

/// Codes by the reason why they are listed.
fn list<'a, R: Ord + Display>(
    out: Out<'_>,
    title: &str,
    listed: impl Iterator<Item = (R, &'a String)>,
) -> io::Result<()> {
    let mut by_reason: BTreeMap<R, Vec<&str>> = BTreeMap::new();
    for (reason, code) in listed {
        by_reason.entry(reason).or_default().push(code);
    }
    for (reason, codes) in by_reason {
        writeln!(out, "{title}: {} codes: {reason}", codes.len())?;
        for code in codes {
            writeln!(out, "    {code}")?;
        }
    }
    Ok(())
}

fn line(out: Out<'_>, name: &str, count: &Count) -> io::Result<()> {
    let Count { codes, emulated, native, verified } = count;
    writeln!(out, "{name:<24} {codes:>6} {emulated:>9} {native:>7} {verified:>9}")
}
