//! Which functions and processes a user's names stand for, and what is said where they stand for none.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::unistd::Uid;
use scratch::{PROGRAM, Scratch, run};
use serde_json::Value;
use target::{ANSWERS, STEPLESS, Target, stepless_command};

const NOBODY: u32 = 65534;

fn stepless(arguments: &[&str]) -> Output {
    Command::new(STEPLESS).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The hits of each probe, by name, of `stat --json` of a command.
fn hits(arguments: &[&str]) -> Vec<(String, u64)> {
    let output = stepless(&[&["stat", "--json"], arguments].concat());
    let text = stderr(&output);
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
    let document: Value = serde_json::from_str(line).unwrap();
    let probes = document["probes"].as_array().unwrap();
    let row = |row: &Value| (row["probe"].as_str().unwrap().to_owned(), row["hits"].as_u64().unwrap());
    probes.iter().map(row).collect()
}

#[test]
fn each_function_of_a_pattern_is_counted_by_itself() {
    let scratch = Scratch::new();
    for flags in [&["-pie", "-fPIE"][..], &["-static"]] {
        let program = scratch.compile("program", PROGRAM, flags);
        let found = hits(&["-e", "program:*ea?", "-e", "program:hidde?", "--", text(&program)]);
        let of = |name: &str| found.iter().find(|(probe, _)| probe == name).map(|&(_, hits)| hits);
        assert_eq!(of("program:leaf"), Some(3), "{found:?}");
        assert_eq!(of("program:hidden"), Some(3), "{found:?}");
        // The pattern itself is no row.
        assert_eq!(of("program:*ea?"), None, "{found:?}");
    }
    // Of an object that is not there yet; and events have the function's name.
    let program = scratch.compile("program", PROGRAM, &[]);
    let found = hits(&["-e", "libc.so.6:*printf", "--", text(&program)]);
    assert!(found.len() > 5, "{found:?}");
    assert!(found.iter().any(|(probe, hits)| probe.ends_with("printf") && *hits > 0), "{found:?}");
    let output = stepless(&["trace", "--json", "-e", "program:le?f", "--", text(&program)]);
    let lines = stderr(&output);
    let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let names: Vec<String> = events.map(|event| event["probe"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["program:leaf"; 3]);
}

#[test]
fn thousands_of_functions_are_placed_at_once() {
    let start = std::time::Instant::now();
    let found = hits(&["-e", "libc.so.6:*", "--", "true"]);
    // On its own it takes less than a second.
    assert!(found.len() > 2000 && start.elapsed().as_secs() < 20, "{} {:?}", found.len(), start.elapsed());
    assert!(found.iter().any(|(_, hits)| *hits > 0));
}

/// Calls an indirect function of libc.
const CALLS: &str = r#"
    #include <string.h>
    int main(int argc, char **argv) {
        size_t sum = 0;
        const char *volatile name = argv[0];
        for (int i = 0; i < 50; i++) sum += strlen(name);
        return sum == 0;
    }
"#;

#[test]
fn calls_of_an_indirect_function_are_counted_and_its_implementation_is_named() {
    let scratch = Scratch::new();
    for flags in
        [&["-fno-builtin"][..], &["-fno-builtin", "-static"], &["-fno-builtin", "-static-pie", "-fPIE"]]
    {
        let program = scratch.compile("calls", CALLS, flags);
        let object = if flags.len() == 1 { "libc.so.6" } else { "calls" };
        let probe = format!("{object}:strlen");
        let output = stepless(&["stat", "--json", "-e", &probe, "--", text(&program)]);
        let document: Value =
            serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        let row = &document["probes"][0];
        assert_eq!(row["probe"], probe.as_str());
        assert!(row["hits"].as_u64().unwrap() >= 50, "{flags:?}: {document}");
        let names = row["implementations"].as_array().unwrap();
        assert!(!names.is_empty(), "{document}");
        // Once it is relocated, there is one.
        assert!(object == "calls" || names.len() == 1, "{document}");
    }
    let program = scratch.compile("calls", CALLS, &["-fno-builtin"]);
    let output = stepless(&["stat", "-e", "libc.so.6:strlen", "--", text(&program)]);
    assert!(stderr(&output).contains("\n  is "), "{}", stderr(&output));
}

/// Has an indirect function of its own, whose resolver asks the processor.
const CHOOSES: &str = r#"
    static int one(int x) { __asm__ volatile(""); return x + 1; }
    static int other(int x) { __asm__ volatile(""); return x + 1; }
    static int (*choose(void))(int) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("sse2") ? other : one;
    }
    int work(int) __attribute__((ifunc("choose")));
    int main(void) {
        int sum = 0;
        for (int i = 0; i < 25; i++) sum = work(sum);
        return sum != 25;
    }
"#;

#[test]
fn a_resolver_may_be_anybodys() {
    let scratch = Scratch::new();
    for flags in [&["-pie", "-fPIE"][..], &["-no-pie", "-fno-pie"], &["-fstack-protector-all"]] {
        let program = scratch.compile("chooses", CHOOSES, flags);
        let output = stepless(&["stat", "--json", "-e", "chooses:work", "--", text(&program)]);
        let document: Value =
            serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        assert_eq!(document["probes"][0]["hits"], 25, "{flags:?}: {document}");
        assert_eq!(document["probes"][0]["implementations"], serde_json::json!(["other"]), "{flags:?}");
    }
}

#[test]
fn an_indirect_function_of_an_object_that_is_loaded_later_is_the_one_that_it_calls() {
    const LIBRARY: &str = r#"
        static int one(int x) { return x + 1; }
        static int two(int x) { return x + 2; }
        static int (*resolve(void))(int) { return __builtin_cpu_supports("sse2") ? one : two; }
        int choose(int) __attribute__((ifunc("resolve")));
        int call(int x) { return choose(x); }
    "#;
    const PROGRAM: &str = r#"
        #include <dlfcn.h>
        int main(int count, char **arguments) {
            void *library = dlopen(arguments[1], RTLD_LAZY);
            int (*call)(int) = library ? dlsym(library, "call") : 0;
            for (int i = 0; call && i < 7; i++) call(i);
            return call ? 5 : 1;
        }
    "#;
    let scratch = Scratch::new();
    let library = scratch.compile("libchoose.so", LIBRARY, &["-shared", "-fPIC"]);
    let program = scratch.compile("loads", PROGRAM, &["-ldl"]);
    let probe = format!("{}:choose", text(&library));
    let output = stepless(&["stat", "-e", &probe, "--", text(&program), text(&library)]);
    let printed = stderr(&output);
    assert_eq!(output.status.code(), Some(5), "{printed}");
    let mut lines = printed.lines().skip_while(|line| !line.starts_with(&format!("{probe} ")));
    assert_eq!(lines.next().unwrap().split_whitespace().nth(1), Some("7"), "{printed}");
    // What it reads, a constructor sets: until then, nobody can know.
    assert_eq!(lines.next().map(str::trim), Some("is one or two"), "{printed}");
}

#[test]
fn what_is_not_mapped_is_told_at_once_with_what_is() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let output = stepless(&["stat", "-e", "libc:malloc", "--", text(&program)]);
    let lines = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{lines}");
    let (first, last) = (lines.lines().next().unwrap(), lines.lines().last().unwrap());
    assert!(first.contains("waits") && first.contains("libc.so.6 is"), "{lines}");
    assert!(last.contains("never placed") && last.contains("status 7"), "{lines}");
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let output = stepless(&["stat", "-e", "libc:malloc", "-p", &target.pid()]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("libc.so.6"), "{}", stderr(&output));
    let output = stepless(&["stat", "-e", "answers:laef", "-p", &target.pid()]);
    assert!(stderr(&output).contains("has no symbol `laef`"), "{}", stderr(&output));
    let output = stepless(&["stat", "-e", "libc.so.6:maloc", "-p", &target.pid()]);
    assert!(stderr(&output).contains("malloc"), "{}", stderr(&output));
    target.ask();
    target.finish();
}

