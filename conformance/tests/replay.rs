//! Recorded answers: those that the repository carries, and fresh ones of this processor.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use conformance::diff::Failure;
use conformance::vectors::record::{self, record};
use conformance::vectors::replay::{FileReport, Plan, replay};
use conformance::vectors::{files, format, save};
use serde_json::Value;

fn carried(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/emerald-rapids").join(name)
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conformance")).args(arguments).output().unwrap()
}

/// Replays and expects nothing to be wrong.
fn replay_all(files: &[PathBuf]) -> Vec<FileReport> {
    let reports = replay(files, &Plan::default()).unwrap_or_else(|(path, error)| panic!("{path:?}: {error}"));
    for report in &reports {
        assert_eq!(report.wrong, 0, "{:#?}\n{:#?}", report.first_wrong, report.wrong_by_code);
        assert_eq!(report.exact + report.skipped.values().sum::<u64>(), report.cases, "{}", report.file);
    }
    reports
}

#[test]
fn the_emulator_does_what_the_recorded_processor_did() {
    let reports = replay_all(&files(&carried("")).unwrap());
    let total = |of: fn(&FileReport) -> u64| reports.iter().map(of).sum::<u64>();
    assert!(total(|report| report.cases) > 251_792 + 218_193 + 5_000);
    const BY_ANOTHER: &[&str] = &[
        "computed by the host, which is another processor",
        "an approximation that only processors that have it compute, and the host does not",
    ];
    for report in &reports {
        let skipped = |reasons: &[&str]| -> u64 {
            reasons.iter().filter_map(|reason| report.skipped.get(*reason)).sum()
        };
        let (least, known) = match report.file.rsplit('/').next() {
            // Byte strings of which many are no instruction of today.
            Some("invalid.txt.gz") => (
                188_900,
                skipped(&[
                    "not an instruction",
                    "APX, which the decoder does not know",
                    "AMX beyond what the decoder knows",
                    "undefined in AVX-512, and maybe of AVX10.2, which the decoder does not know",
                    "of Xeon Phi only",
                ]),
            ),
            // What other sets lack, some of which only a thread can do.
            Some("others.gz") => (
                6_900,
                skipped(&[
                    "not an instruction",
                    "left to the thread itself",
                    "the answer of one machine",
                    "would enter an enclave, which only the thread itself can",
                ]),
            ),
            _ => (0, 0),
        };
        let compared = report.exact + skipped(BY_ANOTHER);
        assert!(compared >= least, "{}: {compared}", report.file);
        // What is not compared is known by name.
        assert_eq!(report.exact + known + skipped(BY_ANOTHER), report.cases, "{report:#?}");
    }
}

/// What Zen 5 does unlike Emerald Rapids, which no other processor gets right by what it is itself.
#[test]
fn the_emulator_does_what_zen_5_does_unlike_others() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/zen-5");
    let reports = replay_all(&files(&directory).unwrap());
    let exact: u64 = reports.iter().map(|report| report.exact).sum();
    assert!(exact > 1500, "{exact}");
    for report in &reports {
        assert_eq!(report.processor, "AuthenticAMD family 26 model 2 stepping 1");
    }
}

