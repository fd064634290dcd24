//! The library's client of a warden, which the command serves as here.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe::language::{Binary, Expression, Register, Unary, Width};
use probe::spec::ProbeSpec;
use probe::warden::{Client, Fields, News, Place, Program, Record, Then, WardenError};
use probe::{Action, AttachError, RunEnd, SessionOptions};
use scratch::{PROGRAM, Scratch};
use target::{ANSWERS, STEPLESS, Target};

fn client() -> Client {
    let mut command = Command::new(STEPLESS);
    command.arg("__warden");
    Client::start(command).unwrap()
}

fn spec(text: &str) -> ProbeSpec {
    text.parse().unwrap()
}

/// A client that has launched `program`, and the hits that it will have heard of.
fn launched(program: &Path) -> (Client, Rc<RefCell<Vec<Record>>>) {
    let mut client = client();
    let mut command = Command::new(program);
    command.stdout(Stdio::null());
    client.launch(command, SessionOptions::default()).unwrap();
    let hits = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&hits);
    client.observe(move |news| {
        if let News::Hit(hit) = news {
            heard.borrow_mut().push(hit);
        }
    });
    (client, hits)
}

fn ended_with(client: &mut Client, status: i32) {
    match client.run().unwrap() {
        RunEnd::Ended(Some(end)) => assert_eq!(end.code(), Some(status)),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.wait().and_then(|status| status.code()), Some(status));
}

fn argument(hits: &Rc<RefCell<Vec<Record>>>) -> Vec<u64> {
    let value = |hit: &Record| match *hit.registers {
        [(Register::Rdi, value)] => value,
        _ => panic!("{hit:?}"),
    };
    hits.borrow().iter().map(value).collect()
}

/// `leaf` is called with 1, 2 and 3.
#[test]
fn programs_count_filter_record_and_end() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let rdi = || Expression::register(Register::Rdi);
    let fields = Fields::new().register(Register::Rdi);
    let odd = rdi().unary(Unary::Cast(Width::Doubleword)).binary(Binary::And, 1u64.into());
    let null = Expression::from(8).unary(Unary::Load(Width::Quadword));
    let first = rdi().binary(Binary::Equal, 1u64.into()).binary(Binary::OrElse, null);
    let divided =
        Expression::from(6).binary(Binary::DivideSigned, rdi().binary(Binary::Subtract, 2u64.into()));
    for (steps, recorded, filtered, undefined, hits_of_all) in [
        (Program::new(), &[][..], 0, 0, 3),
        (Program::new().record(fields), &[1, 2, 3], 0, 0, 3),
        (Program::new().filter(odd).record(fields), &[1, 3], 1, 0, 3),
        (Program::new().filter(first).record(fields), &[1], 2, 2, 3),
        (Program::new().filter(divided).record(fields), &[1, 3], 1, 1, 3),
        (Program::new().limit(2).record(fields), &[1, 2], 0, 0, 2),
        (Program::new().record(fields).then(Then::Remove), &[1], 0, 0, 1),
    ] {
        let (mut client, hits) = launched(&program);
        let probe = client.probe(spec("program:leaf"), steps.clone()).unwrap();
        ended_with(&mut client, 7);
        let report = client.report(probe).unwrap().unwrap();
        let counters = report.counters;
        let counted = (counters.hits, counters.emulated, counters.filtered, report.undefined);
        assert_eq!(counted, (hits_of_all, hits_of_all, filtered, undefined), "{steps:?}");
        assert_eq!(argument(&hits), recorded, "{steps:?}");
        assert!(hits.borrow().iter().all(|hit| hit.pid == client.pid() && hit.probe == probe));
    }
}

