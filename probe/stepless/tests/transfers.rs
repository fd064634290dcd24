//! How much of a thread's state the command moves for a hit.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use scratch::Scratch;

/// How often `stepless` fetches and stores extended state in so many hits of the first instruction of
/// `function`; `None` where there is no strace to count it.
fn transfers(program: &Path, function: &str, hits: u64) -> Option<(usize, usize)> {
    let calls = program.with_extension(function);
    // No child of the command, which strace would trace in its place.
    let mut target = Command::new("sh")
        .args(["-c", r#"read line; exec "$0" "$1""#])
        .arg(program)
        .arg(hits.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let tracer = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=ptrace", "-e", "signal=none", "-o"])
        .arg(&calls)
        .args([env!("CARGO_BIN_EXE_stepless"), "stat", "--json", "-e"])
        .arg(format!("{}:{function}", program.display()))
        .args(["-p", &target.id().to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(tracer) = tracer else {
        let _ = target.kill();
        let _ = target.wait();
        return None;
    };
    wait_for_tracer(target.id());
    target.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let status = target.wait().unwrap();
    assert!(status.success(), "{status}");
    let output = tracer.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let counts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = &counts["probes"][0];
    assert_eq!((counts["hits"].as_u64(), counts["emulated"].as_u64()), (Some(hits), Some(hits)), "{counts}");
    let calls = std::fs::read_to_string(calls).unwrap();
    // Of the register sets, that of x87 and vectors: general registers and shadow stacks have sets of their own.
    let count = |request: &str, set: &str| {
        calls.lines().filter(|call| call.contains(request) && call.contains(set)).count()
    };
    // Either the whole of it, or x87 and SSE alone.
    let both = |whole: &str, legacy: &str| count(whole, "NT_X86_XSTATE") + count(legacy, "");
    Some((both("PTRACE_GETREGSET", "PTRACE_GETFPREGS"), both("PTRACE_SETREGSET", "PTRACE_SETFPREGS")))
}

/// Waits until somebody traces process `pid`.
fn wait_for_tracer(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        !status.contains("TracerPid:\t0\n")
    };
    while !traced() {
        assert!(Instant::now() < deadline, "nobody has attached");
        std::thread::yield_now();
    }
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
