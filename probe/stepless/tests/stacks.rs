//! Stacks, from outside: what is expected is how the program calls itself or, where gdb is there, what gdb shows.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use scratch::{Scratch, run};
use serde_json::Value;
use target::STEPLESS;

/// Goes down recursively, through qsort's callback, and through a signal's handler; `leaf` is the end of each way.
const PROGRAM: &str = r#"
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>
    volatile int sink;
    __attribute__((noinline)) int leaf(int n) { sink += n; return n; }
    __attribute__((noinline)) int down(int n, int *space) {
        int own[64];
        own[n & 63] = n;
        __asm__ volatile("" :: "r"(own) : "memory");
        int below = n > 1 ? down(n - 1, own) : leaf(n);
        return below + own[n & 63] + *space;
    }
    static __attribute__((noinline)) int compare(const void *a, const void *b) {
        return leaf(*(const int *)a) - *(const int *)b;
    }
    static __attribute__((noinline)) void handler(int signal) { down(signal % 3 + 2, (int *)&sink); sink++; }
    static __attribute__((noinline)) void sorts(void) {
        int numbers[] = { 3, 1, 2 };
        qsort(numbers, 3, sizeof *numbers, compare);
        sink += numbers[0];
    }
    static __attribute__((noinline)) void raises(void) { kill(getpid(), SIGUSR1); sink++; }
    int main(void) {
        struct sigaction action = { .sa_handler = handler };
        sigaction(SIGUSR1, &action, 0);
        for (int i = 1; i < 9; i++) down(i, (int *)&sink);
        sorts();
        raises();
        return 0;
    }
"#;

