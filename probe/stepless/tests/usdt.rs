//! USDT probes: all forms of arguments, many places of one probe, and semaphores, which are as they were in the end.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use scratch::Scratch;
use serde_json::{Value, json};
use target::{STEPLESS, stepless_command};

const PATIENCE: Duration = Duration::from_secs(60);

fn program(scratch: &Scratch) -> PathBuf {
    scratch.compile("forms", include_str!("usdt.c"), &["-O1", "-fno-pie", "-no-pie"])
}

fn stepless(arguments: &[&str]) -> Output {
    Command::new(STEPLESS).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The events that a run of the program has, which ends with its own status.
fn events(program: &Path, probes: &[&str]) -> Vec<Value> {
    let mut command = Command::new(STEPLESS);
    command.args(["trace", "--json"]);
    probes.iter().for_each(|probe| {
        command.args(["-e", probe]);
    });
    let output = command.arg("--").arg(program).arg("once").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn every_form_of_argument_has_its_value() {
    let scratch = Scratch::new();
    for flags in [&["-O1", "-fno-pie", "-no-pie"][..], &["-O1", "-fPIE", "-pie"]] {
        let program = scratch.compile("forms", include_str!("usdt.c"), flags);
        let found = events(&program, &["usdt:forms:forms:forms"]);
        assert_eq!(found.len(), 1, "{found:?}");
        let missing = "(the file has no symbol `missing`)";
        let expected = json!({
            "arg1": 0x5566_7788, "arg2": 0x77, "arg3": 0x7788, "arg4": 65534, "arg5": -2, "arg6": 200,
            "arg7": -400, "arg8": 400u64.wrapping_neg(), "arg9": 300, "arg10": 100, "arg11": 200, "arg12": 300,
            "arg13": -1, "arg14": 5, "arg15": 2.5, "arg16": -0.75, "arg17": -0.75, "arg18": 2.5, "arg19": 77,
            "arg20": -2, "arg21": -1, "arg22": 2, "arg23": 1.0, "arg24": 0x41, "arg25": missing,
            "arg26": "(fault)",
        });
        assert_eq!(found[0]["args"], expected, "{flags:?}");
    }
}

#[test]
fn arguments_have_names_and_can_be_computed_with() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let probe =
        "usdt:forms:forms:forms sum=arg14+$arg22 half=arg15/2 cut=arg1:x8 if $arg14 == 5 && arg16 < 0";
    let found = events(&program, &[probe, "usdt:forms:forms:forms if arg14 == 6"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["args"], json!({ "sum": 7, "half": 1.25, "cut": 0x88 }));
    let refused =
        stepless(&["trace", "-e", "usdt:forms:forms:many x=arg3", "--", program.to_str().unwrap(), "once"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("there is no `arg3`"), "{stderr}");
}

#[test]
fn each_place_of_a_probe_has_its_own_arguments() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let found = events(&program, &["usdt:forms:forms:many"]);
    let arguments: Vec<&Value> = found.iter().map(|event| &event["args"]).collect();
    assert_eq!(arguments, [&json!({ "arg1": 7 }), &json!({ "arg1": 8 }), &json!({ "arg1": 9, "arg2": 1 })]);
    // The semaphore says that somebody wants to know.
    let found = events(&program, &["usdt:forms:forms:guarded", "usdt:forms:f?rms:oth*"]);
    let arguments: Vec<&Value> = found.iter().map(|event| &event["args"]).collect();
    assert_eq!(arguments, [&json!({ "arg1": 1 }), &json!({})]);
}

#[test]
fn probes_are_listed_with_what_is_wrong_with_them() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let output = stepless(&["list", "--usdt", "--json", program.to_str().unwrap()]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let probes = document["objects"][0]["probes"].as_array().unwrap();
    let names: Vec<&str> = probes.iter().map(|probe| probe["name"].as_str().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["forms", "guarded", "many", "many", "many", "other", "unwritable"]);
    for probe in probes {
        let (name, refused) = (probe["name"].as_str().unwrap(), probe["refused"].as_str());
        assert_eq!(probe["provider"], "forms");
        assert_eq!(refused.is_some_and(|why| why.contains("arg25")), name == "forms", "{probe}");
        assert_eq!(probe["semaphore"].is_u64(), !matches!(name, "forms" | "many"), "{probe}");
        let (address, offset) = (probe["address"].as_u64().unwrap(), probe["offset"].as_u64().unwrap());
        assert_eq!(address - offset, 0x40_0000, "{probe}");
    }
    let output = stepless(&["list", "--usdt", program.to_str().unwrap(), "forms:g*"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("forms:guarded  -4@%"), "{text}");
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let refuses = |probe: &str, part: &str| {
        let output = stepless(&["trace", "-e", probe, "--", program.to_str().unwrap(), "once"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{probe}: {stderr}");
        assert!(stderr.contains(part), "{probe}: {stderr}");
    };
    let path = program.display();
    refuses(&format!("usdt:{path}:forms:nothing"), "forms:forms");
    refuses(&format!("usdt:{path}:other:*"), "list --usdt");
    let plain = scratch.compile("plain", "int main(void) { return 0; }", &[]);
    refuses(&format!("usdt:{}:forms:*", plain.display()), "plain has no USDT probes");
    refuses("usdt:forms:forms:unwritable", "semaphore");
    // A file whose notes are cut.
    let mut bytes = std::fs::read(&program).unwrap();
    let name = b"stapsdt\0";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    bytes[at - 8..at - 4].copy_from_slice(&[0xff; 4]);
    let cut = scratch.write("cut", bytes);
    refuses(&format!("usdt:{}:forms:*", cut.display()), "USDT notes");
    let listed = stepless(&["list", "--usdt", cut.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&listed.stderr).contains("USDT notes"), "{listed:?}");
    assert_eq!(stepless(&["list", cut.to_str().unwrap(), "main"]).status.code(), Some(0));
}

/// The program, which tells its semaphores.
struct Told {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Told {
    fn new(program: &Path) -> Told {
        let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Told::of(child.unwrap())
    }

    fn of(mut child: Child) -> Told {
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut told = Told { child, input, output };
        assert_eq!(told.line(), "ready");
        told
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.input, "{what}").unwrap();
        self.line()
    }

    /// Asks until the answer is that.
    fn wait_for(&mut self, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.ask("");
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{found} rather than {expected}");
            std::thread::yield_now();
        }
    }

    fn finish(mut self) {
        drop(self.input);
        assert_eq!(self.child.wait().unwrap().code(), Some(9));
    }
}

fn attach(pid: u32, arguments: &[&str]) -> Child {
    let mut command = stepless_command();
    command.args(["stat", "--json"]).args(arguments).args(["-p", &pid.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Ends the command as a user does, and returns how often each probe was hit.
fn interrupt(tracer: Child) -> Vec<u64> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(tracer.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = tracer.wait_with_output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let probes = document["probes"].as_array().unwrap();
    probes.iter().map(|probe| probe["hits"].as_u64().unwrap()).collect()
}

const GUARDED: &str = "usdt:forms:forms:guarded";
const OTHER: &str = "usdt:forms:forms:other";

#[test]
fn a_semaphore_is_held_up_as_long_as_somebody_wants_to_know() {
    let scratch = Scratch::new();
    let mut target = Told::new(&program(&scratch));
    assert_eq!(target.ask("h"), "0 0");
    // Twice the same, and it counts one.
    let tracer = attach(target.child.id(), &["-e", GUARDED, "-e", GUARDED, "-e", OTHER]);
    target.wait_for("1 1");
    assert_eq!(target.ask("h"), "1 1");
    // Somebody else wants to know, too.
    assert_eq!(target.ask("+"), "6 1");
    assert_eq!(interrupt(tracer), [1, 1, 0]);
    assert_eq!(target.ask("h"), "5 0");
    // The command is killed, and its warden lets the semaphore down.
    let mut tracer = attach(target.child.id(), &["-e", GUARDED]);
    target.wait_for("6 0");
    tracer.kill().unwrap();
    tracer.wait().unwrap();
    target.wait_for("5 0");
    target.finish();
}

#[test]
fn semaphores_of_children_and_of_other_programs_are_balanced() {
    let scratch = Scratch::new();
    for follow in [false, true] {
        let mut target = Told::new(&program(&scratch));
        assert_eq!(target.ask("+"), "5 0");
        let options: &[&str] = if follow { &["--follow", "-e", GUARDED] } else { &["-e", GUARDED] };
        let tracer = attach(target.child.id(), options);
        target.wait_for("6 0");
        // A child that is not followed is as if nobody had been there.
        assert_eq!(target.ask("f"), if follow { "6 0" } else { "5 0" });
        assert_eq!(target.line(), "6 0");
        // Another program has another semaphore.
        assert_eq!(target.ask("x"), "ready");
        assert_eq!(target.ask("h"), "1 0");
        let hits = if follow { 2 } else { 1 };
        assert_eq!(interrupt(tracer), [hits]);
        assert_eq!(target.ask("h"), "0 0");
        target.finish();
    }
}

#[test]
fn a_session_holds_semaphores_up_as_well() {
    use probe::{Action, Session};
    let scratch = Scratch::new();
    let mut target = Told::new(&program(&scratch));
    let mut session = Session::attach(i32::try_from(target.child.id()).unwrap()).unwrap();
    let spec: probe::spec::ProbeSpec = GUARDED.parse().unwrap();
    let probe = session.probe(spec.clone(), |_| Action::Continue).unwrap();
    assert_eq!(target.ask(""), "1 0");
    session.remove(probe);
    assert_eq!(target.ask(""), "0 0");
    session.probe(spec, |_| Action::Remove).unwrap();
    assert_eq!(target.ask(""), "1 0");
    drop(session);
    assert_eq!(target.ask("h"), "0 0");
    target.finish();
}