/// Where no byte of the program is changed, nobody looks at it when it is linked.
#[test]
fn what_is_to_be_linked_is_not_said_to_wait() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let output = stepless(&["stat", "--hardware", "-e", "libc.so.6:puts", "--", text(&program)]);
    let lines = stderr(&output);
    if output.status.code() == Some(2) {
        println!("skipped: {lines}");
        return;
    }
    assert_eq!((output.status.code(), lines.lines().count()), (Some(7), 2), "{lines}");
}

#[test]
fn a_file_that_is_stripped_is_said_to_be() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-Wl,--build-id"]);
    scratch::strip(&program, &[]);
    for place in ["leaf", "lea?"] {
        let probe = format!("{}:{place}", program.display());
        let output = stepless(&["stat", "-e", &probe, "--", text(&program)]);
        let line = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains("stripped") && line.contains("/usr/lib/debug/.build-id/"), "{line}");
    }
}

#[test]
fn a_debug_file_may_lie_anywhere() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-Wl,--build-id"]);
    let (debug, other) = (scratch.path("somewhere"), scratch.path("other"));
    for (from, to) in
        [(&program, &debug), (&scratch.compile("twin", "int main(void) { return 1; }", &[]), &other)]
    {
        let made = Command::new("objcopy").arg("--only-keep-debug").args([from, to]).status();
        if !made.is_ok_and(|status| status.success()) {
            return eprintln!("skipped: no objcopy");
        }
    }
    scratch::strip(&program, &[]);
    let probe = format!("{}:leaf", program.display());
    let run = ["--", text(&program)];
    let with = |files: &[&Path]| {
        let files: Vec<&str> = files.iter().flat_map(|file| ["--debug-file", text(file)]).collect();
        stepless(&[&["stat", "--json", "-e", probe.as_str()], &files[..], &run[..]].concat())
    };
    let document: Value = serde_json::from_slice(&with(&[&other, &debug]).stderr).unwrap();
    assert_eq!(document["probes"][0]["hits"], 3);
    // One that is of another file is not believed, and one that is none is refused.
    assert!(stderr(&with(&[&other])).contains("stripped"));
    assert!(stderr(&with(&[Path::new("/nothing/here")])).contains("/nothing/here"));
}

