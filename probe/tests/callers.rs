//! What the optimizer has left to callers, or nowhere, and what is left when a function has returned.

mod scratch;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use probe::arguments::Value;
use probe::{Action, ProbeBuilder, Session};
use scratch::{Scratch, run};

/// At the marked places, most of what the functions are called with is in nothing that they still need.
const PROGRAM: &str = r#"
#include <stdio.h>
#define NOINLINE __attribute__((noinline, noclone))
volatile long sink;
volatile int source = 5;
NOINLINE long outside(long value) { __asm__ volatile("" : "+r"(value) : : "memory", "rdi", "rsi", "rdx", "rcx", "r8", "r9"); return value; }
NOINLINE long forgotten(long a, int n, double d) {
    long total = outside(a + n + (long)d);
    sink += total; /* here forgotten */
    return outside(total) + 1;
}
NOINLINE long passing(long a, int n) {
    long total = forgotten(a, n + 1, 2.5);
    sink += total; /* here passing */
    return outside(total) + 2;
}
NOINLINE long by_pointer(long a) {
    long total = outside(a);
    sink += total; /* here by_pointer */
    return outside(total) + 3;
}
NOINLINE long partly(int n) {
    int gone;
    __asm__("" : "=r"(gone));
    long total = outside(n) + 4;
    sink += total; /* here partly */
    return outside(total);
}
long (*volatile pointer)(long) = by_pointer;
int main(void) {
    for (long i = 40; i < 43; i++) {
        sink += passing(i, 7);
        sink += forgotten(i + 100, 8, 0.25);
        sink += pointer(i + 200);
        sink += partly(source);
        sink += i;
    }
    return 0;
}
"#;

fn line_of(text: &str) -> usize {
    PROGRAM.lines().position(|line| line.contains(text)).unwrap() + 1
}

fn launched(program: &Path) -> Session {
    let mut command = Command::new(program);
    command.stdout(Stdio::null());
    Session::launch(command).unwrap()
}

/// What these probes show, in the order of their hits.
fn shown(program: &Path, probes: &[String]) -> Vec<String> {
    let probes: Vec<ProbeBuilder> = probes.iter().map(|probe| probe.parse().unwrap()).collect();
    launched(program).events(&probes).unwrap().map(|event| event.values.to_string()).collect()
}

#[test]
fn callers_say_what_they_have_passed() {
    let scratch = Scratch::new();
    for flags in [&["-g", "-O2"][..], &["-g", "-O2", "-gdwarf-4"], &["-g", "-O2", "-no-pie", "-fno-pie"]] {
        let program = scratch.compile("program", PROGRAM, flags);
        let probe = |place: &str, what: &str| format!("program.c:{} {what}", line_of(place));
        let found =
            shown(&program, &[probe("here forgotten", "a=a n=n d=d"), probe("here passing", "a=a n=n")]);
        let expected = (40..43).flat_map(|i| {
            [format!("a={i} n=8 d=2.5"), format!("a={i} n=7"), format!("a={} n=8 d=0.25", i + 100)]
        });
        assert_eq!(found, expected.collect::<Vec<_>>(), "{flags:?}");
    }
}

/// A call through a pointer says where it has led, if at all, and then counts only if that is this function.
#[test]
fn what_callers_do_not_say_is_missing() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    let probe = format!("program.c:{} gone=gone n=n", line_of("here partly"));
    for text in shown(&program, &[probe]) {
        assert!(text.starts_with("gone=(`gone`: optimized out here"), "{text}");
        assert!(text.contains("n=(`n`: optimized out here, and "), "{text}");
    }
    let probe = format!("program.c:{} a=a", line_of("here by_pointer"));
    let found = shown(&program, &[probe]);
    assert_eq!(found.len(), 3);
    for (text, i) in found.iter().zip(40..) {
        let known = format!("a={}", i + 200);
        assert!(*text == known || text.contains("optimized out here, and "), "{text}");
    }
}

#[test]
fn a_condition_without_a_value_filters_where_that_is_so() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    let mut session = launched(&program);
    let probe: ProbeBuilder = "program:partly/* if n > 3".parse().unwrap();
    let seen = Arc::new(Mutex::new(0u64));
    let seeing = Arc::clone(&seen);
    let id = session.watch(&probe, move |_, _| {
        *seeing.lock().unwrap() += 1;
        Action::Continue
    });
    let id = id.unwrap();
    session.run();
    let counters = session.report(id).unwrap().counters;
    let seen = *seen.lock().unwrap();
    assert!(seen >= 3, "{seen}");
    assert!(counters.filtered >= 3, "{counters:?}");
    assert_eq!(counters.hits, seen + counters.filtered);
}