/// `leaf` returns 2, 4 and 7.
#[test]
fn programs_run_at_entries_and_returns() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let rax = || Fields::new().register(Register::Rax);
    let odd =
        Expression::register(Register::Rdi).unary(Unary::Cast(Width::Byte)).binary(Binary::And, 1u64.into());
    let large = Expression::register(Register::Rax)
        .unary(Unary::Cast(Width::Doubleword))
        .binary(Binary::Greater, 3u64.into());
    for (entry, on_return, entered, returned, recorded) in [
        (Program::new(), Program::new(), (3, 0), (3, 0), &[][..]),
        (Program::new(), Program::new().record(rax()), (3, 0), (3, 0), &[2, 4, 7]),
        (Program::new().filter(odd), Program::new().record(rax()), (3, 2 - 1), (2, 0), &[2, 7]),
        (Program::new(), Program::new().filter(large).record(rax()), (3, 0), (3, 1), &[4, 7]),
        (Program::new(), Program::new().limit(2).record(rax()), (2, 0), (2, 0), &[2, 4]),
        (Program::new(), Program::new().record(rax()).then(Then::Remove), (1, 0), (1, 0), &[2]),
    ] {
        let (mut client, hits) = launched(&program);
        let probe = client.probe_calls(spec("program:leaf"), entry.clone(), on_return.clone()).unwrap();
        ended_with(&mut client, 7);
        let report = client.report(probe).unwrap().unwrap();
        let returns = report.returns.unwrap();
        let counted = |counters: probe::Counters| (counters.hits, counters.filtered);
        assert_eq!(
            (counted(report.counters), counted(returns)),
            (entered, returned),
            "{entry:?} {on_return:?}"
        );
        assert_eq!((returns.emulated, returns.dropped, returns.missed), (returned.0, 0, 0));
        let hits = hits.borrow();
        let results = hits.iter().map(|hit| hit.registers[0].1 & u64::from(u32::MAX));
        assert_eq!(results.collect::<Vec<_>>(), recorded, "{entry:?} {on_return:?}");
        assert!(
            hits.iter().all(|hit| hit.probe == probe && hit.duration_ns.is_some_and(|ns| ns < hit.time_ns))
        );
    }
}

#[test]
fn returns_are_those_of_functions() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let (mut client, _) = launched(&program);
    for (place, why) in
        [("program:leaf+2", "lies inside leaf"), ("program:leaf/*", "the return of an instruction")]
    {
        let error = client.probe_calls(spec(place), Program::new(), Program::new()).unwrap_err();
        assert!(error.to_string().contains(why), "{place}: {error}");
    }
    let error = client.probe(spec("program:leaf%return"), Program::new()).unwrap_err();
    assert!(error.to_string().contains("probe_calls"), "{error}");
    let probe = client.probe_calls(spec("program:leaf%return"), Program::new(), Program::new()).unwrap();
    ended_with(&mut client, 7);
    assert_eq!(client.report(probe).unwrap().unwrap().returns.unwrap().hits, 3);
}

#[test]
fn a_limit_is_shared_by_all_probes_and_ends_the_run() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let (mut client, hits) = launched(&program);
    client.limit(4).unwrap();
    let probes = ["program:leaf", "program:hidden"]
        .map(|place| client.probe(spec(place), Program::new().shared_limit().record(Fields::new())).unwrap());
    assert_eq!(client.run().unwrap(), RunEnd::Stopped);
    client.leave().unwrap();
    assert_eq!(client.wait().and_then(|status| status.code()), Some(7));
    assert_eq!(hits.borrow().len(), 4);
    let counted = probes.map(|probe| client.report(probe).unwrap().unwrap().counters.hits);
    assert_eq!(counted, [2, 2]);
}

/// `leaf` adds its argument to a counter, which is 1 at first: without it the counter stays.
#[test]
fn an_instruction_is_left_out() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let output = |skip: bool| {
        let mut client = client();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(&program);
        command.stdout(writer);
        client.launch(command, SessionOptions::default()).unwrap();
        if skip {
            client.probe(spec("program:leaf"), Program::new().then(Then::Skip)).unwrap();
        }
        ended_with(&mut client, 7);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        text
    };
    let (performed, skipped) = (output(false), output(true));
    assert_eq!(performed, "39\n");
    assert_ne!(skipped, performed);
}

