//! A file that is written to while a process runs it.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scratch::{Scratch, run};
use target::{Target, stepless_command};

const LIBRARY: &str = "int leaf(int x) { __asm__ volatile(\"\"); return x + 1; }\n";
const OTHER: &str =
    "int more(int x) { return x; }\nint leaf(int x) { return more(x) + 2; }\nint data[100] = {1};\n";
const WAITS: &str = r#"
    #include <stdio.h>
    int leaf(int);
    int main(void) { puts("ready"); fflush(stdout); return leaf(getchar()) == 12345; }
"#;

/// A process that waits, and the library that it has mapped; and another build of that.
fn waiting(scratch: &Scratch) -> (Target, PathBuf, PathBuf) {
    let library = scratch.compile("libleaf.so", LIBRARY, &["-shared", "-fPIC"]);
    let other = scratch.compile("other.so", OTHER, &["-shared", "-fPIC"]);
    let source = scratch.write("waits.c", WAITS);
    let program = scratch.path("waits");
    run(Command::new("cc").arg("-o").arg(&program).args([&source, &library]));
    (Target::start(&mut Command::new(program)), library, other)
}

/// What the command says of a process of which the library was overwritten by `how` before.
fn told_afterwards(how: impl Fn(&Path, &Path)) -> String {
    let scratch = Scratch::new();
    let (mut target, library, other) = waiting(&scratch);
    // What is younger than the process by less than clocks tell apart is not said to be.
    std::thread::sleep(std::time::Duration::from_millis(50));
    how(&other, &library);
    let arguments = ["stat", "-p", &target.pid(), "-e", "libleaf.so:leaf", "--duration", "10ms"];
    let output = stepless_command().args(arguments).output().unwrap();
    target.child.kill().unwrap();
    target.child.wait().unwrap();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_file_that_was_overwritten_before_is_told_of() {
    // As cp does, and as rsync --inplace does.
    let copied = told_afterwards(|other, library| {
        std::fs::copy(other, library).unwrap();
    });
    assert!(copied.contains("libleaf.so has been overwritten while process"), "{copied}");
    let written = told_afterwards(|other, library| {
        let file = std::fs::OpenOptions::new().write(true).open(library).unwrap();
        file.write_all_at(&std::fs::read(other).unwrap(), 0).unwrap();
    });
    assert!(written.contains("libleaf.so has been overwritten while process"), "{written}");
    // What has been replaced, the process still has.
    let replaced = told_afterwards(|other, library| std::fs::rename(other, library).unwrap());
    assert!(!replaced.contains("overwritten"), "{replaced}");
    let untouched = told_afterwards(|_, _| {});
    assert!(!untouched.contains("overwritten"), "{untouched}");
}

#[test]
fn a_file_that_is_overwritten_later_is_told_of_at_once() {
    let scratch = Scratch::new();
    let (mut target, library, other) = waiting(&scratch);
    let mut command = stepless_command();
    command.args(["stat", "-p", &target.pid(), "-e", "libleaf.so:leaf", "-o", "/dev/null"]);
    let mut tracer = command.stderr(Stdio::piped()).spawn().unwrap();
    target.wait_for_probe_at("libleaf.so:leaf", &mut tracer);
    let mut lines = BufReader::new(tracer.stderr.take().unwrap()).lines().map(Result::unwrap);
    // It may have begun to look after the file only now.
    let found = std::thread::scope(|scope| {
        let told = scope.spawn(|| lines.by_ref().find(|line| line.contains("overwritten")));
        while !told.is_finished() && tracer.try_wait().unwrap().is_none() {
            std::fs::copy(&other, &library).unwrap();
            std::thread::yield_now();
        }
        told.join().unwrap()
    });
    assert!(found.is_some_and(|line| line.contains("libleaf.so")));
    kill(Pid::from_raw(tracer.id().cast_signed()), Signal::SIGINT).unwrap();
    tracer.wait().unwrap();
    target.child.kill().unwrap();
    target.child.wait().unwrap();
}
