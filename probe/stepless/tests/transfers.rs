//! How much of a thread's state the command moves for a hit.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;

use std::path::Path;
use std::process::{Command, Stdio};

use scratch::Scratch;

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
    let scratch = Scratch::new();
    let program = scratch.compile(
        "extended",
        include_str!("../../tests/targets/extended.c"),
        &["-g", "-pthread", "-fno-inline", "-fno-optimize-sibling-calls"],
    );
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
