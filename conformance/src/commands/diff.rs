//! `conformance diff`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use conformance::diff::{self, Plan};
use conformance::floating_point::{Shares, Traits};
use conformance::report::Report;

use super::{Out, conclude, could_not_run, fresh_seed, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only encodings with such a name, as iced-x86 names them; * and ? stand for anything.
    #[arg(long, value_name = "GLOB", default_value = "*")]
    code: String,
    /// How many cases of each encoding.
    #[arg(long, value_name = "N")]
    cases: Option<u64>,
    /// How long to go on drawing cases.
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// What the cases are drawn from; without it, a new one each time.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only the case with this number.
    #[arg(long, value_name = "N")]
    only: Option<u64>,
    /// How many mismatches to describe.
    #[arg(long, value_name = "N", default_value_t = 10)]
    show: usize,
    /// How many processes run at once; without it, one for each core.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Lists the encodings that were not compared, with why.
    #[arg(long)]
    skipped: bool,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let time = match arguments.seconds.map(Duration::try_from_secs_f64).transpose() {
        Ok(time) => time,
        Err(error) => return could_not_run(format_args!("--seconds: {error}")),
    };
    let mut plan = Plan {
        pattern: arguments.code.clone(),
        cases: arguments.cases,
        time,
        seed: arguments.seed.unwrap_or_else(fresh_seed),
        only: arguments.only,
        show: arguments.show,
        ..Plan::default()
    };
    if let Some(jobs) = arguments.jobs {
        plan.jobs = jobs;
    }
    let report = match diff::diff(&plan) {
        Ok(report) => report,
        Err(failure) => return could_not_run(failure),
    };
    let printed = if arguments.json {
        print_json(&report)
    } else {
        to_stdout(|out| print(out, &report, arguments.skipped))
    };
    conclude(printed, report.mismatches == 0)
}

fn print(out: Out<'_>, report: &Report, skipped: bool) -> io::Result<()> {
    for mismatch in report.first_mismatches.iter().chain(&report.first_endless) {
        writeln!(out, "{}: {}  ({})", mismatch.code, mismatch.instruction, mismatch.bytes)?;
        for line in &mismatch.state {
            writeln!(out, "    {line}")?;
        }
        for line in &mismatch.differences {
            writeln!(out, "  ! {line}")?;
        }
        if mismatch.differences.is_empty() {
            writeln!(out, "    does not end; the emulator leaves it to the thread")?;
        }
        writeln!(out, "    $ {}\n", mismatch.reproduce)?;
    }
    if skipped {
        for skipped in &report.skipped {
            writeln!(out, "{:<40} {}", skipped.code, skipped.reason)?;
        }
    }
    for (code, count) in &report.mismatches_by_code {
        writeln!(out, "{code:<40} {count} mismatches")?;
    }
    if report.endless_cases > 0 {
        writeln!(out, "{} cases did not end and were interrupted", report.endless_cases)?;
    }
    let floating = &report.floating_point;
    for (unit, shares) in [("SSE", &floating.mxcsr), ("x87", &floating.x87)] {
        print_shares(out, unit, shares)?;
    }
    if floating.all.cases > 0 {
        let percent = 100.0 * floating.overflow_where_possible;
        writeln!(out, "{percent:.1} % overflow, of the encodings that do")?;
    }
    writeln!(
        out,
        "{} codes, {} cases, {} of them faulting, {} mismatches; {} cases refused, {} codes skipped, \
         {} flags masked; seed {}",
        report.codes,
        report.cases,
        report.faulting_cases,
        report.mismatches,
        report.refused_cases,
        report.skipped.len(),
        report.masked_flags,
        report.seed,
    )
}

/// Three lines about the cases of a unit that compute on floating-point numbers.
fn print_shares(out: Out<'_>, unit: &str, shares: &Shares) -> io::Result<()> {
    if shares.cases == 0 {
        return Ok(());
    }
    writeln!(out, "{} cases of floating point, {unit}:", shares.cases)?;
    for (title, traits) in [
        ("operands", Traits::OPERANDS),
        ("raised", Traits::RAISED | Traits::UNMASKED_RAISED),
        ("control", Traits::ROUNDING | Traits::DAZ | Traits::FTZ | Traits::UNMASKED),
    ] {
        let shown: Vec<String> = traits
            .iter_names()
            .map(|(name, one)| {
                let name = name.to_lowercase().replace('_', " ");
                format!("{name} {:.1} %", 100.0 * shares.get(one))
            })
            .collect();
        writeln!(out, "    {title}: {}", shown.join(", "))?;
    }
    Ok(())
}
