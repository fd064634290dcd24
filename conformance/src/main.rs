//! The `conformance` command.

mod commands;

use std::process::ExitCode;

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
    /// Says which encodings the emulator has, this processor has, and have been compared.
    Coverage(commands::coverage::Arguments),
    /// Compares every instruction that the emulator has with the processor, in random states.
    Diff(commands::diff::Arguments),
}

fn main() -> ExitCode {
    match Command::parse().what {
        What::Coverage(arguments) => commands::coverage::run(&arguments),
        What::Diff(arguments) => commands::diff::run(&arguments),
    }
}
