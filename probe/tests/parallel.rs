//! Threads of one target are served by several tracers, with the same answers and exact counts.

mod common;

use std::collections::HashSet;
use std::io::Read;
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use common::{Function, Target, compile, counter, finish};
use probe::{Action, Counters, Hit, ProbeId, RunEnd, Session, SessionOptions};

const ROUNDS: u64 = 2000;

/// What the threads of the target come to: the sum of each, and of all.
fn expected(threads: u64) -> String {
    let one = (0..ROUNDS as u32).fold(0u32, |sum, number| sum.wrapping_mul(31).wrapping_add(number));
    let mut line: String = (0..threads).map(|_| format!("{one} ")).collect();
    line += &format!("{}\n", threads * ROUNDS);
    line
}

/// The tracers by which a handler was called.
type Tracers = Arc<Mutex<HashSet<ThreadId>>>;

fn noting_tracers() -> (Tracers, impl FnMut(&mut Hit<'_>) -> Action + Send + 'static) {
    let tracers = Tracers::default();
    let noted = Arc::clone(&tracers);
    let handler = move |_: &mut Hit<'_>| {
        noted.lock().unwrap().insert(thread::current().id());
        Action::Continue
    };
    (tracers, handler)
}

/// A target that does `what` with so many threads, and what it prints.
fn launch(
    what: &str,
    threads: u64,
    options: SessionOptions,
) -> (Session, std::path::PathBuf, std::io::PipeReader) {
    let program = compile("parallel", &[]);
    let mut command = Command::new(&program);
    command.args([what, &threads.to_string(), &ROUNDS.to_string()]);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    (Session::launch_with(command, options).unwrap(), program, reader)
}

fn printed(mut reader: std::io::PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

fn counters(session: &Session, id: ProbeId) -> Counters {
    session.report(id).unwrap().counters
}

#[test]
fn threads_that_one_thread_makes_have_tracers_of_their_own() {
    const THREADS: u64 = 4;
    let (mut session, program, reader) = launch("work", THREADS, SessionOptions::default());
    let step = Function::whole(&program, "step");
    let sites = step.len() as u64;
    let (tracers, handler) = noting_tracers();
    let id = session.probe(step, handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    let Counters { hits, emulated, .. } = counters(&session, id);
    assert_eq!((hits, emulated), (THREADS * ROUNDS * sites, THREADS * ROUNDS * sites));
    assert!(tracers.lock().unwrap().len() >= 2, "{tracers:?}");
    drop(session);
    assert_eq!(printed(reader), expected(THREADS));
}

#[test]
fn system_calls_of_threads_that_change_tracers_return_what_they_came_to() {
    const THREADS: u64 = 4;
    let (mut session, program, reader) = launch("enter", THREADS, SessionOptions::default());
    let enter = Function::whole(&program, "enter");
    let (tracers, handler) = noting_tracers();
    // At SYSCALL alone.
    let id = session.probe(enter.only(1), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, id).emulated, THREADS * (ROUNDS + 1));
    assert!(tracers.lock().unwrap().len() >= 2, "{tracers:?}");
    drop(session);
    assert_eq!(printed(reader), expected(THREADS));
}

#[test]
fn one_tracer_serves_all_if_it_is_to() {
    let options = SessionOptions { tracers: 1, ..SessionOptions::default() };
    let (mut session, program, reader) = launch("work", 3, options);
    let (tracers, handler) = noting_tracers();
    let id = session.probe(Function::entry(&program, "step"), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, id).emulated, 3 * ROUNDS);
    assert_eq!(tracers.lock().unwrap().len(), 1);
    drop(session);
    assert_eq!(printed(reader), expected(3));
}

#[test]
fn what_a_thread_executes_itself_is_not_seen_by_threads_of_other_tracers() {
    const THREADS: u64 = 3;
    let (mut session, program, reader) = launch("look", THREADS, SessionOptions::default());
    let (tracers, handler) = noting_tracers();
    let step = session.probe(Function::entry(&program, "step"), handler).unwrap();
    let toggle = session.probe(Function::whole(&program, "toggle"), counter().1).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, step).emulated, THREADS * ROUNDS);
    let Counters { hits, emulated, native, .. } = counters(&session, toggle);
    assert_eq!(native, THREADS * (ROUNDS + 1), "POPF");
    assert_eq!(hits, native + emulated);
    assert!(tracers.lock().unwrap().len() >= 2, "{tracers:?}");
    drop(session);
    assert_eq!(printed(reader), expected(THREADS));
}

#[test]
fn a_slow_handler_delays_its_own_thread_only() {
    delays_nobody(&["slow", "2"]);
}

