//! Prints the strings that a program measures: `print_strings CMD…`.

use std::process::{Command, ExitCode};

use probe::arguments::Value;
use probe::{ProbeBuilder, Session};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(arguments.next().ok_or("which program?")?);
    command.args(arguments);
    let mut session = Session::launch(command)?;
    // Which implementation of strlen the program uses, it decides itself.
    let strlen: ProbeBuilder = "libc.so.6:strlen text=%di:string".parse()?;
    for event in session.events(&[strlen])? {
        if let Some(text) = event.values.get("text").and_then(Value::as_text) {
            println!("{} {}", event.tid, String::from_utf8_lossy(text));
        }
    }
    Ok(ExitCode::SUCCESS)
}
