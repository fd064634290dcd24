//! The command as scripts meet it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn conformance() -> Command {
    Command::new(env!("CARGO_BIN_EXE_conformance"))
}

fn run(arguments: &[&str]) -> Output {
    conformance().args(arguments).output().unwrap()
}

#[test]
fn wrong_usage_is_one_line_and_status_2() {
    for arguments in [
        &[][..],
        &["nothing"],
        &["diff", "--case", "1"],
        &["diff", "--seed", "x"],
        &["everywhere"],
        &["lockstep"],
    ] {
        let output = run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for form in [&["--json"][..], &[]] {
        let mut command = conformance();
        command.args(["diff", "--code", "Add_rm8_r8", "--cases", "1"]).args(form);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.as_str()), (Some(0), ""), "{form:?}");
    }
}

#[test]
fn refused_sites_are_counted_by_reason() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("refused");
    let mut compiler = Command::new("cc")
        .args(["-x", "c", "-o"])
        .arg(&program)
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .expect("a C compiler is needed: install gcc or clang as `cc`");
    // Two bytes that begin no instruction that is known, and are followed by different ones.
    let source =
        "void skipped(void) { __asm__(\"ret\\n .byte 0xd5, 0xd5, 0x90\"); }\nint main(void) { skipped(); }\n";
    compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
    let path = program.to_str().unwrap();
    let output = run(&["everywhere", "--object", path, "--symbol", "skipped", "--json", "--", path]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        document["refused"],
        serde_json::json!({ "APX, which the decoder does not know": 2 }),
        "{document}"
    );
    // What was probed was hit, and never executed natively.
    assert!(document["hits"].as_u64() > Some(0), "{document}");
    assert_eq!(document["emulated"], document["hits"], "{document}");
    // What each of them is goes to people.
    assert_eq!(text.lines().filter(|line| line.contains("d5")).count(), 2, "{text}");
}
