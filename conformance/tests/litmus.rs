//! Litmus tests, briefly: that they hold, and that they can fail.

use std::process::{Command, Output};
use std::time::Duration;

use conformance::litmus::{self, Options};
use probe::Ways;

fn conformance(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conformance")).args(arguments).output().unwrap()
}

#[test]
fn nothing_forbidden_is_seen() {
    let output = conformance(&["litmus", "--seconds", "2", "--json"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = document["tests"].as_array().unwrap();
    let skipped = document["skipped"].as_array().unwrap();
    skipped.iter().for_each(|skipped| println!("skipped: {skipped}"));
    assert_eq!(tests.len() + skipped.len(), 68, "{document}");
    for test in tests {
        assert_eq!(test["forbidden"], 0, "{test}");
        assert!(test["rounds"].as_u64() > Some(0), "{test}");
        assert!(test["hits"].as_u64() >= test["rounds"].as_u64(), "{test}");
        assert_eq!(test["hits"], test["emulated"], "{test}");
    }
}

#[test]
fn without_a_way_to_make_an_access_in_one_step_changes_are_lost() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        println!("skipped: on one core nobody changes anything between the read and the write");
        return;
    }
    for prefix in ["lock_inc_8_shared", "lock_xadd_4_private"] {
        let options = Options {
            time: Duration::from_millis(500),
            ways: Ways::empty(),
            prefix: prefix.to_owned(),
            ..Options::default()
        };
        // On a machine that has others to serve, both sides may happen to share a core for a while.
        let fails = |_| !litmus::run(&options, |_| ()).unwrap().holds();
        assert!((0..40).any(fails), "{prefix}");
    }
}

#[test]
fn executors_that_are_not_there_are_refused() {
    for executor in ["hardware", "self"] {
        let output = conformance(&["litmus", "--executor", executor]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    }
}
