//! The `conformance` command.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use conformance::diff::{self, Plan, Report};

/// Holds the emulator against the processor itself.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Compares every instruction that emu has with the processor, in random states.
    Diff(Diff),
}

#[derive(Args)]
struct Diff {
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

fn main() -> ExitCode {
    match Command::parse().what {
        What::Diff(arguments) => run_diff(&arguments),
    }
}

/// A seed that differs from run to run.
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_000)
}

fn run_diff(arguments: &Diff) -> ExitCode {
    let time = match arguments.seconds.map(Duration::try_from_secs_f64) {
        None => None,
        Some(Ok(time)) => Some(time),
        Some(Err(error)) => {
            eprintln!("conformance: --seconds: {error}");
            return ExitCode::from(2);
        }
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
        Err(failure) => {
            eprintln!("conformance: {failure}");
            return ExitCode::from(2);
        }
    };
    if arguments.json {
        match serde_json::to_string(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => {
                eprintln!("conformance: {error}");
                return ExitCode::from(2);
            }
        }
    } else {
        print_diff(&report, arguments.skipped);
    }
    ExitCode::from(u8::from(report.mismatches > 0))
}

fn print_diff(report: &Report, skipped: bool) {
    for mismatch in &report.first_mismatches {
        println!("{}: {}  ({})", mismatch.code, mismatch.instruction, mismatch.bytes);
        for line in &mismatch.state {
            println!("    {line}");
        }
        for line in &mismatch.differences {
            println!("  ! {line}");
        }
        println!("    $ {}\n", mismatch.reproduce);
    }
    if skipped {
        for skipped in &report.skipped {
            println!("{:<40} {}", skipped.code, skipped.reason);
        }
    }
    for (code, count) in &report.mismatches_by_code {
        println!("{code:<40} {count} mismatches");
    }
    println!(
        "{} codes, {} cases, {} of them faulting, {} mismatches; {} codes skipped, {} flags masked; seed {}",
        report.codes,
        report.cases,
        report.faulting_cases,
        report.mismatches,
        report.skipped.len(),
        report.masked_flags,
        report.seed,
    );
}
