//! The command ends, is interrupted, or is stopped by a signal, and what it probes goes on as if nobody had
//! probed it.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use scratch::Scratch;
use target::{
    ANSWERS, STEPLESS, Target, Watchdog, ending_signals, ends_the_session, stepless_command,
    with_default_signals,
};

fn send(pid: u32, signal: i32) {
    // Real-time signals are unknown to nix.
    let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -{signal}");
}

/// Waits for the end, or fails the test.
fn end_of(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::yield_now();
    }
}

fn stat(target: &Target) -> Child {
    let mut stat = stepless_command();
    stat.args(["stat", "-e", "answers:leaf", "-p", &target.pid()]);
    // Stopping signals are ignored in a group without a parent outside.
    stat.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn text_of(pipe: Option<impl Read>) -> String {
    let mut text = String::new();
    pipe.unwrap().read_to_string(&mut text).unwrap();
    text
}

/// How many hits the summary tells.
fn hits(summary: &str) -> u32 {
    summary.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn every_signal_that_ends_the_command_leaves_the_target_as_it_was() {
    let scratch = Scratch::new();
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let text = target.text();
    for signal in ending_signals().filter(|&signal| !ends_the_session(signal)) {
        let mut stat = stat(&target);
        target.wait_for_probe(&mut stat);
        target.ask();
        send(stat.id(), signal);
        let sent = Instant::now();
        let status = end_of(&mut stat);
        // On a machine so busy that the target cannot be left within the second, the command does not wait for that.
        let waited = sent.elapsed() < Duration::from_millis(700);
        assert_eq!(status.signal(), Some(signal), "{signal}: {status}");
        while !waited && target.text() != text && sent.elapsed() < Duration::from_secs(60) {
            std::thread::yield_now();
        }
        assert_eq!(target.text(), text, "{signal}");
        let summary = text_of(stat.stdout.take());
        if waited || !summary.is_empty() {
            assert_eq!(hits(&summary), 1, "{signal}");
        }
        target.ask();
    }
    target.finish();
}

#[test]
fn a_command_outlives_the_one_that_launched_it() {
    let scratch = Scratch::new();
    let program = scratch.compile("answers", ANSWERS, &[]);
    for signal in [libc::SIGQUIT, libc::SIGUSR1, libc::SIGRTMIN()] {
        let mut launched =
            Target::start(stepless_command().args(["stat", "-e", "answers:leaf", "--"]).arg(&program));
        launched.ask();
        send(launched.child.id(), signal);
        assert_eq!(end_of(&mut launched.child).signal(), Some(signal));
        launched.ask();
    }
}

/// Waits until a process has so many children.
fn wait_for_children(pid: u32, number: usize) {
    let is_child = |entry: std::fs::DirEntry| {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:\t") == Some(&pid.to_string()))
    };
    let children =
        || std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| is_child(entry).then_some(()));
    let deadline = Instant::now() + Duration::from_secs(60);
    while children().count() < number {
        assert!(Instant::now() < deadline, "process {pid} has not started so many");
    }
}

#[test]
fn a_signal_that_comes_while_the_program_is_started_is_taken_and_passed_on() {
    let scratch = Scratch::new();
    let program = scratch.compile("answers", ANSWERS, &[]);
    for (signal, outcome) in [(libc::SIGINT, 9), (libc::SIGTERM, 128 + libc::SIGTERM)].repeat(5) {
        let mut command = stepless_command();
        command.args(["stat", "-e", "answers:leaf", "--"]).arg(&program);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut command = command.spawn().unwrap();
        let _watchdog = Watchdog::of(&command);
        // The warden, and what is to become the program.
        wait_for_children(command.id(), 2);
        kill(Pid::from_raw(command.id().cast_signed()), Signal::try_from(signal).unwrap()).unwrap();
        if signal == libc::SIGINT {
            // It goes on until nobody asks any more.
            drop(command.stdin.take());
        }
        let status = end_of(&mut command);
        let told = text_of(command.stderr.take());
        // Where no probe was placed by then, that is an error, and names the program's own status.
        let is_outcome = match status.code() {
            Some(2) => told.trim_end().ends_with(&format!("status {outcome}")),
            code => code == Some(outcome),
        };
        assert!(is_outcome, "{signal}: {status}: {told}");
    }
}

#[test]
fn what_was_ignored_stays_ignored() {
    let scratch = Scratch::new();
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let script = format!("trap '' HUP; exec {STEPLESS} stat -e answers:leaf --limit 2 -p {}", target.pid());
    let mut stat = with_default_signals("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    target.wait_for_probe(&mut stat);
    target.ask();
    send(stat.id(), libc::SIGHUP);
    target.ask();
    assert_eq!(end_of(&mut stat).code(), Some(0));
    assert_eq!(hits(&text_of(stat.stdout.take())), 2);
    target.finish();
}

/// Stops the command, and waits until it is.
fn stop(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed());
    kill(pid, signal).unwrap();
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(pid, signal));
}

