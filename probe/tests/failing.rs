//! The kernel refuses what the engine asks for, one request at a time: programs do what they do alone all the
//! same, and the host is told.

mod common;
mod refuse;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Function, compile, counter, raises_what_faults_expects};
use libc::{EIO, EPERM, SYS_process_vm_readv, SYS_process_vm_writev, SYS_ptrace, c_long};
use probe::{Counters, Event, RunEnd, Session};

/// What is refused: the system call, the ptrace request, and the error.
type Refused = (c_long, Option<u32>, i32);

/// What became of a run.
struct Run {
    counters: Counters,
    /// The requests that were told to have failed.
    failed: BTreeSet<&'static str>,
}

/// Runs the program, with a probe on each instruction of these functions, while the kernel refuses
/// something, and checks that it does what it does alone.
fn run(program: &Path, arguments: &[&str], functions: &[&str], refused: Refused) -> Run {
    let (program, arguments) = (program.to_owned(), arguments.iter().map(|&text| text.to_owned()).collect());
    let functions: Vec<String> = functions.iter().map(|&name| name.to_owned()).collect();
    // The filter holds for the thread that installs it.
    thread::spawn(move || run_here(&program, arguments, &functions, refused)).join().unwrap()
}

fn run_here(program: &PathBuf, arguments: Vec<String>, functions: &[String], refused: Refused) -> Run {
    let alone = Command::new(program).args(&arguments).output().unwrap();
    let path =
        program.with_extension(format!("{refused:?}").replace(|letter: char| !letter.is_alphanumeric(), "-"));
    let mut output = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::from(output.try_clone().unwrap()));
    let (call, request, errno) = refused;
    refuse::refuse(call, request, errno);
    let mut session = Session::launch(command).unwrap();
    let failed = Arc::new(Mutex::new(BTreeSet::new()));
    let told = Arc::clone(&failed);
    session.observe(move |event| {
        if let Event::Failed { request, .. } = event {
            told.lock().unwrap().insert(*request);
        }
    });
    let place = |name: &String| session.probe(Function::whole(program, name), counter().1).unwrap();
    let ids: Vec<_> = functions.iter().map(place).collect();
    let end = session.run_for(Duration::from_secs(60));
    let mut text = Vec::new();
    output.rewind().unwrap();
    output.read_to_end(&mut text).unwrap();
    assert_eq!(String::from_utf8(text), String::from_utf8(alone.stdout), "{refused:?}");
    match end {
        RunEnd::Ended(status) => assert_eq!(status, Some(alone.status), "{refused:?}"),
        other => panic!("{refused:?}: the target did not end: {other:?}"),
    }
    let mut sum = Counters::default();
    for id in ids {
        let Counters { hits, emulated, native, faulted, missed, .. } = session.report(id).unwrap().counters;
        sum.hits += hits;
        sum.emulated += emulated;
        sum.native += native;
        sum.faulted += faulted;
        sum.missed += missed;
    }
    drop(session);
    let failed = failed.lock().unwrap().clone();
    Run { counters: sum, failed }
}

/// `extended`, each instruction of which is probed.
fn extended(refused: Refused) -> Run {
    const FUNCTIONS: [&str; 8] =
        ["integer", "sse_load", "sse_compute", "sse_keep", "sse_store", "x87", "mmx", "save"];
    run(&compile("extended", &[]), &["2"], &FUNCTIONS, refused)
}

fn all_done(run: &Run) {
    let Counters { hits, emulated, native, faulted, .. } = run.counters;
    assert_eq!(hits, emulated + native + faulted, "{:?}", run.counters);
    assert_ne!(hits, 0);
}

fn ptrace(request: u32) -> Refused {
    (SYS_ptrace, Some(request), EIO)
}

#[test]
fn a_thread_executes_what_extended_registers_cannot_be_had_for() {
    for (request, name) in
        [(libc::PTRACE_GETFPREGS, "PTRACE_GETFPREGS"), (libc::PTRACE_SETFPREGS, "PTRACE_SETFPREGS")]
    {
        let run = extended(ptrace(request));
        assert_eq!(run.failed, BTreeSet::from([name]));
        all_done(&run);
        assert!(run.counters.native > 20 && run.counters.emulated > 10, "{:?}", run.counters);
    }
}

