//! `stepless cover`, from outside.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use scratch::{Scratch, run, strip};
use serde_json::Value;
use target::{ANSWERS, STEPLESS, Target, stepless_command};

/// Loops, branches, a switch with a table, a function that nobody calls, and one that is inlined twice.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
static inline int twice(int x)
{
    if (x > 100)
        return -1;
    return x * 2;
}
int never(int x)
{
    return x + 1;
}
int kind(int x)
{
    switch (x) {
    case 0: return 7;
    case 1: return 3;
    case 2: puts("two"); return 9;
    case 3: return 1;
    case 4: return 8;
    case 5: puts("five"); return 2;
    default: return 0;
    }
}
int main(int argc, char **argv)
{
    int sum = 0;
    for (int i = 0; i < 10; i++) {
        if (i % 3 == 0)
            sum += kind(i);
        else
            sum -= twice(i);
    }
    while (sum < 0)
        sum += 5;
    if (argc > 1)
        sum += kind(atoi(argv[1]));
    printf("%d\n", sum);
    return 3;
}
"#;

fn cover(arguments: &[&str]) -> Output {
    Command::new(STEPLESS).arg("cover").args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What the command has found, as JSON, besides the program's own output and status, which are those that it has alone.
#[track_caller]
fn covered(scratch: &Scratch, arguments: &[&str], program: &[&str]) -> (Value, String) {
    let (name, rest) = program.split_first().unwrap();
    let plain = Command::new(name).args(rest).output().unwrap();
    let file = scratch.path("found.json");
    let output = cover(&[&["--json", "-o", text(&file)], arguments, &["--"], program].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.stdout, output.status.code()), (plain.stdout, plain.status.code()), "{stderr}");
    (serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap(), stderr)
}

/// How often each line of a file was reached, which is called so.
fn lines(found: &Value, name: &str) -> BTreeMap<u64, Option<u64>> {
    let files = found["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["file"].as_str().unwrap().ends_with(name));
    let lines = file.unwrap_or_else(|| panic!("{found}"))["lines"].as_array().unwrap();
    lines.iter().map(|line| (line["line"].as_u64().unwrap(), line["hits"].as_u64())).collect()
}

/// How often gcov has counted each line of `source` in a run; `None` where there is no gcov.
fn gcov(scratch: &Scratch, source: &str, arguments: &[&str]) -> Option<BTreeMap<u64, u64>> {
    if Command::new("gcov").arg("--version").output().is_err() {
        eprintln!("skipped: there is no gcov");
        return None;
    }
    let program = scratch.compile("counting", source, &["-O0", "-g", "--coverage"]);
    assert!(Command::new(&program).args(arguments).output().unwrap().status.code().is_some());
    let directory = program.parent().unwrap();
    let data = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let data = data.filter(|path| path.extension().is_some_and(|extension| extension == "gcda"));
    let data: Vec<_> = data.collect();
    let output = Command::new("gcov").arg("-t").args(&data).current_dir(directory).output().unwrap();
    assert!(output.status.success());
    let mut counts = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut fields = line.split(':').map(str::trim);
        let (Some(count), Some(Ok(number))) = (fields.next(), fields.next().map(str::parse)) else {
            continue;
        };
        let digits = count.trim_end_matches('*');
        match digits.parse() {
            Ok(count) => counts.insert(number, count),
            Err(_) if count.starts_with('#') || count.starts_with('=') => counts.insert(number, 0),
            Err(_) => None,
        };
    }
    Some(counts)
}