#[test]
fn a_slow_handler_of_the_main_thread_delays_nobody_either() {
    delays_nobody(&["slow_main", "1"]);
}

/// That another thread reaches a probe while one is at a slow handler, each time.
fn delays_nobody(how: &[&str]) {
    const SLOWLY: u64 = 20;
    let program = compile("parallel", &[]);
    let mut command = Command::new(&program);
    command.args(how).arg(SLOWLY.to_string());
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let mut session = Session::launch(command).unwrap();
    // Whether the other thread has hit while this handler was at work.
    let meanwhile = Arc::new(Mutex::new(Vec::new()));
    let fast = Arc::new(AtomicU64::new(0));
    let (seen, noted, counted) = (Arc::clone(&fast), Arc::clone(&meanwhile), Arc::clone(&fast));
    let handler = move |_: &mut Hit<'_>| {
        let (before, start) = (seen.load(Ordering::SeqCst), Instant::now());
        while seen.load(Ordering::SeqCst) == before && start.elapsed() < Duration::from_secs(20) {
            thread::yield_now();
        }
        noted.lock().unwrap().push(seen.load(Ordering::SeqCst) > before);
        Action::Continue
    };
    let slow = session.probe(Function::entry(&program, "slow"), handler).unwrap();
    let handler = move |_: &mut Hit<'_>| {
        counted.fetch_add(1, Ordering::SeqCst);
        Action::Continue
    };
    session.probe(Function::entry(&program, "step"), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, slow).emulated, SLOWLY);
    let meanwhile = meanwhile.lock().unwrap();
    assert_eq!(meanwhile[..], [true; SLOWLY as usize]);
    drop(session);
    assert!(printed(reader).ends_with(&format!("{SLOWLY}\n")));
}

#[test]
fn a_thread_of_another_tracer_executes_a_program() {
    let (mut session, program, reader) = launch("become", 2, SessionOptions::default());
    let (tracers, handler) = noting_tracers();
    let id = session.probe(Function::entry(&program, "step"), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    // Before, the one and a part of what the other has done, which may have been killed in a hit; afterwards both.
    let Counters { hits, emulated, .. } = counters(&session, id);
    assert!(emulated >= 3 * ROUNDS && (emulated..=emulated + 1).contains(&hits), "{hits} {emulated}");
    assert!(tracers.lock().unwrap().len() >= 2, "{tracers:?}");
    drop(session);
    assert_eq!(printed(reader), expected(2));
}

#[test]
fn all_tracers_leave_and_serve_again() {
    let program = compile("parallel", &[]);
    let target = Target::start(&program, &["waits", "3", "18446744073709551615"]);
    let pid = target.pid();
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let traced = || {
        let traced = threads().filter(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap();
            !status.contains("TracerPid:\t0\n")
        });
        traced.count()
    };
    for quietly in [false, true, false, true] {
        let program = program.clone();
        let serve = move || {
            let mut session = Session::attach(pid).unwrap();
            let (tracers, handler) = noting_tracers();
            let id = session.probe(Function::entry(&program, "step"), handler).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            // As one run that goes on.
            while tracers.lock().unwrap().len() < 3 && Instant::now() < deadline {
                assert_eq!(session.run_for(Duration::from_millis(5)), RunEnd::Timeout);
                let before = counters(&session, id);
                assert_eq!(counters(&session, id), before, "nobody serves between two runs");
            }
            assert_eq!(tracers.lock().unwrap().len(), 3, "{tracers:?}");
            let Counters { hits, emulated, .. } = counters(&session, id);
            assert_eq!(hits, emulated);
            match quietly {
                true => drop(session.leave()),
                false => session.detach(),
            }
        };
        thread::spawn(serve).join().unwrap();
        // Who waits for a thread's end is woken before the kernel lets go of what that thread has traced.
        let deadline = Instant::now() + Duration::from_secs(60);
        while traced() != 0 {
            assert!(Instant::now() < deadline, "threads are still traced");
            thread::yield_now();
        }
        assert_eq!(threads().count(), 4);
    }
}

#[test]
fn a_panic_of_a_handler_comes_out_of_the_run() {
    let (mut session, program, reader) = launch("work", 3, SessionOptions::default());
    let own = thread::current().id();
    let handler = move |_: &mut Hit<'_>| match thread::current().id() == own {
        true => Action::Continue,
        false => panic::panic_any("as it should"),
    };
    session.probe(Function::entry(&program, "step"), handler).unwrap();
    let run = panic::catch_unwind(AssertUnwindSafe(|| session.run_for(Duration::from_secs(60))));
    assert_eq!(run.unwrap_err().downcast_ref(), Some(&"as it should"));
    drop(session);
    // It runs on without probes.
    assert_eq!(printed(reader), expected(3));
}
