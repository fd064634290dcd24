//! Litmus tests, briefly: that they hold, and that they can fail.

use std::process::{Command, Output};
use std::time::Duration;

use conformance::litmus::{self, Options, Test};
use probe::locate::{Address, Hardware};
use probe::{Action, Session, Ways};

fn conformance(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conformance")).args(arguments).output().unwrap()
}

#[test]
fn nothing_forbidden_is_seen() {
    holds(&["litmus", "--seconds", "2", "--json"], 72);
}

/// Of a thread that runs on, too, accesses are made in the order of the program, though stores wait for each other.
#[test]
fn nothing_forbidden_is_seen_of_a_thread_that_runs_on() {
    holds(&["litmus", "--run-on", "--seconds", "2", "--json"], 72);
}

/// Of these tests threads contend for an instruction that each borrows, and of the others no memory is contended for.
#[test]
fn nothing_forbidden_is_seen_by_hardware_breakpoints() {
    let refused = Session::launch(Command::new("true")).unwrap();
    let refused = refused
        .entry()
        .map(|entry| (refused, entry))
        .and_then(|(mut session, entry)| session.probe(Hardware(Address(entry)), |_| Action::Continue).err());
    if let Some(error) = refused {
        return println!("skipped: {error}");
    }
    for (test, number) in [("lock_cmpxchg_4", 2), ("message", 3)] {
        holds(&["litmus", "--executor", "hardware", "--test", test, "--seconds", "1", "--json"], number);
    }
}

/// That so many tests hold.
fn holds(arguments: &[&str], number: usize) {
    let output = conformance(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = document["tests"].as_array().unwrap();
    let skipped = document["skipped"].as_array().unwrap();
    skipped.iter().for_each(|skipped| println!("skipped: {skipped}"));
    assert_eq!(tests.len() + skipped.len(), number, "{document}");
    for test in tests {
        assert_eq!(test["forbidden"], 0, "{test}");
        assert!(test["rounds"].as_u64() > Some(0), "{test}");
        assert!(test["hits"].as_u64() >= test["rounds"].as_u64(), "{test}");
        assert_eq!(test["hits"], test["emulated"], "{test}");
    }
}

/// Whether some of the tests whose names begin with `prefix` fail with `ways` alone to make accesses in one step.
fn fails(prefix: &str, ways: Ways) -> bool {
    fails_in(prefix, ways, false)
}

/// The same, with threads that run on or not.
fn fails_in(prefix: &str, ways: Ways, runs_on: bool) -> bool {
    let time = Duration::from_millis(500);
    let options = Options { time, ways, runs_on, prefix: prefix.to_owned(), ..Options::default() };
    // On a machine that has others to serve, both sides may happen to share a core for a while.
    (0..40).any(|_| !litmus::run(&options, |_| ()).unwrap().holds())
}

fn has_two_cores() -> bool {
    let two = std::thread::available_parallelism().unwrap().get() >= 2;
    if !two {
        println!("skipped: on one core nobody does anything in the middle of an access");
    }
    two
}

#[test]
fn without_a_way_to_make_an_access_in_one_step_changes_are_lost() {
    if has_two_cores() {
        assert!(fails("lock_inc_8_shared", Ways::UNDIVIDED));
        assert!(fails("lock_xadd_4_private", Ways::UNDIVIDED));
        assert!(fails("lock_cmpxchg_8_shared", Ways::UNDIVIDED));
    }
}

#[test]
fn stores_and_loads_in_two_pieces_tear() {
    if has_two_cores() {
        assert!(fails("torn_store_8", Ways::all() - Ways::UNDIVIDED));
        assert!(fails("torn_load_store_8", Ways::all() - Ways::UNDIVIDED));
    }
}

#[test]
fn stores_that_wait_in_the_wrong_order_or_unseen_are_found() {
    if has_two_cores() {
        assert!(fails_in("message_write_many", Ways::all() - Ways::IN_ORDER, true));
        assert!(fails_in("coherence_write", Ways::all() - Ways::OWN_AT_ONCE, true));
    }
}

/// Of each test that has to do with a way to make an access in one step.
#[test]
#[ignore = "by hand: takes some minutes on two cores, and prints what is seen without each of the ways"]
fn each_test_fails_without_the_ways() {
    let pieces = Ways::all() - Ways::UNDIVIDED;
    let exchange = Ways::UNDIVIDED | Ways::EXCHANGE;
    // Whether each test is to see something that is forbidden or weak: all, none, or whichever does.
    for (prefix, ways, sees) in [
        ("torn_", pieces, Some(true)),
        // In place, if need be.
        ("lock_", Ways::all() - Ways::WHOLE, Some(false)),
        // As often as it is tried, and else by a read and a write.
        ("lock_", exchange, None),
        ("lock_", Ways::UNDIVIDED, Some(true)),
    ] {
        println!("{ways:?}:");
        let rounds = Some(20_000);
        let options = Options { rounds, ways, prefix: prefix.to_owned(), ..Options::default() };
        let seen = |test: &Test| {
            let Test { name, rounds, forbidden, weak, hits, emulated } = test;
            let native = hits - emulated;
            println!(
                "{name:<24} {rounds:>8} rounds, {forbidden:>8} forbidden, {weak:>8} weak, {native:>8} in place"
            );
        };
        let report = litmus::run(&options, seen).unwrap();
        let found = |test: &Test| test.forbidden > 0 || test.weak > 0;
        let unlike = |test: &&Test| sees.is_some_and(|sees| sees != found(test));
        let unexpected: Vec<&Test> = report.tests.iter().filter(unlike).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
    }
}

#[test]
fn nothing_forbidden_is_seen_of_a_program_that_probes_itself() {
    let output = conformance(&["litmus", "--executor", "self", "--seconds", "3", "--json"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = document["tests"].as_array().unwrap();
    document["skipped"].as_array().unwrap().iter().for_each(|skipped| println!("skipped: {skipped}"));
    for test in tests {
        assert_eq!(test["forbidden"], 0, "{test}");
        assert!(test["rounds"].as_u64() > Some(0), "{test}");
        assert!(test["hits"].as_u64() >= test["rounds"].as_u64(), "{test}");
        assert_eq!(test["hits"], test["emulated"], "{test}");
    }
}

#[test]
fn a_program_that_probes_itself_has_the_hits_that_a_tracer_sees() {
    let run = |executor: &str| {
        let arguments =
            ["everywhere", "--object", "libc.so.6", "--symbol", "qsort*", "--json", "--executor", executor];
        let output = Command::new(env!("CARGO_BIN_EXE_conformance"))
            .args(arguments)
            .args(["--", "ls", "-l", "/usr"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{executor}: {text}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (traced, own) = (run("ptrace"), run("self"));
    for key in ["sites", "hits", "emulated", "refused"] {
        assert_eq!(traced[key], own[key], "{key}: {own}");
    }
    assert!(own["hits"].as_u64() > Some(0), "{own}");
}
