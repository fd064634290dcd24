//! Children and threads that were being made, within one system call, when their process was attached to or left: they are
//! served, or meet no breakpoint.

mod common;

use std::io::Read;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use common::{Function, Target, compile, counter, finish};
use probe::{RunEnd, Session};

/// For how long it is seen that something does not happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// Has the target be within the system call that makes its child. Says whether it is, or the system does not let it be tried.
fn is_parked(target: &mut Target) -> bool {
    target.ask(1);
    let is_parked = target.line() == "parked\n";
    if !is_parked {
        println!("skipped: nothing can be held up here (userfaultfd, or CLONE_PIDFD of a thread)");
    }
    is_parked
}

/// Attaches to a process that makes such a child.
fn is_attached_to_meanwhile(how: &str) {
    let program = compile("parked", &[]);
    let mut target = Target::start(&program, &[how]);
    if !is_parked(&mut target) {
        return;
    }
    let pid = target.pid();
    let (placed, is_placed) = mpsc::channel();
    let serving = thread::spawn(move || {
        let mut session = Session::attach(pid).unwrap();
        session.probe(Function::whole(&program, "work"), counter().1).unwrap();
        placed.send(()).unwrap();
        finish(&mut session)
    });
    let is_waiting = is_placed.recv_timeout(A_WHILE);
    assert_eq!(is_waiting, Err(RecvTimeoutError::Timeout), "nobody would trace what is being made");
    target.ask(1);
    target.close_input();
    assert_eq!(serving.join().unwrap(), 0, "{how}: it has told how its child ended");
}

#[test]
fn a_forked_child_is_there_before_a_breakpoint_is() {
    is_attached_to_meanwhile("copy");
}

#[test]
fn a_child_that_shares_the_memory_is_there_before_a_breakpoint_is() {
    is_attached_to_meanwhile("share");
}

#[test]
fn a_thread_is_there_before_a_breakpoint_is() {
    is_attached_to_meanwhile("thread");
}

/// Leaves a process, `how` says in which way, that makes a child which has a copy of its breakpoints already.
fn is_left_meanwhile(how: fn(Session)) {
    let program = compile("parked", &[]);
    let mut target = Target::start(&program, &["copy"]);
    let pid = target.pid();
    let (started, handle) = mpsc::channel();
    let (left, has_left) = mpsc::channel();
    let serving = thread::spawn(move || {
        let mut session = Session::attach(pid).unwrap();
        session.probe(Function::whole(&program, "work"), counter().1).unwrap();
        started.send(session.stop_handle()).unwrap();
        assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::StopRequested);
        how(session);
        // Nobody listens where nothing could be held up.
        let _ = left.send(());
    });
    let handle = handle.recv().unwrap();
    let is_parked = is_parked(&mut target);
    handle.request();
    if is_parked {
        let is_waiting = has_left.recv_timeout(A_WHILE);
        assert_eq!(is_waiting, Err(RecvTimeoutError::Timeout), "nobody would free what is being made");
        target.ask(1);
    }
    serving.join().unwrap();
    assert_eq!(target.finish(), Some(if is_parked { 0 } else { 77 }), "it has told how its child ended");
}

#[test]
fn a_forked_child_has_no_breakpoints_if_its_process_is_left_meanwhile() {
    is_left_meanwhile(|session| drop(session.leave()));
}

#[test]
fn a_forked_child_has_no_breakpoints_if_its_process_is_detached_from_meanwhile() {
    is_left_meanwhile(|mut session| session.detach());
}

/// Serves a process to its end that threads make others in, or children, at that moment.
fn ends_while_others_are_made(how: &str) {
    const ROUNDS: u32 = 40;
    let program = compile("orphaned", &[]);
    for round in 0..ROUNDS {
        let (mut output, of_target) = std::io::pipe().unwrap();
        let mut command = Command::new(&program);
        command.args([how, &(50 * round).to_string()]).stdout(of_target);
        let mut session = Session::launch(command).unwrap();
        let (hits, handler) = counter();
        session.probe(Function::entry(&program, "work"), handler).unwrap();
        assert_eq!(finish(&mut session), 3, "round {round}");
        assert!(hits.load(Ordering::Relaxed) >= 200);
        // As long as the session is there, children that were made go on because they were let go.
        let (told, is_told) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            told.send(output.read_to_string(&mut text).map(|_| text))
        });
        let text = is_told.recv_timeout(Duration::from_secs(60)).expect("a child does not go on").unwrap();
        assert!(text.chars().all(|character| character == 'c'), "{text}");
        drop(session);
    }
}

#[test]
fn a_thread_whose_maker_is_killed_is_not_waited_for_in_vain() {
    ends_while_others_are_made("threads");
}

#[test]
fn a_child_whose_maker_is_killed_goes_on() {
    ends_while_others_are_made("children");
}