#[test]
fn a_condition_that_never_has_a_value_is_refused_with_the_reason() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    let line = line_of("here partly");
    for (condition, holds) in [("gone > 3", false), ("pid && gone", false), ("pid || gone", true)] {
        let mut session = launched(&program);
        let probe: ProbeBuilder = format!("program.c:{line} if {condition}").parse().unwrap();
        match session.watch(&probe, |_, _| Action::Continue) {
            Ok(id) => {
                session.run();
                // A program that is just being started has mapped nothing yet.
                let pending = session.report(id).unwrap().pending.map(|error| error.to_string());
                let refused = pending.is_some_and(|error| error.contains("`gone`: optimized out here"));
                assert_eq!(refused, !holds, "{condition}");
                if holds {
                    assert_eq!(session.report(id).unwrap().counters.hits, 3);
                }
            }
            Err(error) => {
                assert!(!holds, "{condition}: {error}");
                assert!(error.to_string().contains("`gone`: optimized out here"), "{error}");
            }
        }
    }
}

/// RIP is in another object then, which has a variable of the same name.
#[test]
fn what_is_global_is_the_functions_when_it_has_returned() {
    let scratch = Scratch::new();
    let library = scratch.write(
        "library.c",
        "static int counter = 10;\n__attribute__((noinline)) int work(int n) { counter += n; return counter * 2; }\n",
    );
    let object = scratch.path("liblibrary.so");
    run(Command::new("cc").args(["-g", "-O1", "-shared", "-fPIC", "-o"]).arg(&object).arg(library));
    let main = scratch.write(
        "main.c",
        "int work(int);\nstatic volatile int counter = 1000;\nint main(void) { for (int i = 1; i < 4; i++) counter += work(i); \
         return 0; }\n",
    );
    let program = scratch.path("main");
    let search = format!("-Wl,-rpath,{}", scratch.path("").display());
    run(Command::new("cc").args(["-g", "-O1", "-o"]).arg(&program).arg(main).arg(&object).arg(search));
    let found =
        shown(&program, &["liblibrary.so:work%return c=counter r=$retval if counter > 11".to_owned()]);
    assert_eq!(found, ["c=13 r=26", "c=16 r=32"]);
    // What was the function's own is gone, which is no reason for other values.
    let mut session = launched(&program);
    let probe: ProbeBuilder = "liblibrary.so:work%return n=n".parse().unwrap();
    let id = session.watch(&probe, |_, values| panic!("{values}")).unwrap();
    session.run();
    let report = session.report(id).unwrap();
    let counters = report.returns.unwrap_or(report.counters);
    assert_eq!((counters.hits, counters.filtered), (3, 3));
}

/// Debug information that shares a part with that of another file, as dwz makes it.
#[test]
fn what_debug_information_shares_with_others_is_found() {
    let scratch = Scratch::new();
    if Command::new("dwz").arg("--version").output().is_err() {
        println!("skipped: there is no dwz");
        return;
    }
    let code = "struct point { int x, y; const char *name; };\nstruct list { struct list *next; struct point at; };\n\
                __attribute__((noinline)) int work(struct point *p, struct list list) { __asm__ volatile(\"\" : : \
                \"r\"(p) : \"memory\"); return p->x + list.at.y; }\nint main(void) { struct point p = { 3, 4, \"here\" }; \
                struct list l = { 0, { 5, 6, \"there\" } }; return work(&p, l) - 9; }\n";
    let programs = ["one", "two"].map(|name| scratch.compile(name, code, &["-g", "-O0"]));
    let shared = scratch.path("shared.debug");
    let mut dwz = Command::new("dwz");
    dwz.arg("-m").arg(&shared).arg("-M").arg("shared.debug").args(&programs);
    if !dwz.output().is_ok_and(|output| output.status.success()) || !shared.exists() {
        println!("skipped: dwz finds nothing to share");
        return;
    }
    for program in &programs {
        let name = program.file_name().unwrap().to_str().unwrap();
        let found = shown(program, &[format!("{name}:work x=p->x name=p->name list=list.at")]);
        assert_eq!(found.len(), 1);
        let expected = |text: &str| found[0].contains(text);
        assert!(expected("x=3") && expected("\"here\"") && expected("{x = 5, y = 6, name = "), "{found:?}");
    }
    // Without that file, it says which is missing.
    std::fs::remove_file(&shared).unwrap();
    let elf = probe::elf::Elf::open(&programs[0]).unwrap();
    let work =
        elf.functions().iter().find(|function| function.bare_names().any(|name| name == "work")).unwrap();
    let error = elf.debug_info().unwrap().scope(work.address).unwrap_err();
    assert!(error.to_string().contains("`shared.debug`, which was not found"), "{error}");
}

