//! Probes on what leaves user mode: each program prints the same, and ends the same, as without a probe.

mod common;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Function, Target, compile, counter};
use probe::{Counters, RunEnd, Session};

/// What a run of a program came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    output: String,
}

fn alone(program: &Path, arguments: &[&str]) -> Outcome {
    let output = Command::new(program).args(arguments).output().unwrap();
    Outcome { code: output.status.code(), output: String::from_utf8(output.stdout).unwrap() }
}

/// Runs the program with a probe on each instruction of these functions, checks that it does what it does
/// alone, and returns what was counted.
fn same(program: &Path, arguments: &[&str], functions: &[&str]) -> Counters {
    let path = program.with_extension("output");
    let mut output = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::from(output.try_clone().unwrap()));
    let mut session = Session::launch(command).unwrap();
    let ids: Vec<_> = functions
        .iter()
        .map(|name| session.probe(Function::whole(program, name), counter().1).unwrap())
        .collect();
    let code = match session.run_for(Duration::from_secs(60)) {
        RunEnd::Ended(status) => status.and_then(|status| status.code()),
        other => panic!("the target did not end: {other:?}"),
    };
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(Outcome { code, output: text }, alone(program, arguments), "{functions:?} {arguments:?}");
    let mut sum = Counters::default();
    for id in ids {
        let report = session.report(id).unwrap();
        assert!(report.refused.is_empty(), "{:?}", report.refused);
        let Counters { hits, emulated, native, faulted, .. } = report.counters;
        assert_eq!(hits, emulated + native + faulted, "{report:?}");
        sum.hits += hits;
        sum.emulated += emulated;
        sum.native += native;
        sum.faulted += faulted;
    }
    assert_ne!(sum.hits, 0, "no probe was hit");
    sum
}

fn entering(how: &str) -> Counters {
    let program = compile("entering", &["-Wno-unused-result"]);
    let counters = same(&program, &[how], &["enter", "enter_clone", "restorer", "enter_80"]);
    assert_eq!(counters.native, 0, "everything was emulated");
    assert_eq!(counters.faulted, 0);
    counters
}

#[test]
fn an_interrupted_system_call_is_restarted() {
    // The instruction is executed again, and so it is hit again.
    let restarted = entering("restart");
    assert_eq!(restarted.hits, entering("eintr").hits + 1);
}

#[test]
fn an_interrupted_sleep_goes_on() {
    entering("sleep");
}

#[test]
fn a_forked_child_begins_behind_the_probe() {
    entering("fork");
}

#[test]
fn a_vfork_child_begins_behind_the_probe() {
    entering("vfork");
}

#[test]
fn a_cloned_child_begins_behind_the_probe_on_its_own_stack() {
    entering("clone");
}

#[test]
fn execve_fails_and_succeeds() {
    entering("exec");
}

#[test]
fn a_thread_exits_by_itself() {
    entering("thread");
}

#[test]
fn a_signal_handler_returns_through_a_probe() {
    entering("sigreturn");
}

#[test]
fn a_seccomp_filter_sees_the_probed_instruction() {
    entering("seccomp");
}

#[test]
fn a_system_call_of_the_32_bit_gate() {
    let program = compile("entering", &["-Wno-unused-result"]);
    // Where the program has but the one such instruction, it executes that itself.
    let counters = same(&program, &["int80"], &["enter_80"]);
    assert_eq!(counters.emulated + counters.native, 5);
}

/// The kernel's version.
fn release() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn a_thread_whose_system_calls_depend_on_their_place() {
    // PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG.
    if release() < (6, 4) {
        println!("skipped: before Linux 6.4 nobody says that a thread dispatches its system calls");
        return;
    }
    let program = compile("entering", &["-Wno-unused-result"]);
    let counters = same(&program, &["dispatch"], &["enter"]);
    assert_ne!((counters.native, counters.faulted), (0, 0));
}

#[test]
fn a_thread_is_left_in_its_system_call() {
    let program = compile("entering", &["-Wno-unused-result"]);
    let target = Target::start(&program, &["wait"]);
    let path = format!("/proc/{}/syscall", target.pid());
    let reads = || std::fs::read_to_string(&path).unwrap().starts_with("0 ");
    let waits = || while !reads() {};
    waits();
    // Attaching restarts the system call, so it is made through the probe the next time.
    for _ in 0..3 {
        let mut session = Session::attach(target.pid()).unwrap();
        let (_, handler) = counter();
        let id = session.probe(Function::whole(&program, "enter"), handler).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(target.pid()), nix::sys::signal::Signal::SIGURG)
            .unwrap();
        while session.report(id).unwrap().counters.emulated == 0 {
            assert_eq!(session.run_for(Duration::from_millis(5)), RunEnd::Timeout);
        }
        // Removing the probe, or detaching, finds the thread inside.
        session.remove(id);
        drop(session);
        waits();
    }
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_program_that_steps_itself_sees_every_step() {
    let program = compile("stepping", &[]);
    // Of three iterations of REP, all but the first begin with RF in what was saved.
    let between = |line: &&str| line.starts_with("12: ") && line.contains(" flags 10346 ");
    if alone(&program, &[]).output.lines().filter(between).count() != 2 {
        return println!(
            "skipped: this processor, in software perhaps, sets no RF between iterations of REP"
        );
    }
    let counters = same(&program, &[], &["stepped"]);
    // INT3 of its own.
    assert_eq!((counters.native, counters.faulted), (0, 1));
}

#[test]
fn handlers_are_told_what_the_processor_says() {
    /// What processors in software may leave out (QEMU's TCG), and the exceptions' vectors.
    const RAISED: [(&str, u32); 4] =
        [("stack", 12), ("alignment", 17), ("simd_divide", 19), ("simd_invalid", 19)];
    let program = compile("exceptions", &["-DFLOATING"]);
    let plain = alone(&program, &[]).output;
    for (name, vector) in RAISED {
        let line = plain.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap();
        if !line.contains(&format!(" trapno {vector} ")) {
            return println!("skipped: this processor raises no exception {vector} itself ({line})");
        }
    }
    let functions = [
        "x87",
        "simd_divide",
        "simd_invalid",
        "divide",
        "undefined",
        "breakpoint",
        "breakpoint_2",
        "debug",
        "overflow",
        "gate",
        "halt",
        "input",
        "selector",
        "load",
        "store",
        "atomic",
        "not_canonical",
        "stack",
        "alignment",
        "copy",
        "far_return",
    ];
    let counters = same(&program, &[], &functions);
    assert!(counters.faulted >= 23, "{counters:?}");
}

#[test]
fn contending_threads_lose_nothing() {
    let program = compile("contending", &[]);
    let counters = same(&program, &["100"], &["bump", "bump_pair"]);
    assert_eq!(counters.native, 0);
    // The threads are never stopped for what CMPXCHG can do, so none sees an interrupted system call.
    let counters = same(&program, &["100", "waiter"], &["bump"]);
    assert_eq!((counters.native, counters.hits), (0, 400 * 7));
}
