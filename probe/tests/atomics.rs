//! Atomic instructions on memory that an untraced process changes at the same time.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Function, compile, counter, finish};
use probe::{Counters, Session, Ways};

/// Runs `shared KIND SIZE THREADS ROUNDS` with a probe on every instruction of `functions`. Returns what was lost, and
/// the sum of the counters.
fn run(
    program: &Path,
    kind: &str,
    size: u32,
    threads: u32,
    functions: &[&str],
    ways: Ways,
) -> (u64, Counters) {
    const CHANGES: u32 = 4000;
    let mut command = Command::new(program);
    command.args([kind.to_string(), size.to_string(), threads.to_string(), (CHANGES / threads).to_string()]);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let mut session = Session::launch(command).unwrap();
    session.restrict_atomics(ways);
    let ids: Vec<_> = functions
        .iter()
        .map(|name| session.probe(Function::whole(program, &format!("{name}_{size}")), counter().1).unwrap())
        .collect();
    assert_eq!(finish(&mut session), 0);
    let mut sum = Counters::default();
    for id in ids {
        let report = session.report(id).unwrap();
        assert!(report.refused.is_empty(), "{:?}", report.refused);
        sum.hits += report.counters.hits;
        sum.emulated += report.counters.emulated;
        sum.native += report.counters.native;
    }
    assert_eq!(sum.hits, sum.emulated + sum.native, "{sum:?}");
    assert!(sum.hits >= u64::from(CHANGES), "{sum:?}");
    drop(session);
    let lost = std::io::read_to_string(reader).unwrap();
    (lost.trim().parse().unwrap(), sum)
}

/// The kinds of changes, by the functions that make them.
const KINDS: [(&str, &[&str]); 10] = [
    ("inc", &["inc"]),
    ("add", &["add"]),
    ("xadd", &["xadd"]),
    ("sub", &["sub"]),
    ("adc", &["adc"]),
    ("not", &["not"]),
    ("or", &["or", "and"]),
    ("xor", &["xor"]),
    ("xchg", &["xchg"]),
    ("cmpxchg", &["cmpxchg"]),
];

#[test]
fn one_thread_and_another_process_lose_nothing() {
    let program = compile("shared", &[]);
    for size in [1, 2, 4, 8] {
        for (kind, functions) in KINDS {
            let (lost, counters) = run(&program, kind, size, 1, functions, Ways::all());
            assert_eq!(lost, 0, "{kind} of {size}: {counters:?}");
            // The program has each of them, or one that does the same, once more.
            assert_eq!(counters.native, 0, "{kind} of {size}: {counters:?}");
        }
    }
    for size in [2, 4, 8] {
        let (lost, counters) = run(&program, "bts", size, 1, &["bts", "btr"], Ways::all());
        assert_eq!((lost, counters.native), (0, 0), "bts of {size}: {counters:?}");
    }
    let (lost, counters) = run(&program, "cmpxchg", 16, 1, &["cmpxchg"], Ways::all());
    assert_eq!((lost, counters.native), (0, 0), "cmpxchg16b: {counters:?}");
}

#[test]
fn threads_and_another_process_lose_nothing() {
    let program = compile("shared", &[]);
    for (kind, functions) in KINDS {
        let (lost, counters) = run(&program, kind, 4, 4, functions, Ways::all());
        assert_eq!((lost, counters.native), (0, 0), "{kind}: {counters:?}");
    }
    let (lost, counters) = run(&program, "cmpxchg", 16, 4, &["cmpxchg"], Ways::all());
    assert_eq!((lost, counters.native), (0, 0), "cmpxchg16b: {counters:?}");
}

/// Whether there are two cores, so that somebody can be faster.
fn has_two_cores() -> bool {
    let two = std::thread::available_parallelism().unwrap().get() >= 2;
    if !two {
        println!("skipped: on one core nobody does anything in the middle of an access");
    }
    two
}

/// On a machine that has others to serve, both sides may happen to share a core for a while.
const OFTEN: usize = 100;

#[test]
fn who_does_not_get_through_executes_it_in_place_which_is_counted() {
    let program = compile("shared", &[]);
    for threads in [1, 4] {
        let natively = |_| {
            let (lost, counters) = run(&program, "inc", 8, threads, &["inc"], Ways::all() - Ways::WHOLE);
            assert_eq!(lost, 0, "{counters:?}");
            counters.native > 0
        };
        assert!(!has_two_cores() || (0..OFTEN).any(natively), "{threads}");
    }
}

#[test]
fn without_these_ways_changes_are_lost() {
    let program = compile("shared", &[]);
    let loses = |_| {
        let (lost, counters) = run(&program, "inc", 8, 1, &["inc"], Ways::UNDIVIDED);
        assert_eq!(counters.native, 0, "{counters:?}");
        lost != 0
    };
    assert!(!has_two_cores() || (0..OFTEN).any(loses));
}