#[test]
fn lines_and_their_counts_are_those_of_gcov() {
    let scratch = Scratch::new();
    let Some(counts) = gcov(&scratch, PROGRAM, &["2"]) else { return };
    let program = scratch.compile("program", PROGRAM, &["-O0", "-g"]);
    let (once, stderr) = covered(&scratch, &[], &[text(&program), "2"]);
    assert_eq!(once["counted"], false, "{stderr}");
    let once = lines(&once, "program.c");
    let (counted, _) = covered(&scratch, &["--count"], &[text(&program), "2"]);
    let counted = lines(&counted, "program.c");
    assert!(once.keys().eq(counted.keys()));
    // gcov has the first line of a function where the compiler has that of its brace, and no other line of a brace.
    let source: Vec<&str> = PROGRAM.lines().collect();
    let is_brace = |line: u64| matches!(source[line as usize - 1], "{" | "}");
    let opens = |line: u64| source.get(line as usize) == Some(&"{");
    assert!(counts.keys().all(|line| once.contains_key(line) || opens(*line)), "{counts:?} {once:?}");
    assert!(once.keys().all(|line| counts.contains_key(line) || is_brace(*line)), "{counts:?} {once:?}");
    let both: Vec<u64> = counts.keys().copied().filter(|line| once.contains_key(line)).collect();
    assert!(both.len() > 20, "{both:?}");
    for line in both {
        assert_eq!(
            (once[&line], counted[&line]),
            (Some(counts[&line].min(1)), Some(counts[&line])),
            "line {line}"
        );
    }
}

#[test]
fn blocks_of_a_stripped_program_are_those_of_the_same_with_symbols() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-O2"]);
    let stripped = scratch.path("stripped");
    std::fs::copy(&program, &stripped).unwrap();
    strip(&stripped, &[]);
    // By address: the length, how often, and the function.
    let blocks = |program: &Path| -> BTreeMap<u64, (u64, Option<u64>, String)> {
        let (found, stderr) = covered(&scratch, &["--level", "block"], &[text(program), "5"]);
        assert!(!stderr.contains("is not known"), "{stderr}");
        let number = |value: &Value| value.as_u64().unwrap();
        let mut blocks = BTreeMap::new();
        for function in found["objects"][0]["functions"].as_array().unwrap() {
            let name = function["name"].as_str().unwrap();
            blocks.extend(function["sites"].as_array().unwrap().iter().map(|site| {
                (number(&site["address"]), (number(&site["length"]), site["hits"].as_u64(), name.to_owned()))
            }));
        }
        blocks
    };
    let (named, nameless) = (blocks(&program), blocks(&stripped));
    for (address, (length, hits, name)) in &named {
        match nameless.get(address) {
            Some((other, found, _)) => assert_eq!((length, hits), (other, found), "{name} {address:#x}"),
            // What is linked to every program may have a symbol, and no unwind table.
            None => assert!(!["main", "kind", "never"].contains(&&**name), "{name} {address:#x}"),
        }
    }
    assert!(nameless.keys().all(|address| named.contains_key(address)));
    // `puts("five")` was executed, and not `puts("two")`.
    let kind =
        named.iter().filter(|(_, (_, _, name))| name == "kind").map(|(address, _)| nameless[address].1);
    let hits: Vec<_> = kind.collect();
    assert!(hits.contains(&Some(0)) && hits.contains(&Some(1)) && hits.len() > 6, "{hits:?}");
}

#[test]
fn each_instruction_of_a_block_that_is_left_at_its_end_was_executed() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-O1"]);
    let sites = |level: &str| -> Vec<(u64, u64, Option<u64>)> {
        let (found, _) = covered(&scratch, &["--count", "--level", level], &[text(&program), "3"]);
        let functions = found["objects"][0]["functions"].as_array().unwrap().clone();
        let kind = functions.iter().find(|function| function["name"] == "kind").unwrap().clone();
        let number = |value: &Value| value.as_u64().unwrap();
        let sites = kind["sites"].as_array().unwrap().clone();
        sites
            .iter()
            .map(|site| (number(&site["address"]), number(&site["length"]), site["hits"].as_u64()))
            .collect()
    };
    let (blocks, instructions) = (sites("block"), sites("instruction"));
    assert!(blocks.len() > 6 && instructions.len() > blocks.len());
    for (address, _, hits) in instructions {
        let block = blocks.iter().find(|&&(start, length, _)| (start..start + length).contains(&address));
        assert_eq!(block.unwrap().2, hits, "{address:#x}");
    }
}

