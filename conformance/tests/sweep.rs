//! Every row of the emulator against the processor: the same cases each time, and fresh ones.

use conformance::diff::{Plan, diff};
use conformance::floating_point::Traits;
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
    // Half of what the generators draw and more, so that a change which loses one of these shows.
    let floating = &report.floating_point;
    for (unit, shares) in [("SSE", &floating.mxcsr), ("x87", &floating.x87)] {
        for (one, floor) in [
            (Traits::NAN, 5.0),
            (Traits::QUIET_NAN, 2.5),
            (Traits::SIGNALING_NAN, 2.5),
            (Traits::DENORMAL, 4.0),
            (Traits::INFINITY, 3.0),
            (Traits::OVERFLOW, 1.0),
            (Traits::UNDERFLOW, 0.6),
            (Traits::DIVISION_BY_ZERO, 0.2),
            (Traits::UNMASKED_RAISED, 2.0),
            (Traits::ROUNDING_NEAREST, 20.0),
            (Traits::ROUNDING_DOWN, 20.0),
            (Traits::ROUNDING_UP, 20.0),
            (Traits::ROUNDING_ZERO, 20.0),
        ] {
            let percent = 100.0 * shares.get(one);
            assert!(percent >= floor, "{unit}: {one:?} {percent:.2} % of {}", shares.cases);
        }
    }
    assert!(floating.mxcsr.get(Traits::DAZ) > 0.2 && floating.mxcsr.get(Traits::FTZ) > 0.2);
    assert!(floating.overflow_where_possible > 0.04, "{:.3}", floating.overflow_where_possible);
}

#[test]
fn every_floating_point_operand_is_every_kind_of_number() {
    for pattern in ["*ss_*", "*sd_*", "*ps_*", "*pd_*", "F*"] {
        let report = sweep(&Plan { pattern: pattern.to_string(), cases: Some(1024), ..Plan::default() });
        let mut compared = 0;
        for (code, tally) in &report.found {
            let all = tally.floating_point.all();
            let kinds = [Traits::QUIET_NAN, Traits::SIGNALING_NAN, Traits::DENORMAL, Traits::INFINITY];
            for kind in kinds.into_iter().filter(|_| all.cases > 0) {
                assert!(all.of(kind) > 0, "{code:?}: {kind:?} in none of {} cases", all.cases);
                compared += 1;
            }
        }
        assert!(compared > 40, "{pattern}: {compared}");
    }
}

#[test]
fn what_only_moves_numbers_or_takes_integers_is_no_floating_point_case() {
    for pattern in [
        "Movaps_xmm_xmmm128",
        "Shufps_xmm_xmmm128_imm8",
        "Paddd_xmm_xmmm128",
        "Cvtdq2ps_xmm_xmmm128",
        "Fild_m32int",
        "Fxsave_m512byte",
        "Add_r64_rm64",
    ] {
        let report = sweep(&Plan { pattern: pattern.to_string(), cases: Some(256), ..Plan::default() });
        assert_eq!((report.cases, report.floating_point.all.cases), (256, 0), "{pattern}");
    }
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
