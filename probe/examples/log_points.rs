//! Prints the variables at a line of the source each time that it is reached: `log_points FILE:LINE CMD…`.

use std::process::{Command, ExitCode};

use probe::{ProbeBuilder, Session};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let line = arguments.next().ok_or("which line?")?;
    let mut command = Command::new(arguments.next().ok_or("which program?")?);
    command.args(arguments);
    let point: ProbeBuilder = line.parse()?;
    let mut session = Session::launch(command)?;
    for event in session.events(&[point.variables()])? {
        println!("{line}: {}", event.values);
    }
    Ok(ExitCode::SUCCESS)
}
