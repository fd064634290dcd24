//! Probes on instructions that use x87, MMX, SSE and AVX state.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Function, compile, counter, finish};
use probe::Session;

const FUNCTIONS: [&str; 9] =
    ["integer", "sse_load", "sse_compute", "sse_keep", "sse_store", "x87", "mmx", "save", "avx"];

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
    let has_avx = std::arch::is_x86_feature_detected!("avx");
    if !has_avx {
        println!("skipped: its AVX part, as the processor has none");
    }
    let plain = command(&program, ROUNDS).output().unwrap().stdout;
    let plain = String::from_utf8(plain).unwrap();
    assert_eq!(plain.lines().count() as u64, (4 + u64::from(has_avx)) * ROUNDS);
    let mut probed = command(&program, ROUNDS);
    // The whole output fits into a pipe, which nobody reads until the end.
    let (reader, writer) = std::io::pipe().unwrap();
    probed.stdout(writer);
    let mut session = Session::launch(probed).unwrap();
    let names = FUNCTIONS.into_iter().filter(|&name| name != "avx" || has_avx);
    let probes: Vec<_> = names
        .map(|name| {
            let function = Function::whole(&program, name);
            let instructions = function.len() as u64;
            (session.probe(function, counter().1).unwrap(), instructions, name)
        })
        .collect();
    assert_eq!(finish(&mut session), 0);
    for (id, instructions, name) in probes {
        let report = session.report(id).unwrap();
        assert!(report.refused.is_empty(), "{name}: {:?}", report.refused);
        assert_eq!(report.counters.hits, ROUNDS * instructions, "{name}");
        assert_eq!(report.counters.emulated, report.counters.hits, "{name}: {report:?}");
    }
    drop(session);
    let probed = std::io::read_to_string(reader).unwrap();
    for (number, (probed, plain)) in probed.lines().zip(plain.lines()).enumerate() {
        assert_eq!(probed, plain, "line {number}");
    }
    assert_eq!(probed.lines().count(), plain.lines().count());
}