#[test]
fn runs_are_added_up() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-O0", "-g"]);
    let (two, _) = covered(&scratch, &[], &[text(&program), "2"]);
    let first = scratch.path("first.info");
    let written = cover(&["--format", "lcov", "-o", text(&first), "--", text(&program), "5"]);
    assert_eq!(written.status.code(), Some(3));
    let trace = std::fs::read_to_string(&first).unwrap();
    assert!(trace.contains("\nFN:15,kind\n") && trace.contains("\nFNDA:0,never\n"), "{trace}");
    let second = scratch.path("second.json");
    std::fs::write(&second, serde_json::to_vec(&two).unwrap()).unwrap();
    // Two files alone, and one with a run.
    let merged = cover(&["--json", "--merge", text(&first), text(&second)]);
    let merged: Value = serde_json::from_slice(&merged.stdout).unwrap();
    let (also, _) = covered(&scratch, &["--merge", text(&first)], &[text(&program), "2"]);
    let (merged, also, two) =
        (lines(&merged, "program.c"), lines(&also, "program.c"), lines(&two, "program.c"));
    assert_eq!(merged, also);
    let (case_two, case_five, case_four) = (19, 22, 21);
    assert_eq!([case_two, case_five, case_four].map(|line| two[&line]), [Some(1), Some(0), Some(0)]);
    assert_eq!([case_two, case_five, case_four].map(|line| merged[&line]), [Some(1), Some(1), Some(0)]);
}

/// Threads, a child that is forked, and an object that comes later.
const BUSY: &str = r#"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
static int sums[32];
static void *work(void *argument)
{
    int *sum = argument;
    for (int i = 0; i < 1000; i++)
        *sum += i % 7 ? 1 : 2;
    return 0;
}
int main(int argc, char **argv)
{
    pthread_t threads[32];
    for (int i = 0; i < 32; i++)
        pthread_create(&threads[i], 0, work, &sums[i]);
    int sum = 0;
    for (int i = 0; i < 32; i++) {
        pthread_join(threads[i], 0);
        sum += sums[i];
    }
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library)
        return 1;
    int (*late)(int) = (int (*)(int))dlsym(library, "late");
    sum += late(3);
    fflush(stdout);
    int child = fork();
    if (child == 0) {
        puts("child");
        fflush(stdout);
        _exit(late(-5));
    }
    int status;
    waitpid(child, &status, 0);
    printf("%d %d\n", sum, WEXITSTATUS(status));
    return 0;
}
"#;

const LATE: &str = r#"
int late(int x)
{
    if (x < 0)
        return 9;
    return x;
}
"#;

#[test]
fn threads_children_and_objects_that_come_later_are_covered() {
    let scratch = Scratch::new();
    let library = scratch.compile("liblate.so", LATE, &["-O0", "-g", "-shared", "-fPIC"]);
    let program = scratch.compile("busy", BUSY, &["-O0", "-g", "-pthread", "-ldl"]);
    let command = [text(&program), text(&library)];
    for (follow, in_child) in [(&["--follow"][..], Some(1)), (&[], Some(0))] {
        let (found, stderr) = covered(&scratch, follow, &command);
        let (busy, late) = (lines(&found, "busy.c"), lines(&found, "late.so.c"));
        let missing: Vec<u64> =
            busy.iter().filter(|(_, hits)| **hits == Some(0)).map(|(&line, _)| line).collect();
        // What only the child executes, and the failure of dlopen.
        let expected = if follow.is_empty() { &[27, 33, 34, 35][..] } else { &[27] };
        assert_eq!(missing, expected, "{stderr}");
        assert_eq!((late[&5], late[&6]), (in_child, Some(1)), "{stderr}");
    }
}

