//! The command and processes for it to probe.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe::Locate;

pub(crate) const STEPLESS: &str = env!("CARGO_BIN_EXE_stepless");

/// A program for which no signal is ignored, though they may be for the tests, under nohup or as a job of a shell.
pub(crate) fn with_default_signals(program: &str) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(program);
    command
}

/// The command.
pub(crate) fn stepless_command() -> Command {
    with_default_signals(STEPLESS)
}

/// The signals that end a process by default, but for SIGKILL.
pub(crate) fn ending_signals() -> impl Iterator<Item = i32> {
    const NOT_ENDING: [i32; 9] = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    (1..32).filter(|signal| !NOT_ENDING.contains(signal)).chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Those that end the session alone, so that a command that launched its target waits for that.
pub(crate) fn ends_the_session(signal: i32) -> bool {
    [libc::SIGINT, libc::SIGTERM].contains(&signal)
}

/// Calls `leaf` once for each line that it reads, and answers each; ends with status 9.
pub(crate) const ANSWERS: &str = r#"
    #include <stdio.h>
    int counter;
    __attribute__((noinline)) int leaf(int x) { counter += x; __asm__ volatile(""); return counter; }
    int main(void) {
        char line[100];
        puts("ready"); fflush(stdout);
        while (fgets(line, sizeof line, stdin)) { leaf(1); puts("answer"); fflush(stdout); }
        return 9;
    }
"#;

/// Kills a process that has not been waited for after a minute, so that what waits for it fails.
pub(crate) struct Watchdog(
    #[allow(dead_code, reason = "dropping it is what the thread waits for")] mpsc::Sender<()>,
);

impl Watchdog {
    pub(crate) fn of(child: &Child) -> Watchdog {
        let (alive, over) = mpsc::channel();
        let pid = Pid::from_raw(child.id().cast_signed());
        std::thread::spawn(move || {
            if over.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        Watchdog(alive)
    }
}

/// A process that answers on its pipes.
pub(crate) struct Target {
    pub(crate) child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Target {
    pub(crate) fn start(command: &mut Command) -> Target {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut target = Target { child, lines };
        assert_eq!(target.line(), "ready\n");
        target
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn ask(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"question\n").unwrap();
        assert_eq!(self.line(), "answer\n");
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// The bytes of its memory that are mapped executable.
    pub(crate) fn text(&self) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let pid = i32::try_from(self.child.id()).unwrap();
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut text = Vec::new();
        let maps = probe::maps::read(pid).unwrap();
        for mapping in maps.iter().filter(|mapping| mapping.is_executable() && mapping.file().is_some()) {
            let mut bytes = vec![0; usize::try_from(mapping.end - mapping.start).unwrap()];
            memory.read_exact_at(&mut bytes, mapping.start).unwrap();
            text.extend(bytes);
        }
        text
    }

    /// Waits until the first instruction of `leaf` is a breakpoint, while `tracer` runs.
    pub(crate) fn wait_for_probe(&self, tracer: &mut Child) {
        self.wait_for_probe_at("answers:leaf", tracer);
    }

    /// The same for another place.
    pub(crate) fn wait_for_probe_at(&self, place: &str, tracer: &mut Child) {
        use std::os::unix::fs::FileExt;
        const INT3: [u8; 1] = [0xcc];
        let pid = i32::try_from(self.child.id()).unwrap();
        let leaf: probe::spec::ProbeSpec = place.parse().unwrap();
        let sites = leaf.locate(&probe::maps::Maps::read(pid).unwrap()).unwrap();
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut byte = [0];
        let deadline = Instant::now() + Duration::from_secs(60);
        while byte != INT3 {
            assert!(Instant::now() < deadline, "no probe was placed");
            assert!(tracer.try_wait().unwrap().is_none(), "the command has ended");
            std::thread::yield_now();
            memory.read_exact_at(&mut byte, sites[0].address).unwrap();
        }
    }

    pub(crate) fn maps(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap()
    }

    /// Closes its stdin, and expects that it ends as it does without probes.
    pub(crate) fn finish(mut self) {
        drop(self.child.stdin.take());
        assert_eq!(self.child.wait().unwrap().code(), Some(9));
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
