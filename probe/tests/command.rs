//! The `stepless` command, from outside.

mod scratch;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use scratch::{PROGRAM, Scratch};
use serde_json::Value;

fn stepless(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stepless")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs it, and expects exit status 2, nothing on stdout, and one line on stderr that contains `part`.
#[track_caller]
fn refuses(arguments: &[&str], part: &str) {
    let output = stepless(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.contains(part), "{arguments:?}: {stderr}");
}

/// Runs it, and expects success and one JSON document.
#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let output = stepless(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn wrong_usage_is_one_line_and_status_2() {
    refuses(&[], "command is missing");
    refuses(&["dance"], "dance");
    refuses(&["census"], "FILE");
    refuses(&["census", "--fast", "/bin/ls"], "--fast");
    refuses(&["explain"], "PROBE");
    refuses(&["explain", "libc.so.6:malloc"], "-p");
    refuses(&["explain", "--bytes", "4889e"], "4889e");
    refuses(&["explain", "--bytes", ""], "hexadecimal");
    refuses(&["explain", "--bytes", "90", "--ip", "+1"], "+1");
    refuses(&["explain", "--bytes", "90", "-p", "1"], "-p");
    refuses(&["list"], "FILE");
    refuses(&["list", "--usdt", "/bin/ls"], "--usdt");
    refuses(&["trace", "--", "ls"], "-e");
    assert_eq!(stepless(&["--help"]).status.code(), Some(0));
    assert_eq!(stepless(&["--version"]).status.code(), Some(0));
}

#[test]
fn files_that_cannot_be_read_are_one_line_and_status_2() {
    let scratch = Scratch::new();
    let program = std::fs::read(scratch.compile("program", PROGRAM, &[])).unwrap();
    let cut = scratch.write("cut", &program[..program.len() - 1]);
    let other = scratch.write("text\nof two lines", "no ELF\n");
    for command in ["census", "list"] {
        refuses(&[command, "/nothing/here"], "/nothing/here");
        refuses(&[command, text(&cut)], "cut short");
        refuses(&[command, text(&other)], "not an ELF file");
    }
    refuses(&["list", text(&scratch.path(""))], "directory");
}

#[test]
fn processes_that_cannot_be_read_are_one_line_and_status_2() {
    // Beyond the highest that the kernel gives.
    refuses(&["list", "-p", "2147483647"], "no process 2147483647");
    refuses(&["explain", "libc.so.6:malloc", "-p", "2147483647"], "no process 2147483647");
    let us = std::process::id().to_string();
    refuses(&["explain", "libc.so.6:no_such_function", "-p", &us], "no_such_function");
    refuses(&["explain", "libnothing.so:f", "-p", &us], "libnothing.so");
    refuses(&["explain", "0x10", "-p", &us], "0x10");
    refuses(&["explain", "libc.so.6:malloc/*", "-p", &us], "list --instructions");
    refuses(&["explain", "main.c:3", "-p", &us], "not supported yet");
}

#[test]
fn explain_names_the_instruction_and_what_it_touches() {
    for (bytes, code, supported) in [("4801d8", "Add_rm64_r64", true), ("06", "", false), ("48", "", false)] {
        let document = json(&["explain", "--bytes", bytes, "--ip", "0x1000", "--json"]);
        for key in ["instruction", "code", "supported", "reason", "touches"] {
            assert!(keys(&document).contains(&key), "{key}");
        }
        assert_eq!(document["code"].as_str().unwrap_or_default(), code);
        assert_eq!(document["supported"], supported, "{document}");
        assert_eq!(document["reason"].is_null(), supported, "{document}");
        assert!(document["touches"].is_array());
    }
    // What the executor lacks is refused here as where it is placed.
    let document = json(&["explain", "--bytes", "f30faee8", "--json"]);
    assert_eq!(document["supported"], false, "{document}");
    assert!(document["reason"].as_str().unwrap().contains("shadow stack"), "{document}");
    let document = json(&["explain", "--bytes", "48 8b 05 10 00 00 00", "--ip", "1000", "--json"]);
    assert_eq!(document["instruction"], "mov rax,[0x1017]");
}

#[test]
fn census_counts_each_site_once() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    scratch.write("not-elf", "text");
    scratch.compile("object.o", PROGRAM, &["-c"]);
    let document = json(&["census", text(&program), "--json"]);
    assert_eq!(keys(&document), ["codes", "probeable", "refused", "sites"]);
    let sum = |key: &str| {
        document[key].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    let sites = document["sites"].as_u64().unwrap();
    assert!(sites > 50);
    assert_eq!(document["probeable"].as_u64().unwrap() + sum("refused"), sites);
    assert!(sum("codes") <= sum("refused"));
    // A directory is what is in it, and what is no program in it does not count.
    assert_eq!(json(&["census", text(&scratch.path("")), "--json"]), document);
    let twice = json(&["census", text(&program), text(&program), "--json"]);
    assert_eq!(twice["sites"].as_u64(), Some(sites * 2));
}

#[test]
fn list_shows_functions_and_their_instructions() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let document = json(&["list", text(&program), "lea?", "--instructions", "--json"]);
    let functions = document["objects"][0]["functions"].as_array().unwrap();
    assert_eq!(functions.len(), 1, "{document}");
    assert_eq!(functions[0]["name"], "leaf");
    assert_eq!(functions[0]["aliases"], serde_json::json!(["alias"]));
    let sites = functions[0]["instructions"].as_array().unwrap();
    assert!(sites.len() >= 3);
    assert!(sites.iter().all(|site| site["probeable"].as_bool().unwrap() == site["reason"].is_null()));
    let output = stepless(&["list", text(&program), "main"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.trim_end().ends_with("main"), "{lines}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stepless"))
        .args(["list", "/proc/self/exe", "--instructions"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
