//! The `stepless` command, from outside.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use emu::{Features, Processor, Vendor};
use flate2::Compression;
use flate2::write::GzEncoder;
use scratch::{PROGRAM, Scratch, strip};
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
    refuses(&["list", "--usdt"], "FILE");
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
    // Nobody is ever going to write to it.
    let pipe = scratch.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refuses(&["list", text(&pipe)], "not an ELF file");
    refuses(&["list", "--debug-file", text(&pipe), text(&cut)], "not an ELF file");
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
    refuses(&["explain", "nowhere.c:3", "-p", &us], "nowhere.c");
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
    // Whatever has no shadow stack does it as one without, and what has one does it itself.
    let document = json(&["explain", "--bytes", "f30faee8", "--json"]);
    assert_eq!(document["supported"], true, "{document}");
    assert_eq!(document["touches"], serde_json::json!(["shadow_stack"]), "{document}");
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
    assert_eq!(
        keys(&document),
        ["codes", "data", "probeable", "processor", "refused", "sites", "undefined", "undefined_codes"]
    );
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
fn census_takes_what_lies_between_functions_for_data() {
    let scratch = Scratch::new();
    // Three bytes that are no instruction between functions, two in one.
    let source = "\
        __asm__(\".text\\n .byte 0xd5, 0xd5, 0xd5\");\n\
        int main(void) { __asm__(\"jmp 1f\\n .byte 0xd5, 0xd5, 0x90\\n 1:\"); return 0; }\n";
    let program = scratch.compile("program", source, &[]);
    // Of its functions a stripped program has unwind tables.
    strip(&program, &[]);
    let document = json(&["census", text(&program), "--json"]);
    let refused: u64 = document["refused"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!((document["data"].as_u64(), refused), (Some(3), 2), "{document}");
}

/// Functions of vpaddd zmm0 {k1},zmm0,zmm1, of vpaddd ymm0,ymm0,ymm1 and of ud2.
const VECTORS: &str = "\
    void wide(void) { __asm__(\".byte 0x62, 0xf1, 0x7d, 0x49, 0xfe, 0xc1\"); }\n\
    void half(void) { __asm__(\".byte 0xc5, 0xfd, 0xfe, 0xc1\"); }\n\
    void none(void) { __asm__(\"ud2\"); }\n\
    int main(void) { wide(); half(); none(); }\n";

#[test]
fn census_asks_what_a_processor_has() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", VECTORS, &["-fno-inline"]);
    let on = |processor: &str| json(&["census", text(&program), "--processor", processor, "--json"]);
    let zen_3 = Processor::zen_3().description();
    let described = scratch.write("zen-3", &zen_3);
    let old = scratch.write("old", Processor::with_no_feature(Vendor::Intel).description());
    // As `conformance record` begins its files.
    let header = format!("{zen_3}code: 0x1000\n");
    let recorded =
        [b"SLVEC\0\0\x02", &u16::try_from(header.len()).unwrap().to_le_bytes()[..], header.as_bytes()];
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&recorded.concat()).unwrap();
    let recorded = scratch.write("recorded.gz", encoder.finish().unwrap());

    let (all, zen_3, old) = (on("all"), on(text(&described)), on(text(&old)));
    let (wide, half) = ("EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32", "VEX_Vpaddd_ymm_ymm_ymmm256");
    let undefined =
        |document: &Value, code: &str| document["undefined_codes"][code].as_u64().unwrap_or_default();
    for (document, expected) in [(&all, [1, 0, 0]), (&zen_3, [1, 1, 0]), (&old, [1, 1, 1])] {
        let found = ["Ud2", wide, half].map(|code| undefined(document, code));
        assert_eq!(found, expected, "{document}");
        // Nothing can be done about them but raising #UD, which is done.
        assert_eq!(document["probeable"], all["probeable"], "{document}");
        let sum: u64 =
            document["undefined_codes"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(document["undefined"].as_u64(), Some(sum), "{document}");
    }
    assert_eq!(on(text(&recorded)), zen_3);
    assert_eq!(zen_3["processor"], "AMD 25 1 1");
    assert_eq!(on("host"), json(&["census", text(&program), "--json"]));
    assert_eq!(on("host")["processor"], Processor::host().to_string());
}

#[test]
fn a_processor_that_is_none_is_one_line_and_status_2() {
    let scratch = Scratch::new();
    let refused = |file: &Path, part: &str| refuses(&["census", "/bin/ls", "--processor", text(file)], part);
    refused(Path::new("hots"), "hots");
    refused(&scratch.path(""), "directory");
    let unknown = Processor::zen_3().description().replace("AVX2", "AVX3");
    refused(&scratch.write("unknown", unknown), "AVX3");
    refused(&scratch.write("words", "of two\nlines"), "vendor");
    refused(&scratch.write("bytes", [0xff; 4]), "recorded answers");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(b"SLVEC\0\0\x03").unwrap();
    refused(&scratch.write("newer.gz", encoder.finish().unwrap()), "version 3");
}

#[test]
fn list_says_what_raises_undefined_opcodes_here() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", VECTORS, &["-fno-inline"]);
    let undefined = |function: &str, code: &str| {
        let document = json(&["list", text(&program), function, "--instructions", "--json"]);
        let sites = document["objects"][0]["functions"][0]["instructions"].as_array().unwrap();
        let site = sites.iter().find(|site| site["code"] == code).unwrap_or_else(|| panic!("{document}"));
        assert_eq!(site["probeable"], true, "{site}");
        let output = stepless(&["list", text(&program), function, "--instructions"]);
        let lines = String::from_utf8(output.stdout).unwrap();
        let address = format!("{:x} ", site["address"].as_u64().unwrap());
        let line = lines.lines().skip(1).find(|line| line.trim_start().starts_with(&address)).unwrap();
        assert_eq!(site["undefined"] == true, line.contains("raises #UD"), "{line}");
        site["undefined"].as_bool().unwrap()
    };
    assert!(undefined("none", "Ud2"));
    assert!(!undefined("none", "Retnq"));
    let has = |feature: &str| Processor::host().features.has(Features::named(feature).unwrap());
    assert_eq!(undefined("wide", "EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32"), !has("AVX512F"));
    assert_eq!(undefined("half", "VEX_Vpaddd_ymm_ymm_ymmm256"), !has("AVX2"));
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

/// Both are made from the definition of the command, so that they name every subcommand and every argument.
#[test]
fn manual_pages_and_completions_name_every_argument() {
    let scratch = Scratch::new();
    let directory = scratch.path("man");
    let output = stepless(&["man", text(&directory)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let help = String::from_utf8(stepless(&["trace", "--help"]).stdout).unwrap();
    let page = std::fs::read_to_string(directory.join("stepless-trace.1")).unwrap();
    // roff has its hyphens escaped.
    let page = page.replace("\\-", "-");
    let flags: Vec<&str> =
        help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2).collect();
    assert!(flags.len() > 10, "{help}");
    for flag in flags {
        let flag = flag.trim_matches(|letter: char| !letter.is_alphanumeric() && letter != '-');
        assert!(page.contains(flag), "{flag}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(stepless(&["completions", shell]).stdout).unwrap();
        for word in ["trace", "stat", "list", "explain", "census", "follow"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    refuses(&["man", "/proc/none"], "/proc/none");
}
