//! `peers`: what a hit costs, side by side in one run with other ways of doing it.
//!
//! The floor is what no ptrace-based tracer can go below: the thread stops at an int3, the tracer is told, and continues
//! it. What others need is installed by `benches/install-peers`; what is not there is named.

mod bpf;
mod classic;
mod clock;
mod frida;
mod instructions;
mod limits;
mod others;
mod own;
mod placing;
mod report;
mod rows;
mod stepless;
mod target;
mod threads;
mod uprobe;
mod versions;
mod warden;

use std::io;
use std::process::ExitCode;

use clap::Parser;

/// Compares the cost of a hit with that of other mechanisms.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
    /// How often each row is measured.
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: usize,
    /// Hits in a measurement.
    #[arg(long, value_name = "N", default_value_t = 4000)]
    hits: u64,
    /// What a hit costs, and nothing else.
    #[arg(long)]
    only_hits: bool,
    /// Of what a hit costs, the rows whose names contain this (repeatable).
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    #[command(flatten)]
    target: target::Target,
    /// Is the warden of the process that has started this one.
    #[arg(long, hide = true)]
    warden: bool,
}

/// What went wrong with one row.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(symbol) = &arguments.target.symbol {
        return target::run(&arguments.target, symbol, arguments.hits);
    }
    if arguments.warden {
        return probe::warden::serve();
    }
    let report = rows::measure(&arguments);
    match report.print(arguments.json) {
        Ok(()) => {}
        // The reader has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            eprintln!("peers: {error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::from(if report.rows.is_empty() { 2 } else { 0 })
}