/// Tells how often it was stopped in a loop and in lines that are executed once, and comes by lines that fault, repeat, and
/// call the kernel themselves.
const NEAR: &str = r#"
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
static sigjmp_buf back;
static volatile int faults;
static void caught(int signal)
{
    faults++;
    siglongjmp(back, signal);
}
static long stops(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
}
int main(int argc, char **argv)
{
    volatile long sum = 0;
    char bytes[64];
    long before = stops();
    for (int i = 0; i < 1000; i++) {
        if (i % 3 == 0)
            sum += i;
        else
            sum ^= i;
        sum <<= 1;
    }
    long after = stops();
    sum = 1;
    sum = 2;
    sum = 3;
    sum = 4;
    sum = 5;
    sum = 6;
    sum = 7;
    sum = 8;
    long end = stops();
    signal(SIGSEGV, caught);
    volatile char *volatile nowhere = 0;
    for (volatile int i = 0; i < 50; i++) {
        void *to = bytes;
        long count = sizeof bytes, number = 39;
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(i) : "memory");
        __asm__ volatile("syscall" : "+a"(number) : : "rcx", "r11", "memory");
        if (sigsetjmp(back, 1) == 0)
            *nowhere = 1;
    }
    FILE *told = fopen(argv[1], "w");
    fprintf(told, "%ld %ld", after - before, end - after);
    fclose(told);
    printf("%d %d\n", faults, bytes[63]);
    return 0;
}
"#;

#[test]
fn sites_that_are_near_each_other_take_one_stop() {
    let scratch = Scratch::new();
    let program = scratch.compile("near", NEAR, &["-O0", "-g"]);
    let told = scratch.path("told");
    let command = [text(&program), text(&told)];
    let line_of = |what: &str| NEAR.lines().position(|line| line.contains(what)).unwrap() as u64 + 1;
    for counting in [true, false] {
        let (found, stderr) = covered(&scratch, if counting { &["--count"] } else { &[] }, &command);
        let lines = lines(&found, "near.c");
        let expected = [
            ("i % 3 == 0", 1000),
            ("sum += i", 334),
            ("sum ^= i", 666),
            ("sum <<= 1", 1000),
            ("sum = 8", 1),
            ("void *to", 50),
            ("rep stosb", 50),
            ("\"syscall\"", 50),
            ("*nowhere = 1", 50),
            ("faults++", 50),
        ];
        for (what, hits) in expected {
            let hits = if counting { hits } else { 1 };
            assert_eq!(lines[&line_of(what)], Some(hits), "{what}: {stderr}");
        }
        let told = std::fs::read_to_string(&told).unwrap();
        let stops: Vec<u64> = told.split(' ').map(|number| number.parse().unwrap()).collect();
        // Of the loop 4,000 lines, and then eight.
        assert!(stops[0] < 400 && stops[1] < 6, "{told}");
    }
}

#[test]
fn a_running_process_is_covered_and_left_as_it_was() {
    let scratch = Scratch::new();
    let program = scratch.compile("answers", ANSWERS, &["-g", "-O0"]);
    let mut target = Target::start(&mut Command::new(&program));
    let text_before = target.text();
    let file = scratch.path("found.json");
    let mut command = stepless_command();
    command.args(["cover", "--json", "-o", text(&file), "--duration", "500ms", "-p", &target.pid()]);
    let mut child = command.spawn().unwrap();
    while !child.try_wait().unwrap().is_some_and(|status| status.success()) {
        target.ask();
    }
    assert_eq!(target.text(), text_before);
    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let lines = lines(&found, "answers.c");
    // `leaf` is called, and neither the start of `main` nor its end is reached.
    assert_eq!([4, 7, 9].map(|line| lines[&line]), [Some(1), Some(0), Some(0)], "{lines:?}");
    drop(target);
}

/// Line 11 is said to begin inside of an instruction, and 21 where `other` begins inside of one of `outer`. (An assembler
/// writes where a line begins when it meets the next instruction, or the next line.)
const WRONG: &str = r#"
    .file 1 "/nowhere/wrong.s"
    .globl main
    .type main, @function
main:
    .loc 1 10
    nop
    .byte 0xb8
    .loc 1 11
    .loc 1 99
    .long 0
    .loc 1 12
    call outer
    .loc 1 13
    ret
    .size main, .-main
    .type outer, @function
outer:
    .loc 1 20
    nop
    .byte 0xb9
    .type other, @function
other:
    .loc 1 21
    .loc 1 99
    .long 0x90909090
    .loc 1 22
    ret
    .size other, .-other
    .size outer, .-outer
    .section .note.GNU-stack,"",@progbits
"#;

