//! Programs that are hard to trace: nobody may attach to them any more, or to what they fork, or open their memory; or they
//! are killed just when a tracer hands them to another.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::unistd::Uid;
use scratch::{Scratch, run};
use target::{STEPLESS, Watchdog};

const NOBODY: u32 = 65534;

/// Its threads are busy, before nobody may attach to it any more and behind that, where nobody may read its memory, either.
const CLOSES: &str = r#"
    #include <pthread.h>
    #include <sys/prctl.h>
    __attribute__((noinline)) void leaf(void) { __asm__ volatile("nop"); }
    static void *work(void *unused) { for (int i = 0; i < 1000; i++) leaf(); return unused; }
    static void work_together(void) {
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, work, 0);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    }
    int main(void) {
        work_together();
        prctl(PR_SET_DUMPABLE, 0);
        work_together();
        return 7;
    }
"#;

/// Its children come to the probe, and what they fork, each by another system call.
const FORKS: &str = r#"
    #define _GNU_SOURCE
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <sys/wait.h>
    #include <unistd.h>
    __attribute__((noinline)) int leaf(int x) { __asm__ volatile("nop"); return x + 1; }
    int main(void) {
        prctl(PR_SET_DUMPABLE, 0);
        int status, level = leaf(0);
        pid_t child = fork();
        if (!child) {
            level = leaf(level);
            child = syscall(SYS_fork);
            if (!child) {
                level = leaf(level);
                if (prctl(PR_GET_DUMPABLE)) return 1;
                return leaf(level) + 3;
            }
        }
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 2;
        return WEXITSTATUS(status);
    }
"#;

/// Its children are killed about when they have become busy, each a little later than the one before, while one is all the
/// time, so that others are not left to the first tracer.
const KILLS: &str = r#"
    #include <signal.h>
    #include <sys/wait.h>
    #include <time.h>
    #include <unistd.h>
    __attribute__((noinline)) void leaf(void) { __asm__ volatile(""); }
    int main(void) {
        pid_t busy = fork();
        if (!busy) for (;;) leaf();
        for (int i = 0; i < 250; i++) {
            int ready[2], status;
            char byte;
            if (pipe(ready)) return 1;
            pid_t child = fork();
            if (!child) { write(ready[1], "x", 1); for (;;) leaf(); }
            read(ready[0], &byte, 1);
            close(ready[0]); close(ready[1]);
            struct timespec time = {0, i * 8000};
            nanosleep(&time, 0);
            kill(child, SIGKILL);
            if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status)) return 2;
        }
        kill(busy, SIGKILL);
        return 7;
    }
"#;

/// The command of an ordinary user. Root may attach to any, and is another case.
fn as_nobody(scratch: &Scratch) -> Command {
    if !Uid::effective().is_root() {
        return Command::new(STEPLESS);
    }
    let copy = scratch.path("stepless");
    if !copy.exists() {
        run(Command::new("cp").arg(STEPLESS).arg(&copy));
    }
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY);
    command
}

/// What becomes of the program with a probe in its function, and of `command`.
fn probed(command: &mut Command, program: &Path, options: &[&str]) -> Output {
    let place = format!("{}:leaf", program.display());
    // What hangs is killed with the command.
    command.args(["stat", "--kill-with", "-e", &place]).args(options).arg("--").arg(program);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let _watchdog = Watchdog::of(&child);
    child.wait_with_output().unwrap()
}

/// How often the probe was hit, of a run in which all went well.
fn hits(output: &Output) -> u64 {
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{printed}");
    assert_eq!(printed.lines().count(), 2, "{printed}");
    printed.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_program_to_which_nobody_may_attach_any_more_goes_on() {
    let scratch = Scratch::new();
    let program = scratch.compile("closes", CLOSES, &["-pthread"]);
    assert_eq!(hits(&probed(&mut as_nobody(&scratch), &program, &[])), 8000);
}

#[test]
fn what_is_forked_by_a_program_whose_memory_nobody_may_open_goes_on() {
    let scratch = Scratch::new();
    let program = scratch.compile("forks", FORKS, &[]);
    assert_eq!(hits(&probed(&mut as_nobody(&scratch), &program, &[])), 1);
    assert_eq!(hits(&probed(&mut as_nobody(&scratch), &program, &["--follow"])), 4);
    // Each fork is made by a SYSCALL elsewhere.
    let probes = ["-e", "libc.so.6:fork/*", "-e", "libc.so.6:_Fork/*", "-e", "libc.so.6:syscall/*"];
    let output = probed(&mut as_nobody(&scratch), &program, &probes);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_process_that_is_killed_on_its_way_is_no_failure() {
    let scratch = Scratch::new();
    let program = scratch.compile("kills", KILLS, &["-Wno-unused-result"]);
    assert!(hits(&probed(&mut Command::new(STEPLESS), &program, &["--follow"])) > 1000);
}
