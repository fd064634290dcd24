//! The command, or its warden, is killed at any moment, or the command is stopped, and what it probes goes on.
//!
//! `STEPLESS_ROUNDS` says how often, for a longer look than a test's.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scratch::Scratch;
use target::{ANSWERS, Target, stepless_command};

/// Threads that compute the same twice, once by a function to be probed, and count how often that differs. Answers each
/// line with the calls of the thread that has made fewest, and with the differences of all.
const COMPUTES: &str = r#"
    #include <pthread.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>
    struct slot { volatile uint64_t calls, differences; char apart[112]; };
    static struct slot slots[64];
    __attribute__((noinline)) uint64_t leaf(uint64_t x) { x ^= x << 13; x ^= x >> 7; x ^= x << 17; return x; }
    static inline uint64_t twin(uint64_t x) { x ^= x << 13; x ^= x >> 7; x ^= x << 17; return x; }
    static void *work(void *slot) {
        struct slot *mine = slot;
        uint64_t x = 88172645463325252ull + (uintptr_t)slot;
        for (;;) {
            uint64_t expected = twin(x);
            x = leaf(x);
            if (x != expected) mine->differences++;
            mine->calls++;
        }
        return 0;
    }
    int main(int argc, char **argv) {
        int threads = atoi(argv[argc - 1]);
        pthread_t thread;
        for (int i = 0; i < threads; i++) pthread_create(&thread, 0, work, &slots[i]);
        printf("%d\n", getpid()); fflush(stdout);
        char line[100];
        while (fgets(line, sizeof line, stdin)) {
            uint64_t fewest = -1, differences = 0;
            for (int i = 0; i < threads; i++) {
                if (slots[i].calls < fewest) fewest = slots[i].calls;
                differences += slots[i].differences;
            }
            printf("%lu %lu\n", (unsigned long)fewest, (unsigned long)differences); fflush(stdout);
        }
        return 9;
    }
"#;

/// A program that computes.
struct Computing {
    pid: i32,
    stdin: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Computing {
    /// Starts it by `command`; `None` if it does not come to that.
    fn start(command: &mut Command) -> (Child, Option<Computing>) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let computing = line.trim().parse().ok().map(|pid| Computing { pid, stdin, lines });
        (child, computing)
    }

    /// The calls of the thread that has made fewest; `None` if the program is gone. It has computed right.
    fn calls(&mut self) -> Option<u64> {
        let (calls, differences) = self.answer()?;
        assert_eq!(differences, 0, "process {} has computed something else", self.pid);
        Some(calls)
    }

    /// The same, and how often it has computed something else.
    fn answer(&mut self) -> Option<(u64, u64)> {
        let mut line = String::new();
        self.stdin.write_all(b"\n").ok()?;
        self.lines.read_line(&mut line).ok()?;
        let (calls, differences) = line.trim().split_once(' ')?;
        Some((calls.parse().ok()?, differences.parse().ok()?))
    }

    /// Waits until every thread has made another call.
    fn goes_on(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        let Some(before) = self.calls() else { return false };
        while Instant::now() < deadline {
            match self.calls() {
                Some(calls) if calls > before => return true,
                Some(_) => std::thread::yield_now(),
                None => return false,
            }
        }
        panic!("a thread of process {} does not go on", self.pid);
    }

    /// Whether anybody traces one of its threads.
    fn is_traced(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok()).any(|status| {
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            tracer.is_some_and(|tracer| tracer.trim() != "0")
        })
    }

    /// Where its text differs from the files that it is mapped from.
    fn changed_text(&self) -> Vec<u64> {
        let memory = File::open(format!("/proc/{}/mem", self.pid)).unwrap();
        let maps = probe::maps::read(self.pid).unwrap();
        let mut changed = Vec::new();
        for mapping in maps.iter().filter(|mapping| mapping.is_executable()) {
            let Some(path) = mapping.file() else { continue };
            let mut bytes = vec![0; usize::try_from(mapping.end - mapping.start).unwrap()];
            memory.read_exact_at(&mut bytes, mapping.start).unwrap();
            let offset = mapping.file_offset(mapping.start).unwrap();
            let file = fs::read(path).unwrap();
            let original = &file[usize::try_from(offset).unwrap()..];
            let pairs = bytes.iter().zip(original).zip(mapping.start..);
            changed.extend(pairs.filter(|((now, before), _)| now != before).map(|(_, address)| address));
        }
        changed
    }

    /// Whether it lives, as nobody had touched it, soon: within a second, if nothing else keeps the processors busy.
    fn is_unharmed(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.is_traced() {
            assert!(Instant::now() < deadline, "process {} is traced still", self.pid);
            std::thread::yield_now();
        }
        assert_eq!(self.changed_text(), [0; 0]);
        self.goes_on() && self.goes_on()
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

fn rounds() -> usize {
    std::env::var("STEPLESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10)
}

fn random(below: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8);
    below.mul_f64(random as f64 / u64::MAX as f64)
}

/// Lets that time pass.
fn pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::sleep(left);
    }
}

