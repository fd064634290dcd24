//! `conformance litmus`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use conformance::litmus::{self, Options, Report};
use probe::Ways;

use super::{Executor, Out, conclude, could_not_run, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How long, all tests together.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// So many rounds of each test, however long they take.
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Only the tests whose names begin so.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    test: String,
    /// What performs the displaced instructions.
    #[arg(long, value_enum, default_value_t = Executor::Ptrace)]
    executor: Executor,
    /// With one hit at each function's first instruction, from which the thread runs on until that returns.
    #[arg(long, conflicts_with = "executor")]
    run_on: bool,
    /// Without these ways to make accesses, to see that the tests find that; with a tracer.
    #[arg(long, value_name = "WAY", value_delimiter = ',', conflicts_with = "executor")]
    without: Vec<Way>,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

/// A way to make an access in one step, and what there is without it and those below it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    /// One borrowed instruction that does it all.
    Whole,
    /// A borrowed CMPXCHG, as often as need be, but no more than so often.
    Exchange,
    /// The instruction in place. Without any of these three: a read and a write.
    Alone,
    /// Loads and stores in one piece. Without: in two.
    Undivided,
    /// Stores that wait while a thread runs on, in their order. Without: in the opposite one.
    InOrder,
    /// What a thread that runs on has stored, seen by itself at once. Without: when others do.
    OwnAtOnce,
}

impl Way {
    fn ways(self) -> Ways {
        match self {
            Way::Whole => Ways::WHOLE,
            Way::Exchange => Ways::EXCHANGE,
            Way::Alone => Ways::ALONE,
            Way::Undivided => Ways::UNDIVIDED,
            Way::InOrder => Ways::IN_ORDER,
            Way::OwnAtOnce => Ways::OWN_AT_ONCE,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let executor = arguments.executor.chosen();
    let options = Options {
        time: Duration::from_secs(arguments.seconds),
        rounds: arguments.rounds,
        executor,
        runs_on: arguments.run_on,
        ways: arguments.without.iter().fold(Ways::all(), |ways, way| ways - way.ways()),
        prefix: arguments.test.clone(),
    };
    let report = litmus::run(&options, |test| {
        if !test.holds() {
            // A closed stderr is the user's wish.
            let _ = writeln!(io::stderr(), "does not hold: {test:?}");
        }
    });
    let report = match report {
        Ok(report) => report,
        Err(error) => return could_not_run(error),
    };
    let printed = if arguments.json { print_json(&report) } else { to_stdout(|out| print(out, &report)) };
    conclude(printed, report.holds())
}

fn print(out: Out<'_>, report: &Report) -> io::Result<()> {
    writeln!(
        out,
        "{:<24} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "", "rounds", "forbidden", "weak", "hits", "emulated"
    )?;
    for test in &report.tests {
        writeln!(
            out,
            "{:<24} {:>10} {:>10} {:>10} {:>10} {:>10}",
            test.name, test.rounds, test.forbidden, test.weak, test.hits, test.emulated
        )?;
    }
    report
        .skipped
        .iter()
        .try_for_each(|skipped| writeln!(out, "skipped: {}: {}", skipped.name, skipped.reason))
}
