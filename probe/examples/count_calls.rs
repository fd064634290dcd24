//! Counts how often a command calls a function: `count_calls libc.so.6:malloc ls -l`.

use std::error::Error;
use std::process::Command;

use probe::spec::ProbeSpec;
use probe::{Action, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: count_calls OBJECT:FUNCTION COMMAND [ARGUMENT...]";
    let function: ProbeSpec = arguments.next().ok_or(usage)?.parse()?;
    let mut command = Command::new(arguments.next().ok_or(usage)?);
    command.args(arguments);

    let mut session = Session::launch(command)?;
    let calls = session.probe(function.clone(), |_| Action::Continue)?;
    session.run();
    let report = session.report(calls).ok_or("there is no such probe")?;
    match report.pending {
        Some(why) => println!("{function} was never placed: {why}"),
        None => println!("{function}: {} calls", report.counters.hits),
    }
    Ok(())
}
