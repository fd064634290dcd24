//! Code in a 64-bit process that is not 64-bit code.

mod common;

use std::process::Command;

use common::{Function, compile, counter, finish};
use probe::{Action, Hit, Session};

/// What `compat` prints without a tracer, and, with `probe`d instructions, with one.
fn outputs(
    symbol: impl FnOnce(&std::path::Path) -> Function,
    handler: impl FnMut(&mut Hit<'_>) -> Action + Send + 'static,
) -> (String, String, probe::Counters) {
    let program = compile("compat", &["-no-pie"]);
    let plain = Command::new(&program).output().unwrap();
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
    (String::from_utf8(plain.stdout).unwrap(), std::io::read_to_string(reader).unwrap(), counters)
}

#[test]
fn the_thread_itself_executes_32_bit_code() {
    const CALLS: u64 = 3;
    let (_, handler) = counter();
    let mut instructions = 0;
    let symbol = |program: &std::path::Path| {
        let function = Function::decoded(program, "compat", 32);
        instructions = function.len() as u64;
        function
    };
    let (plain, probed, counters) = outputs(symbol, handler);
    assert_eq!(probed, plain);
    assert_eq!(counters.hits, CALLS * instructions);
    assert_eq!(counters.emulated, 0);
    // INT3 raises its exception instead.
    assert_eq!((counters.native, counters.faulted), (CALLS * (instructions - 1), CALLS));
}

#[test]
fn both_ways_between_32_and_64_bit_code_are_left_to_the_thread() {
    let symbol = |program: &std::path::Path| Function::whole(program, "call_compat");
    let (plain, probed, counters) = outputs(symbol, counter().1);
    assert_eq!(probed, plain);
    assert_eq!(counters.hits, counters.emulated + counters.native);
    assert!(counters.native >= 3, "{counters:?}");
}

#[test]
fn an_instruction_of_32_bit_code_that_is_left_out_is_as_long_as_there() {
    // INC ECX, one byte; as 64-bit code it goes on to the third.
    let symbol = |program: &std::path::Path| Function::entry(program, "compat");
    let handler = |hit: &mut Hit<'_>| {
        assert_eq!(hit.registers().segment[emu::registers::segment::CS], 0x23);
        hit.registers_mut().gpr[emu::registers::gpr::RCX] += 1;
        Action::Skip
    };
    let (plain, probed, counters) = outputs(symbol, handler);
    assert_eq!(probed, plain);
    assert_eq!((counters.hits, counters.native, counters.emulated), (3, 0, 0));
}
