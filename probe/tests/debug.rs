//! Lines and functions of compiled programs.

mod scratch;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use object::{Object, ObjectSection};
use probe::debug::{DebugError, LinePlace};
use probe::elf::Elf;
use probe::spec::ProbeSpec;
use probe::{Action, Hit, RunEnd, Session};
use scratch::{Scratch, run, strip};

const HEADER: &str = r#"
static inline __attribute__((always_inline)) int twice(int x) {
    int sum = x;
    for (int i = 0; i < x; i++)
        sum += i;

    // Nothing here.
    __asm__ volatile("nop" : "+r"(sum));
    return sum * 2;
}
"#;

const SOURCE: &str = r#"#include <stdio.h>
#include "twice.h"

__attribute__((noinline)) int first(int a) {
    return twice(a) + 1;
}

__attribute__((noinline)) int second(int a) {
    return twice(a + 1) + twice(a + 2);
}

int main(int argc, char **argv) {
    printf("%d\n", first(argc) + second(argc));
    return 0;
}
"#;

fn compile(scratch: &Scratch, name: &str, flags: &[&str]) -> PathBuf {
    std::fs::create_dir_all(scratch.path("src/inc")).unwrap();
    let source = scratch.write("src/main.c", SOURCE);
    scratch.write("src/inc/twice.h", HEADER);
    let output = scratch.path(name);
    let mut command = Command::new("cc");
    command.args(["-g", "-I", "inc", "-o"]).arg(&output).arg(source.file_name().unwrap()).args(flags);
    run(command.current_dir(scratch.path("src")));
    output
}

/// Whether the linker knows such an option.
fn links(scratch: &Scratch, flags: &[&str]) -> bool {
    let source = scratch.write("empty.c", "int main(void) { return 0; }");
    let output = scratch.path("empty");
    let made = Command::new("cc").arg("-o").arg(output).arg(source).args(flags).output().unwrap();
    made.status.success()
}

fn open(path: &Path) -> Elf {
    Elf::open(path).unwrap()
}

fn functions(places: &[LinePlace]) -> Vec<(&str, Option<&str>)> {
    let mut found: Vec<_> = places
        .iter()
        .map(|place| (place.function.as_deref().unwrap(), place.inlined_into.as_deref()))
        .collect();
    found.sort_unstable();
    found
}

/// The forms in which compilers write debug information.
const FORMS: [&[&str]; 7] = [
    &["-O2", "-gdwarf-5"],
    &["-O2", "-gdwarf-4"],
    &["-O0", "-gdwarf-5"],
    &["-O0", "-gdwarf-4", "-fdebug-types-section"],
    &["-O2", "-gz=zlib"],
    &["-O2", "-gz=zlib-gnu"],
    &["-O2", "-Wl,--compress-debug-sections=zstd"],
];

#[test]
fn a_line_is_each_function_and_each_inlined_copy_that_has_it() {
    let scratch = Scratch::new();
    for (number, flags) in FORMS.into_iter().enumerate() {
        if flags.iter().any(|flag| flag.contains("zstd")) && !links(&scratch, flags) {
            println!("skipped: the linker does not compress by zstd");
            continue;
        }
        let elf = open(&compile(&scratch, &format!("program{number}"), flags));
        let debug = elf.debug_info().unwrap();
        for file in ["twice.h", "inc/twice.h", "src/inc/twice.h", "./twice.h"] {
            let places = debug.line(file, 8).unwrap();
            let expected = [("twice", Some("first")), ("twice", Some("second")), ("twice", Some("second"))];
            assert_eq!(functions(&places), expected, "{flags:?} {file}");
            for place in &places {
                let frames = debug.frames(place.address).unwrap();
                assert_eq!(frames[0].function.as_deref(), Some("twice"), "{flags:?}");
                assert_eq!((frames[0].line, frames[0].inlined), (Some(8), true), "{flags:?}");
                assert_eq!(frames[1].function, place.inlined_into, "{flags:?}");
                let call = if place.inlined_into.as_deref() == Some("first") { 5 } else { 9 };
                assert_eq!((frames[1].line, frames.len()), (Some(call), 2), "{flags:?}");
                assert!(frames[1].file.as_deref().unwrap().ends_with("/src/main.c"), "{flags:?}");
            }
        }
        // The line on which a function begins is where it begins.
        for (line, name) in [(4, "first"), (8, "second"), (12, "main")] {
            let places = debug.line("main.c", line).unwrap();
            assert_eq!(functions(&places), [(name, None)], "{flags:?}");
            let symbol = elf.functions().iter().find(|function| function.name() == name).unwrap();
            assert_eq!(places[0].address, symbol.address, "{flags:?} {name}");
            assert_eq!(debug.function_line(name, line).unwrap(), places, "{flags:?}");
        }
        assert_eq!(debug.function_line("twice", 8).unwrap().len(), 3, "{flags:?}");
    }
}

