//! Debug information that the compiler has split off from the program: whatever is asked, the answer is that of the same
//! program with all of it inside.

mod scratch;

use std::path::{Path, PathBuf};
use std::process::Command;

use probe::debug::{DebugError, DebugInfo, Location, Scope, Unavailable};
use probe::elf::Elf;
use scratch::{Scratch, run};

const HEADER: &str = r#"
struct cart;
struct item { const char *name; double price; struct item *next; };
long count(struct cart *cart, int extra);
extern __thread int calls;
"#;

const SHOP: &str = r#"
#include "cart.h"
int counter = 3;
static __thread int visits;
static inline __attribute__((always_inline)) long twice(long x) {
    long sum = x;
    for (int i = 0; i < x; i++) {
        long part = sum + i;
        sum += part / 2;
    }
    __asm__ volatile("nop" : "+r"(sum));
    return sum * 2;
}
__attribute__((noinline)) double total(struct item *item, double rate) {
    double all = 0;
    for (; item; item = item->next) {
        double price = item->price * rate;
        all += price;
    }
    return all;
}
__attribute__((noinline)) long visit(struct cart *cart, int extra) {
    visits += extra;
    calls++;
    return twice(count(cart, extra)) + visits;
}
int main(int argc, char **argv) {
    struct item pear = { "pear", 2.5, 0 }, apple = { "apple", 1.5, &pear };
    counter += argc;
    return (int)total(&apple, 2) + (int)visit((struct cart *)&apple, argc) + argv[0][0];
}
"#;

const CART: &str = r#"
#include "cart.h"
struct cart { struct item first; enum { OPEN, CLOSED } state; union { int number; float part; } kind[2]; };
__thread int calls;
__attribute__((noinline)) long count(struct cart *cart, int extra) {
    struct item *item = &cart->first;
    long found = extra;
    while (item) {
        found++;
        item = item->next;
    }
    return found;
}
"#;

/// Compiles the program where its debug information shall stay: in a directory of its own.
fn compile(scratch: &Scratch, name: &str, flags: &[&str]) -> PathBuf {
    let directory = scratch.path(name);
    std::fs::create_dir_all(&directory).unwrap();
    for (file, text) in [("cart.h", HEADER), ("shop.c", SHOP), ("cart.c", CART)] {
        std::fs::write(directory.join(file), text).unwrap();
    }
    let mut command = Command::new("cc");
    // The directory's name is no part of what is compared.
    command.arg("-g").args(flags).args(["-no-pie", "-o", "shop", "shop.c", "cart.c"]);
    run(command.current_dir(&directory));
    directory.join("shop")
}

/// Whether the compiler splits debug information off.
fn splits(scratch: &Scratch) -> bool {
    let source = scratch.write("empty.c", "int main(void) { return 0; }");
    let mut command = Command::new("cc");
    command.args(["-g", "-gsplit-dwarf", "-c", "-o"]).arg(scratch.path("empty.o")).arg(source);
    let works = command.output().is_ok_and(|output| output.status.success());
    works && scratch.path("empty.dwo").exists()
}

/// Where GCC splits DWARF 4 off, ranges that begin one byte before a label, as behind a call, end two bytes early: it writes
/// `.LFE2-.LVL8-1` for the distance from `.LVL8-1`. What such a range has said two bytes before is taken as said.
fn lengthen(found: &mut Scope, expected: &Scope, split: &DebugInfo, address: u64) {
    let out = Location::Unavailable(Unavailable::OptimizedOut);
    let before = split.scope(address - 2).ok();
    for (frame, wanted) in found.frames.iter_mut().zip(&expected.frames) {
        for (variable, wanted) in frame.variables.iter_mut().zip(&wanted.variables) {
            let said = before.as_ref().and_then(|before| before.variable(&wanted.name));
            if variable.location == out && said.is_some_and(|said| said.location == wanted.location) {
                variable.location = wanted.location.clone();
                found.caller.clone_from(&expected.caller);
            }
        }
    }
}

