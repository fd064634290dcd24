//! Says who changes a variable: `cargo run --release --example watch -- EXPRESSION PROGRAM [ARGUMENT…]`, such as
//! `… -- counter ./program`.

use std::error::Error;
use std::process::Command;

use probe::stacks::{Symbolizer, Unwinder};
use probe::watch::{Watch, Writer};
use probe::{Action, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let expression = arguments.next().ok_or("watch what? give an expression and a program")?;
    let mut command = Command::new(arguments.next().ok_or("watch whom? give a program")?);
    command.args(arguments);
    let mut session = Session::launch(command)?;
    let (unwinder, symbolizer) = (Unwinder::default(), Symbolizer::default());
    let watch = session.watch_changes(Watch::new(&expression)?, move |change| {
        let shown =
            |value: Option<probe::arguments::Value>| value.map_or("?".to_owned(), |value| value.to_string());
        print!("thread {}: {} -> {}", change.tid(), shown(change.old_value()), shown(change.new_value()));
        match change.writer() {
            Writer::Instruction { address } => println!(" by the instruction at {address:#x}"),
            Writer::SystemCall { number, .. } => println!(" by the kernel, in system call {number}"),
            other => println!(" ({other:?})"),
        }
        for frame in change.stack(&unwinder, 16) {
            println!("    {}", symbolizer.place(&frame).name());
        }
        Action::Continue
    })?;
    session.run();
    let report = session.watch_report(watch).unwrap_or_default();
    println!("{} changes, {} writes that changed nothing", report.changes, report.unchanged);
    Ok(())
}
