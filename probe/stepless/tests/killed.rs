//! The command, or its warden, is killed at any moment, or the command is stopped, and what it probes goes on.
//!
//! `STEPLESS_ROUNDS` says how often, for a longer look than a test's: 125 make 500 SIGKILLs of the command for
//! `outlives_the_command`, and 100 as many of the warden for `whose_warden_is_killed`.

mod computing;
#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use computing::{Computing, compile, pass, random, rounds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scratch::Scratch;
use target::{ANSWERS, Target, stepless_command};

/// How often, as a test.
const ROUNDS: usize = 10;

fn killed(child: &mut Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

const PROBES: [&str; 4] = ["stat", "-e", "computes:leaf/*", "--json"];

/// The command that attaches.
fn attach(pid: i32, option: Option<&str>) -> Command {
    let mut command = stepless_command();
    command.args(PROBES).args(option).args(["-p", &pid.to_string()]).stdout(Stdio::null());
    command
}

/// The command that launches the program.
fn launch(program: &Path, threads: u32, option: Option<&str>) -> Command {
    let mut command = stepless_command();
    command.args(PROBES).args(option).args(["-o", "/dev/null", "--"]).arg(program).arg(threads.to_string());
    command
}

#[test]
fn a_target_that_was_attached_to_outlives_the_command() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for threads in [1, 8] {
        let mut alone = Command::new(&program);
        let (mut child, computing) = Computing::start(alone.arg(threads.to_string()));
        let mut computing = computing.unwrap();
        for round in 0..rounds(ROUNDS) {
            let mut command = attach(computing.pid, None).spawn().unwrap();
            pass(random(Duration::from_millis(200)));
            killed(&mut command);
            assert!(computing.is_unharmed(), "round {round} with {threads} threads");
        }
        drop(computing);
        child.wait().unwrap();
    }
}

/// Whether the system has hardware breakpoints for us; if not, that is told.
fn has_hardware(program: &Path) -> bool {
    let mut command = launch(program, 1, Some("--hardware"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let has = output.status.code() == Some(9);
    if !has {
        println!("skipped: {}", String::from_utf8_lossy(&output.stderr));
    }
    has
}

#[test]
fn a_target_with_hardware_breakpoints_outlives_the_command() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    if !has_hardware(&program) {
        return;
    }
    for threads in [1, 8] {
        let mut alone = Command::new(&program);
        let (mut child, computing) = Computing::start(alone.arg(threads.to_string()));
        let mut computing = computing.unwrap();
        for round in 0..rounds(ROUNDS) {
            let mut command = attach(computing.pid, Some("--hardware"));
            // Of the instructions of the function, four have a register.
            let mut command = command.stderr(Stdio::null()).spawn().unwrap();
            pass(random(Duration::from_millis(200)));
            killed(&mut command);
            assert!(computing.is_unharmed(), "round {round} with {threads} threads");
        }
        drop(computing);
        child.wait().unwrap();
    }
}

#[test]
fn a_target_that_was_launched_outlives_the_command() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for threads in [1, 8] {
        for round in 0..rounds(ROUNDS) {
            let (mut command, computing) = Computing::start(&mut launch(&program, threads, None));
            let mut computing = computing.unwrap();
            pass(random(Duration::from_millis(100)));
            killed(&mut command);
            assert!(computing.is_unharmed(), "round {round} with {threads} threads");
        }
    }
}

/// Before its first line, which it writes or not.
#[test]
fn a_target_that_is_being_launched_starts_or_does_not() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for round in 0..rounds(ROUNDS) {
        let mut command = launch(&program, 2, None);
        let killer = |mut child: Child| {
            pass(random(Duration::from_millis(60)));
            killed(&mut child);
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        killer(child);
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if let Ok(pid) = line.trim().parse() {
            assert!(Computing { pid, stdin, lines }.is_unharmed(), "round {round}");
        }
    }
}

#[test]
fn a_target_that_is_to_end_with_the_command_does() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for round in 0..rounds(ROUNDS) {
        let mut command = stepless_command();
        command.args(PROBES).args(["-o", "/dev/null", "--kill-with", "--"]).arg(&program).arg("2");
        let (mut command, computing) = Computing::start(&mut command);
        let mut computing = computing.unwrap();
        pass(random(Duration::from_millis(50)));
        killed(&mut command);
        let mut rest = String::new();
        // Its end closes its output.
        while computing.lines.read_line(&mut rest).unwrap() > 0 {}
        assert!(computing.calls().is_none(), "round {round}");
    }
}