/// Holds both programs' answers against each other, at each byte of their functions; `early` where ranges may end early.
fn compare(whole: &Elf, split: &Elf, early: bool) {
    let (one, other) = (whole.debug_info().unwrap(), split.debug_info().unwrap());
    let mut variables = 0;
    let mut inlined = 0;
    for name in ["total", "visit", "count", "main"] {
        let function = |elf: &Elf| {
            let of = |elf: &Elf| elf.functions().iter().find(|f| f.bare_names().any(|n| n == name)).cloned();
            of(elf).unwrap()
        };
        let (here, there) = (function(whole), function(split));
        assert_eq!((here.address, here.size), (there.address, there.size), "{name}: the code is another");
        for address in here.address..here.address + here.size {
            let expected = one.scope(address).unwrap();
            variables += expected.frames.iter().map(|frame| frame.variables.len()).sum::<usize>();
            let mut found = other.scope(address).unwrap();
            if early {
                lengthen(&mut found, &expected, &other, address);
            }
            assert_eq!(found, expected, "{name}: {address:#x}");
            let mut expected = one.frames(address).unwrap();
            inlined += expected.iter().filter(|frame| frame.inlined).count();
            let mut found = other.frames(address).unwrap();
            for frame in expected.iter_mut().chain(&mut found) {
                frame.file = frame.file.take().map(|file| file.rsplit('/').next().unwrap().to_owned());
            }
            assert_eq!(found, expected, "{name}: {address:#x}");
        }
        assert_eq!(other.result(here.address), one.result(here.address), "{name}");
    }
    assert!(variables > 200 && inlined > 10, "{variables} variables, {inlined} inlined");
    let main = whole.functions().iter().find(|f| f.bare_names().any(|n| n == "main")).unwrap().address;
    for name in ["counter", "visits", "calls"] {
        assert_eq!(other.global(main, name), one.global(main, name), "{name}");
        assert!(one.global(main, name).is_ok(), "{name}");
    }
    for name in ["struct cart", "item"] {
        let (expected, found) = (one.type_named(name).unwrap(), other.type_named(name).unwrap());
        assert_eq!(found.1.size_of(found.0), expected.1.size_of(expected.0), "{name}");
    }
    let line = SHOP.lines().position(|line| line.contains("sum += part")).unwrap() as u64 + 1;
    let places = |elf: &Elf, function: bool| {
        let info = elf.debug_info().unwrap();
        let found = if function { info.function_line("twice", line) } else { info.line("shop.c", line) };
        let place = |place: probe::debug::LinePlace| (place.address, place.function, place.inlined_into);
        found.unwrap().into_iter().map(place).collect::<Vec<_>>()
    };
    for function in [false, true] {
        assert_eq!(places(split, function), places(whole, function));
    }
}

fn dwos(directory: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "dwo")).collect();
    found.sort();
    found
}

#[test]
fn what_was_split_off_answers_as_if_it_was_not() {
    let scratch = Scratch::new();
    if !splits(&scratch) {
        println!("skipped: the compiler splits nothing off");
        return;
    }
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let mut hangs = false;
        for flags in [&["-O0"][..], &["-O2"], &["-O0", "-fdebug-types-section"]] {
            let mut flags = [flags, &[version]].concat();
            let name = flags.concat();
            let early = version == "-gdwarf-4" && flags.contains(&"-O2");
            let whole = Elf::open(&compile(&scratch, &format!("whole{name}"), &flags)).unwrap();
            flags.push("-gsplit-dwarf");
            let program = compile(&scratch, &format!("split{name}"), &flags);
            let directory = program.parent().unwrap();
            assert_eq!(dwos(directory).len(), 2, "{flags:?}");
            compare(&whole, &Elf::open(&program).unwrap(), early);
            // Where the program is, if not where it was made; or where the user says.
            let moved = scratch.path(&format!("moved{name}"));
            std::fs::rename(directory, &moved).unwrap();
            let program = moved.join("shop");
            compare(&whole, &Elf::open(&program).unwrap(), early);
            let elsewhere = scratch.path(&format!("elsewhere{name}"));
            std::fs::create_dir_all(&elsewhere).unwrap();
            let named: Vec<PathBuf> = dwos(&moved)
                .iter()
                .map(|dwo| {
                    let named = elsewhere.join(dwo.file_name().unwrap());
                    std::fs::rename(dwo, &named).unwrap();
                    named
                })
                .collect();
            compare(&whole, &Elf::open_with(&program, &named).unwrap(), early);
            let tool = if version == "-gdwarf-4" { "dwp" } else { "llvm-dwp" };
            let package = scratch.path(&format!("{name}.dwp"));
            // Some versions do not come to an end with what GCC has written.
            let made = !hangs && {
                let mut command = Command::new("timeout");
                let made = command.args(["2", tool]).args(&named).arg("-o").arg(&package).output();
                hangs = made.as_ref().is_ok_and(|output| output.status.code() == Some(124));
                made.is_ok_and(|output| output.status.success())
            };
            if !made {
                println!("skipped: {tool} makes no package of {flags:?}");
                continue;
            }
            compare(&whole, &Elf::open_with(&program, std::slice::from_ref(&package)).unwrap(), early);
            std::fs::rename(&package, moved.join("shop.dwp")).unwrap();
            compare(&whole, &Elf::open(&program).unwrap(), early);
        }
    }
}

