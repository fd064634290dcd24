//! Probes on neighbouring instructions: a run of them takes one stop.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::{Function, Target, compile, counter, finish};
use probe::{Action, RunEnd, Session};

/// What the program prints behind its name.
fn answer(program: &Path, what: &str, probed: &[&str]) -> (u64, Vec<probe::Counters>) {
    let mut command = Command::new(program);
    let (reader, writer) = std::io::pipe().unwrap();
    command.arg(what).stdin(Stdio::null()).stdout(writer);
    let mut session = Session::launch(command).unwrap();
    let probes: Vec<_> = probed
        .iter()
        .map(|symbol| session.probe(Function::whole(program, symbol), counter().1).unwrap())
        .collect();
    assert_eq!(finish(&mut session), 0);
    let counters = probes.iter().map(|&probe| session.report(probe).unwrap().counters).collect();
    drop(session);
    let text = std::io::read_to_string(reader).unwrap();
    (text.trim().rsplit(' ').next().unwrap().parse().unwrap(), counters)
}

#[test]
fn a_run_of_probed_instructions_takes_one_stop() {
    const CALLS: u64 = 500;
    let program = compile("running", &[]);
    let instructions = Function::whole(&program, "leaf").len() as u64;
    assert!(instructions >= 4);
    let (switches, counters) = answer(&program, "switches", &["leaf"]);
    assert_eq!(counters[0].hits, (CALLS + 1) * instructions);
    assert_eq!(counters[0].emulated, counters[0].hits);
    // One for each call, and few that have nothing to do with it.
    assert!((CALLS..CALLS + CALLS / 2).contains(&switches), "{switches}");
}

#[test]
fn signals_come_through_a_run_of_probed_instructions() {
    let program = compile("running", &[]);
    // The loop that waits for signals is probed altogether.
    let (broken, counters) = answer(&program, "signals", &["signals", "leaf", "tick"]);
    assert_eq!(broken, 0);
    assert!(counters[2].hits >= 10 * Function::whole(&program, "tick").len() as u64);
}

#[test]
fn faults_within_a_run_of_probed_instructions_are_the_programs_own() {
    let program = compile("running", &[]);
    let (good, counters) = answer(&program, "faults", &["faults", "on_fault"]);
    assert_eq!(good, 5);
    assert_eq!(counters[0].faulted, 4);
}

#[test]
fn a_session_stops_and_leaves_within_an_endless_run() {
    let program = compile("running", &[]);
    let target = Target::start(&program, &["endless"]);
    let mut session = Session::attach(target.pid()).unwrap();
    let hits = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(OnceLock::<probe::StopHandle>::new());
    stop.set(session.stop_handle()).unwrap();
    for symbol in ["endless", "leaf"] {
        let (hits, stop) = (Arc::clone(&hits), Arc::clone(&stop));
        session
            .probe(Function::whole(&program, symbol), move |_| {
                if hits.fetch_add(1, Ordering::Relaxed) == 5000 {
                    stop.get().unwrap().request();
                }
                Action::Continue
            })
            .unwrap();
    }
    assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::StopRequested);
    assert!(hits.load(Ordering::Relaxed) < 10_000, "{hits:?}");
    session.detach();
    let status = std::fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
    assert!(status.contains("TracerPid:\t0"), "{status}");
    assert!(status.contains("State:\tR"), "{status}");
}
