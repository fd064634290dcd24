//! What is told of a process that has ended before it is told.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scratch::Scratch;

const STEPLESS: &str = env!("CARGO_BIN_EXE_stepless");

/// One of its instructions is of APX, and refused.
const LIBRARY: &str = r#"void odd(void) { __asm__ volatile("jmp 1f\n.byte 0xd5,0x48,0x01,0xc0\n1: nop"); }"#;

const PROGRAM: &str = r#"
    #include <dlfcn.h>
    #include <stdio.h>
    #include <unistd.h>
    int main(int argc, char **argv) {
        char c;
        printf("%d\n", getpid());
        fflush(stdout);
        void *library = read(0, &c, 1) == 1 ? dlopen(argv[argc - 1], RTLD_NOW) : 0;
        if (library) ((void (*)(void))dlsym(library, "odd"))();
        return library ? 0 : 1;
    }
"#;

/// Waits until the process is in one of these states, an empty one for no process any more.
fn wait_for(pid: i32, states: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map_or("", |(_, rest)| &rest[1..2]);
        if states.contains(&state) {
            return;
        }
        assert!(Instant::now() < deadline, "process {pid} is not in {states:?}: {stat}");
        std::thread::yield_now();
    }
}

/// The command with a program that waits for a byte.
fn start(arguments: &[&str], program: &[&Path]) -> Child {
    Command::new(STEPLESS)
        .args(arguments)
        .arg("--")
        .args(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_place_has_its_name_when_the_process_has_ended() {
    let scratch = Scratch::new();
    let library = scratch.compile("libodd.so", LIBRARY, &["-shared", "-fPIC"]);
    let program = scratch.compile("program", PROGRAM, &["-ldl"]);
    let mut child = start(&["trace", "-e", "libodd.so:odd/*"], &[&program, &library]);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let (target, command) = (line.trim().parse().unwrap(), child.id().cast_signed());
    kill(Pid::from_raw(command), Signal::SIGSTOP).unwrap();
    wait_for(command, &["T"]);
    child.stdin.take().unwrap().write_all(b"x").unwrap();
    wait_for(target, &["Z", ""]);
    kill(Pid::from_raw(command), Signal::SIGCONT).unwrap();
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{told}");
    assert!(told.contains("leaves out odd+0x2: "), "{told}");
}

#[test]
fn what_is_left_out_is_told_once_however_often_mappings_change() {
    let scratch = Scratch::new();
    let library = scratch.compile("libodd.so", LIBRARY, &["-shared", "-fPIC"]);
    let program = scratch.compile("program", &format!("{PROGRAM}{LIBRARY}"), &["-ldl"]);
    let run = |command: &str, probe: &str, more: &[&str]| {
        let mut child = start(&[&[command, "-e", probe], more].concat(), &[&program, &library]);
        child.stdin.take().unwrap().write_all(b"x").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    // The library is mapped after the program's own was refused.
    for probe in ["program:odd/*", "program:od*/*"] {
        for command in ["stat", "trace"] {
            let told = run(command, probe, &[]);
            assert_eq!(told.matches("leaves out").count(), 1, "{told}");
            assert_eq!(told.matches("odd+0x").count(), 1, "{told}");
        }
    }
    let told = run("stat", "program:odd/*", &["--json"]);
    let document = told.lines().find(|line| line.starts_with('{')).unwrap();
    assert!(document.contains(r#""refused":{"APX, which the decoder does not know":1}"#), "{told}");
}
