//! Running on: emulated one after the other, a thread's instructions do what they do otherwise.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::{Function, compile, counter, finish};
use probe::run_on::{End, Region, What};
use probe::{Action, ProbeId, Session};

fn command(program: &Path, what: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(what).stdin(Stdio::null());
    command
}

/// What has been seen of regions.
#[derive(Debug, Default)]
struct Seen {
    steps: AtomicU64,
    native: AtomicU64,
    calls: AtomicU64,
    signals: AtomicU64,
    faults: AtomicU64,
    ends: Mutex<Vec<End>>,
}

/// Has each thread run on that comes to `symbol`.
fn run_on(session: &mut Session, program: &Path, symbol: &str, region: Region) -> (ProbeId, Arc<Seen>) {
    let seen: Arc<Seen> = Arc::default();
    let all = Arc::clone(&seen);
    let probe = session
        .probe(Function::entry(program, symbol), move |hit| {
            let seen = Arc::clone(&all);
            hit.run_on_with(region.clone(), move |step| {
                let counter = match step.what() {
                    What::End(end) => {
                        seen.ends.lock().unwrap().push(end);
                        return ControlFlow::Continue(());
                    }
                    What::Signal { .. } => &seen.signals,
                    What::SystemCall { .. } => &seen.calls,
                    What::Faulted => &seen.faults,
                    What::Native => &seen.native,
                    _ => &seen.steps,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                ControlFlow::Continue(())
            });
            Action::Continue
        })
        .unwrap();
    (probe, seen)
}

/// Runs the program with `symbol` run on, and without, and holds what it prints against each other.
fn same_with_and_without(what: &str, symbol: &str) -> Arc<Seen> {
    let program = compile("running", &[]);
    let plain = command(&program, what).output().unwrap();
    assert!(plain.status.success());
    // Nobody observes it, so that it is as fast as can be.
    let mut quietly = command(&program, what);
    let (reader, writer) = std::io::pipe().unwrap();
    quietly.stdout(writer);
    let mut session = Session::launch(quietly).unwrap();
    let function = Function::entry(&program, symbol);
    session
        .probe(function, |hit| {
            hit.run_on(Region::new().until_return());
            Action::Continue
        })
        .unwrap();
    assert_eq!(finish(&mut session), 0);
    drop(session);
    assert_eq!(std::io::read_to_string(reader).unwrap().as_bytes(), plain.stdout);

    let mut observed = command(&program, what);
    let (reader, writer) = std::io::pipe().unwrap();
    observed.stdout(writer);
    let mut session = Session::launch(observed).unwrap();
    let (_, seen) =
        run_on(&mut session, &program, symbol, Region::new().until_return().accesses().extended());
    assert_eq!(finish(&mut session), 0);
    drop(session);
    assert_eq!(std::io::read_to_string(reader).unwrap().as_bytes(), plain.stdout);
    seen
}

#[test]
fn a_program_computes_the_same() {
    let seen = same_with_and_without("compute", "compute");
    assert_eq!(*seen.ends.lock().unwrap(), [End::Returned]);
    assert!(seen.steps.load(Ordering::Relaxed) > 50_000, "{seen:?}");
}

#[test]
fn the_kernel_sees_what_was_stored_and_is_seen() {
    let seen = same_with_and_without("calls", "calls");
    assert_eq!(*seen.ends.lock().unwrap(), [End::Returned]);
    assert!(seen.calls.load(Ordering::Relaxed) >= 20 * 2 + 5, "{seen:?}");
}

#[test]
fn signals_are_delivered_and_handlers_run_on() {
    let seen = same_with_and_without("signals", "signals");
    assert_eq!(*seen.ends.lock().unwrap(), [End::Returned]);
    assert!(seen.signals.load(Ordering::Relaxed) >= 10, "{seen:?}");
}

#[test]
fn faults_are_the_programs_own() {
    let seen = same_with_and_without("faults", "faults");
    assert_eq!(*seen.ends.lock().unwrap(), [End::Returned]);
    assert!(seen.faults.load(Ordering::Relaxed) >= 4, "{seen:?}");
}

#[test]
fn code_that_changes_is_executed_as_it_is() {
    let seen = same_with_and_without("modify", "modify");
    assert_eq!(*seen.ends.lock().unwrap(), [End::Returned]);
}

#[test]
fn threads_that_run_on_pass_messages() {
    let seen = same_with_and_without("threads", "pass");
    assert_eq!(*seen.ends.lock().unwrap(), [End::Returned, End::Returned]);
}

/// Stores wait for each other while others run. One that cannot be made then faults where it is in the program.
#[test]
fn another_thread_may_take_away_what_is_stored_to() {
    let seen = same_with_and_without("guard", "store_guarded");
    assert_eq!(*seen.ends.lock().unwrap(), [End::Returned]);
}

/// The thread makes such accesses itself, with what it has in its registers.
#[test]
fn accesses_in_one_step_are_those_of_their_instructions() {
    for what in ["atomics", "shared"] {
        let seen = same_with_and_without(what, "change");
        assert_eq!(*seen.ends.lock().unwrap(), [End::Returned], "{what}");
    }
}

#[test]
fn a_function_that_is_left_is_over() {
    let seen = same_with_and_without("leave", "jump");
    assert_eq!(*seen.ends.lock().unwrap(), [End::Left]);
}

#[test]
fn another_program_ends_it() {
    let seen = same_with_and_without("replace", "replace");
    assert!(seen.ends.lock().unwrap().is_empty());
    assert!(seen.steps.load(Ordering::Relaxed) > 0);
}

#[test]
fn probes_on_the_way_are_hits() {
    let program = compile("running", &[]);
    let mut session = Session::launch({
        let mut command = command(&program, "compute");
        command.stdout(Stdio::null());
        command
    })
    .unwrap();
    let (_, seen) = run_on(&mut session, &program, "compute", Region::new().until_return());
    let (hits, handler) = counter();
    let leaf = session.probe(Function::whole(&program, "leaf"), handler).unwrap();
    let instructions = Function::whole(&program, "leaf").len() as u64;
    assert_eq!(finish(&mut session), 0);
    assert_eq!(*seen.ends.lock().unwrap(), [End::Returned]);
    let counters = session.report(leaf).unwrap().counters;
    assert_eq!(counters.hits, 4096 * instructions);
    assert_eq!(counters.emulated, counters.hits);
    assert_eq!(hits.load(Ordering::Relaxed), counters.hits);
}

#[test]
fn so_many_instructions_are_observed() {
    let program = compile("running", &[]);
    let mut session = Session::launch({
        let mut command = command(&program, "compute");
        command.stdout(Stdio::null());
        command
    })
    .unwrap();
    let (_, seen) = run_on(&mut session, &program, "compute", Region::new().instructions(1000));
    assert_eq!(finish(&mut session), 0);
    assert_eq!(*seen.ends.lock().unwrap(), [End::Instructions]);
    let all =
        [&seen.steps, &seen.native, &seen.calls, &seen.faults].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(all.iter().sum::<u64>(), 1000);
}

#[test]
fn stores_are_seen_with_what_was_there_before() {
    let program = compile("running", &[]);
    let mut command = Command::new(&program);
    command.args(["loop", "100"]).stdout(Stdio::null());
    let mut session = Session::launch(command).unwrap();
    // Each with its address, what was there, and what is.
    type Store = (u64, Vec<u8>, Vec<u8>);
    let stores: Arc<Mutex<Vec<Store>>> = Arc::default();
    let all = Arc::clone(&stores);
    session
        .probe(Function::entry(&program, "plain_loop"), move |hit| {
            let all = Arc::clone(&all);
            hit.run_on_with(Region::new().until_return().accesses(), move |step| {
                let mut new = Vec::new();
                for access in step.accesses() {
                    if let Some(bytes) = access.new {
                        new.push((access.address, access.old.to_vec(), bytes.to_vec()));
                    }
                }
                for (address, _, bytes) in &new {
                    let mut now = vec![0; bytes.len()];
                    step.read(*address, &mut now).unwrap();
                    assert_eq!(now, *bytes);
                }
                all.lock().unwrap().extend(new);
                ControlFlow::Continue(())
            });
            Action::Continue
        })
        .unwrap();
    assert_eq!(finish(&mut session), 0);
    // Whatever is stored is what the next store to the same place finds.
    let stores = stores.lock().unwrap();
    assert!(stores.len() >= 200, "{}", stores.len());
    let mut memory = std::collections::HashMap::new();
    for (address, old, new) in stores.iter().filter(|(_, old, _)| old.len() == 8) {
        if let Some(before) = memory.insert(*address, new) {
            assert_eq!(before, old, "{address:#x}");
        }
    }
}
