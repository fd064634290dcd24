//! Programs that are stripped, whose debug information is wrong, with data among their code, and with functions that overlap:
//! what cannot be done is said, what can be is done, and each program ends as it would have.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object, ObjectSection};
use scratch::{Scratch, run};
use target::STEPLESS;

/// It prints 9 and ends with status 5.
const PROGRAM: &str = r#"
    #include <stdio.h>
    volatile int counter;
    __attribute__((noinline)) int work(int n) { counter = n; return n + 1; }
    int main(void) {
        int sum = 0;
        for (int i = 1; i <= 3; i++) sum += work(i);
        printf("%d\n", sum);
        return sum == 9 ? 5 : 1;
    }
"#;

/// Its status is 9: 4, which lies among its code, and 4 + 1. `other` begins inside of an instruction of `outer`.
const MIXED: &str = r#"
    .globl main
    .type main, @function
main:
    mov table(%rip), %edi
    call outer
    jmp 1f
    .byte 0xb8
table:
    .long 4
1:  mov table(%rip), %ecx
    add %ecx, %eax
    ret
    .size main, .-main
    .type outer, @function
outer:
    mov %edi, %eax
    .byte 0xb9
    .type other, @function
other:
    .long 0x90909090
    add $1, %eax
    cmp $0x90909090, %ecx
    je 1f
    mov $100, %eax
1:  ret
    .size other, .-other
    .size outer, .-outer
    .section .note.GNU-stack,"",@progbits
"#;

struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn stepless(command: &str, arguments: &[&str], program: &Path) -> Ran {
    let mut run = Command::new(STEPLESS);
    run.args(command.split(' ')).args(arguments).arg("--").arg(program).stdin(Stdio::null());
    let output = run.output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(!stderr.contains("panicked"), "{stderr}");
    Ran { status: output.status.code(), stdout, stderr }
}

/// Nothing was done, for that reason, and the program was not started.
fn refuses(command: &str, arguments: &[&str], program: &Path, reason: &str) {
    let ran = stepless(command, arguments, program);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{command} {arguments:?}: {}", ran.stderr);
    assert!(ran.stderr.contains(reason), "{command} {arguments:?}: {}", ran.stderr);
}

/// What needs no debug information is done in a program without any that is usable.
fn does_without(program: &Path) {
    let name = program.file_name().unwrap().to_str().unwrap();
    let work = format!("{name}:work");
    let ran = stepless("step", &["-e", &work], program);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(5), "9\n"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("ends after").count(), 3, "{}", ran.stderr);
    // 2 + 7 + 4.
    let ran = stepless("inject", &["-e", &work, "--return", "7", "--nth", "2"], program);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), "13\n"), "{}", ran.stderr);
    let ran = stepless("cover --level block", &[], program);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(5), "9\n"), "{}", ran.stderr);
    assert!(
        ran.stderr.lines().any(|line| line.contains("100.00 %") && line.ends_with(" work")),
        "{}",
        ran.stderr
    );
}

/// Where `counter` is, in a program that is loaded where it was linked to.
fn counter(program: &Path) -> u64 {
    use object::ObjectSymbol;
    let contents = std::fs::read(program).unwrap();
    let file = object::File::parse(&*contents).unwrap();
    file.symbols().find(|symbol| symbol.name() == Ok("counter")).unwrap().address()
}

#[test]
fn a_program_without_debug_information_is_told_so_or_does_without() {
    let scratch = Scratch::new();
    // Its functions keep their names, as those of a library do.
    let program = scratch.compile("stripped", PROGRAM, &["-O1", "-rdynamic", "-no-pie", "-s"]);
    refuses("watch", &["--on", "counter"], &program, "has no debug information");
    refuses("inject", &["-e", "stripped:work", "--set", "n=1"], &program, "has no debug information");
    refuses("step", &["-e", "stripped:nowhere"], &program, "has no symbol `nowhere`");
    does_without(&program);
    let with_names = scratch.compile("names", PROGRAM, &["-O1", "-no-pie"]);
    let expression = format!("*(int *){:#x}", counter(&with_names));
    let probe = ["-e", "names:main", "--by", "run-on"];
    let ran = stepless("watch", &[&probe[..], &["--on", &expression]].concat(), &with_names);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(5), "9\n"), "{}", ran.stderr);
    for change in ["0 -> 1", "1 -> 2", "2 -> 3"] {
        assert!(ran.stderr.contains(&format!("{expression}: {change}")), "{}", ran.stderr);
    }
}