/// The child of `pid` that is a warden.
fn warden_of(pid: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    children.into_iter().find(|child: &i32| {
        fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "stepless-warden\n")
    })
}

/// The warden of a command, once the program meets its probes.
fn warden_at_work(command: &mut Child, computing: &Computing, by_hardware: bool) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let is_at_work = if by_hardware { computing.is_traced() } else { computing.is_probed() };
        // `env` has executed the command in its place.
        if let Some(warden) = warden_of(command.id()).filter(|_| is_at_work) {
            return warden;
        }
        assert!(Instant::now() < deadline, "no probe was placed");
        assert!(command.try_wait().unwrap().is_none(), "the command has ended");
    }
}

/// Kills the warden of a program at full speed, whose command says so. Returns whether the program is unharmed.
fn outlives_its_warden(program: &Path, threads: u32, launched: bool, by_hardware: bool) -> bool {
    let option = by_hardware.then_some("--hardware");
    let (mut command, mut computing, alone) = if launched {
        let (command, computing) = Computing::start(launch(program, threads, option).stderr(Stdio::piped()));
        (command, computing.unwrap(), None)
    } else {
        let (alone, computing) = Computing::start(Command::new(program).arg(threads.to_string()));
        let computing = computing.unwrap();
        let mut command = attach(computing.pid, option);
        (command.stderr(Stdio::piped()).spawn().unwrap(), computing, Some(alone))
    };
    let warden = warden_at_work(&mut command, &computing, by_hardware);
    // At full speed by then.
    pass(Duration::from_millis(50) + random(Duration::from_millis(50)));
    kill(Pid::from_raw(warden), Signal::SIGKILL).unwrap();
    // Long enough for a thread that runs to meet the next breakpoint.
    pass(Duration::from_millis(50));
    let unharmed = computing.outlives();
    let status = command.wait().unwrap();
    // What was launched has the same stderr.
    drop(computing);
    let told = io::read_to_string(command.stderr.take().unwrap()).unwrap();
    assert!(status.code() == Some(2) && told.contains("was killed"), "{status} {told}");
    if let Some(mut alone) = alone {
        alone.wait().unwrap();
    }
    unharmed
}

/// Where the warden itself is killed nobody takes its breakpoints out, though those of the hardware go with it: how many
/// targets live is printed, and is no promise.
#[test]
fn a_command_whose_warden_is_killed_says_so() {
    const KINDS: [(u32, bool); 4] = [(1, false), (8, false), (1, true), (8, true)];
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for (by_hardware, how) in [(false, "INT3"), (true, "hardware breakpoints")] {
        if by_hardware && !has_hardware(&program) {
            return;
        }
        for (threads, launched) in KINDS {
            let rounds = rounds(ROUNDS).div_ceil(KINDS.len());
            let unharmed =
                (0..rounds).filter(|_| outlives_its_warden(&program, threads, launched, by_hardware));
            let begun = if launched { "launched" } else { "attached to" };
            eprintln!(
                "{} of {rounds} targets of {threads} threads, {begun}, with {how} outlived their warden",
                unharmed.count()
            );
        }
    }
}

fn state_of(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// What it prints is not read, so that it waits, and so does the target, until it is stopped.
#[test]
fn a_target_goes_on_while_the_command_is_stopped_and_what_is_lost_is_told() {
    /// Of two threads more than there is room for until somebody reads, whose four mebibytes hold 48 bytes and more of each:
    /// on a busy machine, whoever waits may not have waited for room.
    const MORE: u64 = 50_000;
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for signal in [Signal::SIGSTOP, Signal::SIGTSTP] {
        let (mut child, computing) = Computing::start(Command::new(&program).arg("2"));
        let mut computing = computing.unwrap();
        let mut command = stepless_command();
        command.args(["trace", "-e", "computes:leaf", "--json", "-p", &computing.pid.to_string()]);
        // Stopping signals are ignored in a group without a parent outside.
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut command = command.spawn().unwrap();
        wait_until_stuck(command.id(), &mut computing);
        let pid = Pid::from_raw(command.id().cast_signed());
        kill(pid, signal).unwrap();
        while state_of(command.id()) != 'T' {
            std::thread::yield_now();
        }
        assert!(computing.makes(MORE, Duration::from_secs(100)), "{signal}");
        kill(pid, Signal::SIGCONT).unwrap();
        let mut output = BufReader::new(command.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut lines = 0;
            let mut line = String::new();
            while output.read_line(&mut line).unwrap() > 0 {
                lines += 1;
                line.clear();
            }
            lines
        });
        kill(pid, Signal::SIGINT).unwrap();
        let output = command.wait_with_output().unwrap();
        let lines: u64 = reader.join().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let lost = told.lines().filter_map(|line| line.strip_suffix(" lost while stepless was stopped"));
        let lost = lost.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap());
        let lost: u64 = lost.sum();
        let summary = told.lines().find(|line| line.starts_with("computes:leaf")).unwrap();
        let hits: u64 = summary.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(lost > 0, "{told}");
        assert_eq!(lines + lost, hits, "each hit is printed, or told to be lost: {told}");
        assert!(computing.is_unharmed());
        drop(computing);
        child.wait().unwrap();
    }
}

