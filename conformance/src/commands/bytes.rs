//! `conformance bytes`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use conformance::bytes::{Choice, Plan, Report, Shard, results, search};
use emu::Processor;

use super::{Out, conclude, could_not_run, fresh_seed, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How long to search at most; without it, 10 seconds, or as long as it takes to do the part that --shard
    /// names.
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// Goes through all encodings instead of drawing bytes; once, if there is the time.
    #[arg(long)]
    systematic: bool,
    /// Goes through this part of all encodings, such as 3/32: the third of 32.
    #[arg(long, value_name = "K/N", requires = "systematic")]
    shard: Option<Shard>,
    /// Puts what the part came to into conformance/data/bytes.csv.
    #[arg(long, requires = "shard")]
    record: bool,
    /// How many processes run at once; without it, one for each core.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// What the bytes are drawn from; without it, a new one each time.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many disagreements of each kind to list, explained and not explained.
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let shard = arguments.shard;
    let time = match (arguments.seconds.map(Duration::try_from_secs_f64).transpose(), shard) {
        (Ok(Some(time)), _) => time,
        (Ok(None), Some(_)) => Duration::MAX,
        (Ok(None), None) => Duration::from_secs(10),
        (Err(error), _) => return could_not_run(format_args!("--seconds: {error}")),
    };
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let choice = if arguments.systematic { Choice::Systematic } else { Choice::Chance };
    let mut plan = Plan { choice, shard, time, seed, show: arguments.show, ..Plan::default() };
    if let Some(jobs) = arguments.jobs {
        plan.jobs = jobs;
    }
    let report = match search(&plan) {
        Ok(report) => report,
        Err(failure) => return could_not_run(failure),
    };
    let printed = if arguments.json { print_json(&report) } else { to_stdout(|out| print(out, &report)) };
    if let Some(shard) = shard.filter(|_| arguments.record) {
        if report.of != Some(report.tried) {
            return could_not_run("the time was over before the part was done: nothing is recorded");
        }
        let file = results::file();
        if let Err(error) = results::record(&file, Processor::host(), shard, &report) {
            return could_not_run(format_args!("{}: {error}", file.display()));
        }
    }
    conclude(printed, report.unexplained == 0)
}

fn print(out: Out<'_>, report: &Report) -> io::Result<()> {
    for found in &report.disagreements {
        let explanation = found.explanation.unwrap_or("not explained");
        writeln!(
            out,
            "{:?} {}: {}\n    processor: {}\n    {explanation}",
            found.kind, found.bytes, found.emulator, found.processor
        )?;
    }
    if report.endless > 0 {
        writeln!(out, "{} that are left to the thread did not end", report.endless)?;
    }
    let of = report.of.map_or_else(String::new, |of| format!(" of {of}"));
    writeln!(
        out,
        "{}{of} byte strings, {} accepted, {} invalid, {} refused; {} of another length, {} of another effect, \
         {} unknown to the decoder, {} unknown to the processor; {} explained, {} not; seed {}",
        report.tried,
        report.accepted,
        report.invalid,
        report.refused,
        report.length,
        report.execution,
        report.unknown,
        report.missing,
        report.explained,
        report.unexplained,
        report.seed
    )
}
