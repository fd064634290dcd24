//! Reads what the C compiler makes.

mod scratch;

use std::path::Path;
use std::process::Command;

use emu::Processor;
use probe::code::{self, Boundary};
use probe::elf::{Elf, ElfError, LookupError, SymbolName, demangle};
use probe::maps;
use scratch::{PROGRAM, Scratch, run, strip};

fn name(text: &str) -> SymbolName {
    SymbolName::parse(text)
}

#[test]
fn functions_of_a_position_independent_and_of_a_fixed_program() {
    let scratch = Scratch::new();
    for (flags, independent) in [(&["-fPIE", "-pie"][..], true), (&["-fno-pie", "-no-pie"][..], false)] {
        let elf = Elf::open(&scratch.compile("program", PROGRAM, flags)).unwrap();
        assert_eq!(elf.is_position_independent(), independent);
        let leaf = elf.lookup(&name("leaf")).unwrap();
        assert_eq!(elf.lookup(&name("alias")).unwrap().address, leaf.address);
        let function = elf.function_at(leaf.address + 1).unwrap();
        assert_eq!(function.address, leaf.address);
        assert_eq!(function.names.len(), 2, "{function:?}");
        let offset = elf.offset_of_address(leaf.address).unwrap();
        assert_eq!(elf.address_of_offset(offset), Some(leaf.address));
        assert_eq!(offset == leaf.address, independent, "{offset:#x}");
        assert!(elf.lookup(&name("hidden")).is_ok());
        assert!(matches!(elf.lookup(&name("counter")), Err(LookupError::NotCode { .. })));
        match elf.lookup(&name("_LEAF")) {
            Err(LookupError::Unknown { similar, .. }) => assert_eq!(similar, ["leaf"]),
            other => panic!("{other:?}"),
        }
        assert_eq!(elf.address_of_offset(0), None, "the header is no code");
        assert_eq!(elf.address_of_offset(u64::MAX), None);
        assert_eq!(elf.offset_of_address(0), None);
    }
}

/// Whether the file at `path` has the symbol of a static function.
fn knows_hidden(path: &Path) -> bool {
    Elf::open(path).unwrap().lookup(&name("hidden")).is_ok()
}

#[test]
fn a_debug_file_beside_a_stripped_file_has_its_symbols() {
    let scratch = Scratch::new();
    let path = scratch.compile("libthing.so", PROGRAM, &["-shared", "-fPIC", "-Wl,--build-id=none"]);
    let whole = Elf::open(&path).unwrap();
    let debug = scratch.path("libthing.debug");
    run(Command::new("objcopy").arg("--only-keep-debug").args([&path, &debug]));
    strip(&path, &[]);
    assert!(!knows_hidden(&path), "nothing leads to it");
    run(Command::new("objcopy").arg("--add-gnu-debuglink").args([&debug, &path]));
    let elf = Elf::open(&path).unwrap();
    let hidden = name("hidden");
    assert_eq!(elf.lookup(&hidden).unwrap(), whole.lookup(&hidden).unwrap());
    assert_eq!(elf.lookup(&name("leaf")).unwrap(), whole.lookup(&name("leaf")).unwrap());
    assert_eq!(elf.functions(), whole.functions());
    // By way of a link elsewhere, and in GDB's directory for such files.
    let link = scratch.path("link");
    std::fs::create_dir(&link).unwrap();
    std::os::unix::fs::symlink(&path, link.join("libthing.so")).unwrap();
    assert!(knows_hidden(&link.join("libthing.so")));
    std::fs::create_dir(scratch.path(".debug")).unwrap();
    let inner = scratch.path(".debug/libthing.debug");
    std::fs::rename(&debug, &inner).unwrap();
    assert!(knows_hidden(&path));
    // Another file of that name is not believed, and one that is not a file is not waited for.
    let mut other = std::fs::read(&inner).unwrap();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&inner, other).unwrap();
    assert!(!knows_hidden(&path));
    std::fs::remove_file(&inner).unwrap();
    nix::unistd::mkfifo(&inner, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(!knows_hidden(&path));
}