/// Waits until the target waits for the command, and the command for somebody to read what it prints. Until the output
/// is full, then the ring, the target goes on.
fn wait_until_stuck(command: u32, computing: &mut Computing) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let before = computing.calls().unwrap();
        pass(Duration::from_millis(300));
        if computing.calls().unwrap() == before && writes_to_its_output(command) {
            return;
        }
        assert!(Instant::now() < deadline, "nothing waits for the reader");
    }
}

/// Whether a thread of this process is within write(2) to its standard output.
fn writes_to_its_output(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().any(|task| {
        let call = std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
        call.starts_with(&format!("{} 0x1 ", nix::libc::SYS_write))
    })
}

/// Nobody reads what it prints, and so it cannot end by itself.
#[test]
fn a_command_that_nobody_reads_ends_by_a_signal() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    let (mut child, computing) = Computing::start(Command::new(&program).arg("1"));
    let mut computing = computing.unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        let mut command = stepless_command();
        command.args(["trace", "-e", "computes:leaf", "--json", "-p", &computing.pid.to_string()]);
        let mut command = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        wait_until_stuck(command.id(), &mut computing);
        kill(Pid::from_raw(command.id().cast_signed()), signal).unwrap();
        assert_eq!(command.wait().unwrap().signal(), Some(signal as i32));
        assert!(computing.is_unharmed(), "{signal}");
    }
    drop(computing);
    child.wait().unwrap();
}

/// It is in nobody's reach, and holds nothing of the command's.
#[test]
fn a_warden_stands_apart() {
    let scratch = Scratch::new();
    let program = scratch.compile("answers", ANSWERS, &[]);
    let target = Target::start(&mut Command::new(&program));
    let mut command = stepless_command();
    command.args(["stat", "-e", "answers:leaf", "-p", &target.pid()]);
    let mut command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    target.wait_for_probe(&mut command);
    let warden = warden_of(command.id()).unwrap();
    let stat = fs::read_to_string(format!("/proc/{warden}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let (group, session, terminal) = (fields[2], fields[3], fields[4]);
    assert_eq!((group, session, terminal), (&*warden.to_string(), &*warden.to_string(), "0"));
    assert_eq!(fs::read_link(format!("/proc/{warden}/cwd")).unwrap(), Path::new("/"));
    let open = fs::read_dir(format!("/proc/{warden}/fd")).unwrap();
    let open = open.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    let pipes: Vec<_> = open.filter(|file| file.to_string_lossy().starts_with("pipe:")).collect();
    assert!(pipes.is_empty(), "{pipes:?}");
    let lower = Command::new("sh").args(["-c", "echo -1000 > /proc/self/oom_score_adj"]).output().unwrap();
    if lower.status.success() {
        let score = fs::read_to_string(format!("/proc/{warden}/oom_score_adj")).unwrap();
        assert_eq!(score, "-1000\n");
    } else {
        eprintln!("skipped: this user may not lower the OOM score");
    }
    for signal in
        (1..=libc::SIGRTMAX()).filter(|&signal| ![libc::SIGKILL, libc::SIGSTOP, 32, 33].contains(&signal))
    {
        let sent = Command::new("kill").args([format!("-{signal}"), warden.to_string()]).status().unwrap();
        assert!(sent.success(), "{signal}");
    }
    let mut target = target;
    target.ask();
    kill(Pid::from_raw(command.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = command.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let summary = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(summary.lines().last().unwrap().split_whitespace().nth(1), Some("1"), "{summary}");
    target.finish();
}