/// MOVSXD of 16 bits is what the vendors differ in since it exists.
#[test]
fn a_recording_can_leave_out_what_another_processor_does_too() {
    let recorded = |name: &str, unlike: Option<&Path>| -> (PathBuf, u64) {
        let path = scratch(name);
        let mut arguments = vec!["record", "-o", path.to_str().unwrap(), "--code", "Movsxd_r16_rm16"];
        arguments.extend(["--cases", "4", "--seed", "1", "--json"]);
        if let Some(unlike) = unlike {
            arguments.extend(["--unlike", unlike.to_str().unwrap()]);
        }
        let output = run(&arguments);
        assert!(output.status.success(), "{output:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        (path, document["cases"].as_u64().unwrap())
    };
    let (own, cases) = recorded("own.gz", None);
    assert_eq!(cases, 4);
    assert_eq!(recorded("unlike-own.gz", Some(&own)).1, 0, "it does what it does");
    let other = match emu::Processor::host().vendor {
        emu::Vendor::Amd => carried("others.gz"),
        emu::Vendor::Intel => Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/zen-5/legacy.gz"),
    };
    let (path, cases) = recorded("unlike-other.gz", Some(&other));
    assert_eq!(cases, 4);
    assert_eq!(replay_all(&[path])[0].exact, 4);
}

#[test]
fn what_this_processor_does_is_recorded_and_replayed() {
    let path = scratch("recorded.gz");
    for (pattern, codes) in [
        ("Add_*", 19),
        ("F*m32*", 10),
        ("P*_xmm_xmmm128", 60),
        ("Push*", 8),
        ("Call_r*64", 2),
        ("Movs?_m*", 4),
    ] {
        let plan = record::Plan { pattern: pattern.to_string(), cases: 24, seed: 7, ..Default::default() };
        let recording = match record(&plan) {
            Ok(recording) => recording,
            Err(Failure::Oracle(error, _)) => {
                println!("skipped: nothing can be recorded here: {error}");
                return;
            }
            Err(failure) => panic!("{failure}"),
        };
        save(&path, &format::write(&recording.header, &recording.forms).unwrap()).unwrap();
        let reports = replay_all(std::slice::from_ref(&path));
        assert_eq!(reports[0].processor, recording.processor);
        let cases: usize = recording.forms.iter().map(|(_, cases)| cases.len()).sum();
        assert_eq!(reports[0].cases, cases as u64, "{pattern}");
        assert!(cases >= 20 * codes, "{pattern}: {cases}");
        // Far calls through selectors that the emulator does not know are drawn often.
        let left = reports[0].skipped.get("left to the thread itself").map_or(0, |count| *count);
        let compared = cases as u64 - left;
        assert!(
            reports[0].exact >= compared * 9 / 10 && 4 * left <= cases as u64,
            "{pattern}: {:?}",
            reports[0].skipped
        );
    }
}

#[test]
fn the_commands_say_what_came_of_it() {
    let file = scratch("commands.gz");
    let file = file.to_str().unwrap();
    let output = run(&["record", "-o", file, "--code", "Add_r32_*", "--cases", "8", "--seed", "1", "--json"]);
    if output.status.code() == Some(2) {
        println!("skipped: nothing can be recorded here: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let recorded: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&recorded["codes"], &recorded["cases"]), (&1.into(), &8.into()), "{recorded}");
    let output = run(&["replay", file, "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let replayed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let report = &replayed["files"][0];
    assert_eq!(report["processor"], recorded["processor"]);
    for (key, value) in [("cases", 8), ("exact", 8), ("wrong", 0)] {
        assert_eq!(report[key], Value::from(value), "{report}");
    }
    assert_eq!(report["file"], Value::from(file));
    assert!(report["skipped"].is_object() && report["first_wrong"].is_array(), "{report}");
    let output = run(&["replay", file, "--code", "Sub_*"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("0 cases, 0 exact, 0 wrong"), "{text}");
}

#[test]
fn a_wrong_answer_is_status_1() {
    // MOV EAX, 7 that changes nothing.
    let case = b"\x05\xb8\x07\0\0\0\x05\0\0\0\x02\0\0\0\0\0";
    let mut bytes = b"SLVEC\0\0\x01\x0bMov_r32_immr\x01\0".to_vec();
    bytes.extend(case);
    let file = scratch("wrong.gz");
    save(&file, &bytes).unwrap();
    let output = run(&["replay", file.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wrong = &document["files"][0]["first_wrong"][0];
    assert_eq!((&wrong["code"], &wrong["bytes"]), (&"Mov_r32_imm".into(), &"b807000000".into()), "{wrong}");
}

#[test]
fn a_file_that_is_not_as_it_should_be_is_one_line_and_status_2() {
    let good = std::fs::read(carried("vex-pclmulqdq+avx.gz")).unwrap();
    let path = scratch("tampered.gz");
    let refused = |bytes: &[u8], why: &str| {
        std::fs::write(&path, bytes).unwrap();
        let output = run(&["replay", path.to_str().unwrap()]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{why}: {text}");
        assert!(output.stdout.is_empty(), "{why}");
    };
    refused(b"", "empty");
    refused(b"SLVEC\0\0\x01", "not compressed");
    refused(&good[..good.len() / 2], "half of it");
    for place in [0, 2, good.len() / 2, good.len() - 5] {
        let mut tampered = good.clone();
        tampered[place] ^= 0x10;
        refused(&tampered, &format!("byte {place}"));
    }
    let mut followed = good.clone();
    followed.extend(b"and more");
    refused(&followed, "followed by something else");
    // 256 MB in 256 kB: forms without cases, lines without an end.
    for start in [&b"SLVEC\0\0\x01"[..], b"# "] {
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        bomb.write_all(start).unwrap();
        for _ in 0..256 {
            bomb.write_all(&[0; 1 << 20]).unwrap();
        }
        refused(&bomb.finish().unwrap(), "a bomb");
    }
    for missing in
        [path.with_file_name("there is no such file").to_str().unwrap(), env!("CARGO_MANIFEST_DIR")]
    {
        let output = run(&["replay", missing]);
        assert_eq!(output.status.code(), Some(2), "{missing}");
    }
}
