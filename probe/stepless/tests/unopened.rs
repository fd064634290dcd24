//! Commands that run without probes, because their memory cannot be opened, or what is to be probed never
//! appears: that is an error, and not a count of zero.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use nix::unistd::Uid;
use scratch::{PROGRAM, Scratch, run};
use target::STEPLESS;

const NOBODY: u32 = 65534;

/// Expects exit status 2 and one line with these parts, and that `program` has run as it does alone.
#[track_caller]
fn ran_without_probes(program: &Path, output: &Output, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in parts.iter().chain(&["status 7"]) {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let alone = Command::new(program).output().unwrap();
    assert_eq!((&output.stdout, Some(7)), (&alone.stdout, alone.status.code()));
}

fn skips() -> bool {
    let can = Uid::effective().is_root();
    if !can {
        eprintln!("skipped: only root can become another user, or hide /proc");
    }
    !can
}

/// The command as a user runs it who may execute `program`, but not read it.
fn unreadable(scratch: &Scratch, program: &Path) -> Command {
    std::fs::set_permissions(program, PermissionsExt::from_mode(0o711)).unwrap();
    let copy = scratch.path("stepless");
    // By a process of its own: a file that is open for writing in any child cannot be executed.
    run(Command::new("cp").arg(STEPLESS).arg(&copy));
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn a_program_that_may_not_be_read() {
    if skips() {
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    for arguments in [&["stat"][..], &["stat", "--json"], &["trace"]] {
        let mut command = unreadable(&scratch, &program);
        let output =
            command.args(arguments).args(["-e", "libc.so.6:qsort", "--"]).arg(&program).output().unwrap();
        ran_without_probes(&program, &output, &["(program) cannot be opened", "be root"]);
    }
}

#[test]
fn a_program_that_may_not_be_read_started_by_one_that_may() {
    if skips() {
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let script = format!("exec {}", program.display());
    let arguments = ["stat", "-e", "libc.so.6:malloc", "--", "sh", "-c", &script];
    let output = unreadable(&scratch, &program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(stderr.contains("(program) cannot be opened") && stderr.contains("HITS"), "{stderr}");
}

#[test]
fn a_system_without_proc() {
    if skips() {
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let without = |arguments: &str| {
        let script = format!(
            "mount -t tmpfs none /proc || exit 77; exec {STEPLESS} stat -e libc.so.6:qsort {arguments}"
        );
        Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap()
    };
    let output = without(&format!("-- {}", program.display()));
    if output.status.code() == Some(77) {
        eprintln!("skipped: /proc cannot be hidden: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    ran_without_probes(&program, &output, &["mount /proc"]);
    let output = without("-p 1");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mount it"), "{output:?}");
}

#[test]
fn an_object_that_is_never_mapped() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-static"]);
    let mut command = Command::new(STEPLESS);
    let output = command.args(["stat", "-e", "libc.so.6:qsort", "--"]).arg(&program).output().unwrap();
    // At once, and at the end.
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (first, last) = stderr.split_once('\n').unwrap();
    assert!(first.contains("`libc.so.6:qsort` waits") && first.contains("; program"), "{stderr}");
    let last = Output { stderr: last.as_bytes().to_vec(), ..output.clone() };
    ran_without_probes(&program, &last, &["`libc.so.6:qsort` was never placed", "not mapped"]);
}

#[test]
fn a_32_bit_program_that_is_executed_is_told_once() {
    let scratch = Scratch::new();
    let source = "void _start(void) { __asm__ volatile(\"mov $1, %eax; xor %ebx, %ebx; int $0x80\"); }";
    let flags = ["-m32", "-static", "-nostdlib", "-fno-pie", "-no-pie", "-o"];
    let (source, other) = (scratch.write("other.c", source), scratch.path("other"));
    let made = Command::new("cc").args(flags).arg(&other).arg(&source).output().unwrap();
    if !made.status.success() || !Command::new(&other).status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped: no 32-bit program can be made, or run: {made:?}");
    }
    let program = scratch.compile("program", PROGRAM, &[]);
    let script = "\"$0\"; \"$1\"; \"$1\"; \"$0\"; exec \"$1\"";
    for command in [&["stat"][..], &["trace", "--format", "json"]] {
        let output = Command::new(STEPLESS)
            .args(command)
            .args(["--follow", "-e", "program:main", "--", "sh", "-c", script])
            .args([&program, &other])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(told.matches("is not 64-bit").count(), 1, "{told}");
    }
}
