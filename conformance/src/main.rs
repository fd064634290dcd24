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
    /// Searches for bytes about which processor and decoder disagree.
    Bytes(commands::bytes::Arguments),
    /// Says which encodings the emulator has, this processor has, and have been compared.
    Coverage(commands::coverage::Arguments),
    /// Compares every instruction that the emulator has with the processor, in random states.
    Diff(commands::diff::Arguments),
    /// Probes every instruction of some functions of a program, which must not notice.
    Everywhere(commands::everywhere::Arguments),
    /// Runs a program, each instruction both on the processor and in the emulator.
    Lockstep(commands::lockstep::Arguments),
}

fn main() -> ExitCode {
    match Command::parse().what {
        What::Bytes(arguments) => commands::bytes::run(&arguments),
        What::Coverage(arguments) => commands::coverage::run(&arguments),
        What::Diff(arguments) => commands::diff::run(&arguments),
        What::Everywhere(arguments) => commands::everywhere::run(&arguments),
        What::Lockstep(arguments) => commands::lockstep::run(&arguments),
    }
}
