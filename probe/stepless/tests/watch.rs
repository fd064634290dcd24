//! `stepless trace` and `stepless stat`, from outside.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use probe::Session;
use scratch::{PROGRAM, Scratch};
use serde_json::Value;
use target::{ANSWERS, STEPLESS, Target, stepless_command};

fn stepless(arguments: &[&str]) -> Output {
    Command::new(STEPLESS).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs it, and expects exit status 2, nothing on stdout, and one line on stderr that contains `part`.
#[track_caller]
fn refuses(arguments: &[&str], part: &str) {
    refused(&stepless(arguments), part);
}

#[track_caller]
fn refused(output: &Output, part: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(part), "{stderr}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn hits_are_counted_and_the_command_keeps_its_output_and_status() {
    let scratch = Scratch::new();
    for flags in [&["-fPIE", "-pie"][..], &["-fno-pie", "-no-pie"], &["-static"], &["-static-pie", "-fPIE"]] {
        let program = scratch.compile("program", PROGRAM, flags);
        let plain = Command::new(&program).output().unwrap();
        let leaf = format!("{}:leaf", program.display());
        let output = stepless(&["stat", "--json", "-e", &leaf, "-e", "program:main", "--", text(&program)]);
        assert_eq!((&output.stdout, output.status.code()), (&plain.stdout, Some(7)), "{flags:?}");
        let document: Value = serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|_| panic!("{flags:?}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(document["target_status"], 7);
        let expected = |probe: &str, hits: u32| {
            serde_json::json!({ "probe": probe, "hits": hits, "emulated": hits, "faulted": 0,
                                "filtered": 0, "missed": 0, "native": 0 })
        };
        assert_eq!(document["probes"][0], expected(&leaf, 3), "{flags:?}");
        assert_eq!(document["probes"][1], expected("program:main", 1), "{flags:?}");
    }
}

#[test]
fn events_are_json_lines_with_the_promised_keys() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let file = scratch.path("events");
    let arguments = ["trace", "-e", "program:leaf", "--json", "-o", text(&file), "--", text(&program)];
    let output = stepless(&arguments);
    assert_eq!(output.status.code(), Some(7));
    let summary = String::from_utf8(output.stderr).unwrap();
    assert_eq!(summary.lines().count(), 2, "{summary}");
    let events = std::fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 3);
    for (event, next) in events.iter().zip(events.iter().skip(1)) {
        for key in ["probe", "pid", "tid", "cpu", "time_ns", "ip", "args"] {
            assert!(event.get(key).is_some(), "{key}");
        }
        assert_eq!(event["probe"], "program:leaf");
        assert!(event["time_ns"].as_u64() < next["time_ns"].as_u64());
        assert_eq!(event["ip"], next["ip"]);
    }
}

/// `leaf` returns 2, 4 and 7, and `main` 7.
#[test]
fn returns_are_counted_and_told_with_duration_and_result() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let probes = ["-e", "program:leaf%return", "-e", "program:main%return", "-e", "program:leaf"];
    let plain = Command::new(&program).output().unwrap();
    let output = stepless(&[&["stat", "--json"], &probes[..], &["--", text(&program)]].concat());
    assert_eq!((&output.stdout, output.status.code()), (&plain.stdout, Some(7)));
    let document: Value = serde_json::from_slice(&output.stderr).unwrap();
    for (probe, hits) in document["probes"].as_array().unwrap().iter().zip([3, 1]) {
        assert_eq!((&probe["hits"], &probe["emulated"]), (&hits.into(), &hits.into()), "{probe}");
        assert_eq!((&probe["dropped"], &probe["missed"]), (&0.into(), &0.into()), "{probe}");
    }
    assert_eq!(document["probes"][2].get("dropped"), None);
    let file = scratch.path("events");
    let output = [&["trace", "--json", "-o", text(&file)], &probes[..], &["--", text(&program)]].concat();
    assert_eq!(stepless(&output).status.code(), Some(7));
    let events = std::fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let returns = events.iter().filter(|event| event.get("retval").is_some());
    let results: Vec<(&str, u64)> = returns
        .clone()
        .map(|event| {
            (event["probe"].as_str().unwrap(), event["retval"].as_u64().unwrap() & u64::from(u32::MAX))
        })
        .collect();
    let leaf = "program:leaf%return";
    assert_eq!(results, [(leaf, 2), (leaf, 4), (leaf, 7), ("program:main%return", 7)]);
    // That of `main` contains the others.
    let durations: Vec<u64> = returns.map(|event| event["duration_ns"].as_u64().unwrap()).collect();
    assert!(durations[3] > durations[..3].iter().sum(), "{durations:?}");
    let entries = events.iter().filter(|event| event["probe"] == "program:leaf");
    assert_eq!(entries.filter(|event| event.get("duration_ns").is_none()).count(), 3);
    let summary = stepless(&["stat", "-e", leaf, "--", text(&program)]);
    let summary = String::from_utf8(summary.stderr).unwrap();
    assert!(summary.lines().next().unwrap().ends_with("DROPPED"), "{summary}");
}

