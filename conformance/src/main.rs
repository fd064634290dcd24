//! The `conformance` command.

mod commands;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Holds the emulator against the processor itself.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Searches for bytes about which processor and decoder disagree.
    Bytes(commands::bytes::Arguments),
    /// Says which encodings the emulator has, this processor has, and have been compared.
    Coverage(commands::coverage::Arguments),
    /// Compares every instruction that the emulator has with the processor, in random states.
    Diff(commands::diff::Arguments),
    /// Probes every instruction of some functions of a program, which must not notice.
    Everywhere(commands::everywhere::Arguments),
    /// Looks for what other threads and processes must not see of emulated accesses to memory.
    Litmus(commands::litmus::Arguments),
    /// Runs a program, each instruction both on the processor and in the emulator.
    Lockstep(commands::lockstep::Arguments),
    /// Records what this processor does, for machines that have another.
    Record(commands::record::Arguments),
    /// Holds the emulator against recorded answers of a processor, on any machine.
    Replay(commands::replay::Arguments),
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Nobody is left to tell if this fails.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return commands::could_not_run(usage_line(&error)),
    };
    match command.what {
        What::Bytes(arguments) => commands::bytes::run(&arguments),
        What::Coverage(arguments) => commands::coverage::run(&arguments),
        What::Diff(arguments) => commands::diff::run(&arguments),
        What::Everywhere(arguments) => commands::everywhere::run(&arguments),
        What::Litmus(arguments) => commands::litmus::run(&arguments),
        What::Lockstep(arguments) => commands::lockstep::run(&arguments),
        What::Record(arguments) => commands::record::run(&arguments),
        What::Replay(arguments) => commands::replay::run(&arguments),
    }
}

/// clap's message, without its paragraphs on usage.
fn usage_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing; see --help".to_owned();
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}