fn stepless(arguments: &[&str]) -> Output {
    let output = Command::new(STEPLESS).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The events of a run with `--stack`.
fn trace(scratch: &Scratch, probes: &[&str], command: &[&str]) -> Vec<Value> {
    let file = scratch.path("events");
    let mut arguments = vec!["trace", "--json", "--stack", "200", "-o", text(&file)];
    probes.iter().for_each(|probe| arguments.extend(["-e", probe]));
    arguments.push("--");
    arguments.extend(command);
    stepless(&arguments);
    let events = std::fs::read_to_string(&file).unwrap();
    events.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The functions on an event's stack that the program itself has, the innermost first.
fn own_functions(event: &Value) -> Vec<&str> {
    const OWN: [&str; 7] = ["leaf", "down", "compare", "handler", "sorts", "raises", "main"];
    let stack = event["stack"].as_array().unwrap().iter();
    stack.filter_map(|frame| frame["function"].as_str()).filter(|name| OWN.contains(name)).collect()
}

/// How the compiler is asked for each kind of unwind tables, and for none of the frame pointer.
const WAYS: [&[&str]; 4] = [
    &["-O2", "-fomit-frame-pointer"],
    &["-O2", "-g", "-fomit-frame-pointer", "-no-pie", "-fno-pie"],
    &["-O2", "-g", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"],
    &["-O0", "-g"],
];

#[test]
fn a_stack_is_what_the_program_has_called() {
    let scratch = Scratch::new();
    for flags in WAYS {
        let program =
            scratch.compile("program", PROGRAM, &[flags, &["-fno-optimize-sibling-calls"]].concat());
        let events = trace(&scratch, &["program:leaf"], &[text(&program)]);
        let mut expected: Vec<Vec<&str>> = Vec::new();
        for depth in 1..9 {
            expected.push([&["leaf"][..], &vec!["down"; depth], &["main"]].concat());
        }
        let sorted = ["leaf", "compare", "sorts", "main"];
        let depth = libc::SIGUSR1 as usize % 3 + 2;
        let signalled = [&["leaf"][..], &vec!["down"; depth], &["handler", "raises", "main"]].concat();
        let shown: Vec<Vec<&str>> = events.iter().map(own_functions).collect();
        assert_eq!(shown[..8], expected, "{flags:?}");
        assert_eq!(shown.last(), Some(&signalled), "{flags:?}");
        let compared = &shown[8..shown.len() - 1];
        assert!(
            !compared.is_empty() && compared.iter().all(|stack| *stack == sorted),
            "{flags:?}: {compared:?}"
        );
    }
}

/// Wherever a thread is in a function: before, within and behind what sets up and takes down its frame.
#[test]
fn a_stack_is_the_same_at_each_instruction() {
    let scratch = Scratch::new();
    for flags in WAYS {
        let program =
            scratch.compile("program", PROGRAM, &[flags, &["-fno-optimize-sibling-calls"]].concat());
        let events = trace(&scratch, &["program:down/*"], &[text(&program)]);
        let mut seen = [0; 9];
        for event in events.iter().take_while(|event| !own_functions(event).contains(&"handler")) {
            let functions = own_functions(event);
            let downs = functions.iter().take_while(|name| **name == "down").count();
            assert_eq!(functions[downs..], ["main"], "{flags:?}: {event}");
            seen[downs] += 1;
        }
        // As many have been at each depth as there were calls that came there.
        let at = |depth: usize| seen[depth] / (9 - depth);
        assert!(at(1) > 5 && (2..9).all(|depth| at(depth).abs_diff(at(1)) <= 3), "{flags:?}: {seen:?}");
    }
}

#[test]
fn stacks_are_counted_without_loss_and_folded() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-O2", "-g", "-fno-optimize-sibling-calls"]);
    let own = |line: &str| {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        let from = stack.find(";main;").unwrap();
        (stack[from + 1..].to_owned(), count.parse::<u64>().unwrap())
    };
    for command in ["trace", "stat"] {
        let file = scratch.path("folded");
        stepless(&[
            command,
            "--format",
            "folded",
            "-o",
            text(&file),
            "-e",
            "program:leaf",
            "--",
            text(&program),
        ]);
        let folded = std::fs::read_to_string(&file).unwrap();
        let stacks: Vec<(String, u64)> = folded.lines().map(own).collect();
        for depth in 1..9 {
            let stack = format!("main;{}leaf", "down;".repeat(depth));
            assert_eq!(stacks.iter().filter(|known| **known == (stack.clone(), 1)).count(), 1, "{folded}");
        }
    }
    let file = scratch.path("stat");
    stepless(&["stat", "--json", "--stack", "-o", text(&file), "-e", "program:leaf", "--", text(&program)]);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let probe = &document["probes"][0];
    let stacks = probe["stacks"].as_array().unwrap();
    let counted: u64 = stacks.iter().map(|stack| stack["count"].as_u64().unwrap()).sum();
    assert_eq!(Some(counted), probe["hits"].as_u64());
    assert!(stacks.iter().all(|stack| stack["frames"][0]["function"] == "leaf"));
    assert!(stacks.iter().all(|stack| stack["frames"][0]["line"].as_u64() > Some(1)), "{stacks:?}");
    stepless(&["stat", "--stack", "3", "-o", text(&file), "-e", "program:leaf", "--", text(&program)]);
    let shown = std::fs::read_to_string(&file).unwrap();
    // Two calls of `down` above it: at seven of the eight depths, and in the handler.
    assert!(shown.contains("\nprogram:leaf 8\n    leaf program.c:"), "{shown}");
}

/// Code that no table describes: with frame pointers it is passed, by its first and last instructions, too.
#[test]
fn code_without_tables_is_passed_by_frame_pointers() {
    const SOURCE: &str = r#"
        #include <string.h>
        #include <sys/mman.h>
        __attribute__((noinline)) void leaf(void) { __asm__ volatile(""); }
        /* push %rbp; mov %rsp,%rbp; call *%rdi; pop %rbp; ret */
        static const unsigned char code[] = { 0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3 };
        __attribute__((noinline)) void generated(void) { __asm__ volatile(""); }
        int main(void) {
            void *page = mmap((void *)0x510000000, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
            memcpy(page, code, sizeof code);
            generated();
            ((void (*)(void (*)(void)))page)(leaf);
            return 0;
        }"#;
    let scratch = Scratch::new();
    let program = scratch.compile("program", SOURCE, &["-O2", "-fomit-frame-pointer"]);
    let events = trace(&scratch, &["program:leaf"], &[text(&program)]);
    let [event] = events.as_slice() else { panic!("{events:?}") };
    let stack = event["stack"].as_array().unwrap();
    let ips: Vec<u64> = stack.iter().map(|frame| frame["ip"].as_u64().unwrap()).collect();
    assert_eq!(ips[1], 0x5_1000_0006, "{stack:?}");
    assert_eq!(stack[2]["function"], "main", "{stack:?}");
    assert!(stack[1]["function"].is_null() && stack[1]["object"].is_null());
}

/// A process that is gone when its stacks are printed has had the same files.
#[test]
fn short_processes_have_names_on_their_stacks() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-O2", "-fno-optimize-sibling-calls"]);
    let shell = format!("for i in 1 2 3 4 5; do {}; done", program.display());
    let file = scratch.path("events");
    let probe = format!("{}:leaf", program.display());
    stepless(&[
        "trace",
        "--json",
        "--follow",
        "--stack",
        "-o",
        text(&file),
        "-e",
        &probe,
        "--",
        "sh",
        "-c",
        &shell,
    ]);
    let events = std::fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.len() >= 5 * 10, "{}", events.len());
    for event in &events {
        assert_eq!(own_functions(event).last(), Some(&"main"), "{event}");
        assert_eq!(event["comm"], "program");
    }
}

/// What gdb is asked to do: at each stop at one of the addresses, up to so many, to print the frames.
const SCRIPT: &str = include_str!("data/frames.py");

struct Gdb {
    script: PathBuf,
}

impl Gdb {
    fn new(scratch: &Scratch) -> Option<Gdb> {
        let can = Command::new("gdb").args(["--batch", "-nx", "-ex", "python print('yes')"]).output();
        match can {
            Ok(output) if output.stdout.starts_with(b"yes") => {
                Some(Gdb { script: scratch.write("frames.py", SCRIPT) })
            }
            _ => {
                println!("skipped: gdb with Python is missing, which says what a stack should be");
                None
            }
        }
    }

    /// The frames at each stop: addresses and names of functions, the innermost first.
    fn stops(&self, addresses: &[u64], most: usize, command: &[&str]) -> Vec<Vec<(u64, Option<String>)>> {
        let addresses: Vec<String> = addresses.iter().map(|address| format!("{address:#x}")).collect();
        let output = Command::new("gdb")
            .args(["--batch", "-nx", "-ex"])
            .arg(format!("python ADDRESSES=[{}]; MOST={most}", addresses.join(",")))
            .arg("-x")
            .arg(&self.script)
            .arg("--args")
            .args(command)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let stops = printed.lines().filter_map(|line| line.strip_prefix("STOP "));
        let stops = stops.map(|line| serde_json::from_str::<Vec<(u64, Option<String>)>>(line).unwrap());
        stops
            .map(|stop| stop.into_iter().map(|(ip, name)| (ip, name.map(without_parameters))).collect())
            .collect()
    }
}

/// A function of C++ without the types of its parameters, which gdb's names have only where nothing else is known of it.
fn without_parameters(name: String) -> String {
    name.split_once('(').map_or(name.clone(), |(name, _)| name.to_owned())
}

/// The frames of an event, as gdb has them: without the functions that were inlined at the innermost address, which gdb
/// hides where it stops at their first instruction.
fn comparable(event: &Value) -> Vec<(u64, Option<String>)> {
    let stack = event["stack"].as_array().unwrap();
    let first = stack.first().and_then(|frame| frame["ip"].as_u64());
    let frames = stack.iter().filter(|frame| frame["inlined"] == false || frame["ip"].as_u64() != first);
    let name = |frame: &Value| Some(without_parameters(frame["function"].as_str()?.to_owned()));
    let frame = |frame: &Value| (frame["ip"].as_u64().unwrap(), name(frame));
    frames.map(frame).collect()
}

/// Runs the command twice, without a random layout, with probes on instructions of a function spread over it, and compares.
#[track_caller]
fn equals_gdb(scratch: &Scratch, gdb: &Gdb, probe: &str, most: usize, command: &[&str]) {
    let plain: Vec<&str> = [&["setarch", "-R"], command].concat();
    let mut events = trace(scratch, &[probe], &plain);
    // setarch has a libc, too.
    let name = Path::new(command[0]).file_name().unwrap().to_str().unwrap();
    events.retain(|event| event["comm"] == name);
    let mut addresses: Vec<u64> = events.iter().map(|event| event["ip"].as_u64().unwrap()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let stride = addresses.len().div_ceil(8);
    let addresses: Vec<u64> = addresses.into_iter().step_by(stride).collect();
    let hits = events.iter().filter(|event| addresses.contains(&event["ip"].as_u64().unwrap()));
    let ours: Vec<_> = hits.take(most).map(comparable).collect();
    let stops = gdb.stops(&addresses, most, command);
    assert!(!ours.is_empty(), "{probe} was not hit");
    assert_eq!(ours.len(), stops.len(), "{probe}");
    for (ours, gdbs) in ours.iter().zip(&stops) {
        assert_eq!(ours, gdbs, "{probe}");
    }
}

#[test]
fn stacks_equal_gdbs() {
    const THROWING: &str = r#"
        #include <algorithm>
        #include <stdexcept>
        #include <vector>
        struct Guard { ~Guard(); };
        volatile int sink;
        Guard::~Guard() { sink++; }
        namespace shop {
            __attribute__((noinline)) int pay(int n) { if (n % 2) throw std::runtime_error("odd"); return n; }
            struct Cart {
                __attribute__((noinline)) int total(int n) { Guard guard; return n > 3 ? total(n - 1) + 1 : pay(n); }
            };
        }
        int main() {
            std::vector<int> numbers{5, 3, 4, 1};
            std::sort(numbers.begin(), numbers.end(), [](int a, int b) { return a < b; });
            for (int n : numbers) {
                shop::Cart cart;
                try { sink += cart.total(n); } catch (const std::exception &) { sink--; }
            }
        }"#;
    let scratch = Scratch::new();
    let Some(gdb) = Gdb::new(&scratch) else { return };
    if Command::new("setarch").args(["-R", "true"]).status().is_ok_and(|status| status.success()) {
        for flags in [&["-O2", "-fomit-frame-pointer"][..], &["-O2", "-g", "-fomit-frame-pointer"]] {
            let program = scratch.compile("program", PROGRAM, flags);
            equals_gdb(&scratch, &gdb, "program:leaf/*", 30, &[text(&program)]);
            equals_gdb(&scratch, &gdb, "program:down/*", 40, &[text(&program)]);
        }
        let source = scratch.write("throwing.cpp", THROWING);
        let throwing = scratch.path("throwing");
        run(Command::new("c++").args(["-O2", "-g", "-o"]).arg(&throwing).arg(source));
        equals_gdb(&scratch, &gdb, "libstdc++.so.6:__cxa_throw/*", 20, &[text(&throwing)]);
        equals_gdb(&scratch, &gdb, "throwing:shop::pay(int)/*", 20, &[text(&throwing)]);
        equals_gdb(&scratch, &gdb, "libgcc_s.so.1:_Unwind_GetIPInfo/*", 20, &[text(&throwing)]);
    } else {
        println!("skipped: setarch -R cannot run here, so that addresses differ from run to run");
    }
}
