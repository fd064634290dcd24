//! Injections in a session, and what handlers do by themselves.

mod scratch;

use std::fs::File;
use std::process::Command;
use std::sync::{Arc, Mutex};

use emu::registers::gpr;
use probe::arguments::{Injected, Injection, Pick, Value};
use probe::spec::ProbeSpec;
use probe::{Action, ProbeBuilder, ProbeError, RunEnd, Session};
use scratch::{PROGRAM, Scratch};

/// Starts the program, whose `leaf` is called with 1, 2 and 3, and returns 2, 4 and 7; it prints three times their sum.
fn launched(scratch: &Scratch) -> Session {
    let mut command = Command::new(scratch.compile("program", PROGRAM, &["-g"]));
    command.stdout(File::create(scratch.path("printed")).unwrap());
    Session::launch(command).unwrap()
}

/// What it has printed at its end.
fn printed(scratch: &Scratch, session: &mut Session) -> String {
    assert!(matches!(session.run(), RunEnd::Ended(Some(status)) if status.code() == Some(7)));
    std::fs::read_to_string(scratch.path("printed")).unwrap()
}

#[test]
fn an_injection_is_told_of_and_others_are_filtered() {
    let scratch = Scratch::new();
    let mut session = launched(&scratch);
    let probe: ProbeBuilder = "program:leaf if x > 0".parse().unwrap();
    let probe = probe.injection(Injection::new().result("x+3").unwrap()).pick(Pick::new().nth(2));
    let told: Arc<Mutex<Vec<Injected>>> = Arc::default();
    let telling = Arc::clone(&told);
    let id =
        session.inject(&probe, move |_, injected| telling.lock().unwrap().push(injected.clone())).unwrap();
    // 2, 5 in place of 4, and 5, since the second call has added nothing.
    assert_eq!(printed(&scratch, &mut session), "36\n");
    let told = told.lock().unwrap();
    let [injected] = &told[..] else { panic!("{told:?}") };
    assert_eq!((injected.number, injected.returned, &injected.failed), (2, true, &None));
    let [change] = &injected.changes[..] else { panic!("{injected:?}") };
    assert_eq!((change.what.as_str(), &change.from, &change.to), ("return", &None, &Value::Signed(5)));
    let counters = session.report(id).unwrap().counters;
    assert_eq!((counters.hits, counters.filtered, counters.emulated), (3, 2, 2));
}

#[test]
fn a_handler_has_a_function_return() {
    let scratch = Scratch::new();
    let mut session = launched(&scratch);
    let leaf: ProbeSpec = "program:leaf".parse().unwrap();
    session
        .probe(leaf, |hit| {
            hit.return_now().unwrap();
            hit.registers_mut().gpr[gpr::RAX] = 10;
            Action::Continue
        })
        .unwrap();
    assert_eq!(printed(&scratch, &mut session), "90\n");
}

#[test]
fn what_cannot_be_returned_is_refused_when_the_probe_is_placed() {
    let scratch = Scratch::new();
    let mut session = launched(&scratch);
    let probe: ProbeBuilder = "program:leaf if x > 0".parse().unwrap();
    let probe = probe.injection(Injection::new().set("y=1").unwrap());
    match session.inject(&probe, |_, _| {}) {
        Err(ProbeError::Locate(error)) => assert!(error.to_string().contains("`y`"), "{error}"),
        other => panic!("{other:?}"),
    }
    session.kill();
}
