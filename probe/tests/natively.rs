//! Instructions of which the thread itself must execute what a tracer cannot do for it.

mod common;

use std::process::Command;

use common::{Function, Target, compile, counter, finish};
use probe::{Counters, Session};

#[test]
fn what_no_tracer_can_do_the_thread_does() {
    let program = compile("natively", &[]);
    let plain = Command::new(&program).output().unwrap().stdout;
    let plain = String::from_utf8(plain).unwrap();
    assert!(plain.starts_with("200000\n"), "{plain}");
    let mut command = Command::new(&program);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let mut session = Session::launch(command).unwrap();
    let [toggle, peek] = ["toggle", "peek"]
        .map(|symbol| session.probe(Function::whole(&program, symbol), counter().1).unwrap());
    assert_eq!(finish(&mut session), 0);
    let counters = |id| session.report(id).unwrap().counters;
    // Both POPFs.
    let Counters { hits, emulated, native, faulted, .. } = counters(toggle);
    assert_eq!((hits, emulated, native, faulted), (10, 8, 2, 0));
    if plain.contains("vvar") {
        let Counters { hits, emulated, native, faulted, .. } = counters(peek);
        assert_eq!((hits, emulated, native, faulted), (2, 1, 1, 0));
    } else {
        println!("skipped: this kernel has no vvar page, which nobody else could read");
    }
    drop(session);
    assert_eq!(std::io::read_to_string(reader).unwrap(), plain);
}

#[test]
fn a_thread_is_not_waited_for_that_waits_for_one_that_is_held() {
    let program = compile("filled", &[]);
    let mut session = Session::launch(Command::new(&program)).unwrap();
    let id = session.probe(Function::whole(&program, "toggle"), counter().1).unwrap();
    match finish(&mut session) {
        77 => return println!("skipped: no page can be filled here (userfaultfd)"),
        code => assert_eq!(code, 0),
    }
    // Each POPF holds the other thread.
    let Counters { hits, native, .. } = session.report(id).unwrap().counters;
    assert_eq!((hits, native), (20, 4));
}

#[test]
fn no_thread_borrows_what_others_may_rewrite() {
    let program = compile("rewritten", &[]);
    let target = Target::start(&program, &[]);
    let mut session = Session::attach(target.pid()).unwrap();
    let [enter, add] =
        ["enter", "add"].map(|symbol| session.probe(Function::whole(&program, symbol), counter().1).unwrap());
    assert_eq!(target.finish_in(&mut session), Some(0));
    for id in [enter, add] {
        let Counters { hits, emulated, .. } = session.report(id).unwrap().counters;
        assert_eq!((hits, emulated), (600, 600));
    }
}