#[test]
fn a_line_without_code_is_refused_with_the_next_one() {
    let scratch = Scratch::new();
    let elf = open(&compile(&scratch, "program", &["-O1"]));
    let debug = elf.debug_info().unwrap();
    let Err(error @ DebugError::NoCode { line: 7, next: Some(8), .. }) = debug.line("twice.h", 7) else {
        panic!("{:?}", debug.line("twice.h", 7))
    };
    assert!(error.to_string().contains("no code at line 7 of "), "{error}");
    assert!(error.to_string().ends_with("the next line with code is 8"), "{error}");
    assert!(matches!(debug.line("main.c", 1000), Err(DebugError::NoCode { next: None, .. })));
    assert!(matches!(debug.line("other.c", 1), Err(DebugError::NoFile { .. })));
    let error = debug.line("other/main.c", 5).unwrap_err();
    assert!(error.to_string().ends_with("src/main.c"), "{error}");
    let error = debug.function_line("second", 5).unwrap_err();
    assert!(error.to_string().ends_with("main.c:8 to 10"), "{error}");
    assert!(matches!(debug.function_line("third", 5), Err(DebugError::NoFunction { .. })));
}

#[test]
fn files_of_the_same_name_are_told_apart_by_their_folders() {
    let scratch = Scratch::new();
    for (folder, body) in [("a", "int one(void) {\n return 1;\n}"), ("b", "int two(void) {\n return 2;\n}")] {
        std::fs::create_dir(scratch.path(folder)).unwrap();
        scratch.write(&format!("{folder}/part.c"), body);
    }
    scratch.write("main.c", "int one(void), two(void);\nint main(void) {\n return one() + two();\n}");
    let output = scratch.path("program");
    let sources = ["main.c", "a/part.c", "b/part.c"];
    run(Command::new("cc").args(["-g", "-o"]).arg(&output).args(sources).current_dir(scratch.path("")));
    let elf = open(&output);
    let debug = elf.debug_info().unwrap();
    let Err(DebugError::AmbiguousFile { candidates, .. }) = debug.line("part.c", 2) else { panic!() };
    let full = |name: &str| scratch.path(name).display().to_string();
    assert_eq!(candidates, [full("a/part.c"), full("b/part.c")]);
    for (name, function) in [("a/part.c".to_owned(), "one"), (full("b/part.c"), "two")] {
        assert_eq!(functions(&debug.line(&name, 2).unwrap()), [(function, None)]);
    }
}

#[test]
fn a_stripped_file_has_what_its_debug_file_says() {
    let scratch = Scratch::new();
    let program = compile(&scratch, "program", &["-O2", "-Wl,--build-id=none"]);
    let places = open(&program).debug_info().unwrap().line("twice.h", 8).unwrap();
    let separate = scratch.path("program.debug");
    std::fs::copy(&program, &separate).unwrap();
    strip(&separate, &["--only-keep-debug"]);
    strip(&program, &["--strip-all"]);
    let missing = open(&program).debug_info();
    assert!(matches!(missing, Err(DebugError::Missing { .. })), "{missing:?}");
    let link = format!("--add-gnu-debuglink={}", separate.display());
    run(Command::new("objcopy").arg(link).arg(&program));
    let elf = open(&program);
    let debug = elf.debug_info().unwrap();
    assert_eq!(debug.path(), separate);
    assert_eq!(debug.line("twice.h", 8).unwrap(), places);
}

#[test]
fn go_and_rust_have_lines() {
    let scratch = Scratch::new();
    let rust = scratch.write(
        "main.rs",
        "mod shop {\n    pub struct Cart(pub u32);\n    impl Cart {\n        #[inline(never)]\n        pub fn \
         total(&self, by: u32) -> u32 {\n            self.0 * by\n        }\n    }\n}\nfn main() {\n    println!(\"{}\", \
         shop::Cart(3).total(std::env::args().count() as u32));\n}\n",
    );
    let output = scratch.path("rust");
    match Command::new("rustc").args(["-g", "-O", "-o"]).arg(&output).arg(rust).output() {
        Ok(made) if made.status.success() => {
            let elf = open(&output);
            let debug = elf.debug_info().unwrap();
            let places = debug.line("main.rs", 6).unwrap();
            assert_eq!(functions(&places), [("main::shop::Cart::total", None)]);
            for name in ["total", "Cart::total", "main::shop::Cart::total"] {
                assert_eq!(debug.function_line(name, 6).unwrap(), places, "{name}");
            }
        }
        other => println!("skipped: no Rust program could be made: {other:?}"),
    }
    let go = scratch.write(
        "main.go",
        "package main\n\nimport \"os\"\n\ntype Counter struct{ n int }\n\n//go:noinline\nfunc (c *Counter) Add(by int) int \
         {\n\tc.n += by\n\treturn c.n\n}\n\nfunc main() {\n\tc := Counter{}\n\tos.Exit(c.Add(len(os.Args)) - 1)\n}\n",
    );
    let output = scratch.path("go");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&output).arg(go).env("GOFLAGS", "-mod=mod").env("GOPROXY", "off");
    match build.env("GO111MODULE", "off").output() {
        Ok(made) if made.status.success() => {
            let elf = open(&output);
            let debug = elf.debug_info().unwrap();
            let places = debug.line("main.go", 9).unwrap();
            assert_eq!(functions(&places), [("main.(*Counter).Add", None)]);
            assert_eq!(debug.function_line("main.(*Counter).Add", 9).unwrap(), places);
        }
        other => println!("skipped: no Go program could be made: {other:?}"),
    }
}

