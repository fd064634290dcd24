//! Counts how often each instruction of a function is executed: `each_instruction OBJECT:FUNCTION CMD…`.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};

use probe::spec::ProbeSpec;
use probe::{Action, Session};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let function = arguments.next().ok_or("which function?")?;
    let mut command = Command::new(arguments.next().ok_or("which program?")?);
    command.args(arguments);
    let each: ProbeSpec = format!("{function}/*").parse()?;
    let counts: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
    let counting = Arc::clone(&counts);
    let mut session = Session::launch(command)?;
    session.probe(each, move |hit| {
        *counting.lock().unwrap_or_else(PoisonError::into_inner).entry(hit.ip()).or_default() += 1;
        Action::Continue
    })?;
    session.run();
    for (address, count) in &*counts.lock().unwrap_or_else(PoisonError::into_inner) {
        println!("{address:#x} {count:>10}");
    }
    Ok(ExitCode::SUCCESS)
}
