//! Each instruction of the first call of a function, and of what it calls, with what it writes to memory:
//! `cargo run --release -p probe --example step -- libc.so.6:strlen ls`.

use std::error::Error;
use std::ops::ControlFlow;
use std::process::Command;

use iced_x86::{Formatter, IntelFormatter};
use probe::run_on::{Region, Step, What};
use probe::spec::ProbeSpec;
use probe::{Action, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(function), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("give a function, OBJECT:NAME, and a command".into());
    };
    let function: ProbeSpec = function.to_string_lossy().parse()?;
    let mut command = Command::new(program);
    command.args(arguments);
    let mut session = Session::launch(command)?;
    session.probe(function, |hit| {
        // How deep in calls the thread is.
        let mut calls = Vec::new();
        hit.run_on_with(Region::new().until_return().accesses(), move |step| {
            print(step, calls.len());
            let sp = step.after().gpr[emu::registers::gpr::RSP];
            while calls.last().is_some_and(|&call| sp > call) {
                calls.pop();
            }
            let instruction = step.instruction().map(|displaced| displaced.instruction());
            if instruction.is_some_and(|call| call.is_call_near() || call.is_call_near_indirect()) {
                calls.push(sp);
            }
            ControlFlow::Continue(())
        });
        Action::Remove
    })?;
    session.run();
    Ok(())
}

fn print(step: &Step<'_>, depth: usize) {
    let mut line = String::new();
    match (step.what(), step.instruction()) {
        (What::SystemCall { number }, _) => line = format!("system call {number}"),
        (What::Signal { signal }, _) => line = format!("signal {signal}"),
        (What::End(end), _) => line = format!("{end:?} after {} instructions", step.number()),
        (_, Some(displaced)) => IntelFormatter::new().format(displaced.instruction(), &mut line),
        (_, None) => line.push_str("(an instruction that the thread has executed itself)"),
    }
    for access in step.accesses() {
        if let Some(new) = access.new {
            line.push_str(&format!("  [{:#x}] = {new:02x?}", access.address));
        }
    }
    println!("{:#x}{:width$}  {line}", step.ip(), "", width = 2 * depth);
}
