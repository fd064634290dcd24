//! A target that is attached to, served and left does not notice: not even system calls that fail with EINTR when a
//! tracer interrupts them.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Function, compile};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use probe::maps::Maps;
use probe::{Action, Counters, Hit, Locate, ProbeId, RunEnd, Session, SessionOptions};

const HITS: u64 = 3;

/// A session that serves the first hits of `leaf` in process `pid` and no more.
fn served(pid: i32, program: &Path) -> (Session, ProbeId) {
    let mut session = Session::attach(pid).unwrap();
    let mut hits = 0;
    let handler = move |_: &mut Hit<'_>| {
        hits += 1;
        if hits == HITS { Action::Stop } else { Action::Continue }
    };
    let id = session.probe(Function::entry(program, "leaf"), handler).unwrap();
    assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::Stopped);
    (session, id)
}

/// The first byte of `leaf` in process `pid`.
fn first_byte(pid: i32, program: &Path) -> u8 {
    let sites = Function::entry(program, "leaf").locate(&Maps::read(pid).unwrap()).unwrap();
    let mut byte = [0];
    File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut byte, sites[0].address).unwrap();
    byte[0]
}

/// How often system calls of threads without probes failed with EINTR while `way` served the target and let it go, many
/// times.
fn interruptions(way: impl Fn(i32, &Path) -> Counters) -> Vec<u64> {
    const ROUNDS: u64 = 20;
    let program = compile("waiting", &[]);
    let mut target = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(target.id()).unwrap();
    let mut output = BufReader::new(target.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let before = first_byte(pid, &program);
    for _ in 0..ROUNDS {
        let Counters { hits, emulated, .. } = way(pid, &program);
        assert_eq!((hits, emulated), (HITS, HITS), "none after the last");
        assert_eq!(first_byte(pid, &program), before);
    }
    drop(target.stdin.take());
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(target.wait().unwrap().success());
    rest.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn threads_of(pid: i32) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let number = |thread: std::fs::DirEntry| thread.file_name().to_str().unwrap().parse().unwrap();
    threads.map(|thread| Pid::from_raw(number(thread.unwrap()))).collect()
}

#[test]
fn no_thread_is_interrupted_when_a_target_is_left() {
    let left = |pid: i32, program: &Path| {
        let program = program.to_owned();
        let serve = move || {
            let (session, id) = served(pid, &program);
            (session.leave(), id)
        };
        let (left, id) = std::thread::spawn(serve).join().unwrap();
        left.report(id).unwrap().counters
    };
    assert_eq!(interruptions(left), [0, 0]);
}

#[test]
fn no_system_call_fails_when_a_target_is_detached_from() {
    let detached = |pid: i32, program: &Path| {
        let (mut session, id) = served(pid, program);
        session.detach();
        session.report(id).unwrap().counters
    };
    assert_eq!(interruptions(detached), [0, 0]);
}

/// As the kernel has it: so the tests above would see it.
#[test]
fn system_calls_fail_when_a_tracer_interrupts_and_leaves_their_threads() {
    let interrupted = |pid: i32, program: &Path| {
        for tid in threads_of(pid) {
            ptrace::seize(tid, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(tid).unwrap();
            waitpid(tid, Some(WaitPidFlag::__WALL)).unwrap();
            ptrace::detach(tid, None).unwrap();
        }
        let (mut session, id) = served(pid, program);
        session.detach();
        session.report(id).unwrap().counters
    };
    let interrupted = interruptions(interrupted);
    assert!(interrupted.iter().all(|&times| times > 0), "{interrupted:?}");
}

#[test]
fn a_launched_target_lives_on_unless_it_is_to_end_with_the_session() {
    for kill_with in [false, true] {
        let program = compile("waiting", &[]);
        let (input, writer) = std::io::pipe().unwrap();
        let (reader, output) = std::io::pipe().unwrap();
        let serve = move || {
            let mut command = Command::new(&program);
            command.stdin(input).stdout(output);
            let options = SessionOptions { kill_with, ..SessionOptions::default() };
            let mut session = Session::launch_with(command, options).unwrap();
            let leaf = Function::entry(&program, "leaf");
            session.probe(leaf, |_: &mut Hit<'_>| Action::Stop).unwrap();
            assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::Stopped);
            session.leave()
        };
        let mut left = std::thread::spawn(serve).join().unwrap();
        // By itself it ends with its input.
        let held = kill_with.then_some(writer);
        let status = left.wait().unwrap();
        drop((held, reader));
        let expected = if kill_with { (None, Some(9)) } else { (Some(0), None) };
        assert_eq!((status.code(), status.signal()), expected);
    }
}