#[test]
fn a_program_that_loses_its_privileges_is_told_of() {
    if !Uid::effective().is_root() {
        return eprintln!("skipped: only root can make a program that runs as another user");
    }
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let copy = scratch.path("stepless");
    // By a process of its own: a file that is open for writing in any child cannot be executed.
    run(Command::new("cp").arg(STEPLESS).arg(&copy));
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY).args(["stat", "-e", "program:leaf", "--"]).arg(&program);
    let output = command.output().unwrap();
    let lines = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{lines}");
    assert!(lines.contains("is to run as user 0"), "{lines}");
    // Root keeps them.
    let output = stepless(&["stat", "-e", "program:leaf", "--", text(&program)]);
    assert!(!stderr(&output).contains("is to run as"), "{}", stderr(&output));
}

#[test]
fn several_processes_are_probed_by_number_or_name() {
    let scratch = Scratch::new();
    // A name that nobody else has.
    let name = format!("answ{}", std::process::id());
    let program = scratch.compile(&name, ANSWERS, &[]);
    let probe = format!("{name}:leaf");
    let mut targets: Vec<Target> = (0..3).map(|_| Target::start(&mut Command::new(&program))).collect();
    let pids: Vec<String> = targets.iter().map(Target::pid).collect();
    for which in [vec!["-p", &name], vec!["-p", &pids[0], "-p", &pids[1], "-p", &pids[2]]] {
        let mut command = stepless_command();
        command.args(["stat", "--json", "--limit", "6", "-e", &probe]).args(&which);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for target in &mut targets {
            target.wait_for_probe_at(&probe, &mut child);
        }
        for target in &mut targets {
            target.ask();
            target.ask();
        }
        let output = child.wait_with_output().unwrap();
        let document: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        assert_eq!(document["probes"][0]["hits"], 6, "{which:?}");
    }
    // One thread of one of them.
    let mut child = stepless_command()
        .args(["stat", "--json", "--limit", "1", "-e", &probe, "-p", &name, "--tid", &pids[1]])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for target in &mut targets {
        target.wait_for_probe_at(&probe, &mut child);
    }
    targets[0].ask();
    targets[2].ask();
    targets[1].ask();
    let output = child.wait_with_output().unwrap();
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    assert_eq!((&document["probes"][0]["hits"], &document["probes"][0]["filtered"]), (&3.into(), &2.into()));
    // One has ended, and its number stands for it as long as its parent does not ask for it.
    let mut ended = Command::new("true").spawn().unwrap();
    let gone = ended.id().to_string();
    while !std::fs::read_to_string(format!("/proc/{gone}/status")).unwrap().contains("State:\tZ") {
        std::thread::yield_now();
    }
    let mut child = stepless_command()
        .args(["stat", "--json", "--limit", "1", "-e", &probe, "-p", &gone, "-p", &pids[1]])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    targets[1].wait_for_probe_at(&probe, &mut child);
    targets[1].ask();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(
        told.contains(&format!("process {gone} has")) && told.contains("the others are probed"),
        "{told}"
    );
    // All of them.
    let output = stepless(&["stat", "-e", &probe, "-p", &gone, "-p", &gone]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    ended.wait().unwrap();
    for target in targets {
        target.finish();
    }
    let output = stepless(&["stat", "-e", &probe, "-p", &format!("{name}x")]);
    assert!(stderr(&output).contains("no process is called"), "{}", stderr(&output));
}

#[test]
fn a_line_is_where_threads_get_to_rather_than_what_cleans_up_after_an_exception() {
    let scratch = Scratch::new();
    // As compilers put what an exception leads to: first, under the line of what is cleaned up.
    let source = "int main(void) {\n    __asm__ volatile(\"jmp 2f\\n .loc 1 100\\n 1: nop\\n ud2\\n 2: .loc 1 99\\n nop\\n\"\n    \
                  \".loc 1 100\\n nop\\n .loc 1 101\\n nop\");\n    return 0;\n}\n";
    let program = scratch.compile("program", source, &["-g", "-O0"]);
    for line in [99, 100, 101] {
        let probe = format!("program.c:{line}");
        assert_eq!(hits(&["-e", &probe, "--", text(&program)]), [(probe, 1)]);
    }
    let rust = scratch.write("main.rs", RUST_LINE);
    let output = scratch.path("rust");
    match Command::new("rustc").args(["-g", "-C", "opt-level=0", "-o"]).arg(&output).arg(rust).output() {
        Ok(made) if made.status.success() => {
            for (line, expected) in [(4, 1), (5, 1), (6, 1), (7, 1)] {
                let probe = format!("main.rs:{line}");
                assert_eq!(hits(&["-e", &probe, "--", text(&output)]), [(probe, expected)]);
            }
        }
        other => println!("skipped: no Rust program could be made: {other:?}"),
    }
}

/// What is made in each line is dropped if a later one panics.
const RUST_LINE: &str = r#"fn number() -> usize { std::env::args().count() }
#[inline(never)]
fn show(text: &str) -> usize {
    let owned = String::from(text);
    let boxed = Box::new(number()); let other = vec![*boxed];
    println!("{owned} {boxed} {other:?} {}", number());
    owned.len() + other.len()
}
fn main() { assert_eq!(show("text"), 5); }
"#;
