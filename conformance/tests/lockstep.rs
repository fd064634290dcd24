//! Lockstep, step by step and in strides: over a program that interrupts itself in every way, over threads, over
//! floating point in the C library, and over its string functions.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use conformance::lockstep::{Report, run};
use conformance::oracle::permits_tiles;
use iced_x86::EncodingKind;

/// Compiles `tests/targets/NAME.c` to a file that no other call uses.
fn compile(name: &str) -> PathBuf {
    compile_from("tests/targets", name)
}

/// The same of a directory, relative to the package's.
fn compile_from(directory: &str, name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).join(format!("{name}.c"));
    let program =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
    let status = Command::new("cc")
        .args(["-O1", "-w", "-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .arg("-lm")
        .status()
        .expect("a C compiler is needed: install gcc or clang as `cc`");
    assert!(status.success(), "cc {name}.c: {status}");
    program
}

fn agrees(report: &Report) {
    assert_eq!(report.divergences, 0, "{:?}", report.first_divergence);
    assert_eq!(report.status, Some(0), "{report:?}");
    let native: u64 = report.native_steps.values().sum();
    assert_eq!(report.steps, report.emulated + native, "{report:?}");
    assert!(report.native_steps.get("signal delivery").is_some_and(|&signals| signals >= 6), "{report:?}");
}

#[test]
fn a_program_that_interrupts_itself_in_strides() {
    let program = compile("strides");
    for stride in [16, 100, 10_000] {
        let report = run(Command::new(&program), None, stride).unwrap();
        agrees(&report);
        // What the program does besides waiting for its alarms comes to a fifth or a quarter.
        assert!(report.comparisons < report.emulated / 3, "{stride}: {report:?}");
    }
}

#[test]
fn a_program_that_interrupts_itself_step_by_step() {
    let report = run(Command::new(compile("strides")), None, 1).unwrap();
    agrees(&report);
    assert_eq!(report.comparisons, report.emulated);
}

#[test]
fn a_limit_ends_it() {
    let command = || Command::new(compile("strides"));
    assert!((500..600).contains(&run(command(), Some(500), 1).unwrap().steps));
    assert!(run(command(), Some(5_000), 1_000).unwrap().steps >= 5_000);
}

/// The parts of the program with threads.
const ALONE: u32 = 0;
const BESIDE: u32 = 3;
const INTERRUPT: u32 = 4;
const STOP: u32 = 5;

fn threads(rounds: u32, part: Option<u32>, stride: u64) -> Report {
    let mut command = Command::new(compile("threads"));
    command.arg(rounds.to_string()).args(part.map(|part| part.to_string()));
    let report = run(command, None, stride).unwrap();
    assert_eq!(report.divergences, 0, "{part:?}: {:?}", report.first_divergence);
    assert_eq!(report.status, Some(0), "{part:?}: {report:?}");
    let native: u64 = report.native_steps.values().sum();
    assert_eq!(report.steps, report.emulated + native, "{report:?}");
    report
}

/// One works while another waits for it, some at once, in turns.
#[test]
fn threads_in_strides() {
    for part in ALONE..BESIDE {
        let report = threads(10, Some(part), 2000);
        println!("{part}: {report:?}");
        // By itself is executed what only the processor can, and each time perhaps an instruction more.
        let native: u64 = report.native_steps.values().sum();
        let single = report.comparisons - report.strides;
        assert!(single <= native, "{part}: {report:?}");
        assert!(report.comparisons < report.emulated / 100, "{part}: {report:?}");
        assert_eq!(report.disturbed, 0, "{part}: {report:?}");
    }
}

/// What the kernel writes for one thread while another makes a stride is not taken for a mistake, and the stride
/// is made again.
#[test]
fn a_thread_that_is_written_for_beside_a_stride() {
    let report = threads(1, Some(BESIDE), 2000);
    assert!(report.disturbed > 0, "{report:?}");
    assert!(report.strides > 0, "{report:?}");
}

/// A signal for a thread that waits in a system call.
#[test]
fn a_thread_that_is_interrupted() {
    let report = threads(1, Some(INTERRUPT), 2000);
    assert!(report.native_steps.get("signal delivery").is_some_and(|&signals| signals >= 1), "{report:?}");
    assert!(report.strides > 0, "{report:?}");
}

/// A thread that is stopped in a system call begins it anew, in strides and step by step.
#[test]
fn a_thread_that_is_stopped() {
    for stride in [2000, 1] {
        threads(1, Some(STOP), stride);
    }
}

/// A shell waits for SIGCHLD, which the one who traces it blocks.
#[test]
fn a_shell_that_waits_for_its_child() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "true & wait"]);
    let report = run(command, None, 2000).unwrap();
    assert_eq!((report.divergences, report.status), (0, Some(0)), "{report:?}");
}

