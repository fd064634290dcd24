//! Every row of the emulator against the processor: the same cases each time, and fresh ones.

use conformance::diff::{Plan, diff};
use conformance::report::Report;

fn sweep(plan: &Plan) -> Report {
    let report = diff(plan).unwrap_or_else(|failure| panic!("seed {}: {failure}", plan.seed));
    println!(
        "seed {}: {} codes, {} cases, {} faulting, {} mismatches",
        report.seed, report.codes, report.cases, report.faulting_cases, report.mismatches
    );
    for mismatch in &report.first_mismatches {
        println!("{} {} ({})", mismatch.code, mismatch.instruction, mismatch.bytes);
        for line in mismatch.state.iter().chain(&mismatch.differences) {
            println!("    {line}");
        }
        println!("    {}", mismatch.reproduce);
    }
    assert_eq!(report.mismatches, 0, "seed {}: {:?}", report.seed, report.mismatches_by_code);
    report
}

#[test]
fn every_row_in_the_same_cases_each_time() {
    let report = sweep(&Plan { cases: Some(96), seed: 20_261_122, ..Plan::default() });
    assert!(report.codes > 500, "{} codes", report.codes);
    assert!(report.faulting_cases * 100 >= report.cases * 15, "{} faulting", report.faulting_cases);
}

#[test]
fn every_row_in_fresh_cases() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    sweep(&Plan { cases: Some(48), seed: u64::from(now.subsec_nanos()) ^ now.as_secs(), ..Plan::default() });
}

#[test]
fn a_name_that_no_encoding_has_is_an_error() {
    let plan = Plan { pattern: "Add_rm64_r63".to_string(), ..Plan::default() };
    assert!(diff(&plan).unwrap_err().to_string().contains("Add_rm64_r63"));
}

#[test]
fn a_case_is_the_same_alone_and_in_its_batch() {
    // The emulator's rip-relative loads see the batch's other instructions, too.
    let plan = Plan { pattern: "Mov_r64_rm64".to_string(), seed: 3, ..Plan::default() };
    for only in [0, 17, 255, 256 + 9] {
        let report = diff(&Plan { only: Some(only), ..plan.clone() }).unwrap();
        assert_eq!((report.cases, report.mismatches), (1, 0), "case {only}");
    }
}
