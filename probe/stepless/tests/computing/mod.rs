//! A program that computes at full speed, and knows whether it has computed right.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scratch::Scratch;

/// `computes [counts] THREADS`: threads that compute the same twice, once by a function to be probed, and count how often
/// that differs. Answers each line with the calls of the thread that has made fewest, with the differences of all, and with
/// how many signals have come, if these are to be counted instead of taken by default.
const COMPUTES: &str = r#"
    #include <pthread.h>
    #include <signal.h>
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
    static volatile uint64_t signals;
    static void count(int signal) { __atomic_fetch_add(&signals, 1, __ATOMIC_SEQ_CST); }
    int main(int argc, char **argv) {
        int threads = atoi(argv[argc - 1]);
        struct sigaction counted = {.sa_handler = count, .sa_flags = SA_RESTART};
        for (int signal = 1; argc > 2 && signal <= SIGRTMAX; signal++) sigaction(signal, &counted, 0);
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
            printf("%lu %lu %lu\n", (unsigned long)fewest, (unsigned long)differences, (unsigned long)signals);
            fflush(stdout);
        }
        return 9;
    }
"#;

/// A program that computes.
pub(crate) struct Computing {
    pub(crate) pid: i32,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) lines: BufReader<ChildStdout>,
}

impl Computing {
    /// Starts it by `command`; `None` if it does not come to that.
    pub(crate) fn start(command: &mut Command) -> (Child, Option<Computing>) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let computing = line.trim().parse().ok().map(|pid| Computing { pid, stdin, lines });
        (child, computing)
    }

    /// The calls of the thread that has made fewest; `None` if the program is gone. It has computed right.
    pub(crate) fn calls(&mut self) -> Option<u64> {
        let (calls, differences, _) = self.answer()?;
        assert_eq!(differences, 0, "process {} has computed something else", self.pid);
        Some(calls)
    }

    /// The same, how often it has computed something else, and the signals that it has counted.
    pub(crate) fn answer(&mut self) -> Option<(u64, u64, u64)> {
        let mut line = String::new();
        self.stdin.as_mut()?.write_all(b"\n").ok()?;
        self.lines.read_line(&mut line).ok()?;
        let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?, numbers.next()?))
    }

    /// The signals that it has counted.
    pub(crate) fn signals(&mut self) -> Option<u64> {
        self.answer().map(|(_, _, signals)| signals)
    }

    /// Lets it end by itself, with status 9.
    pub(crate) fn finish(&mut self) {
        self.stdin = None;
    }

    /// Waits until its output is closed, by its end, which is soon.
    pub(crate) fn has_ended(&mut self) -> bool {
        let mut rest = String::new();
        while self.lines.read_line(&mut rest).unwrap() > 0 {}
        self.answer().is_none()
    }

    /// Waits until every thread has made another call.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.makes(1, Duration::from_secs(20))
    }

    /// Waits until every thread has made so many calls more.
    pub(crate) fn makes(&mut self, number: u64, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        let Some(before) = self.calls() else { return false };
        while Instant::now() < deadline {
            match self.calls() {
                Some(calls) if calls >= before + number => return true,
                Some(_) => std::thread::yield_now(),
                None => return false,
            }
        }
        panic!("a thread of process {} does not go on", self.pid);
    }

    /// Whether it lives and each of its threads goes on, and it has computed right, though nobody may have seen to that.
    pub(crate) fn outlives(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        let Some((before, ..)) = self.answer() else { return false };
        loop {
            match self.answer() {
                Some((calls, 0, _)) if calls > before => return true,
                Some((_, 0, _)) if Instant::now() < deadline => std::thread::yield_now(),
                _ => return false,
            }
        }
    }

    /// Whether anybody traces one of its threads.
    pub(crate) fn is_traced(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok()).any(|status| {
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            tracer.is_some_and(|tracer| tracer.trim() != "0")
        })
    }

    /// Where its text differs from the files that it is mapped from.
    pub(crate) fn changed_text(&self) -> Vec<u64> {
        self.changed_text_of(|_| true)
    }

    /// Whether there are breakpoints in the program itself, where nobody needs any but for a probe.
    pub(crate) fn is_probed(&self) -> bool {
        !self.changed_text_of(|path| path.ends_with("computes")).is_empty()
    }

    /// Where its text differs from those of these files.
    fn changed_text_of(&self, is_one: impl Fn(&Path) -> bool) -> Vec<u64> {
        let memory = File::open(format!("/proc/{}/mem", self.pid)).unwrap();
        let maps = probe::maps::read(self.pid).unwrap();
        let mut changed = Vec::new();
        for mapping in maps.iter().filter(|mapping| mapping.is_executable()) {
            let Some(path) = mapping.file().filter(|path| is_one(path)) else { continue };
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
    pub(crate) fn is_unharmed(&mut self) -> bool {
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

/// How often a test is to do the same: so often, unless `STEPLESS_ROUNDS` says otherwise.
pub(crate) fn rounds(usual: usize) -> usize {
    std::env::var("STEPLESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

/// Some time below that.
pub(crate) fn random(below: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8);
    below.mul_f64(random as f64 / u64::MAX as f64)
}

/// Lets that time pass.
pub(crate) fn pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::sleep(left);
    }
}

/// The program that computes.
pub(crate) fn compile(scratch: &Scratch) -> PathBuf {
    scratch.compile("computes", COMPUTES, &["-pthread", "-O1"])
}