/// Asks everything that can be asked of it.
fn ask(elf: &Elf, addresses: &[u64]) -> usize {
    let Ok(debug) = elf.debug_info() else { return 0 };
    let mut answers = 0;
    for (file, line) in [("main.c", 5), ("twice.h", 8), ("main.c", 4), ("nothing.c", 1)] {
        answers += usize::from(debug.line(file, line).is_ok());
    }
    for (function, line) in [("twice", 8), ("second", 9), ("main", 13)] {
        answers += usize::from(debug.function_line(function, line).is_ok());
    }
    for &address in addresses {
        answers += debug.frames(address).map_or(0, |frames| frames.len());
        answers += debug.scope(address).map_or(0, |scope| scope.types.len());
    }
    answers + usize::from(debug.global(addresses[0], "counter").is_ok())
}

#[test]
fn corrupt_debug_information_is_an_error_or_an_answer() {
    let scratch = Scratch::new();
    for flags in [&["-O2", "-gdwarf-5"][..], &["-O1", "-gdwarf-4", "-fdebug-types-section"]] {
        let program = compile(&scratch, "program", flags);
        let elf = open(&program);
        let addresses: Vec<u64> = ["first", "second", "main"]
            .into_iter()
            .flat_map(|name| {
                let function = elf.functions().iter().find(|function| function.name() == name).unwrap();
                [function.address, function.address + function.size / 2]
            })
            .collect();
        let whole = ask(&elf, &addresses);
        assert!(whole > 20, "{whole}");
        let contents = std::fs::read(&program).unwrap();
        let file = object::File::parse(&*contents).unwrap();
        let sections = file.sections().filter(|section| {
            let name = section.name().unwrap();
            name.starts_with(".debug_") || name == ".eh_frame"
        });
        let bytes: Vec<u64> = sections
            .filter_map(|section| section.file_range())
            .flat_map(|(start, size)| start..start + size)
            .collect();
        assert!(bytes.len() > 1000);
        let started = std::time::Instant::now();
        let mut other = 0;
        for mask in [0xff, 0x01, 0x80] {
            for &at in &bytes {
                let mut broken = contents.clone();
                broken[at as usize] ^= mask;
                let answers = Elf::parse(&program, broken).map_or(0, |elf| ask(&elf, &addresses));
                other += usize::from(answers != whole);
            }
        }
        // Most bytes mean something.
        assert!(other > bytes.len() / 4, "{other} of {}", 3 * bytes.len());
        let each = started.elapsed() / u32::try_from(3 * bytes.len()).unwrap();
        assert!(each < Duration::from_millis(50), "{each:?}");
    }
}

#[test]
fn a_probe_on_a_line_is_hit_in_each_copy() {
    let scratch = Scratch::new();
    let program = compile(&scratch, "program", &["-O2"]);
    for (text, expected) in [
        ("twice.h:8", Ok(3)),
        ("program:inc/twice.h:8", Ok(3)),
        ("second:9", Ok(1)),
        ("twice:8", Ok(3)),
        ("twice.h:7", Err("no code at line 7 of")),
        ("second:5", Err("line 5 is not in `second`")),
    ] {
        let mut session = Session::launch(Command::new(&program)).unwrap();
        let hits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&hits);
        let count = move |_: &mut Hit<'_>| {
            counted.fetch_add(1, Ordering::Relaxed);
            Action::Continue
        };
        let placed = session.probe(text.parse::<ProbeSpec>().unwrap(), count);
        match (expected, placed) {
            (Ok(expected), Ok(_)) => {
                let end = session.run_for(Duration::from_secs(30));
                assert!(matches!(end, RunEnd::Ended(Some(status)) if status.success()), "{end:?}");
                assert_eq!(hits.load(Ordering::Relaxed), expected, "{text}");
            }
            (Err(expected), Err(error)) => assert!(error.to_string().contains(expected), "{text}: {error}"),
            (expected, placed) => panic!("{text}: {expected:?}, but {placed:?}"),
        }
    }
}