#[test]
fn a_debug_file_is_found_by_its_build_id() {
    // The one that systems have: libc6-dbg.
    let us = maps::read(std::process::id().cast_signed()).unwrap();
    let libc = us.iter().find_map(|mapping| mapping.file().filter(|file| file.ends_with("libc.so.6")));
    let Some(libc) = libc else {
        println!("skipped: no libc.so.6 is mapped");
        return;
    };
    let elf = Elf::open(libc).unwrap();
    // Exported by nobody.
    match elf.lookup(&name("__memchr_avx2")) {
        Ok(found) => assert_eq!(elf.function_at(found.address).unwrap().name(), "__memchr_avx2"),
        Err(LookupError::Unknown { .. }) => {
            println!("skipped: the debug file of {} is missing", libc.display())
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_stripped_file_may_have_kept_its_symbols_for_backtraces() {
    let scratch = Scratch::new();
    let path = scratch.compile("program", PROGRAM, &[]);
    let hidden = Elf::open(&path).unwrap().find("hidden").unwrap().address;
    let (symbols, section) = (scratch.path("symbols"), scratch.path("symbols.xz"));
    let run = |command: &mut Command| {
        let output = command.output();
        if let Ok(output) = &output {
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        output.is_ok()
    };
    let made = run(Command::new("objcopy").arg("--only-keep-debug").args([&path, &symbols]))
        && run(Command::new("xz").arg(&symbols));
    if !made {
        return println!("skipped: no objcopy or xz");
    }
    strip(&path, &[]);
    assert!(Elf::open(&path).unwrap().find("hidden").is_err());
    let argument = format!(".gnu_debugdata={}", section.display());
    assert!(run(Command::new("objcopy").args(["--add-section", &argument]).arg(&path)));
    assert_eq!(Elf::open(&path).unwrap().find("hidden").unwrap().address, hidden);
    // One that is not what it says counts for nothing.
    let mut bytes = std::fs::read(&path).unwrap();
    let start = bytes.windows(6).position(|bytes| bytes == b"\xfd7zXZ\0").unwrap();
    for at in (start..bytes.len().min(start + 600)).step_by(7) {
        bytes[at] ^= 0x55;
        let found =
            Elf::parse(&path, bytes.clone()).map(|elf| elf.find("hidden").map(|symbol| symbol.address));
        if let Ok(Ok(address)) = found {
            assert_eq!(address, hidden);
        }
        bytes[at] ^= 0x55;
    }
}

#[test]
fn a_stripped_library_keeps_what_it_exports() {
    let scratch = Scratch::new();
    let flags = ["-shared", "-fPIC", "-Wl,-soname,libthing.so.3"];
    let path = scratch.compile("libthing.so.3.1", PROGRAM, &flags);
    let whole = Elf::open(&path).unwrap();
    strip(&path, &[]);
    let stripped = Elf::open(&path).unwrap();
    let leaf = stripped.lookup(&name("leaf")).unwrap();
    assert_eq!(leaf.address, whole.lookup(&name("leaf")).unwrap().address);
    assert!(matches!(stripped.lookup(&name("hidden")), Err(LookupError::Unknown { .. })));
    assert_eq!(stripped.soname(), Some("libthing.so.3"));
    assert_eq!(probe::elf::soname(&path).unwrap().as_deref(), Some("libthing.so.3"));
}

#[test]
fn a_file_without_section_headers_has_its_segments_as_code() {
    let scratch = Scratch::new();
    let path = scratch.compile("program", PROGRAM, &[]);
    let mut bytes = std::fs::read(&path).unwrap();
    let whole = Elf::open(&path).unwrap();
    // e_shoff, then e_shnum and e_shstrndx.
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    let bare = Elf::parse(&path, bytes).unwrap();
    assert!(bare.functions().is_empty());
    let leaf = whole.lookup(&name("leaf")).unwrap().address;
    assert_eq!(bare.code_at(leaf).get(..16), whole.code_at(leaf).get(..16));
    assert_eq!(code::boundary(&bare, leaf + 1), Boundary::Unknown);
}

#[test]
fn versions_are_told_apart() {
    let scratch = Scratch::new();
    let source = r#"
        int old(void) { return 1; }
        int new(void) { return 2; }
        __asm__(".symver old,thing@V1");
        __asm__(".symver new,thing@@V2");
        int plain(void) { return 3; }
    "#;
    let script = scratch.write("versions", "V1 { global: thing; }; V2 { global: thing; plain; };");
    let flag = format!("-Wl,--version-script={}", script.display());
    let path = scratch.compile("libversions.so", source, &["-shared", "-fPIC", &flag]);
    for stripped in [false, true] {
        if stripped {
            strip(&path, &[]);
        }
        let elf = Elf::open(&path).unwrap();
        let address = |text| elf.lookup(&name(text)).map(|symbol| symbol.address);
        let (old, new) = (address("thing@V1").unwrap(), address("thing@@V2").unwrap());
        assert_ne!(old, new);
        assert_eq!(address("thing"), Ok(new));
        assert_eq!(address("thing@V2"), Ok(new));
        assert!(address("plain").is_ok());
        assert!(matches!(address("thing@@V1"), Err(LookupError::Unknown { .. })));
        assert!(matches!(address("thing@V3"), Err(LookupError::Unknown { .. })));
    }
}

#[test]
fn an_indirect_function_is_refused_by_name() {
    let scratch = Scratch::new();
    let source = "static int one(void) { return 1; }\n\
        static int (*choose(void))(void) { return one; }\n\
        int chosen(void) __attribute__((ifunc(\"choose\")));";
    let elf = Elf::open(&scratch.compile("libchosen.so", source, &["-shared", "-fPIC"])).unwrap();
    let error = elf.lookup(&name("chosen")).unwrap_err();
    assert!(matches!(error, LookupError::Indirect { .. }), "{error}");
    assert!(error.to_string().contains("IFUNC"), "{error}");
}

#[test]
fn two_functions_of_one_name_are_both_named() {
    let scratch = Scratch::new();
    let path = scratch.twins();
    let elf = Elf::open(&path).unwrap();
    match elf.lookup(&name("twin")) {
        Err(LookupError::Ambiguous { candidates, .. }) => assert_eq!(candidates.len(), 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn boundaries_are_those_that_the_disassembler_sees() {
    let scratch = Scratch::new();
    let elf = Elf::open(&scratch.compile("program", PROGRAM, &[])).unwrap();
    let main = elf.functions().iter().find(|function| function.name() == "main").unwrap();
    let starts: Vec<u64> = code::of_function(&elf, main).map(|instruction| instruction.address).collect();
    assert!(starts.len() > 10);
    for address in main.address..main.address + main.size {
        let expected = starts.contains(&address);
        match code::boundary(&elf, address) {
            Boundary::Yes => assert!(expected, "{address:#x}"),
            Boundary::Inside { start, function } => {
                assert!(!expected && starts.contains(&(main.address + start)), "{address:#x}");
                assert_eq!(function, "main");
            }
            Boundary::Unknown => panic!("{address:#x}"),
        }
    }
}

#[test]
fn cut_short_at_every_length_it_is_an_error_and_no_panic() {
    let scratch = Scratch::new();
    let path = scratch.compile("program", PROGRAM, &["-s"]);
    let bytes = std::fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        let error = match Elf::parse(&path, bytes[..length].to_vec()) {
            Err(error) => error,
            Ok(_) => panic!("{length} of {} bytes were accepted", bytes.len()),
        };
        match error {
            ElfError::NotElf { .. } => assert!(length < 4),
            ElfError::CutShort { end, length: told, .. } => {
                assert!(told == length as u64 && end > told, "{error}");
            }
            other => panic!("{length}: {other}"),
        }
    }
}

#[test]
fn changed_anywhere_it_is_read_or_refused_but_never_a_panic() {
    let scratch = Scratch::new();
    let path = scratch.compile("libthing.so", PROGRAM, &["-shared", "-fPIC", "-Wl,-soname,thing"]);
    let bytes = std::fs::read(&path).unwrap();
    let copy = scratch.path("copy");
    let mut refused = 0;
    for index in 0..bytes.len() {
        for value in [0xff, bytes[index] ^ 0x80] {
            let mut changed = bytes.clone();
            changed[index] = value;
            match Elf::parse(&path, changed) {
                Ok(elf) if index < 0x1000 => {
                    let sites =
                        elf.code().iter().flat_map(|range| code::of_range(&elf, range, Processor::host()));
                    assert!(sites.count() <= bytes.len());
                    let _ = elf.lookup(&name("leaf"));
                    let _ = elf
                        .functions()
                        .iter()
                        .filter_map(|function| elf.offset_of_address(function.address))
                        .count();
                }
                Ok(_) => {}
                Err(_) => refused += 1,
            }
        }
        if index < 0x400 {
            let mut changed = bytes.clone();
            changed[index] ^= 0xff;
            std::fs::write(&copy, changed).unwrap();
            let _ = probe::elf::soname(&copy);
        }
    }
    assert!(refused > 0);
}

#[test]
fn what_is_no_x86_64_program_is_named() {
    let scratch = Scratch::new();
    let object = scratch.compile("program.o", "int main(void) { return 0; }", &["-c"]);
    let program = std::fs::read(scratch.compile("program", PROGRAM, &[])).unwrap();
    let changed = |at: usize, value: u8| {
        let mut bytes = program.clone();
        bytes[at] = value;
        Elf::parse(&object, bytes).map(|_| ()).unwrap_err().to_string()
    };
    assert!(Elf::open(&object).unwrap_err().to_string().contains("not linked"));
    assert!(changed(4, 1).contains("32-bit"));
    assert!(changed(5, 2).contains("big-endian"));
    assert!(changed(18, 40).contains("machine"));
    assert!(matches!(Elf::open(&scratch.path("")), Err(ElfError::Read { .. })));
    assert!(matches!(Elf::open(&scratch.path("nothing")), Err(ElfError::Read { .. })));
    assert!(matches!(Elf::open("/dev/null".as_ref()), Err(ElfError::NotElf { .. })));
}

#[test]
fn names_are_demangled() {
    assert_eq!(demangle("_ZN3foo3barEi"), "foo::bar(int)");
    assert_eq!(demangle("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"), "core::fmt::Write::write_fmt");
    assert_eq!(demangle("malloc"), "malloc");
    assert_eq!(demangle("_Z"), "_Z");
}
