//! Probes with arguments in a session: a handler gets them, and so does who asks for one event after the other.

mod scratch;

use std::process::Command;
use std::sync::{Arc, Mutex};

use probe::arguments::Value;
use probe::{Action, BuildError, Event, ProbeBuilder, ProbeError, Session};
use scratch::{PROGRAM, Scratch};

/// `hidden` and `leaf` are called with 1, 2 and 3.
fn launched(scratch: &Scratch) -> Session {
    let program = scratch.compile("program", PROGRAM, &["-g"]);
    let mut command = Command::new(program);
    command.stdout(std::process::Stdio::null());
    Session::launch(command).unwrap()
}

#[test]
fn a_handler_gets_arguments_where_the_condition_holds() {
    let scratch = Scratch::new();
    let mut session = launched(&scratch);
    let probe: ProbeBuilder = "program:leaf x=x before=counter if x > 1".parse().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seeing = Arc::clone(&seen);
    let id = session
        .watch(&probe, move |hit, values| {
            let of = |name: &str| values.get(name).and_then(Value::as_i64);
            assert_eq!(of("x"), Some(hit.registers().gpr[7] as i64));
            seeing.lock().unwrap().push((of("x"), of("before")));
            Action::Continue
        })
        .unwrap();
    session.run();
    assert_eq!(*seen.lock().unwrap(), [(Some(2), Some(2)), (Some(3), Some(4))]);
    let counters = session.report(id).unwrap().counters;
    assert_eq!((counters.hits, counters.emulated, counters.filtered), (3, 3, 1));
}

#[test]
fn events_come_one_after_the_other_and_returns_among_them() {
    let scratch = Scratch::new();
    let mut session = launched(&scratch);
    let entry: ProbeBuilder = "program:leaf x=%di:s32".parse().unwrap();
    let back: ProbeBuilder = "program:leaf%return result=$retval:s32".parse().unwrap();
    let events = session.events(&[entry, back]).unwrap();
    let probes = events.probes().to_vec();
    let mut seen = Vec::new();
    for event in events {
        assert_eq!(event.duration_ns.is_some(), event.probe == probes[1]);
        seen.push(event.values.to_string());
    }
    assert_eq!(seen, ["x=1", "result=2", "x=2", "result=4", "x=3", "result=7"]);
    for probe in probes {
        assert_eq!(session.report(probe).unwrap().counters.missed, 0);
    }
}

/// Who has seen enough goes on without probes.
#[test]
fn probes_go_with_their_events() {
    let scratch = Scratch::new();
    let mut session = launched(&scratch);
    let entry: ProbeBuilder = "program:leaf".parse().unwrap();
    let id = {
        let mut events = session.events(&[entry]).unwrap();
        assert!(events.next().is_some());
        events.probes()[0]
    };
    session.run();
    assert_eq!(session.report(id).unwrap().counters.hits, 1);
}

/// What a call's result is called is known when it returns.
#[test]
fn arguments_that_come_to_nothing_are_told_once() {
    let scratch = Scratch::new();
    let mut session = launched(&scratch);
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&told);
    session.observe(move |event| {
        if let Event::Unresolvable { probe, error, .. } = event {
            hears.lock().unwrap().push((*probe, error.to_string()));
        }
    });
    let probe: ProbeBuilder = "program:leaf%return y=nobody".parse().unwrap();
    let id = session.watch(&probe, |_, _| panic!("it has no arguments")).unwrap();
    session.run();
    let told = told.lock().unwrap();
    assert!(told.iter().all(|(probe, why)| *probe == id && why.contains("`nobody`")), "{told:?}");
    // For each place that calls it.
    assert_eq!(told.len(), 1, "{told:?}");
    let returns = session.report(id).unwrap().returns.unwrap();
    assert_eq!((returns.hits, returns.filtered), (3, 3));
}

#[test]
fn what_is_wrong_is_an_error_that_says_where() {
    let wrong = |text: &str| text.parse::<ProbeBuilder>().unwrap_err();
    assert!(matches!(wrong("program"), BuildError::Place(_)));
    let BuildError::Syntax(error) = wrong("program:leaf x=+(") else { panic!("no syntax error") };
    assert_eq!(error.column, 17);
    let scratch = Scratch::new();
    let mut session = launched(&scratch);
    let probe: ProbeBuilder = "program:leaf y=y".parse().unwrap();
    match session.watch(&probe, |_, _| Action::Continue) {
        Err(ProbeError::Locate(error)) => assert!(error.to_string().contains("`y`"), "{error}"),
        other => panic!("{other:?}"),
    }
    session.kill();
}