#[test]
fn each_instruction_of_a_function_is_a_site() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let output = stepless(&["trace", "-e", "program:leaf/*", "--json", "--", text(&program)]);
    let lines = String::from_utf8(output.stderr).unwrap();
    let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ips: Vec<u64> = events.map(|event| event["ip"].as_u64().unwrap()).collect();
    let once = ips.len() / 3;
    assert!(once >= 3 && ips.len().is_multiple_of(3), "{lines}");
    assert!(ips.chunks(once).all(|call| call == &ips[..once] && call.is_sorted()), "{ips:x?}");
}

#[test]
fn a_running_process_is_left_as_it_was() {
    let scratch = Scratch::new();
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    target.ask();
    let (text, maps) = (target.text(), target.maps());
    let mut child = stepless_command()
        .args(["trace", "--json", "-e", "answers:leaf", "-p", &target.pid()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap());
    target.wait_for_probe(&mut child);
    let mut line = String::new();
    for _ in 0..5 {
        target.ask();
        line.clear();
        events.read_line(&mut line).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["pid"].to_string(), target.pid());
    }
    assert_eq!(target.maps(), maps);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let output = child.wait_with_output().unwrap();
    let summary = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{summary}");
    let row: Vec<_> = summary.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(row, ["answers:leaf", "5", "5", "0", "0", "0", "0"]);
    assert_eq!((target.text(), target.maps()), (text, maps));
    target.ask();
    target.finish();
}

#[test]
fn a_reader_that_goes_away_ends_the_trace_and_not_the_target() {
    let scratch = Scratch::new();
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let text = target.text();
    let mut child = stepless_command()
        .args(["trace", "-e", "answers:leaf", "-p", &target.pid()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    target.wait_for_probe(&mut child);
    target.ask();
    let output = child.wait_with_output().unwrap();
    let summary = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{summary}");
    assert!(summary.contains("HITS") && !summary.contains("panicked"), "{summary}");
    assert_eq!(target.text(), text);
    target.finish();
}

#[test]
fn an_interrupted_command_goes_on_without_probes() {
    let scratch = Scratch::new();
    let program = scratch.compile("answers", ANSWERS, &[]);
    let mut target =
        Target::start(stepless_command().args(["stat", "-e", "answers:leaf", "--"]).arg(&program));
    target.ask();
    target.ask();
    kill(Pid::from_raw(i32::try_from(target.child.id()).unwrap()), Signal::SIGINT).unwrap();
    // Whether or not it is detached by now.
    target.ask();
    let mut stderr = target.child.stderr.take().unwrap();
    target.finish();
    let mut summary = String::new();
    stderr.read_to_string(&mut summary).unwrap();
    let hits: u32 = summary.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((2..=3).contains(&hits), "{summary}");
}

#[test]
fn a_limit_ends_the_trace_and_not_the_command() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let arguments = ["trace", "--json", "-e", "program:leaf", "--limit", "2", "--", text(&program)];
    let output = stepless(&arguments);
    assert_eq!(output.status.code(), Some(7));
    let lines = String::from_utf8(output.stderr).unwrap();
    assert_eq!(lines.lines().filter(|line| line.starts_with('{')).count(), 2, "{lines}");
    assert_eq!(output.stdout, Command::new(&program).output().unwrap().stdout);
}

#[test]
fn a_killed_command_gives_128_and_its_signal() {
    let output = stepless(&["stat", "--json", "-e", "libc.so.6:qsort", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(128 + 9));
    let document: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(document["target_status"], 128 + 9);
}

#[test]
fn a_probe_that_cannot_be_placed_keeps_the_command_from_starting() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &[]);
    let bytes = std::fs::read(&program).unwrap();
    let cut = scratch.write("cut", &bytes[..bytes.len() - 1]);
    let other = scratch.write("other", "no ELF\n");
    let here = |place: &str| format!("{}:{place}", program.display());
    let leaf = probe::elf::Elf::open(&program).unwrap();
    let leaf = leaf.lookup(&probe::elf::SymbolName::parse("leaf")).unwrap().address;
    for (probe, part) in [
        ("libc.so.6:no_such_function".to_owned(), "no_such_function"),
        ("libc.so.6:no_such_*/*".to_owned(), "no_such_*"),
        ("libc.so.6:malloc+1".to_owned(), "inside the instruction"),
        ("libc.so.6:0x10".to_owned(), "neither a file offset nor an address"),
        ("libc.so.6:stdout".to_owned(), "data"),
        (here("nothing"), "nothing"),
        (here("counter"), "data"),
        (here("leaf+0x1000"), "beyond"),
        (here("0xffffffff"), "neither a file offset nor an address"),
        (here(&format!("{:#x}", leaf + 1)), "inside the instruction"),
        (format!("{}:main", cut.display()), "cut short"),
        (format!("{}:main", other.display()), "not an ELF file"),
        ("/nothing/here:main".to_owned(), "/nothing/here"),
        ("0x1000".to_owned(), "-p"),
        ("usdt:libc.so.6:libc:setjmp".to_owned(), "has no USDT probes"),
        ("malloc".to_owned(), "not a probe"),
        ("libc.so.6:mall?c*q".to_owned(), "no function that matches"),
    ] {
        for command in ["trace", "stat"] {
            // A good probe beside it does not help.
            refuses(&[command, "-e", "libc.so.6:puts", "-e", &probe, "--", text(&program)], part);
        }
    }
}

