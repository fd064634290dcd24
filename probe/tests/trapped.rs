//! What a program does with SIGTRAP itself is what it does without probes, though the kernel resets it at a breakpoint.

mod common;

use std::ops::RangeInclusive;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Function, Target, compile, counter};
use nix::sys::signal::{SigHandler, Signal, signal};
use probe::{Action, Event, RunEnd, Session, SessionOptions};

/// Has `command` ignore SIGTRAP from its start on.
fn ignoring(mut command: Command) -> Command {
    // SAFETY: signal(2) is async-signal-safe, and no handler is set.
    #[allow(unsafe_code, reason = "the only way to have a child inherit it")]
    unsafe {
        command.pre_exec(|| Ok(signal(Signal::SIGTRAP, SigHandler::SigIgn).map(drop)?));
    }
    command
}

/// Runs a session with a probe on `work`, and calls `placed` when that is there. Returns the wait status, the hits, and the requests that have failed.
fn serve(mut session: Session, program: &Path, placed: impl FnOnce()) -> (i32, u64, Vec<String>) {
    let failed = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&failed);
    session.observe(move |event| {
        if let Event::Failed { request, error, .. } = event {
            events.lock().unwrap().push(format!("{request}: {error}"));
        }
    });
    let id = session.probe(Function::entry(program, "work"), counter().1).unwrap();
    placed();
    let status = match session.run_for(Duration::from_secs(60)) {
        RunEnd::Ended(Some(status)) => status.into_raw(),
        other => panic!("the target did not end: {other:?}"),
    };
    let counters = session.report(id).unwrap().counters;
    assert_eq!(counters.hits, counters.emulated);
    let failed = failed.lock().unwrap().clone();
    (status, counters.hits, failed)
}

/// Runs `trapped HOW`, which is to end with 0 and reach the probe so often, and nothing is to fail.
fn holds(how: &str, ignored: bool, hits: RangeInclusive<u64>) {
    for follow in [false, true] {
        let program = compile("trapped", &[]);
        let mut command = Command::new(&program);
        command.arg(how);
        let command = if ignored { ignoring(command) } else { command };
        let options = SessionOptions { follow, ..SessionOptions::default() };
        let session = Session::launch_with(command, options).unwrap();
        let (status, found, failed) = serve(session, &program, || {});
        assert_eq!((status, failed), (0, vec![]), "{how}");
        assert!(hits.contains(&found), "{how}: {found} hits");
    }
}

#[test]
fn a_handler_that_reaches_a_probe_is_kept() {
    holds("handled", false, 12..=12);
    holds("handled-so", false, 12..=12);
}

#[test]
fn a_handler_that_is_for_once_is_not_put_back() {
    holds("once", false, 3..=3);
}

#[test]
fn a_handler_that_is_set_anew_by_itself_is_kept() {
    holds("anew", false, 5..=5);
}

#[test]
fn a_handler_that_is_given_up_by_itself_is_not_put_back() {
    let program = compile("trapped", &[]);
    let mut command = Command::new(&program);
    command.arg("given-up");
    let (status, hits, failed) = serve(Session::launch(command).unwrap(), &program, || {});
    assert_eq!((status & 0x7f, hits, failed), (libc::SIGTRAP, 1, vec![]));
}

#[test]
fn a_handler_is_kept_that_a_handler_of_another_signal_would_lose() {
    holds("other-signal", false, 23..=23);
}

#[test]
fn a_handler_is_kept_that_a_thread_which_blocks_the_signal_would_lose() {
    holds("other-thread", false, 16..=16);
    holds("unseen", false, 13..=13);
}

fn attached(mut target: Target, program: &Path, hits: u64) {
    let session = Session::attach(target.pid()).unwrap();
    let (status, found, failed) = serve(session, program, || target.close_input());
    assert_eq!((status, found, failed), (0, hits, vec![]));
}

#[test]
fn the_handler_is_kept_of_a_program_that_was_attached_to() {
    let program = compile("trapped", &[]);
    attached(Target::start(&program, &["attached"]), &program, 14);
}

#[test]
fn what_cannot_be_put_back_is_told_once() {
    let program = compile("trapped", &[]);
    let mut command = Command::new(&program);
    command.arg("unknown");
    let (status, hits, failed) = serve(Session::launch(command).unwrap(), &program, || {});
    assert_eq!((status, hits), (0, 10));
    assert_eq!(failed, ["rt_sigaction(SIGTRAP): ENODATA: No data available"]);
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    holds("ignored", true, 10..=11);
}

#[test]
fn a_signal_that_is_ignored_stays_so_where_threads_reach_probes() {
    holds("ignored-by-many", true, 4000..=5000);
}

/// Has a program that ignores SIGTRAP, with two threads in system calls, reach a probe, and leaves it.
fn is_left(leave: fn(Session)) {
    let program = compile("trapped", &[]);
    let path = program.to_str().unwrap();
    let mut target =
        Target::start(Path::new("/bin/sh"), &["-c", "trap '' TRAP; exec \"$0\" ignored-left", path]);
    let serve = || {
        let mut session = Session::attach(target.pid()).unwrap();
        let id = session.probe(Function::entry(&program, "work"), |_| Action::Stop).unwrap();
        target.ask(1);
        assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::Stopped);
        assert_eq!(session.report(id).unwrap().counters.hits, 1);
        leave(session);
    };
    std::thread::scope(|scope| scope.spawn(serve).join().unwrap());
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_signal_is_ignored_again_by_a_program_that_is_left() {
    is_left(drop);
    is_left(|session| drop(session.leave()));
}

#[test]
fn a_signal_is_not_ignored_that_the_program_ignores_no_more() {
    holds("ignored-no-more", true, 2..=2);
}

#[test]
fn a_filter_that_forbids_to_set_actions_is_not_met() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root suspends a filter");
    }
    holds("filtered", true, 10..=11);
}
