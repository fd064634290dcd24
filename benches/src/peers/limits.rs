//! What the ratios should be.

use crate::report::{Ratio, Report};
use crate::rows::{ALONE, BARE, FLOOR, STEPPED, WITH_ANOTHER};

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}
use Limit::{AtLeast, AtMost};

/// One row, another, and what the first divided by the second should be.
const LIMITS: &[(&str, &str, Limit)] = &[
    ("stepless, nop", FLOOR, AtMost(1.15)),
    ("stepless, mov rax, rcx", FLOOR, AtMost(1.30)),
    ("stepless, mov rax, [rdi]", FLOOR, AtMost(1.45)),
    ("stepless, mov [rdi], rax", FLOOR, AtMost(1.40)),
    ("stepless, paddd xmm0, xmm1", FLOOR, AtMost(1.5)),
    ("stepless, endbr64", "kernel uprobe, endbr64", AtMost(1.0)),
    ("restore, single-step, re-insert", "stepless, mov rax, rcx", AtLeast(3.0)),
    ("gdb, a breakpoint that continues", "stepless, endbr64", AtLeast(20.0)),
    ("stepless by itself, a trap, nop", BARE, AtMost(1.15)),
    ("kernel uprobe, stepped mov", "stepless by itself, a trap, mov rax, rcx", AtLeast(2.0)),
    (
        "stepless by itself, a jump, nop dword ptr [rax + rax + 0x8]",
        "stepless by itself, a trap, nop",
        AtMost(0.1),
    ),
    ("stepless by itself, a jump, nop dword ptr [rax + rax + 0x8]", "frida, native, endbr64", AtMost(1.0)),
    ("stepless by itself, a jump, nop dword ptr [rax + rax + 0x8]", "kernel uprobe, nop5", AtMost(1.0)),
    ("stepless by itself, a jump, endbr64", "frida, native, endbr64", AtMost(1.0)),
    (STEPPED, ALONE, AtLeast(200.0)),
    (STEPPED, WITH_ANOTHER, AtLeast(15.0)),
    ("emu, decoded once", "unicorn, step, registers written and read", AtMost(0.05)),
];

fn ratio(name: String, ratio: f64, limit: Limit) -> Ratio {
    let (at_most, at_least) = match limit {
        AtMost(most) => (Some(most), None),
        AtLeast(least) => (None, Some(least)),
    };
    let holds = at_most.is_none_or(|most| ratio <= most) && at_least.is_none_or(|least| ratio >= least);
    Ratio { name, ratio, at_most, at_least, holds }
}

/// Those that can be told from what was measured.
pub(crate) fn ratios(report: &Report) -> Vec<Ratio> {
    let mut found = Vec::new();
    for &(one, other, limit) in LIMITS {
        if let Some((one_median, other_median)) = report.median(one).zip(report.median(other)) {
            found.push(ratio(format!("{one} / {other}"), one_median / other_median, limit));
        }
    }
    // With AMX the state that the kernel copies is 11 kilobytes.
    let wide = if is_amx() { 2.1 } else { 1.7 };
    // The first changes no upper half of a register, the second does.
    for vector in ["stepless, vpaddd ymm0, ymm0, ymm1", "stepless, vinsertf128 ymm0, ymm0, xmm0, 1"] {
        if let Some((one, floor)) = report.median(vector).zip(report.median(FLOOR)) {
            found.push(ratio(format!("{vector} / {FLOOR}"), one / floor, AtMost(wide)));
        }
    }
    for (name, least) in [(ALONE, 10.0), (WITH_ANOTHER, 2.0)] {
        let row = report.instructions.iter().find(|row| row.name == name);
        found.extend(
            row.map(|row| ratio(format!("{name}, million a second"), row.per_second / 1e6, AtLeast(least))),
        );
    }
    let two = report.threads.iter().find(|row| row.threads == 2 && row.name.starts_with("stepless"));
    found.extend(
        two.map(|row| {
            ratio("2 threads' hits per second / 1 thread's".into(), row.ratio_to_one, AtLeast(1.7))
        }),
    );
    for row in report.placing.iter().filter(|row| row.name == "stepless" && row.probes == 100_000) {
        found.push(ratio("seconds to place 100,000 probes".into(), row.placed_seconds, AtMost(2.0)));
        found.push(ratio("seconds to remove 100,000 probes".into(), row.removed_seconds, AtMost(2.0)));
        found.extend(
            row.bytes_each
                .map(|bytes| ratio("bytes for each of 100,000 probes".into(), bytes, AtMost(200.0))),
        );
    }
    found
}

fn is_amx() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" amx_tile"))
}