#[test]
fn wrong_usage_is_one_line_and_status_2() {
    let probe = ["-e", "libc.so.6:malloc"];
    let with = |rest: &[&'static str]| -> Vec<&str> { [&["stat"], &probe[..], rest].concat() };
    refuses(&with(&[]), "-p PID or -- CMD");
    refuses(&with(&["-p", "1", "--", "true"]), "-p PID or -- CMD");
    refuses(&with(&["-p", "no such name"]), "no process is called");
    refuses(&with(&["--format", "perfetto", "--", "true"]), "perfetto");
    refuses(&with(&["--limit", "0", "--", "true"]), "--limit");
    refuses(&with(&["-o", "/nothing/here", "--", "true"]), "/nothing/here");
    refuses(&with(&["--", "/nothing/here"]), "/nothing/here");
    refuses(&with(&["--", "/etc/passwd"]), "/etc/passwd");
    refuses(&with(&["--", "no-such-command-anywhere"]), "no-such-command-anywhere");
    refuses(&["trace", "-e", "libc.so.6:malloc", "--json", "--format", "json", "--", "true"], "--json");
}

#[test]
fn processes_that_cannot_be_probed_are_one_line_and_status_2() {
    let scratch = Scratch::new();
    let probe = "answers:leaf";
    let mut target = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let pid = target.pid();
    let (text, maps) = (target.text(), target.maps());
    refuses(&["trace", "-e", probe, "-p", "2147483647"], "no process 2147483647");
    refuses(&["trace", "-e", probe, "-p", "0"], "process 0");
    refuses(&["trace", "-e", probe, "-p=-1"], "process -1");
    refuses(&["trace", "-e", "nothing.so:leaf", "-p", &pid], "nothing.so");
    refuses(&["trace", "-e", "answers:nothing", "-p", &pid], "nothing");
    refuses(&["trace", "-e", probe, "-e", "0x10", "-p", &pid], "0x10");
    let stack = probe::maps::read(target.child.id().cast_signed()).unwrap();
    let stack = stack.iter().find(|mapping| mapping.path.as_deref() == Some("[stack]".as_ref())).unwrap();
    refuses(&["stat", "-e", &format!("{:#x}", stack.start), "-p", &pid], "[stack]");
    {
        let _session = Session::attach(target.child.id().cast_signed()).unwrap();
        refuses(&["stat", "-e", probe, "-p", &pid], "already traced");
    }
    not_ours(&scratch, &target);
    assert_eq!((target.text(), target.maps()), (text, maps));
    target.ask();
    target.finish();
}

/// As another user, who may not probe the target.
fn not_ours(scratch: &Scratch, target: &Target) {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root can become somebody who may not probe the target");
        return;
    }
    let copy = scratch.path("stepless");
    std::fs::copy(STEPLESS, &copy).unwrap();
    const NOBODY: u32 = 65534;
    let output = Command::new(&copy)
        .args(["stat", "-e", "answers:leaf", "-p", &target.pid()])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    refused(&output, "may not be traced by this user");
}

#[test]
fn a_32_bit_process_is_refused() {
    let scratch = Scratch::new();
    let source = scratch.write("waits.c", "void _start(void) { for (;;) __asm__ volatile(\"pause\"); }");
    let program = scratch.path("waits");
    let flags = ["-m32", "-static", "-nostdlib", "-fno-pie", "-no-pie", "-o"];
    let made = Command::new("cc").args(flags).arg(&program).arg(&source).output().unwrap();
    if !made.status.success() {
        eprintln!("skipped: cc makes no 32-bit programs: {}", String::from_utf8_lossy(&made.stderr));
        return;
    }
    refuses(&["stat", "-e", "waits:_start", "--", text(&program)], "32-bit");
    match Command::new(&program).spawn() {
        Ok(mut child) => {
            refuses(&["stat", "-e", "waits:_start", "-p", &child.id().to_string()], "32-bit");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        Err(error) => eprintln!("skipped: the kernel runs no 32-bit programs: {error}"),
    }
}