#[test]
fn a_target_goes_on_and_is_counted_while_the_command_is_stopped() {
    let scratch = Scratch::new();
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let text = target.text();
    let mut stat = stat(&target);
    let _watchdog = Watchdog::of(&stat);
    target.wait_for_probe(&mut stat);
    target.ask();
    for signal in [Signal::SIGSTOP, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        stop(stat.id(), signal);
        // A thread that is traced stops at any signal, for its tracer to see.
        send(target.child.id(), libc::SIGURG);
        target.ask();
        target.ask();
        send(stat.id(), libc::SIGCONT);
        target.ask();
    }
    send(stat.id(), libc::SIGINT);
    assert_eq!(end_of(&mut stat).code(), Some(0));
    assert_eq!(text_of(stat.stderr.take()), "");
    assert_eq!(hits(&text_of(stat.stdout.take())), 13);
    assert_eq!(target.text(), text);
    target.ask();
    target.finish();
}

#[test]
fn a_target_that_ends_while_the_command_is_stopped_is_missed_by_nobody() {
    let scratch = Scratch::new();
    let program = scratch.compile("answers", ANSWERS, &[]);
    let mut command = stepless_command();
    let mut launched =
        Target::start(command.args(["stat", "-e", "answers:leaf", "--"]).arg(&program).process_group(0));
    let _watchdog = Watchdog::of(&launched.child);
    launched.ask();
    stop(launched.child.id(), Signal::SIGTSTP);
    // The target is in its group, but not stopped: it was sent to the command alone.
    launched.ask();
    drop(launched.child.stdin.take());
    send(launched.child.id(), libc::SIGCONT);
    assert_eq!(end_of(&mut launched.child).code(), Some(9));
    assert_eq!(hits(&text_of(launched.child.stderr.take())), 2);
}

#[test]
fn being_continued_before_it_stops_changes_nothing() {
    let scratch = Scratch::new();
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let mut stat = stat(&target);
    let _watchdog = Watchdog::of(&stat);
    target.wait_for_probe(&mut stat);
    let pid = Pid::from_raw(stat.id().cast_signed());
    for _ in 0..20 {
        kill(pid, Signal::SIGTSTP).unwrap();
        kill(pid, Signal::SIGCONT).unwrap();
    }
    send(stat.id(), libc::SIGCONT);
    target.wait_for_probe(&mut stat);
    target.ask();
    send(stat.id(), libc::SIGINT);
    assert_eq!(end_of(&mut stat).code(), Some(0));
    target.ask();
    target.finish();
}

/// Its threads are killed while some of them are stopped at a probe.
#[test]
fn a_signal_that_also_ends_a_launched_command_ends_both() {
    const SPINS: &str = r#"
        #include <pthread.h>
        #include <stdio.h>
        __attribute__((noinline)) void leaf(void) { __asm__ volatile(""); }
        static void *spin(void *unused) { for (;;) leaf(); return unused; }
        int main(void) {
            pthread_t thread;
            for (int i = 0; i < 4; i++) pthread_create(&thread, 0, spin, 0);
            puts("ready"); fflush(stdout);
            spin(0);
        }
    "#;
    let scratch = Scratch::new();
    let program = scratch.compile("spins", SPINS, &["-pthread"]);
    for round in 0..20 {
        let signal = if round % 2 == 0 { libc::SIGTERM } else { libc::SIGINT };
        let mut command = stepless_command();
        command.args(["stat", "-e", "spins:leaf", "--"]).arg(&program).process_group(0);
        let mut launched = Target::start(&mut command);
        // To both, as a key does; SIGTERM is also passed on.
        let group = format!("-{}", launched.child.id());
        let sent = Command::new("kill").args([&format!("-{signal}"), "--", &group]).status().unwrap();
        assert!(sent.success());
        assert_eq!(end_of(&mut launched.child).code(), Some(128 + signal), "round {round}");
    }
}