#[test]
fn what_is_not_to_be_had_is_named() {
    let scratch = Scratch::new();
    if !splits(&scratch) {
        println!("skipped: the compiler splits nothing off");
        return;
    }
    let flags = ["-O0", "-gdwarf-5", "-gsplit-dwarf"];
    let program = compile(&scratch, "program", &flags);
    let directory = program.parent().unwrap();
    let dwo = dwos(directory).into_iter().find(|dwo| dwo.to_string_lossy().contains("cart")).unwrap();
    let elf = Elf::open(&program).unwrap();
    let address = |name: &str| {
        let mut named = elf.functions().iter().filter(|f| f.bare_names().any(|n| n == name));
        named.next().unwrap().address
    };
    let error = |elf: &Elf| elf.debug_info().unwrap().scope(address("count")).unwrap_err();
    let tried = |error: &DebugError| match error {
        DebugError::Split { name, tried } => {
            assert!(Path::new(name).file_name() == dwo.file_name(), "{name}");
            tried.iter().find(|(path, _)| *path == dwo).map(|(_, what)| what.clone()).unwrap()
        }
        other => panic!("{other}"),
    };
    // That of another build.
    let right = std::fs::read(&dwo).unwrap();
    let other =
        compile(&scratch, "other", &["-O0", "-gdwarf-5", "-gsplit-dwarf", "-DOTHER", "-fno-builtin", "-g3"]);
    let wrong = std::fs::read(other.parent().unwrap().join(dwo.file_name().unwrap())).unwrap();
    std::fs::write(&dwo, &wrong).unwrap();
    let unfit = error(&Elf::open(&program).unwrap());
    assert!(tried(&unfit).starts_with("it is of another build: its identification is 0x"), "{unfit}");
    // One that is cut short, wherever that is, and one that is none.
    for length in (0..right.len()).step_by(right.len() / 40) {
        std::fs::write(&dwo, &right[..length]).unwrap();
        if let Err(error) = Elf::open(&program).unwrap().debug_info().unwrap().scope(address("count")) {
            assert!(!error.to_string().is_empty());
        }
    }
    std::fs::write(&dwo, &right[..100]).unwrap();
    assert!(!tried(&error(&Elf::open(&program).unwrap())).is_empty());
    std::fs::remove_file(&dwo).unwrap();
    let elf = Elf::open(&program).unwrap();
    let missing = error(&elf);
    assert!(tried(&missing).contains("No such file"), "{missing}");
    assert!(missing.to_string().contains("--debug-file"), "{missing}");
    // The other unit has its own, and lines are not split off.
    let info = elf.debug_info().unwrap();
    assert!(info.scope(address("total")).is_ok());
    let frames = info.frames(address("count")).unwrap();
    assert!(frames[0].file.as_deref().is_some_and(|file| file.ends_with("/cart.c")), "{frames:?}");
}