#[test]
fn what_cannot_be_probed_is_named_and_counts_as_neither() {
    let scratch = Scratch::new();
    let source = scratch.write("wrong.s", WRONG);
    let program = scratch.path("wrong");
    run(Command::new("cc").args(["-g", "-o"]).arg(&program).arg(&source));
    let (found, stderr) = covered(&scratch, &["--source", "/nowhere"], &[text(&program)]);
    let lines = lines(&found, "/nowhere/wrong.s");
    let expected = [
        (10, Some(1)),
        (11, None),
        (12, Some(1)),
        (13, Some(1)),
        (20, Some(1)),
        (21, None),
        (22, Some(1)),
        (99, Some(1)),
    ];
    assert_eq!(lines, BTreeMap::from(expected), "{stderr}");
    assert_eq!(found["totals"]["lines"], serde_json::json!({ "total": 6, "covered": 6 }));
    assert!(stderr.contains("inside of an instruction") && stderr.contains("functions overlap"), "{stderr}");
    assert_eq!(found["refused"].as_array().unwrap().len(), 2);
}

#[test]
fn what_has_nothing_to_be_covered_says_what_to_do() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let output = cover(&["--", text(&program)]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--level block") && stderr.contains("ended with status 3"), "{stderr}");
    for (arguments, part) in [
        (&["--"][..], "-p PID or -- CMD"),
        (&["--annotate", "--json", "--", "true"], "--annotate"),
        (&["--merge", "/dev/null/x"], "/dev/null/x"),
        (&["--level", "block", "--format", "lcov", "--", text(&program)], "lines of a source"),
    ] {
        let output = cover(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn formats_say_the_same() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-O0", "-g"]);
    let (found, _) = covered(&scratch, &[], &[text(&program)]);
    let totals = &found["totals"]["lines"];
    let (total, covered) = (totals["total"].as_u64().unwrap(), totals["covered"].as_u64().unwrap());
    let printed = |format: &str, more: &[&str]| -> String {
        let file = scratch.path("printed");
        let arguments = [&["--format", format, "-o", text(&file)], more, &["--", text(&program)]].concat();
        assert_eq!(cover(&arguments).status.code(), Some(3));
        std::fs::read_to_string(&file).unwrap()
    };
    let table = printed("text", &["--annotate"]);
    assert!(table.contains(&format!("{covered}/{total} ")), "{table}");
    assert!(table.contains("         - |    12 |     return x + 1;\n"), "{table}");
    assert!(table.contains("         + |    29 |     for (int i = 0; i < 10; i++) {\n"), "{table}");
    let trace = printed("lcov", &[]);
    assert!(trace.contains(&format!("LF:{total}\nLH:{covered}\n")), "{trace}");
    let xml = printed("cobertura", &[]);
    assert!(xml.contains(&format!(r#"lines-covered="{covered}" lines-valid="{total}""#)), "{xml}");
    assert!(xml.contains(r#"<line number="12" hits="0" branch="false"/>"#), "{xml}");
}

#[test]
fn a_program_and_its_directory_are_called_anything() {
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let directory = scratch.path("").join(odd);
    std::fs::create_dir(&directory).unwrap();
    std::fs::rename(scratch.compile("program", PROGRAM, &["-g"]), directory.join(odd)).unwrap();
    for level in ["line", "block"] {
        let output = Command::new(STEPLESS)
            .args(["cover", "--json", "--level", level, "-o", text(&scratch.path("found.json")), "--"])
            .arg(Path::new(".").join(odd))
            .current_dir(&directory)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
        let found = std::fs::read(scratch.path("found.json")).unwrap();
        let found: Value = serde_json::from_slice(&found).unwrap();
        let part = if level == "line" { "lines" } else { "sites" };
        assert!(found["totals"][part]["covered"].as_u64().unwrap() > 10, "{found}");
    }
}

#[test]
fn what_has_no_end_is_not_read_to_it() {
    let scratch = Scratch::new();
    let output = cover(&["--merge", "/dev/zero"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("no end"), "{stderr}");
    // Whoever has made a program has said what its source is called.
    let program =
        scratch.compile("program", "#line 1 \"/dev/zero\"\nint main(void) { return 3; }\n", &["-g"]);
    let output = cover(&["--annotate", "--source", "*", "--", text(&program)]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("/dev/zero: it is not a regular file"), "{stderr}");
}
