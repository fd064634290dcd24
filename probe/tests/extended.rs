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

/// How often `stepless` fetches and stores extended state in so many hits of the first instruction of
/// `function`; `None` where there is no strace to count it.
fn transfers(program: &Path, function: &str, hits: u64) -> Option<(usize, usize)> {
    let calls = program.with_extension(function);
    let output = Command::new("strace")
        .args(["-qq", "-e", "trace=ptrace", "-e", "signal=none", "-o"])
        .arg(&calls)
        .args([env!("CARGO_BIN_EXE_stepless"), "stat", "--json", "-e"])
        .arg(format!("{}:{function}", program.display()))
        .arg("--")
        .arg(program)
        .arg(hits.to_string())
        .stdout(Stdio::null())
        .output()
        .ok()?;
    assert!(output.status.success(), "{output:?}");
    let counts: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    let counts = &counts["probes"][0];
    assert_eq!((counts["hits"].as_u64(), counts["emulated"].as_u64()), (Some(hits), Some(hits)), "{counts}");
    let calls = std::fs::read_to_string(calls).unwrap();
    let count = |request: &str| calls.lines().filter(|call| call.contains(request)).count();
    Some((count("PTRACE_GETREGSET"), count("PTRACE_SETREGSET")))
}

#[test]
fn extended_state_is_fetched_once_and_stored_if_changed() {
    const HITS: usize = 200;
    let program = program();
    for (function, expected) in [
        ("integer", (0, 0)),
        ("sse_load", (HITS, HITS)),
        ("sse_store", (HITS, 0)),
        // Reads registers, and writes flags alone.
        ("sse_keep", (HITS, 0)),
        ("x87", (HITS, HITS)),
    ] {
        let Some(found) = transfers(&program, function, HITS as u64) else {
            eprintln!("skipped: there is no strace to count system calls with");
            return;
        };
        assert_eq!(found, expected, "{function}");
    }
}