#[test]
fn a_handler_decides_and_reads_and_writes() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let mut client = client();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(&program);
    command.stdout(writer);
    client.launch(command, SessionOptions::default()).unwrap();
    let asked = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&asked);
    let probe = client
        .probe_with(spec("program:leaf"), Program::new(), move |hit| {
            const RSP: usize = 4;
            const RDI: usize = 7;
            let stack = hit.registers().gpr[RSP];
            let (mut before, mut after) = ([0; 8], [0; 8]);
            assert_eq!(hit.read_up_to(stack - 4096, &mut before), 8);
            assert!(hit.write(stack - 4096, b"a letter"));
            assert_eq!(hit.read_up_to(stack - 4096, &mut after), 8);
            assert_eq!(&after, b"a letter");
            assert!(hit.write(stack - 4096, &before));
            assert!(!hit.write(8, b"to nobody"));
            let mut large = vec![0; 10_000];
            assert_eq!(hit.read_up_to(8, &mut large), 0);
            assert_eq!(hit.read_up_to(stack - 10_000, &mut large), 10_000);
            told.borrow_mut().push(hit.registers().gpr[RDI]);
            // Twice the argument.
            hit.registers_mut().gpr[RDI] *= 2;
            Action::Continue
        })
        .unwrap();
    ended_with(&mut client, 7);
    assert_eq!(*asked.borrow(), [1, 2, 3]);
    assert_eq!(client.report(probe).unwrap().unwrap().counters.emulated, 3);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    // The counter is 1 + 2, then 3 + 4, then 7 + 6, each times 3.
    assert_eq!(text, "69\n");
}

#[test]
fn what_cannot_be_done_is_told_as_a_session_tells_it() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let error = client().attach(i32::MAX, SessionOptions::default()).unwrap_err();
    assert!(matches!(error, WardenError::Attach(AttachError::NoSuchProcess { pid: i32::MAX })), "{error}");
    let error = client().launch(Command::new("/nowhere"), SessionOptions::default()).unwrap_err();
    assert!(matches!(error, WardenError::Attach(AttachError::Launch { .. })), "{error}");
    assert!(error.to_string().starts_with("/nowhere cannot be executed: No such file"), "{error}");
    let (mut client, _) = launched(&program);
    let error = client.probe(spec("program:nothing"), Program::new()).unwrap_err();
    assert!(matches!(&error, WardenError::Probe(why) if why.contains("nothing")), "{error}");
    assert!(client.probe_with(Place::Address(8), Program::new(), |_| Action::Continue).is_ok(), "it waits");
    let probe = client.probe(spec("program:leaf"), Program::new()).unwrap();
    ended_with(&mut client, 7);
    assert_eq!(client.report(probe).unwrap().unwrap().counters.hits, 3);
}

#[test]
fn a_target_is_left_when_its_client_is_dropped() {
    let scratch = Scratch::new();
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let text = target.text();
    let mut client = client();
    client.attach(target.pid().parse().unwrap(), SessionOptions::default()).unwrap();
    let probe = client.probe(spec("answers:leaf"), Program::new()).unwrap();
    let stop = client.stop_handle();
    stop.request();
    assert_eq!(client.run().unwrap(), RunEnd::StopRequested);
    target.ask();
    assert_eq!(client.report(probe).unwrap().unwrap().counters.hits, 1);
    client.remove(probe).unwrap();
    target.ask();
    assert_eq!(client.report(probe).unwrap().unwrap().counters.hits, 1);
    let again = client.probe(spec("answers:leaf"), Program::new()).unwrap();
    target.ask();
    assert_eq!(client.forget(again).unwrap().unwrap().counters.hits, 1);
    assert!(client.report(again).unwrap().is_none() && client.forget(again).unwrap().is_none());
    assert_eq!(client.report(probe).unwrap().unwrap().counters.hits, 1, "it is not the one");
    client.probe(spec("answers:leaf"), Program::new()).unwrap();
    drop((client, stop));
    assert!(target.text() == text);
    target.ask();
    target.finish();
}

#[test]
fn a_client_hears_that_its_warden_was_killed() {
    let mut client = client();
    kill(Pid::from_raw(client.warden()), Signal::SIGKILL).unwrap();
    let error = client.attach(1, SessionOptions::default()).unwrap_err();
    assert!(matches!(error, WardenError::Gone), "{error}");
}
