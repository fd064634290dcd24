//! How running on ends before its time: the target is killed or stopped, the session stops or leaves.

mod common;

use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Function, Target, compile};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe::run_on::Region;
use probe::{Action, Hit, RunEnd, Session, SessionOptions};

/// A program that computes without an end, and a session that is attached to it.
fn endless() -> (Target, Session, Function) {
    let program = compile("running", &[]);
    let target = Target::start(&program, &["endless"]);
    let session = Session::attach(target.pid()).unwrap();
    (target, session, Function::entry(&program, "leaf"))
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A line of `/proc/PID/status`.
fn status(pid: i32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_target_is_killed_within_it() {
    let (target, mut session, leaf) = endless();
    let pid = target.pid();
    session
        .probe(leaf, move |hit| {
            hit.run_on_with(Region::new(), move |step| {
                if step.number() == 1000 {
                    send(pid, Signal::SIGKILL);
                }
                ControlFlow::Continue(())
            });
            Action::Remove
        })
        .unwrap();
    // It was not launched by the session, whose child it is all the same.
    match session.run_for(Duration::from_secs(30)) {
        RunEnd::Ended(status) => assert_eq!(status.and_then(|status| status.signal()), Some(9)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_target_that_nobody_observes_is_killed_within_it() {
    let (target, mut session, leaf) = endless();
    let pid = target.pid();
    session
        .probe(leaf, move |hit| {
            hit.run_on(Region::new());
            Action::Remove
        })
        .unwrap();
    assert_eq!(session.run_for(Duration::from_millis(300)), RunEnd::Timeout);
    send(pid, Signal::SIGKILL);
    assert!(matches!(session.run_for(Duration::from_secs(30)), RunEnd::Ended(_)));
}

#[test]
fn a_signal_without_a_handler_ends_it() {
    let (target, mut session, leaf) = endless();
    let pid = target.pid();
    session
        .probe(leaf, move |hit| {
            hit.run_on(Region::new());
            Action::Remove
        })
        .unwrap();
    assert_eq!(session.run_for(Duration::from_millis(50)), RunEnd::Timeout);
    send(pid, Signal::SIGTERM);
    match session.run_for(Duration::from_secs(30)) {
        RunEnd::Ended(status) => assert_eq!(status.and_then(|status| status.signal()), Some(15)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn job_control_stops_it_and_it_goes_on() {
    let (target, mut session, leaf) = endless();
    let pid = target.pid();
    let steps = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&steps);
    session
        .probe(leaf, move |hit| {
            let counted = Arc::clone(&counted);
            hit.run_on_with(Region::new(), move |step| {
                counted.store(step.number(), Ordering::Relaxed);
                ControlFlow::Continue(())
            });
            Action::Remove
        })
        .unwrap();
    let handle = session.stop_handle();
    let controlling = std::thread::spawn(move || {
        let seen = |steps: &AtomicU64| steps.load(Ordering::Relaxed);
        wait_until("it runs on", || seen(&steps) > 1000);
        send(pid, Signal::SIGSTOP);
        // A traced process that is stopped is so in a tracing stop.
        let mut before = seen(&steps);
        let mut since = Instant::now();
        wait_until("it stops", || {
            let now = seen(&steps);
            if std::mem::replace(&mut before, now) != now {
                since = Instant::now();
            }
            since.elapsed() > Duration::from_millis(200)
        });
        send(pid, Signal::SIGCONT);
        wait_until("it goes on", || seen(&steps) > before + 1000);
        handle.request();
    });
    assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::StopRequested);
    controlling.join().unwrap();
}

#[test]
fn a_session_leaves_within_it() {
    let (target, mut session, leaf) = endless();
    let pid = target.pid();
    session
        .probe(leaf, move |hit| {
            hit.run_on(Region::new());
            Action::Continue
        })
        .unwrap();
    let began = Instant::now();
    assert_eq!(session.run_for(Duration::from_millis(50)), RunEnd::Timeout);
    assert!(began.elapsed() < Duration::from_secs(10));
    session.detach();
    assert_eq!(status(pid, "TracerPid"), "0");
    assert!(status(pid, "State").starts_with('R'), "{}", status(pid, "State"));
}

#[test]
fn a_session_leaves_threads_that_wait_for_their_turns() {
    /// More than one has in a turn while others wait, so that most wait behind the breakpoint that has stopped them.
    const MANY: u64 = 400;
    let program = compile("parallel", &[]);
    let mut target = Target::start(&program, &["waits", "3", "18446744073709551615"]);
    let pid = target.pid();
    for quietly in [false, true].repeat(10) {
        let step = Function::entry(&program, "step");
        let serve = move || {
            let options = SessionOptions { tracers: 1, ..SessionOptions::default() };
            let mut session = Session::attach_with(pid, options).unwrap();
            let many = |hit: &mut Hit<'_>| {
                hit.run_on_with(Region::new().instructions(MANY), |_| ControlFlow::Continue(()));
                Action::Continue
            };
            let id = session.probe(step, many).unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while session.report(id).unwrap().counters.hits < 10 {
                assert!(Instant::now() < deadline, "no probe is hit");
                assert_eq!(session.run_for(Duration::from_millis(5)), RunEnd::Timeout);
            }
            match quietly {
                true => drop(session.leave()),
                false => session.detach(),
            }
        };
        std::thread::spawn(serve).join().unwrap();
    }
    send(pid, Signal::SIGKILL);
    assert_eq!(target.end().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_panic_of_an_observer_comes_out_of_the_run() {
    let (target, mut session, leaf) = endless();
    session
        .probe(leaf, move |hit| {
            hit.run_on_with(Region::new(), move |step| {
                assert!(step.number() < 1000, "enough");
                ControlFlow::Continue(())
            });
            Action::Remove
        })
        .unwrap();
    let run = std::panic::AssertUnwindSafe(|| session.run_for(Duration::from_secs(30)));
    assert!(std::panic::catch_unwind(run).is_err());
    session.detach();
    assert!(status(target.pid(), "State").starts_with('R'));
}
