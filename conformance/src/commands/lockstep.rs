//! `conformance lockstep`.

use std::os::fd::AsFd;
use std::process::{Command, ExitCode};

use clap::Args;
use conformance::lockstep::{self, Report};

use super::{could_not_run, print_json};

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
    if arguments.json {
        if let Err(error) = print_json(&report) {
            return could_not_run(error);
        }
    } else {
        print(&report);
    }
    ExitCode::from(u8::from(report.divergences > 0))
}

fn print(report: &Report) {
    let mut native: Vec<_> = report.native_steps.iter().collect();
    native.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (reason, count) in native {
        println!("{count:>12}  native: {reason}");
    }
    println!(
        "{} steps, {} of them emulated, {} comparisons, {} divergences",
        report.steps, report.emulated, report.comparisons, report.divergences
    );
    if let Some(first) = &report.first_divergence {
        println!("the first: {first}");
    }
}
