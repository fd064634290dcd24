//! `conformance everywhere`.

use std::io::{self, Write};
use std::process::{Command, ExitCode};

use clap::Args;
use conformance::everywhere::{self, Report};
use probe::spec::ProbeSpec;

use super::{Executor, Out, conclude, could_not_run, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The executable or shared object: its path, file name or SONAME.
    #[arg(long, value_name = "PATH")]
    object: String,
    /// Which of its functions; * and ? stand for anything.
    #[arg(long, value_name = "GLOB")]
    symbol: String,
    /// What performs the displaced instructions.
    #[arg(long, value_enum, default_value_t = Executor::Ptrace)]
    executor: Executor,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
    /// The program, with its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Some((program, rest)) = arguments.command.split_first() else {
        return could_not_run("which program? give -- CMD");
    };
    let executor = arguments.executor.chosen();
    let command = || {
        let mut command = Command::new(program);
        command.args(rest);
        command
    };
    let spec = ProbeSpec::each_instruction(arguments.object.clone(), arguments.symbol.clone());
    let report = match everywhere::run(command, spec, executor) {
        Ok(report) => report,
        Err(error) => return could_not_run(error),
    };
    for (address, reason) in &report.refused_sites {
        // A closed stderr is the user's wish.
        let _ = writeln!(io::stderr(), "refused: {address:#x}: {reason}");
    }
    let printed = if arguments.json { print_json(&report) } else { to_stdout(|out| print(out, &report)) };
    conclude(printed, report.holds())
}

fn print(out: Out<'_>, report: &Report) -> io::Result<()> {
    let same = |same| if same { "same" } else { "ANOTHER" };
    writeln!(
        out,
        "{} runs, {} sites, {} refused, {} hits, {} of them emulated; {} output, {} status, {} maps",
        report.runs,
        report.sites,
        report.refused.values().sum::<u64>(),
        report.hits,
        report.emulated,
        same(report.same_output),
        same(report.same_status),
        same(report.same_maps),
    )
}
