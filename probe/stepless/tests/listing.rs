//! What `stepless list` prints, `-e` accepts.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use probe::elf::Elf;
use probe::locate::Locate;
use probe::maps::{Mapping, Maps, Permissions};
use probe::resolve::{Objects, Resolver};
use probe::spec::ProbeSpec;
use scratch::Scratch;
use serde_json::Value;

fn stepless(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stepless")).args(arguments).output().unwrap()
}

fn listed(arguments: &[&str]) -> Vec<Value> {
    let output = stepless(&[&["list", "--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let mut document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["objects"].as_array_mut().unwrap().iter_mut().map(Value::take).collect()
}

/// What a process would have mapped that has the whole code of the file at its own addresses.
fn as_mapped(path: &Path) -> Maps {
    use std::os::unix::fs::MetadataExt;
    let elf = Elf::open(path).unwrap();
    let metadata = std::fs::metadata(path).unwrap();
    let (major, minor) = (nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev()));
    let mapping = |segment: &probe::elf::Segment| Mapping {
        start: segment.address,
        end: segment.address + segment.file_size,
        perms: Permissions::READ | Permissions::EXECUTE,
        offset: segment.offset,
        dev: (u32::try_from(major).unwrap(), u32::try_from(minor).unwrap()),
        inode: metadata.ino(),
        path: Some(path.to_owned()),
    };
    let executable = elf.segments().iter().filter(|segment| segment.executable);
    Maps::new(std::process::id().cast_signed(), executable.map(mapping).collect())
}

/// Whether the text leads to that address alone.
fn leads_to(text: &str, address: u64, maps: &Maps, objects: &Arc<Objects>) {
    let spec: ProbeSpec = text.parse().unwrap_or_else(|error| panic!("{error}"));
    let sites = Resolver::new(spec, Arc::clone(objects)).locate(maps);
    let sites = sites.unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(sites.iter().map(|site| site.address).eq([address]), "{text}: {sites:x?}, not {address:#x}");
}

/// Each name that is listed of a file, and of the instructions of some of its functions, leads to what it was listed with.
/// Returns how many there were.
fn every_name_is_accepted(path: &Path, some: &str) -> usize {
    let path = path.canonicalize().unwrap();
    let (maps, objects, object) = (as_mapped(&path), Arc::default(), path.to_str().unwrap());
    let name = |listed: &Value| format!("{object}:{}", listed["probe"].as_str().unwrap());
    let mut count = 0;
    for listed in listed(&[object]).iter().flat_map(|object| object["functions"].as_array().unwrap()) {
        // Those lead to what they choose, which only a process can tell.
        if listed["indirect"] == false {
            leads_to(&name(listed), listed["address"].as_u64().unwrap(), &maps, &objects);
            count += 1;
        }
    }
    let with_sites = self::listed(&[object, some, "--instructions"]);
    let functions = with_sites.iter().flat_map(|object| object["functions"].as_array().unwrap());
    for site in functions.flat_map(|function| function["instructions"].as_array().unwrap()) {
        leads_to(&name(site), site["address"].as_u64().unwrap(), &maps, &objects);
        count += 1;
    }
    for probe in
        self::listed(&[object, "--usdt"]).iter().flat_map(|object| object["probes"].as_array().unwrap())
    {
        let text = format!("usdt:{object}:{}", probe["probe"].as_str().unwrap());
        let spec: ProbeSpec = text.parse().unwrap();
        let sites = Resolver::new(spec, Arc::clone(&objects)).locate(&maps).unwrap();
        assert!(sites.iter().any(|site| Some(site.address) == probe["address"].as_u64()), "{text}");
        count += 1;
    }
    count
}

/// A shared object of the system.
fn library(name: &str) -> Option<PathBuf> {
    let directories =
        ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"];
    directories.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists())
}

#[test]
fn every_name_of_system_files_is_accepted() {
    let python = std::fs::canonicalize("/usr/bin/python3").ok();
    let files = [
        ("libc.so.6", library("libc.so.6"), "mem*", 2000),
        ("libstdc++.so.6", library("libstdc++.so.6"), "*terminate*", 4000),
        ("python3", python, "PyObject_Call*", 500),
    ];
    for (name, path, some, least) in files {
        let Some(path) = path else {
            println!("skipped: there is no {name}");
            continue;
        };
        let count = every_name_is_accepted(&path, some);
        assert!(count > least, "{name}: {count}");
        println!("{name}: {count}");
    }
}

#[test]
fn every_name_of_a_program_in_rust_is_accepted() {
    let count = every_name_is_accepted(Path::new(env!("CARGO_BIN_EXE_stepless")), "*stepless*main*");
    assert!(count > 1000, "{count}");
}

/// What other languages' compilers, or nobody, would call a function.
const ODD: [&str; 16] = [
    "a+0x10",
    "a*",
    "ab",
    "x:y",
    "0x10",
    "x:12",
    "x/*",
    "x.y$z",
    "it's",
    "x%return",
    "x if y",
    "x y=z",
    "main.(*T).Add",
    "f(int)",
    "[x]",
    "?",
];

#[test]
fn every_name_of_any_letters_is_accepted_and_lines_are_shown() {
    let scratch = Scratch::new();
    let functions = ODD.map(|name| {
        format!(".globl \"{name}\"\n.type \"{name}\", @function\n.size \"{name}\", 1\n\"{name}\": ret\n")
    });
    let odd = scratch.write("odd.s", format!(".text\n{}", functions.concat()));
    let source = scratch.write("main.c", "int counter;\nint main(void) {\n    return counter;\n}\n");
    let program = scratch.path("odd");
    let flags = ["-g", "-O1", "-Wa,--noexecstack", "-o"];
    let made = Command::new("cc").args(flags).arg(&program).args([&source, &odd]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(every_name_is_accepted(&program, "*") > 20);
    let path = program.to_str().unwrap();
    let objects = listed(&[path, "main"]);
    let main = &objects[0]["functions"][0];
    assert_eq!((&main["line"], main["file"].as_str()), (&Value::from(2), source.to_str()));
    let text = String::from_utf8(stepless(&["list", path, "main"]).stdout).unwrap();
    assert!(text.trim_end().ends_with(" main  main.c:2"), "{text}");
    // Without its debug information it has none, unless that is shown to it.
    let (stripped, debug) = (scratch.path("stripped"), scratch.path("elsewhere.debug"));
    for arguments in [
        ["--only-keep-debug", path, debug.to_str().unwrap()],
        ["--strip-all", path, stripped.to_str().unwrap()],
    ] {
        assert!(Command::new("objcopy").args(arguments).status().unwrap().success());
    }
    let stripped = stripped.to_str().unwrap();
    assert!(stepless(&["list", stripped, "main"]).stdout.is_empty());
    let shown = stepless(&["list", stripped, "main", "--debug-file", debug.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("main.c:2"), "{shown:?}");
}

#[test]
fn what_processes_have_mapped_is_listed_by_their_name() {
    let scratch = Scratch::new();
    let program = scratch.path("a-waiting-cat");
    std::fs::copy("/bin/cat", &program).unwrap();
    let start = || Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut cats = [start(), start()];
    // Each has started when it has copied something.
    for cat in &mut cats {
        use std::io::{Read, Write};
        cat.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }
    let objects = listed(&["-p", "a-waiting-cat", "malloc"]);
    let with_malloc = |object: &&Value| object["functions"].as_array().is_some_and(|all| !all.is_empty());
    let files: Vec<&str> =
        objects.iter().filter(with_malloc).map(|object| object["path"].as_str().unwrap()).collect();
    assert!(files.iter().any(|file| file.contains("libc.so.6")), "{files:?}");
    let mut once = files.clone();
    once.dedup();
    assert_eq!(files, once);
    let output = stepless(&["list", "-p", "a-waiting-cut"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a-waiting-cat"), "{output:?}");
    for mut cat in cats {
        drop(cat.stdin.take());
        cat.wait().unwrap();
    }
}

#[test]
fn names_in_files_move_no_cursor_and_end_no_line() {
    let scratch = Scratch::new();
    let source = "int plain(void) { return 1; } int main(void) { return plain() - 1; }";
    let program = scratch.compile("program", source, &["-fno-inline"]);
    scratch::run(Command::new("objcopy").arg("--redefine-sym").arg("plain=pl\u{1b}[31m\nain").arg(&program));
    let (path, probe) = (program.to_str().unwrap(), format!("{}:pl*", program.display()));
    let each = format!("{probe}%return");
    let commands: [&[&str]; 7] = [
        &["list", path],
        &["trace", "--stack", "-e", &probe, "--", path],
        &["trace", "--format", "tree", "-e", &each, "--", path],
        &["stat", "--stack", "--histogram", "duration", "-e", &each, "--", path],
        &["step", "-e", &probe, "--", path],
        &["inject", "-e", &probe, "--return", "1", "--", path],
        &["cover", "--level", "block", "--", path],
    ];
    for arguments in commands {
        let output = stepless(arguments);
        let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(shown.contains("pl?[31m?ain"), "{arguments:?}: {shown}");
        assert!(!shown.contains('\u{1b}') && !shown.contains("\nain"), "{arguments:?}: {shown:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {shown}");
    }
    // Who reads JSON has the name itself.
    let functions = listed(&[path, "pl*"])[0]["functions"].take();
    assert_eq!(functions[0]["name"], "pl\u{1b}[31m\nain");
}

#[test]
fn a_file_is_called_anything() {
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let program = scratch.compile("program", scratch::PROGRAM, &[]);
    let odd = program.with_file_name(std::ffi::OsStr::from_bytes(b"\xff \xfe"));
    std::fs::rename(&program, &odd).unwrap();
    let list = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_stepless")).arg("list").arg(&odd).args(more).output().unwrap()
    };
    assert!(String::from_utf8(list(&[]).stdout).unwrap().contains(" main"));
    let document: Value = serde_json::from_slice(&list(&["--json"]).stdout).unwrap();
    assert!(document["objects"][0]["path"].as_str().unwrap().ends_with("/\u{fffd} \u{fffd}"), "{document}");
    assert_eq!(list(&["-p", "1"]).status.code(), Some(2));
}
