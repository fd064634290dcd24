//! What `step` prints, from outside.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use scratch::Scratch;
use serde_json::Value;
use target::STEPLESS;

/// `outer` calls `inner` and makes a system call.
const PROGRAM: &str = r#"
    #define _GNU_SOURCE
    #include <stdio.h>
    #include <unistd.h>
    #include <sys/syscall.h>
    volatile long sink;
    double real = 1.5;
    __attribute__((noinline)) long inner(long n) { sink = n * 3; return sink + 1; }
    __attribute__((noinline)) long outer(long n) {
        long a = inner(n) + inner(n + 1);
        real = real * 2;
        syscall(SYS_getpid);
        sink = 99;
        return a;
    }
    int main(void) {
        for (long i = 0; i < 5; i++) sink += outer(i);
        puts("done");
        return 7;
    }
"#;

fn stepless(arguments: &[&str]) -> Output {
    Command::new(STEPLESS).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn compile(scratch: &Scratch) -> PathBuf {
    scratch.compile("program", PROGRAM, &["-g", "-O1"])
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How many instructions a function has, and the address of each behind that of the first.
fn instructions(program: &Path, name: &str) -> Vec<u64> {
    let output = stepless(&["list", text(program), name, "--instructions", "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let function = &listed["objects"][0]["functions"][0];
    let sites = function["instructions"].as_array().unwrap();
    let start = sites[0]["address"].as_u64().unwrap();
    sites.iter().map(|site| site["address"].as_u64().unwrap() - start).collect()
}

#[test]
fn each_instruction_is_told_with_what_it_changes() {
    let scratch = Scratch::new();
    let (program, file) = (compile(&scratch), scratch.path("steps"));
    let probe = format!("{}:inner", text(&program));
    let output = stepless(&["step", "--json", "-o", text(&file), "-e", &probe, "--", text(&program)]);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let steps = lines(&file);
    let wanted = instructions(&program, "inner");
    // Ten calls, each with its instructions in their order and an end.
    assert_eq!(steps.len(), 10 * (wanted.len() + 1));
    for (call, steps) in steps.chunks(wanted.len() + 1).enumerate() {
        let (end, steps) = steps.split_last().unwrap();
        assert_eq!((end["what"].as_str(), end["end"].as_str()), (Some("end"), Some("returned")));
        let start = steps[0]["ip"].as_u64().unwrap();
        let ips: Vec<u64> = steps.iter().map(|step| step["ip"].as_u64().unwrap() - start).collect();
        assert_eq!(ips, wanted);
        assert!(steps.iter().all(|step| step["function"] == "inner" && step["what"] == "emulated"));
        let n = call as u64 / 2 + call as u64 % 2;
        let result = steps.iter().rev().find_map(|step| step["registers"]["rax"].as_u64()).unwrap();
        assert_eq!(result, n * 3 + 1);
        let stored: Vec<&str> = steps
            .iter()
            .flat_map(|step| step["memory"].as_array().unwrap())
            .filter_map(|access| access["new"].as_str())
            .collect();
        let three = hex(&(n * 3).to_le_bytes());
        assert!(stored.contains(&three.as_str()), "{stored:?}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn calls_are_a_tree_with_system_calls_by_name() {
    let scratch = Scratch::new();
    let (program, file) = (compile(&scratch), scratch.path("steps"));
    let probe = format!("{}:outer", text(&program));
    let json = ["step", "--json", "--limit", "1", "--vectors", "-o", text(&file), "-e", &probe, "--"];
    let output = stepless(&[&json[..], &[text(&program)]].concat());
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let steps = lines(&file);
    let depths = |name: &str| -> Vec<u64> {
        let of = steps.iter().filter(|step| step["function"] == name && step["what"] == "emulated");
        of.map(|step| step["depth"].as_u64().unwrap()).collect()
    };
    assert!(depths("outer").iter().all(|&depth| depth == 0));
    assert!(!depths("inner").is_empty() && depths("inner").iter().all(|&depth| depth == 1));
    let call = steps.iter().find(|step| step["what"] == "system call").unwrap();
    assert_eq!(call["call"]["name"], "getpid");
    assert_eq!(call["call"]["result"], call["pid"]);
    assert!(steps.iter().any(|step| step["vectors"].as_object().is_some_and(|vectors| !vectors.is_empty())));
    assert_eq!(steps.iter().filter(|step| step["what"] == "end").count(), 1);
    assert_eq!(steps.last().unwrap()["end"], "returned");
}

#[test]
fn text_is_indented_and_so_many_instructions_are_enough() {
    let scratch = Scratch::new();
    let (program, file) = (compile(&scratch), scratch.path("steps"));
    let probe = format!("{}:outer", text(&program));
    let some = ["step", "--instructions", "12", "--limit", "1", "-o", text(&file), "-e", &probe, "--"];
    let output = stepless(&[&some[..], &[text(&program)]].concat());
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].ends_with("program:outer"), "{printed}");
    assert!(lines[1].ends_with(" outer:"), "{printed}");
    assert!(lines.iter().any(|line| line.ends_with("   inner:")), "{printed}");
    assert!(lines.last().unwrap().ends_with("ends after 12 instructions: as many as wanted"), "{printed}");
    let shown = lines.iter().filter(|line| !line.ends_with(':')).count();
    assert_eq!(shown, 12 + 2, "{printed}");
}

#[test]
fn what_cannot_be_is_refused() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    let probe = format!("{}:outer", text(&program));
    for (arguments, why) in [
        (vec!["--format", "perfetto", "-e", &probe], "text or JSON"),
        (vec!["--stack", "-e", &probe], "instructions, not events"),
        (vec!["--instructions", "0", "-e", &probe], "0"),
        (vec!["-e", &format!("{probe}%return")], "not where a call returns"),
    ] {
        let output = stepless(&[&["step"], &arguments[..], &["--", text(&program)]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
    }
}
