//! `conformance bytes`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use conformance::bytes::{Choice, Plan, Report, search};

use super::{Out, conclude, could_not_run, fresh_seed, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How long to search at most.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    seconds: f64,
    /// Goes through all encodings instead of drawing bytes; once, if there is the time.
    #[arg(long)]
    systematic: bool,
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
    let time = match Duration::try_from_secs_f64(arguments.seconds) {
        Ok(time) => time,
        Err(error) => return could_not_run(format_args!("--seconds: {error}")),
    };
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let choice = if arguments.systematic { Choice::Systematic } else { Choice::Chance };
    let report = match search(&Plan { choice, time, strings: None, seed, show: arguments.show }) {
        Ok(report) => report,
        Err(failure) => return could_not_run(failure),
    };
    let printed = if arguments.json { print_json(&report) } else { to_stdout(|out| print(out, &report)) };
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
    let of = report.of.map_or_else(String::new, |of| format!(" of {of}"));
    writeln!(
        out,
        "{}{of} byte strings, {} accepted, {} invalid, {} refused; {} wrong, {} unknown to the decoder, \
         {} of them not explained; seed {}",
        report.tried,
        report.accepted,
        report.invalid,
        report.refused,
        report.wrong,
        report.unknown,
        report.unexplained,
        report.seed
    )
}
