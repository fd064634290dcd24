//! Code in a 64-bit process that is not 64-bit code.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Function, compile, counter, finish};
use probe::{Action, Counters, Hit, Session};

/// What `compat` prints without a tracer, and, with probed instructions, with one; `None` where there is no 32-bit
/// code.
fn outputs(
    symbol: impl FnOnce(&Path) -> Function,
    handler: impl FnMut(&mut Hit<'_>) -> Action + Send + 'static,
) -> Option<(String, String, Counters)> {
    let program = compile("compat", &["-no-pie"]);
    let plain = Command::new(&program).output().unwrap();
    if plain.status.code().is_none() {
        println!("skipped: this kernel runs no 32-bit code ({})", plain.status);
        return None;
    }
    assert!(plain.status.success(), "{plain:?}");
    let mut command = Command::new(&program);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let mut session = Session::launch(command).unwrap();
    let id = session.probe(symbol(&program), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    let report = session.report(id).unwrap();
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    let counters = report.counters;
    drop(session);
    let probed = std::io::read_to_string(reader).unwrap();
    Some((String::from_utf8(plain.stdout).unwrap(), probed, counters))
}

#[test]
fn the_thread_itself_executes_32_bit_code() {
    const CALLS: u64 = 3;
    let (_, handler) = counter();
    let mut instructions = 0;
    let symbol = |program: &Path| {
        let function = Function::decoded(program, "compat", 32);
        instructions = function.len() as u64;
        function
    };
    let Some((plain, probed, counters)) = outputs(symbol, handler) else { return };
    assert_eq!(probed, plain);
    assert_eq!(counters.hits, CALLS * instructions);
    assert_eq!(counters.emulated, 0);
    // INT3 raises its exception instead.
    assert_eq!((counters.native, counters.faulted), (CALLS * (instructions - 1), CALLS));
}

#[test]
fn both_ways_between_32_and_64_bit_code_are_left_to_the_thread() {
    let symbol = |program: &Path| Function::whole(program, "call_compat");
    let Some((plain, probed, counters)) = outputs(symbol, counter().1) else { return };
    assert_eq!(probed, plain);
    assert_eq!(counters.hits, counters.emulated + counters.native);
    assert!(counters.native >= 3, "{counters:?}");
}

#[test]
fn an_instruction_of_32_bit_code_that_is_left_out_is_as_long_as_there() {
    // INC ECX, one byte; as 64-bit code it goes on to the third.
    let symbol = |program: &Path| Function::entry(program, "compat");
    let handler = |hit: &mut Hit<'_>| {
        assert_eq!(hit.registers().segment[emu::registers::segment::CS], 0x23);
        hit.registers_mut().gpr[emu::registers::gpr::RCX] += 1;
        Action::Skip
    };
    let Some((plain, probed, counters)) = outputs(symbol, handler) else { return };
    assert_eq!(probed, plain);
    assert_eq!((counters.hits, counters.native, counters.emulated), (3, 0, 0));
}
