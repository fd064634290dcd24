//! Targets that end, or execute another program, while their leader is stopped at a probe.

mod common;

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::time::Duration;

use common::{Function, compile};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe::{Action, RunEnd, Session};

/// Runs the program, with that many threads besides two, until all is over. `strike` is called at the tenth
/// hit of a probe on `function`, with the process.
fn ends(program: &Path, others: u32, function: &str, strike: fn(&Path, i32)) -> ExitStatus {
    let (sender, receiver) = mpsc::channel();
    let (path, sites) = (program.to_owned(), Function::whole(program, function));
    // A session that hangs must fail the test.
    std::thread::spawn(move || {
        let mut command = Command::new(&path);
        command.arg(others.to_string());
        let mut session = Session::launch(command).unwrap();
        let mut hits = 0;
        let handler = move |hit: &mut probe::Hit<'_>| {
            hits += 1;
            if hits == 10 {
                strike(&path, hit.pid());
            }
            Action::Continue
        };
        session.probe(sites, handler).unwrap();
        sender.send(session.run()).unwrap();
    });
    match receiver.recv_timeout(Duration::from_secs(60)) {
        Ok(RunEnd::Ended(Some(status))) => status,
        other => panic!("the target did not end: {other:?}"),
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('Z')
}

fn kill_it(_: &Path, pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    while !is_zombie(pid) {}
}

/// With a third thread, the exec waits until that has been reaped; otherwise it succeeds meanwhile.
fn replace_it(program: &Path, pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    let runs_it = || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == program);
    while !is_zombie(pid) && runs_it() {}
    // Long enough for the exec, where nothing is in its way; no harm if it is not.
    for _ in 0..1000 {
        if !is_zombie(pid) && !runs_it() {
            break;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_process_is_killed_while_its_leader_is_served() {
    use std::os::unix::process::ExitStatusExt;
    let program = compile("ending", &[]);
    for function in ["enter", "bump"] {
        let status = ends(&program, 1, function, kill_it);
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{function}");
    }
}

#[test]
fn another_thread_executes_a_program_while_the_leader_is_served() {
    let program = compile("ending", &[]);
    for function in ["enter", "bump"] {
        for others in [0, 1] {
            let status = ends(&program, others, function, replace_it);
            assert_eq!(status.code(), Some(0), "{function}, {others} others: {status}");
        }
    }
}
