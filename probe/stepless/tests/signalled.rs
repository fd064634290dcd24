//! Each signal that ends a process by default comes to the command, or to its group, while what it probes is at full speed.
//!
//! `STEPLESS_ROUNDS` says how often each, for a longer look than a test's; then nothing else is to keep the processors busy,
//! since the time that the command may take is a second.

mod computing;
#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use computing::{Computing, compile, pass, random, rounds};
use scratch::Scratch;
use target::{Watchdog, ending_signals, ends_the_session, stepless_command};

const THREADS: &str = "2";
const PROBES: [&str; 5] = ["stat", "-e", "computes:leaf/*", "-o", "/dev/null"];

/// Whom a signal is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Command,
    Group,
}

const BOTH: [To; 2] = [To::Command, To::Group];

/// Those that are passed on to a launched target, since no key sends them to both.
fn is_passed_on(signal: i32) -> bool {
    [libc::SIGTERM, libc::SIGHUP].contains(&signal)
}

/// Some time later, sends `signal`; returns when.
fn send(command: &Child, to: To, signal: i32) -> Instant {
    pass(random(Duration::from_millis(30)));
    let id = command.id().to_string();
    let whom = if to == To::Group { format!("-{id}") } else { id };
    // Real-time signals are unknown to nix.
    let mut kill = Command::new("kill");
    kill.args([&format!("-{signal}"), "--", &whom]);
    let sent = Instant::now();
    assert!(kill.status().unwrap().success(), "{signal}");
    sent
}

/// How long commands took to end.
#[derive(Default)]
struct Times {
    number: u32,
    longest: Duration,
    late: u32,
}

impl Times {
    /// Waits for the end.
    fn end_of(&mut self, command: &mut Child, sent: Instant) -> ExitStatus {
        let watchdog = Watchdog::of(command);
        let ended = command.wait().unwrap();
        drop(watchdog);
        let took = sent.elapsed();
        if took > Duration::from_secs(1) {
            eprintln!("{ended} after {took:?}");
        }
        self.number += 1;
        self.longest = self.longest.max(took);
        self.late += u32::from(took > Duration::from_secs(1));
        ended
    }

    /// That all ended within a second, where nothing else kept the processors busy.
    fn check(&self) {
        eprintln!(
            "{} ends, {} after more than a second, the longest {:?}",
            self.number, self.late, self.longest
        );
        assert!(self.late == 0 || std::env::var_os("STEPLESS_ROUNDS").is_none());
    }
}

/// Waits until there are probes in it.
fn wait_for_probes(computing: &Computing, command: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !computing.is_probed() {
        assert!(Instant::now() < deadline, "no probe was placed");
        assert!(command.try_wait().unwrap().is_none(), "the command has ended");
    }
}

#[test]
fn a_target_that_was_attached_to_does_not_notice() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    let mut times = Times::default();
    let (mut alone, computing) = Computing::start(Command::new(&program).args(["counts", THREADS]));
    let mut computing = computing.unwrap();
    let attach = ["-p".to_owned(), computing.pid.to_string()];
    for (signal, to) in ending_signals().flat_map(|signal| BOTH.map(|to| (signal, to))) {
        for round in 0..rounds(1) {
            let mut command = stepless_command();
            let mut command = command.args(PROBES).args(&attach).process_group(0).spawn().unwrap();
            wait_for_probes(&computing, &mut command);
            let sent = send(&command, to, signal);
            let status = times.end_of(&mut command, sent);
            let told = format!("{signal} to {to:?}, round {round}: {status}");
            let expected = if ends_the_session(signal) { (Some(0), None) } else { (None, Some(signal)) };
            assert_eq!((status.code(), status.signal()), expected, "{told}");
            assert!(computing.is_unharmed(), "{told}");
            assert_eq!(computing.signals(), Some(0), "{told}");
        }
    }
    drop(computing);
    alone.wait().unwrap();
    times.check();
}

/// Starts the program by the command, in a group of theirs, with probes.
fn launch(program: &Path, arguments: &[&str]) -> (Child, Computing) {
    let mut command = stepless_command();
    command.args(PROBES).arg("--").arg(program).args(arguments).process_group(0).stderr(Stdio::null());
    let (mut command, computing) = Computing::start(&mut command);
    let computing = computing.unwrap();
    wait_for_probes(&computing, &mut command);
    (command, computing)
}

/// It takes what it is sent itself, and what is passed on.
#[test]
fn a_launched_target_gets_the_signals_that_it_is_sent_and_goes_on() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    let mut times = Times::default();
    for (signal, to) in ending_signals().flat_map(|signal| BOTH.map(|to| (signal, to))) {
        for round in 0..rounds(1) {
            let (mut command, mut computing) = launch(&program, &["counts", THREADS]);
            let sent = send(&command, to, signal);
            let told = format!("{signal} to {to:?}, round {round}");
            let ends = (!ends_the_session(signal)).then(|| times.end_of(&mut command, sent));
            assert!(computing.is_unharmed(), "{told}");
            let own = u64::from(to == To::Group || is_passed_on(signal));
            // What is sent to the group is passed on all the same, and comes once more unless it is pending still.
            let most = own + u64::from(to == To::Group && is_passed_on(signal));
            let signals = computing.signals().unwrap();
            assert!((own..=most).contains(&signals), "{told}: {signals}");
            match ends {
                Some(status) => assert_eq!(status.signal(), Some(signal), "{told}: {status}"),
                None => {
                    computing.finish();
                    let status = times.end_of(&mut command, Instant::now());
                    assert_eq!(status.code(), Some(9), "{told}: {status}");
                }
            }
        }
    }
    times.check();
}

/// It does by default what it is sent.
#[test]
fn a_launched_target_ends_with_its_group() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    let mut times = Times::default();
    for signal in ending_signals() {
        for round in 0..rounds(1) {
            let (mut command, mut computing) = launch(&program, &[THREADS]);
            let sent = send(&command, To::Group, signal);
            let status = times.end_of(&mut command, sent);
            let told = format!("{signal}, round {round}: {status}");
            let expected =
                if ends_the_session(signal) { (Some(128 + signal), None) } else { (None, Some(signal)) };
            assert_eq!((status.code(), status.signal()), expected, "{told}");
            assert!(computing.has_ended(), "{told}");
        }
    }
    times.check();
}
