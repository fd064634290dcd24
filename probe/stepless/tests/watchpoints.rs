//! `stepless watch`, from outside.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use scratch::Scratch;
use serde_json::Value;
use target::{ANSWERS, STEPLESS, Target, stepless_command};

const WATCHED: &str = include_str!("../../tests/targets/watched.c");

fn stepless(arguments: &[&str]) -> Output {
    Command::new(STEPLESS).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn compiled(scratch: &Scratch) -> PathBuf {
    scratch.compile("watched", WATCHED, &["-pthread", "-g", "-O1", "-fno-inline"])
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether the system has hardware breakpoints for us; if not, the test is skipped.
fn are_there(program: &Path) -> bool {
    let output = stepless(&["watch", "--on", "counter", "--", text(program), "none"]);
    let missing =
        stderr(&output).lines().find(|line| line.contains("hardware breakpoints")).map(str::to_owned);
    if let Some(line) = &missing {
        println!("skipped: {line}");
    }
    missing.is_none()
}

/// Runs the command, and returns the changes and the summary.
fn changes(scratch: &Scratch, arguments: &[&str]) -> (Vec<Value>, String) {
    let file = scratch.path("changes");
    let output = stepless(&[&["watch", "--json", "-o", text(&file)], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines = std::fs::read_to_string(&file).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), stderr(&output))
}

#[test]
fn each_write_of_four_threads_is_found_by_hardware() {
    const WRITES: usize = 200;
    let scratch = Scratch::new();
    let program = compiled(&scratch);
    if !are_there(&program) {
        return;
    }
    let (changes, summary) =
        changes(&scratch, &["--on", "shared_word", "--", text(&program), "threads", "50"]);
    assert_eq!(changes.len(), WRITES, "{summary}");
    let of_thread = |tid: &Value| changes.iter().filter(|change| change["tid"] == *tid).count();
    let threads: BTreeSet<u64> = changes.iter().map(|change| change["tid"].as_u64().unwrap()).collect();
    assert_eq!(threads.len(), 4);
    for change in &changes {
        assert_eq!(of_thread(&change["tid"]), WRITES / 4);
        assert_eq!(
            (&change["writer"], &change["function"]),
            (&"instruction".into(), &"adds".into()),
            "{change}"
        );
        assert!(change["instruction"].as_str().unwrap().starts_with("lock "), "{change}");
        assert!(change["line"].is_u64());
    }
    assert!(summary.contains("not seen: writes by other processes"), "{summary}");
}

/// Then each value is exactly what the instruction has replaced and written, however the threads run.
#[test]
fn each_write_of_four_threads_is_found_where_each_runs_on() {
    const WRITES: u64 = 200;
    let scratch = Scratch::new();
    let program = compiled(&scratch);
    let arguments = ["-e", "watched:adds_once", "--by", "run-on", "--on", "shared_word", "--"];
    let (changes, summary) =
        changes(&scratch, &[&arguments[..], &[text(&program), "threads_once", "50"]].concat());
    let pairs: BTreeSet<(u64, u64)> = changes
        .iter()
        .map(|change| (change["old"].as_u64().unwrap(), change["new"].as_u64().unwrap()))
        .collect();
    assert_eq!(pairs, (0..WRITES).map(|value| (value, value + 1)).collect(), "{summary}");
    assert_eq!(changes.len() as u64, WRITES);
    assert!(changes.iter().all(|change| change["writer"] == "instruction" && change["overtaken"] == false));
    let threads: BTreeSet<u64> = changes.iter().map(|change| change["tid"].as_u64().unwrap()).collect();
    assert_eq!(threads.len(), 4);
    assert!(summary.contains("by running on, in the thread of each hit alone"), "{summary}");
}

/// By running on, one thread is seen: what others have written is found when a system call returns, and nobody is said to have
/// been seen to do it.
#[test]
fn what_other_threads_write_is_not_taken_for_the_kernels() {
    let scratch = Scratch::new();
    let program = compiled(&scratch);
    let arguments = ["-e", "watched:threads", "--by", "run-on", "--on", "shared_word", "--"];
    let (found, summary) = changes(&scratch, &[&arguments[..], &[text(&program), "threads", "50"]].concat());
    assert!(!found.is_empty(), "{summary}");
    assert_eq!(found.last().unwrap()["new"], 200, "{summary}");
    for change in &found {
        assert_eq!(change["writer"], "meanwhile", "{change}");
        assert!(change["system_call"].is_u64(), "{change}");
    }
    let unseen = if found.len() == 1 { "1 change" } else { &format!("{} changes", found.len()) };
    assert!(summary.contains(&format!("shared_word: {unseen}\n")), "{summary}");
    assert!(summary.contains(&format!("{unseen} by nobody who was seen")), "{summary}");
    assert!(summary.contains("in the thread of each hit alone"), "{summary}");
}

/// What is larger than debug registers is watched all the same, in the thread of the hit; also what read(2) puts there.
#[test]
fn what_is_too_large_is_watched_by_running_on() {
    let scratch = Scratch::new();
    let program = compiled(&scratch);
    let output = stepless(&["watch", "--on", "words", "--", text(&program), "ways"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("computed from 40 bytes"), "{}", stderr(&output));
    let arguments = ["-e", "watched:main", "--by", "run-on", "--on", "counter", "--"];
    let (seen, summary) = changes(&scratch, &[&arguments[..], &[text(&program), "ways"]].concat());
    let values: Vec<i64> = seen.iter().map(|change| change["new"].as_i64().unwrap()).collect();
    assert_eq!(values, [5, 6, -1, 7, 8], "{summary}");
    assert_eq!(
        (&seen[3]["writer"], &seen[3]["system_call"]),
        (&"system_call".into(), &0.into()),
        "{}",
        seen[3]
    );
    let (seen, summary) =
        changes(&scratch, &["-e", "watched:main", "--on", "words", "--", text(&program), "ways"]);
    assert!(seen.is_empty());
    assert!(summary.contains("`words`: 40 bytes at 0x") && summary.contains("by running on"), "{summary}");
}

#[test]
fn lines_are_for_people_and_say_who_and_where() {
    let scratch = Scratch::new();
    let program = compiled(&scratch);
    if !are_there(&program) {
        return;
    }
    let output = stepless(&["watch", "--stack", "--on", "counter", "--", text(&program), "ways"]);
    let shown = stderr(&output);
    let lines: Vec<&str> = shown.lines().filter(|line| line.contains(" -> ")).collect();
    assert_eq!(lines.len(), 5, "{shown}");
    assert!(lines[0].contains("counter: 0 -> 5") && lines[0].contains("watched.c:"), "{shown}");
    assert!(lines[1].contains("lock inc"), "{shown}");
    assert!(lines[3].contains("(read)"), "{shown}");
    assert!(shown.lines().any(|line| line.trim_start().starts_with("main+")), "{shown}");
    assert!(shown.contains("counter: 5 changes; 5 by thread"), "{shown}");
    assert!(shown.contains("1 write of the value that was there"), "{shown}");
    // The fifth debug register there is none of.
    let words: Vec<String> = (0..5).map(|index| format!("words[{index}]")).collect();
    let on: Vec<&str> = words.iter().flat_map(|word| ["--on", word]).collect();
    let output = stepless(&[&["watch"], &on[..], &["--", text(&program), "ways"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("`words[4]`: a thread has four hardware breakpoints"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_process_that_runs_is_watched_until_that_is_enough() {
    let scratch = Scratch::new();
    let program = scratch.compile("answers", ANSWERS, &["-g"]);
    let mut target = Target::start(&mut Command::new(&program));
    let pid = target.pid();
    let arguments = ["watch", "-p", &pid, "--on", "counter", "--until", "2", "--json"];
    let mut command = stepless_command();
    let tracer = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Only once it is watched is there something to be told.
    let mut tracer = tracer;
    let mut told = std::io::BufReader::new(tracer.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut told, &mut line).unwrap();
    if line.contains("hardware breakpoints") {
        println!("skipped: {line}");
        return;
    }
    assert!(line.contains("4 bytes at 0x"), "{line}");
    (0..3).for_each(|_| target.ask());
    let output = tracer.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let lines = String::from_utf8(output.stdout).unwrap();
    let changes: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(changes.iter().map(|change| change["new"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    let pid: i64 = pid.parse().unwrap();
    assert!(changes.iter().all(|change| change["function"] == "leaf" && change["pid"] == pid));
    target.ask();
    target.finish();
}