#[test]
fn a_thread_executes_what_memory_cannot_be_had_for() {
    for (call, name) in
        [(SYS_process_vm_readv, "process_vm_readv"), (SYS_process_vm_writev, "process_vm_writev")]
    {
        let run = extended((call, None, EPERM));
        assert_eq!(run.failed, BTreeSet::from([name]));
        all_done(&run);
        assert!(run.counters.native > 0 && run.counters.faulted == 0, "{:?}", run.counters);
    }
}

#[test]
fn a_breakpoint_is_given_up_where_general_registers_cannot_be_had() {
    let run = extended(ptrace(libc::PTRACE_GETREGS));
    assert_eq!(run.failed, BTreeSet::from(["PTRACE_GETREGS"]));
    assert_eq!(run.counters.hits, 0);
    // Each instruction, once.
    assert!(run.counters.missed > 30, "{:?}", run.counters);
}

#[test]
fn general_registers_are_stored_in_either_way() {
    for request in [libc::PTRACE_SETREGS, libc::PTRACE_POKEUSER] {
        let run = extended(ptrace(request));
        assert_eq!(run.failed, BTreeSet::new());
        all_done(&run);
        assert!(run.counters.emulated > 40, "{:?}", run.counters);
    }
}

#[test]
fn no_other_request_is_needed_for_instructions_without_faults() {
    let others = [
        libc::PTRACE_PEEKUSER,
        libc::PTRACE_GETSIGINFO,
        libc::PTRACE_SETSIGINFO,
        libc::PTRACE_PEEKSIGINFO,
        libc::PTRACE_GETSIGMASK,
        libc::PTRACE_SETSIGMASK,
        libc::PTRACE_SINGLESTEP,
    ];
    for request in others {
        let run = extended(ptrace(request));
        // One-byte instructions are told from the program's own by the signal.
        let expected = if request == libc::PTRACE_GETSIGINFO { vec!["PTRACE_GETSIGINFO"] } else { vec![] };
        assert_eq!(run.failed.iter().copied().collect::<Vec<_>>(), expected, "{request:#x}");
        all_done(&run);
    }
}

#[test]
fn faults_system_calls_and_atomic_accesses_end_as_alone() {
    // What the engine asks for while it serves a thread, and whether there is no other way that serves as well.
    let requests = [
        (libc::PTRACE_GETREGS, Some("PTRACE_GETREGS")),
        (libc::PTRACE_SETREGS, Some("PTRACE_SETREGS")),
        (libc::PTRACE_GETREGSET, None),
        (libc::PTRACE_SETREGSET, None),
        (libc::PTRACE_GETFPREGS, None),
        (libc::PTRACE_SETFPREGS, None),
        (libc::PTRACE_PEEKUSER, None),
        (libc::PTRACE_POKEUSER, None),
        (libc::PTRACE_GETSIGINFO, Some("PTRACE_GETSIGINFO")),
        (libc::PTRACE_SETSIGINFO, Some("PTRACE_SETSIGINFO")),
        (libc::PTRACE_GETSIGMASK, Some("PTRACE_GETSIGMASK")),
        (libc::PTRACE_SETSIGMASK, Some("PTRACE_SETSIGMASK")),
        (libc::PTRACE_SINGLESTEP, Some("PTRACE_SINGLESTEP")),
    ];
    let faults = compile("faults", &[]);
    if !raises_what_faults_expects(&faults) {
        return;
    }
    let entering = compile("entering", &["-Wno-unused-result"]);
    let contending = compile("contending", &[]);
    let family = compile("family", &[]);
    for (request, name) in requests {
        let refused = ptrace(request);
        let mut failed = BTreeSet::new();
        failed.extend(run(&faults, &[], &["load", "store", "divide", "push_at", "deep"], refused).failed);
        for how in ["restart", "fork", "vfork", "thread", "sigreturn"] {
            failed.extend(run(&entering, &[how], &["enter", "enter_clone", "restorer"], refused).failed);
        }
        failed.extend(run(&contending, &["20"], &["bump", "bump_pair"], refused).failed);
        failed.extend(run(&family, &["clone_vm"], &["work"], refused).failed);
        assert_eq!(failed, name.into_iter().collect(), "{request:#x}");
    }
}