/// The same program with all of a section's bytes replaced.
fn broken(scratch: &Scratch, program: &Path, section: &str, byte: u8) -> PathBuf {
    let mut contents = std::fs::read(program).unwrap();
    let file = object::File::parse(&*contents).unwrap();
    let range = file.section_by_name(section).and_then(|section| section.file_range());
    let (start, length) = range.unwrap_or_else(|| panic!("there is no {section}"));
    contents[start as usize..(start + length) as usize].fill(byte);
    let path = scratch.path(&format!("broken{}_{byte}", section.replace('.', "_")));
    std::fs::write(&path, contents).unwrap();
    std::fs::set_permissions(&path, std::fs::metadata(program).unwrap().permissions()).unwrap();
    path
}

#[test]
fn wrong_debug_information_is_named_and_never_believed() {
    let scratch = Scratch::new();
    let program = scratch.compile("whole", PROGRAM, &["-g", "-O1"]);
    for (section, byte) in [(".debug_info", 0xff), (".debug_abbrev", 0), (".debug_line", 0xff)] {
        let program = broken(&scratch, &program, section, byte);
        let name = program.file_name().unwrap().to_str().unwrap();
        let work = format!("{name}:work");
        refuses("watch", &["--on", "counter"], &program, "the debug information is corrupt");
        refuses("inject", &["-e", &work, "--set", "n=1"], &program, "the debug information is corrupt");
        let ran = stepless("cover", &[], &program);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), "9\n"), "{}", ran.stderr);
        assert!(ran.stderr.contains("the debug information is corrupt"), "{section}: {}", ran.stderr);
        does_without(&program);
    }
}

#[test]
fn data_among_code_is_left_alone() {
    let scratch = Scratch::new();
    let source = scratch.write("mixed.s", MIXED);
    let program = scratch.path("mixed");
    run(Command::new("cc").arg("-o").arg(&program).arg(&source));
    for level in ["block", "instruction"] {
        let ran = stepless("cover --level", &[level], &program);
        assert_eq!(ran.status, Some(9), "{}", ran.stderr);
        assert!(ran.stderr.contains("no way is known to 5 bytes"), "{}", ran.stderr);
        assert!(ran.stderr.contains("functions overlap here"), "{}", ran.stderr);
        assert!(
            ran.stderr.lines().any(|line| line.contains("100.00 %") && line.ends_with(" main")),
            "{}",
            ran.stderr
        );
    }
    let ran = stepless("step", &["-e", "mixed:main"], &program);
    assert_eq!(ran.status, Some(9), "{}", ran.stderr);
    assert!(ran.stderr.contains("mov ecx,0x90909090"), "{}", ran.stderr);
}

/// A breakpoint there would change what the other function does, whatever begins there.
#[test]
fn a_function_that_begins_inside_of_an_instruction_of_another_is_refused() {
    let scratch = Scratch::new();
    let source = scratch.write("mixed.s", MIXED);
    let program = scratch.path("mixed");
    run(Command::new("cc").arg("-o").arg(&program).arg(&source));
    let reason = "lies inside the instruction at outer+0x2";
    for (command, arguments) in
        [("inject", &["--skip"][..]), ("step", &[]), ("trace", &[]), ("watch", &["--on", "*(int *)%rsp"])]
    {
        refuses(command, &[&["-e", "mixed:other"], arguments].concat(), &program, reason);
    }
    // Nor does anybody go on there.
    let goes = ["-e", "mixed:outer", "--set", "%rip=%rip+3"];
    let ran = stepless("inject", &goes, &program);
    assert_eq!(ran.status, Some(9), "{}", ran.stderr);
    assert!(ran.stderr.contains("middle of an instruction, of outer+0x2"), "{}", ran.stderr);
    // What surrounds it can be probed.
    let ran = stepless("inject", &["-e", "mixed:outer", "--return", "1"], &program);
    assert_eq!(ran.status, Some(5), "{}", ran.stderr);
}
