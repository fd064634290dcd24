//! What `trace` and `stat` print, in each form, from outside.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use scratch::Scratch;
use serde_json::Value;
use target::STEPLESS;

/// `work` is called with numbers of which it is known how often each comes; `outer` calls `inner`.
const PROGRAM: &str = r#"
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    volatile long sink;
    __attribute__((noinline)) long work(long n, double d) { sink += n + (long)d; return sink; }
    __attribute__((noinline)) int inner(int n) { sink += n; return n + 1; }
    __attribute__((noinline)) int leaves(int n) { sink += n; pthread_exit(0); return n; }
    __attribute__((noinline)) int outer(int n) { int a = inner(n), b = inner(a); return a + b; }
    static void *calls(void *unused) {
        for (int i = 0; i < 50; i++) sink += outer(i);
        return unused;
    }
    static void *ends(void *unused) { leaves(1); return unused; }
    int main(int argc, char **argv) {
        long most = argc > 1 ? atol(argv[1]) : 20;
        for (long i = -4; i < most; i++) work(i, i * 0.25);
        pthread_t threads[3];
        for (int i = 0; i < 3; i++) pthread_create(&threads[i], 0, i < 2 ? calls : ends, 0);
        for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
        puts("done");
        return 0;
    }
"#;

fn stepless(arguments: &[&str]) -> Output {
    Command::new(STEPLESS).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> Output {
    let output = stepless(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn compile(scratch: &Scratch) -> PathBuf {
    scratch.compile("program", PROGRAM, &["-g", "-O2", "-pthread"])
}

#[test]
fn text_has_columns_names_and_places() {
    let scratch = Scratch::new();
    let (program, file) = (compile(&scratch), scratch.path("text"));
    succeeds(&[
        "trace",
        "-o",
        text(&file),
        "-e",
        "program:work",
        "-e",
        "program:inner/*",
        "--limit",
        "30",
        "--",
        text(&program),
    ]);
    let shown = std::fs::read_to_string(&file).unwrap();
    assert!(!shown.contains('\u{1b}'), "a file has no colours");
    let mut lines = shown.lines();
    let header = lines.next().unwrap();
    let columns: Vec<usize> =
        ["COMM", "PROBE", "PLACE"].iter().map(|name| header.find(name).unwrap()).collect();
    for line in lines {
        assert_eq!(&line[columns[0]..columns[0] + 8], "program ", "{line}");
        assert!(line[columns[1]..].starts_with("program:"), "{line}");
        let place = &line[columns[2]..];
        assert!(place.starts_with("work ") || place.starts_with("inner"), "{line}");
        assert!(place.contains("program.c:"), "{line}");
    }
}

#[test]
fn colours_are_for_terminals_unless_they_are_not_wanted() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    let coloured = |variables: &[(&str, &str)]| {
        let mut command = Command::new(STEPLESS);
        command.args(["trace", "-e", "program:work", "--limit", "1", "--", text(&program)]);
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env("TERM", "xterm");
        let output = command.envs(variables.iter().copied()).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stderr).contains('\u{1b}')
    };
    assert!(!coloured(&[]), "a pipe is no terminal");
    assert!(coloured(&[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&[("NO_COLOR", "1")]));
}

#[test]
fn json_says_where_each_hit_is() {
    let scratch = Scratch::new();
    let (program, file) = (compile(&scratch), scratch.path("json"));
    succeeds(&[
        "trace",
        "--json",
        "-o",
        text(&file),
        "-e",
        "program:work",
        "--limit",
        "3",
        "--",
        text(&program),
    ]);
    let shown = std::fs::read_to_string(&file).unwrap();
    let line = PROGRAM.lines().position(|line| line.contains("long work(")).unwrap() as u64 + 1;
    for event in shown.lines() {
        let event: Value = serde_json::from_str(event).unwrap();
        for key in ["probe", "pid", "tid", "cpu", "time_ns", "ip", "args"] {
            assert!(event.get(key).is_some(), "{key}");
        }
        assert_eq!(event["comm"], "program");
        assert_eq!((&event["function"], &event["offset"]), (&"work".into(), &0.into()));
        assert_eq!((&event["line"], &event["object"]), (&line.into(), &text(&program).into()));
        assert!(event["file"].as_str().unwrap().ends_with("/program.c"));
        assert!(event.get("stack").is_none());
    }
}

/// How often which power of two comes is counted here once more.
#[test]
fn histograms_count_each_value_once() {
    let scratch = Scratch::new();
    let (program, file) = (compile(&scratch), scratch.path("stat"));
    let first = ["--histogram", "n", "--histogram", "d", "-e", "program:work"];
    let second = ["--histogram", "duration", "-e", "program:outer%return"];
    let document = |arguments: &[&str]| -> Value {
        succeeds(
            &[&["stat", "--json", "-o", text(&file)], arguments, &["--", text(&program), "3000"]].concat(),
        );
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap()
    };
    let stat = document(&first);
    let histogram = |index: usize| stat["probes"][0]["histograms"][index].clone();
    let bucket = |value: f64| match value {
        0.0 => (0.0, 0.0),
        value => {
            let low = 2f64.powi(value.abs().log2().floor() as i32);
            if value > 0.0 { (low, 2.0 * low) } else { (-2.0 * low, -low) }
        }
    };
    for (index, scale) in [(0, 1.0), (1, 0.25)] {
        let mut expected: HashMap<(u64, u64), u64> = HashMap::new();
        for n in -4..3000 {
            let (from, to) = bucket(f64::from(n) * scale);
            *expected.entry((from.to_bits(), to.to_bits())).or_default() += 1;
        }
        let shown = histogram(index);
        assert_eq!(shown["undefined"], 0);
        let rows = shown["buckets"].as_array().unwrap().iter();
        let bits = |value: &Value| (value.as_f64().unwrap() + 0.0).to_bits();
        let shown: HashMap<(u64, u64), u64> = rows
            .map(|row| ((bits(&row["from"]), bits(&row["to"])), row["count"].as_u64().unwrap()))
            .collect();
        assert_eq!(shown, expected);
    }
    let stat = document(&second);
    let durations = &stat["probes"][0]["histograms"][0];
    let rows = durations["buckets"].as_array().unwrap().iter();
    assert_eq!(rows.map(|row| row["count"].as_u64().unwrap()).sum::<u64>(), 100, "{durations}");
    assert!(durations["buckets"][0]["from"].as_u64() >= Some(128), "{durations}");
    succeeds(&[&["stat", "-o", text(&file)], &first[..], &["--", text(&program)]].concat());
    let shown = std::fs::read_to_string(&file).unwrap();
    assert!(shown.contains("\nprogram:work n:\n"), "{shown}");
    assert!(shown.contains("[8, 16)                 8 |@@@@"), "{shown}");
    assert!(shown.contains("(-8, -4]                1 |@"), "{shown}");
    let refused = stepless(&["trace", "--histogram", "n", "-e", "program:work", "--", text(&program)]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn calls_are_a_tree() {
    let scratch = Scratch::new();
    let (program, file) = (compile(&scratch), scratch.path("tree"));
    succeeds(&[
        "trace",
        "--format",
        "tree",
        "-o",
        text(&file),
        "-e",
        "program:outer n=n",
        "-e",
        "program:inner",
        "--",
        text(&program),
    ]);
    let shown = std::fs::read_to_string(&file).unwrap();
    // By thread: the lines without times and numbers.
    let mut threads: HashMap<&str, Vec<&str>> = HashMap::new();
    for line in shown.lines().skip(1) {
        let (left, call) = line.split_once(" | ").unwrap();
        threads.entry(left.split_once('[').unwrap().1).or_default().push(call);
        let has_duration = left.contains(" us ");
        assert_eq!(has_duration, call.ends_with(';') || call.starts_with('}'), "{line}");
    }
    assert_eq!(threads.len(), 2, "{shown}");
    for calls in threads.values() {
        assert_eq!(calls.len(), 50 * 4);
        for (n, call) in calls.chunks(4).enumerate() {
            let (a, b) = (n + 1, n + 2);
            assert_eq!(call[0], format!("outer(n={n}) {{"));
            assert_eq!(call[1], format!("  inner() = {a:#x};"));
            assert_eq!(call[2], format!("  inner() = {b:#x};"));
            assert_eq!(call[3], format!("}} = {:#x} /* outer */", a + b));
        }
    }
}

/// Reads a trace back with Perfetto's own library: prints each event, and each track.
const READER: &str = r#"
import json, sys
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb
trace = pb.Trace()
trace.ParseFromString(open(sys.argv[1], 'rb').read())
for packet in trace.packet:
    if packet.HasField('track_descriptor'):
        track = packet.track_descriptor
        print(json.dumps({'track': track.uuid, 'process': track.process.process_name, 'thread': track.thread.thread_name,
                          'pid': track.thread.pid, 'tid': track.thread.tid}))
    if packet.HasField('track_event'):
        event = packet.track_event
        arguments = {a.name: getattr(a, a.WhichOneof('value')) for a in event.debug_annotations}
        print(json.dumps({'on': event.track_uuid, 'type': event.type, 'name': event.name, 'time': packet.timestamp,
                          'clock': packet.timestamp_clock_id, 'args': arguments}))
"#;

/// Where `.ci/run` puts the wheel.
fn wheel() -> Option<PathBuf> {
    let target = Path::new(STEPLESS).ancestors().nth(2)?.join("perfetto-wheel");
    let found = target.join("perfetto").is_dir();
    if !found {
        println!("skipped: PyPI's perfetto is not in {}, which .ci/run puts there", target.display());
    }
    found.then_some(target)
}

#[test]
fn a_perfetto_trace_has_each_event_for_perfettos_own_reader() {
    const BEGIN: u64 = 1;
    const END: u64 = 2;
    const INSTANT: u64 = 3;
    let scratch = Scratch::new();
    let Some(wheel) = wheel() else { return };
    let (program, file) = (compile(&scratch), scratch.path("trace"));
    succeeds(&[
        "trace",
        "--format",
        "perfetto",
        "-o",
        text(&file),
        "-e",
        "program:work n=n d=d half=d/2",
        "-e",
        "program:outer%return",
        "-e",
        "program:inner%return",
        "-e",
        "program:leaves%return",
        "--",
        text(&program),
    ]);
    let reader = scratch.write("reader.py", READER);
    let output = Command::new("python3").arg(reader).arg(&file).env("PYTHONPATH", wheel).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&Value> = lines.iter().filter(|line| line.get("on").is_some()).collect();
    let of = |kind: u64| events.iter().filter(|event| event["type"] == kind).count();
    // A thread ends within a call, which ends then, too.
    assert_eq!((of(INSTANT), of(BEGIN), of(END)), (24, 301, 301));
    let times: Vec<u64> = events.iter().map(|event| event["time"].as_u64().unwrap()).collect();
    assert!(times.is_sorted());
    let numbers: Vec<i64> = events.iter().filter_map(|event| event["args"]["n"].as_i64()).collect();
    assert_eq!(numbers, (-4..20).collect::<Vec<_>>());
    let mut open: HashMap<u64, Vec<&str>> = HashMap::new();
    for event in &events {
        let stack = open.entry(event["on"].as_u64().unwrap()).or_default();
        match event["type"].as_u64() {
            Some(BEGIN) => stack.push(event["name"].as_str().unwrap()),
            Some(END) => assert!(stack.pop().is_some(), "{event}"),
            _ => assert_eq!(event["name"], "program:work"),
        }
        assert!(stack.len() <= 2, "{stack:?}");
    }
    assert!(open.values().all(Vec::is_empty));
    let tracks = lines.iter().filter(|line| line.get("track").is_some()).count();
    assert_eq!(tracks, 5, "a process and four threads");
    assert!(lines.iter().any(|line| line["process"] == "program"));
}

/// Binary data is not for a terminal, and a command prints to the same place.
#[test]
fn a_perfetto_trace_needs_a_file() {
    let scratch = Scratch::new();
    let program = compile(&scratch);
    let output = stepless(&["trace", "--format", "perfetto", "-e", "program:work", "--", text(&program)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("-o FILE"));
}

/// Nobody reads for a while, and much more is told than a pipe and the ring hold.
#[test]
fn a_full_pipe_slows_the_target_or_what_is_lost_is_counted() {
    const CALLS: usize = 120_000;
    let scratch = Scratch::new();
    let program = compile(&scratch);
    for drops in [false, true] {
        let (fifo, on_full) = (scratch.path(&format!("events-{drops}")), if drops { "drop" } else { "wait" });
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut command = Command::new(STEPLESS);
        command.args([
            "trace",
            "--json",
            "--on-full",
            on_full,
            "-o",
            text(&fifo),
            "-e",
            "program:work",
            "--",
        ]);
        command.arg(&program).arg((CALLS - 4).to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut reader = std::fs::File::open(&fifo).unwrap();
        if drops {
            // The target does not wait: it ends though nobody reads.
            let mut done = [0; 5];
            child.stdout.as_mut().unwrap().read_exact(&mut done).unwrap();
            assert_eq!(&done, b"done\n");
        }
        let mut events = String::new();
        reader.read_to_string(&mut events).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lost = stderr.lines().find_map(|line| {
            line.strip_prefix("stepless: ")?.split_once(" events were lost")?.0.parse::<usize>().ok()
        });
        assert_eq!(lost.is_some(), drops, "{stderr}");
        assert_eq!(events.lines().count() + lost.unwrap_or(0), CALLS, "{stderr}");
        assert!(stderr.contains(&format!(" {CALLS} ")), "{stderr}");
    }
}

#[test]
fn calls_are_told_however_deep_they_are() {
    let scratch = Scratch::new();
    let source = "__attribute__((noinline)) int down(int n) { volatile int x = n; return n ? down(n - 1) + x : 0; }\n\
                  int main(void) { return down(40000) == 1; }\n";
    let program = scratch.compile("deep", source, &["-O0"]);
    // More than a format string's width may be.
    for arguments in [
        &["trace", "--format", "tree", "-e", "deep:down%return"][..],
        &["step", "--calls", "-e", "deep:main"],
    ] {
        let file = scratch.path("tree");
        succeeds(&[arguments, &["-o", text(&file), "--", text(&program)]].concat());
        let shown = std::fs::read_to_string(&file).unwrap();
        assert!(shown.contains("(39999) "), "{arguments:?}");
        let widest = shown.lines().map(|line| line.len()).max();
        assert!(widest.is_some_and(|widest| widest < 300), "{arguments:?}: {widest:?}");
    }
}
