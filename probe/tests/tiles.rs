//! Probes on instructions of AMX: in a program that may use tile registers, and in one that has not asked for it.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Function, compile, counter, finish};
use probe::{Counters, Session};

/// What the system says of its processors that has enabled tile registers with integers and BF16.
const FLAGS: [&str; 3] = ["amx_tile", "amx_int8", "amx_bf16"];

const FUNCTIONS: [&str; 11] = [
    "configure",
    "configuration",
    "release",
    "zero",
    "load",
    "store",
    "integers",
    "numbers",
    "product",
    "save",
    "restore",
];

/// Whether the processor has what the program uses; says that it does not.
fn has_tiles() -> bool {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processors.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = FLAGS.iter().all(|wanted| flags.split_ascii_whitespace().any(|flag| flag == *wanted));
    if !has {
        println!("skipped: this processor has no tile registers with integers and BF16 (AMX)");
    }
    has
}

/// What the program prints with a probe on each instruction of those functions, and what was counted.
fn probed(program: &Path, argument: &str) -> (String, Counters) {
    let mut command = Command::new(program);
    // More than a pipe holds.
    let output = program.with_extension("output");
    command.arg(argument).stdout(std::fs::File::create(&output).unwrap());
    let mut session = Session::launch(command).unwrap();
    let probes = FUNCTIONS.map(|name| session.probe(Function::whole(program, name), counter().1).unwrap());
    assert_eq!(finish(&mut session), 0);
    let mut sum = Counters::default();
    for (id, name) in probes.into_iter().zip(FUNCTIONS) {
        let report = session.report(id).unwrap();
        assert!(report.refused.is_empty(), "{name}: {:?}", report.refused);
        let Counters { hits, emulated, faulted, native, .. } = report.counters;
        println!("{argument}: {name}: {hits} hits, {emulated} emulated, {faulted} faulted, {native} native");
        sum.hits += hits;
        sum.emulated += emulated;
        sum.faulted += faulted;
        sum.native += native;
    }
    drop(session);
    (std::fs::read_to_string(output).unwrap(), sum)
}

fn plain(program: &Path, argument: &str) -> Option<String> {
    let plain = Command::new(program).arg(argument).output().unwrap();
    if plain.status.code() == Some(77) {
        println!("skipped: the kernel permits no tile registers here");
        return None;
    }
    assert!(plain.status.success(), "{plain:?}");
    Some(String::from_utf8(plain.stdout).unwrap())
}

#[test]
fn a_program_multiplies_the_same_with_every_instruction_probed() {
    const ROUNDS: u64 = 200;
    if !has_tiles() {
        return;
    }
    let program = compile("tiles", &[]);
    let Some(plain) = plain(&program, &ROUNDS.to_string()) else { return };
    let (probed, counters) = probed(&program, &ROUNDS.to_string());
    assert_eq!(probed, plain);
    let Counters { hits, emulated, faulted, native, .. } = counters;
    assert_eq!(hits, emulated + faulted + native, "{counters:?}");
    // The first use of tiles is the thread's own, after which the kernel has room for them; the others are emulated.
    assert!(native >= 1 && emulated > 10 * native && emulated > 30 * ROUNDS, "{counters:?}");
    // A store at a page's edge, a load beyond it, sizes that do not fit, and a configuration that is none; what is the
    // first to use tiles after they were zeros faults natively.
    assert!(plain.matches("signal 11").count() >= 4 && plain.matches("signal 4").count() >= 2, "{plain}");
    assert!(faulted >= 4, "{counters:?}");
}

#[test]
fn a_program_without_permission_is_told_what_the_kernel_tells_it() {
    if !has_tiles() {
        return;
    }
    let program = compile("tiles", &[]);
    let Some(plain) = plain(&program, "refused") else { return };
    println!("{plain}");
    // Zeroing, a load, a store and a product; what only configures is nothing to be asked for.
    assert_eq!(plain.matches("signal 4").count(), 4, "{plain}");
    let (probed, counters) = probed(&program, "refused");
    assert_eq!(probed, plain);
    println!("{counters:?}");
    assert!(counters.faulted >= 4 && counters.native >= 2, "{counters:?}");
}
