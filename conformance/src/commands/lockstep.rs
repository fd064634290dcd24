//! `conformance lockstep`.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode};

use clap::Args;
use conformance::lockstep::{self, Report};
use iced_x86::EncodingKind;

use super::{Out, conclude, could_not_run, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Stops after so many steps.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Lets the emulator run about so many instructions ahead of the thread, and compares there: far faster
    /// than step by step.
    #[arg(long, value_name = "N", default_value_t = 1)]
    stride: u64,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
    /// The program, with its arguments; what it prints goes to standard error.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Some((program, rest)) = arguments.command.split_first() else {
        return could_not_run("which program? give -- CMD");
    };
    let mut command = Command::new(program);
    command.args(rest);
    match std::io::stderr().as_fd().try_clone_to_owned() {
        Ok(stderr) => command.stdout(stderr),
        Err(error) => return could_not_run(error),
    };
    let report = match lockstep::run(command, arguments.steps, arguments.stride) {
        Ok(report) => report,
        Err(error) => return could_not_run(format_args!("{program}: {error}")),
    };
    let printed = if arguments.json { print_json(&report) } else { to_stdout(|out| print(&report, out)) };
    conclude(printed, report.divergences == 0)
}

fn print(report: &Report, out: Out<'_>) -> io::Result<()> {
    let mut native: Vec<_> = report.native_steps.iter().collect();
    native.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (reason, count) in native {
        writeln!(out, "{count:>12}  native: {reason}")?;
    }
    if report.disturbed > 0 {
        writeln!(
            out,
            "{:>12}  times another thread's system call had changed memory meanwhile",
            report.disturbed
        )?;
    }
    writeln!(
        out,
        "{} steps, {} of them emulated ({} VEX, {} EVEX), {} comparisons, {} divergences",
        report.steps,
        report.emulated,
        report.encodings.of(EncodingKind::VEX),
        report.encodings.of(EncodingKind::EVEX),
        report.comparisons,
        report.divergences
    )?;
    match &report.first_divergence {
        Some(first) => writeln!(out, "the first: {first}"),
        None => Ok(()),
    }
}