fn killed(child: &mut Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

const PROBES: [&str; 4] = ["stat", "-e", "computes:leaf/*", "--json"];

fn compile(scratch: &Scratch) -> PathBuf {
    scratch.compile("computes", COMPUTES, &["-pthread", "-O1"])
}

/// The command that attaches.
fn attach(pid: i32) -> Child {
    let mut command = stepless_command();
    command.args(PROBES).args(["-p", &pid.to_string()]).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn launch(program: &Path, threads: u32) -> Command {
    let mut command = stepless_command();
    command.args(PROBES).args(["-o", "/dev/null", "--"]).arg(program).arg(threads.to_string());
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
        for round in 0..rounds() {
            let mut command = attach(computing.pid);
            pass(random(Duration::from_millis(200)));
            killed(&mut command);
            assert!(computing.is_unharmed(), "round {round} with {threads} threads");
        }
        drop(computing);
        child.wait().unwrap();
    }
}

/// By hardware breakpoints, as far as there are enough.
fn attach_by_hardware(pid: i32) -> Command {
    let mut command = stepless_command();
    command.args(PROBES).args(["--hardware", "-p", &pid.to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Whether the system has hardware breakpoints for us; if not, that is told.
fn has_hardware(pid: i32) -> bool {
    let mut command = attach_by_hardware(pid);
    let output = command.args(["--limit", "1"]).stderr(Stdio::piped()).output().unwrap();
    if !output.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

#[test]
fn a_target_with_hardware_breakpoints_outlives_the_command() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for threads in [1, 8] {
        let mut alone = Command::new(&program);
        let (mut child, computing) = Computing::start(alone.arg(threads.to_string()));
        let mut computing = computing.unwrap();
        for round in 0..rounds() {
            if !has_hardware(computing.pid) {
                break;
            }
            let mut command = attach_by_hardware(computing.pid).spawn().unwrap();
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
        for round in 0..rounds() {
            let (mut command, computing) = Computing::start(&mut launch(&program, threads));
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
    for round in 0..rounds() {
        let mut command = launch(&program, 2);
        let killer = |mut child: Child| {
            pass(random(Duration::from_millis(60)));
            killed(&mut child);
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
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
    for round in 0..rounds() {
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

/// Where the warden itself is killed nobody takes its breakpoints out, though those of the hardware go with it: how many
/// targets live is printed, and is no promise.
#[test]
fn a_command_whose_warden_is_killed_says_so() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for by_hardware in [false, true] {
        let mut alive = 0;
        for _ in 0..rounds() {
            let (mut child, computing) = Computing::start(Command::new(&program).arg("1"));
            let mut computing = computing.unwrap();
            if by_hardware && !has_hardware(computing.pid) {
                return;
            }
            let mut command = stepless_command();
            command.args(PROBES).args(["-p", &computing.pid.to_string()]);
            command.args(by_hardware.then_some("--hardware"));
            let mut command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            let warden = loop {
                // `env` has executed the command in its place.
                if let Some(warden) = warden_of(command.id()).filter(|_| computing.is_traced()) {
                    break warden;
                }
                assert!(Instant::now() < deadline && command.try_wait().unwrap().is_none());
            };
            // At full speed by then.
            pass(Duration::from_millis(50) + random(Duration::from_millis(50)));
            kill(Pid::from_raw(warden), Signal::SIGKILL).unwrap();
            // Long enough for a thread that runs to meet the next breakpoint.
            pass(Duration::from_millis(50));
            alive += u32::from(computing.answer().is_some_and(|(_, differences)| differences == 0));
            let output = command.wait_with_output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.code() == Some(2) && told.contains("was killed"),
                "{:?} {told}",
                output.status
            );
            drop(computing);
            child.wait().unwrap();
        }
        let how = if by_hardware { "hardware breakpoints" } else { "INT3" };
        eprintln!("{alive} of {} targets with {how} outlived their warden", rounds());
    }
}

fn state_of(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// What it prints is not read, so that it waits, and so does the target, until it is stopped.
#[test]
fn a_target_goes_on_while_the_command_is_stopped_and_what_is_lost_is_told() {
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
        // Until the output is full, then the ring, the target goes on; then it does not.
        let stuck = |computing: &mut Computing| {
            let before = computing.calls().unwrap();
            pass(Duration::from_millis(300));
            computing.calls().unwrap() == before
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !stuck(&mut computing) {
            assert!(Instant::now() < deadline, "nothing waits for the reader");
        }
        let pid = Pid::from_raw(command.id().cast_signed());
        kill(pid, signal).unwrap();
        while state_of(command.id()) != 'T' {
            std::thread::yield_now();
        }
        assert!(computing.goes_on() && computing.goes_on(), "{signal}");
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
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let before = computing.calls().unwrap();
            pass(Duration::from_millis(300));
            if computing.calls().unwrap() == before {
                break;
            }
            assert!(Instant::now() < deadline, "nothing waits for the reader");
        }
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