/// In one program, functions of Go and of C, on stacks of different kinds.
#[test]
fn functions_of_go_and_of_c_in_one_program() {
    const GO: &str = r#"package main

// long twice(int n, double by);
import "C"
import "fmt"

//go:noinline
func add(a int, text string) int { return a + len(text) }

//go:noinline
func both(a int8) (half float64, text string) { return float64(a) / 2, "text" }

func main() {
	for i := 1; i < 4; i++ {
		n := int(C.twice(C.int(i), 3.5))
		fmt.Println(i, n, add(n, "four"))
		fmt.Println(both(int8(-i)))
	}
}
"#;
    const C: &str = "long twice(int n, double by) { return 2L * n + (long)(2 * by); }\n";
    let scratch = Scratch::new();
    scratch.write("main.go", GO);
    scratch.write("twice.c", C);
    let program = scratch.path("program");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(".").current_dir(scratch.path(""));
    go.env("GO111MODULE", "off").env("GOPROXY", "off").env("GOFLAGS", "").env("CGO_ENABLED", "1");
    match go.output() {
        Ok(output) if output.status.success() => {}
        other => {
            println!("skipped: there is no Go that calls C: {other:?}");
            return;
        }
    }
    let probes = [
        "program:twice n=n by=by",
        "program:twice%return r=$retval",
        "program:main.add a=a text=text",
        "program:main.add%return r=$retval",
        "program:main.both%return r=$retval",
    ];
    let found = shown(&program, &probes.map(str::to_owned));
    let expected = (1..4).flat_map(|i| {
        let n = 2 * i + 7;
        [
            format!("n={i} by=3.5"),
            format!("r={n}"),
            format!("a={n} text=\"four\""),
            format!("r={}", n + 4),
            format!("r={{half = {}, text = \"text\"}}", -f64::from(i) / 2.0),
        ]
    });
    assert_eq!(found, expected.collect::<Vec<_>>());
}

/// A reference is written like what it is one of, and a part of a virtual base class like any other.
#[test]
fn references_and_virtual_base_classes_are_followed() {
    const SOURCE: &str = r#"
        struct Base { virtual ~Base() {} int id = 4; };
        struct Left : virtual Base { int left = 30; };
        struct Right : virtual Base { int right = 50; };
        struct Both : Left, Right { int both = 70; };
        __attribute__((noinline)) int work(const Left &left, int &n, Both *both) {
            __asm__ volatile("" : : "r"(&left), "r"(&n), "r"(both) : "memory");
            return left.id + n;
        }
        int main() {
            Both both; Left left; int n = 9;
            both.id = 5; left.id = 6;
            int total = work(both, n, &both);
            n = 10;
            return work(left, n, &both) + total - 30;
        }
    "#;
    let scratch = Scratch::new();
    let source = scratch.write("program.cpp", SOURCE);
    let program = scratch.path("program");
    let made = Command::new("c++").args(["-g", "-O1", "-o"]).arg(&program).arg(source).output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no C++ compiler");
        return;
    }
    // The same member lies elsewhere in an object of another class.
    let probe = "program:work id=left.id left=left.left n=n id2=both->id if n >= 9 && left.id > 4".to_owned();
    assert_eq!(shown(&program, &[probe]), ["id=5 left=30 n=9 id2=5", "id=6 left=30 n=10 id2=5"]);
    let probes: ProbeBuilder = "program:work".parse().unwrap();
    let mut session = launched(&program);
    let seen = session.events(&[probes.variables()]).unwrap().next().unwrap();
    let member =
        |name: &str| seen.values.get("left").and_then(|value| value.member(name)).and_then(Value::as_i64);
    assert_eq!(member("left"), Some(30));
    assert_eq!(seen.values.get("n").and_then(Value::as_i64), Some(9));
}
