//! Probes on instructions that use x87, MMX and SSE state.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Function, compile, counter, finish};
use probe::Session;

const FUNCTIONS: [&str; 8] =
    ["integer", "sse_load", "sse_compute", "sse_keep", "sse_store", "x87", "mmx", "save"];

fn program() -> PathBuf {
    compile("extended", &[])
}

fn command(program: &Path, rounds: u64) -> Command {
    let mut command = Command::new(program);
    command.arg(rounds.to_string()).stdin(Stdio::null());
    command
}

#[test]
fn a_program_computes_the_same_with_every_instruction_emulated() {
    const ROUNDS: u64 = 50;
    let program = program();
    let plain = command(&program, ROUNDS).output().unwrap().stdout;
    assert_eq!(plain.split(|&byte| byte == b'\n').count() as u64, 4 * ROUNDS + 1);
    let mut probed = command(&program, ROUNDS);
    // The whole output fits into a pipe, which nobody reads until the end.
    let (reader, writer) = std::io::pipe().unwrap();
    probed.stdout(writer);
    let mut session = Session::launch(probed).unwrap();
    let probes = FUNCTIONS.map(|name| {
        let function = Function::whole(&program, name);
        let instructions = function.len() as u64;
        (session.probe(function, counter().1).unwrap(), instructions)
    });
    assert_eq!(finish(&mut session), 0);
    for ((id, instructions), name) in probes.into_iter().zip(FUNCTIONS) {
        let report = session.report(id).unwrap();
        assert!(report.refused.is_empty(), "{name}: {:?}", report.refused);
        assert_eq!(report.counters.hits, ROUNDS * instructions, "{name}");
        assert_eq!(report.counters.emulated, report.counters.hits, "{name}: {report:?}");
    }
    drop(session);
    assert_eq!(std::io::read_to_string(reader).unwrap().as_bytes(), plain);
}