#[test]
fn threads_step_by_step() {
    let report = threads(1, Some(ALONE), 1);
    assert_eq!((report.comparisons, report.strides), (report.emulated, 0), "{report:?}");
}

/// Runs a program whose vector instructions are SSE's, as far as the C library chooses them.
fn floating_point(name: &str, count: u32) -> Report {
    let mut command = Command::new(compile(name));
    command.arg(count.to_string());
    command.env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX,-FMA,-FMA4");
    let report = run(command, None, 2000).unwrap();
    assert_eq!(report.divergences, 0, "{:?}", report.first_divergence);
    assert_eq!(report.status, Some(0), "{report:?}");
    report
}

#[test]
fn printf_and_strtod_of_long_doubles() {
    let report = floating_point("long_double", 10);
    assert!(report.emulated > 5_000_000, "{report:?}");
}

#[test]
fn the_functions_of_libm() {
    let report = floating_point("libm", 25);
    assert!(report.emulated > 500_000, "{report:?}");
}

/// The string functions over random buffers, with those instructions that glibc takes without what it is told not to
/// use.
fn strings(without: &str) -> Report {
    let mut command = Command::new(compile("strings"));
    command.arg("12");
    command.env("GLIBC_TUNABLES", format!("glibc.cpu.hwcaps={without}"));
    let report = run(command, None, 2000).unwrap();
    assert_eq!(report.divergences, 0, "{:?}", report.first_divergence);
    assert_eq!(report.status, Some(0), "a function's answer is wrong: {report:?}");
    assert!(report.emulated > 4_000_000, "{report:?}");
    report
}

const EVEX: &str = "-AVX512F,-AVX512VL,-AVX512BW";

#[test]
fn string_functions_of_sse() {
    strings(&format!("{EVEX},-AVX2,-AVX"));
}

#[test]
fn string_functions_of_avx2() {
    if !is_x86_feature_detected!("avx2") {
        println!("skipped: this processor has no AVX2");
        return;
    }
    let report = strings(EVEX);
    assert!(report.encodings.of(EncodingKind::VEX) > 10_000, "{report:?}");
}

#[test]
fn string_functions_of_avx512() {
    if !is_x86_feature_detected!("avx512vl") || !is_x86_feature_detected!("avx512bw") {
        println!("skipped: this processor has no AVX-512 for vectors of 256 bits and elements of 8");
        return;
    }
    let report = strings("");
    assert!(report.encodings.of(EncodingKind::EVEX) > 10_000, "{report:?}");
}

/// The products of matrices that a program computes whose every instruction is probed in another test.
#[test]
fn products_of_tiles() {
    if !permits_tiles() {
        println!("skipped: this processor has no tile registers (AMX), or the kernel permits none");
        return;
    }
    let program = compile_from("../probe/tests/targets", "tiles");
    // A step for each instruction takes its time.
    for (stride, rounds) in [(1, 1), (50, 4), (2000, 20)] {
        let mut command = Command::new(&program);
        command.arg(rounds.to_string());
        let report = run(command, None, stride).unwrap();
        assert_eq!(report.divergences, 0, "{stride}: {:?}", report.first_divergence);
        assert_eq!(report.status, Some(0), "{report:?}");
        println!("{stride}: {} steps, {} emulated, {:?}", report.steps, report.emulated, report.native_steps);
        // In each round five products and more than ten loads and stores, which are VEX's.
        assert!(report.encodings.of(EncodingKind::VEX) > rounds * 15, "{stride}: {report:?}");
    }
}

/// A step of a gather ends before the element that faults, when others are done.
#[test]
fn gathers_that_fault() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        println!("skipped: this processor has no AVX2");
        return;
    }
    let program = compile("gathers");
    for stride in [1, 1000] {
        let report = run(Command::new(&program), None, stride).unwrap();
        assert_eq!(report.divergences, 0, "{stride}: {:?}", report.first_divergence);
        assert_eq!(report.status, Some(0), "{report:?}");
        let delivered = report.native_steps.get("signal delivery");
        assert_eq!(delivered, Some(&2), "{report:?}");
    }
}

/// A breakpoint on memory stops a thread where a mask leaves that memory alone: such strides ended too early.
#[test]
fn masks_beside_what_is_accessed_first() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        println!("skipped: this processor has no AVX2");
        return;
    }
    let program = compile("masked");
    // At each length another instruction is the last one.
    for stride in 40..56 {
        let report = run(Command::new(&program), None, stride).unwrap();
        assert_eq!(report.divergences, 0, "{stride}: {:?}", report.first_divergence);
        assert_eq!(report.status, Some(0), "{report:?}");
        assert!(report.strides > 200, "{report:?}");
    }
}
