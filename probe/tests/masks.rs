//! The signal masks of threads that are hit stay as they are, and so does a handler of SIGTRAP.

mod common;

use std::process::Command;
use std::time::Duration;

use common::{Function, Target, compile, counter, finish};
use probe::{RunEnd, Session};

/// Runs `masks HOW` with a probe on `work`, and says how it ended.
fn masks(how: &str) -> i32 {
    let program = compile("masks", &[]);
    let mut command = Command::new(&program);
    command.arg(how);
    let mut session = Session::launch(command).unwrap();
    let id = session.probe(Function::entry(&program, "work"), counter().1).unwrap();
    let code = finish(&mut session);
    let counters = session.report(id).unwrap().counters;
    assert_eq!((counters.hits, counters.emulated), (10, 10));
    code
}

#[test]
fn a_thread_does_not_keep_the_mask_that_it_was_born_with() {
    assert_eq!(masks("thread"), 0);
}

#[test]
fn sigtrap_stays_blocked_in_a_program_that_was_started_so() {
    assert_eq!(masks("blocked"), 0);
}

#[test]
fn a_mask_that_is_emptied_stays_empty() {
    assert_eq!(masks("alone"), 0);
}

#[test]
fn a_mask_that_is_replaced_stays_replaced() {
    assert_eq!(masks("changed"), 0);
}

#[test]
fn sigtrap_stays_unblocked_where_it_is_caught() {
    assert_eq!(masks("handled"), 0);
}

#[test]
fn sigtrap_stays_blocked_in_a_thread_that_was_attached_to() {
    let program = compile("masks", &[]);
    let mut target = Target::start(&program, &["attached"]);
    let mut session = Session::attach(target.pid()).unwrap();
    let id = session.probe(Function::entry(&program, "work"), counter().1).unwrap();
    target.close_input();
    match session.run_for(Duration::from_secs(60)) {
        RunEnd::Ended(Some(status)) => assert_eq!(status.code(), Some(0), "{status}"),
        other => panic!("the target did not end: {other:?}"),
    }
    assert_eq!(session.report(id).unwrap().counters.emulated, 10);
}
