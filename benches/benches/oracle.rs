//! A case of the oracle, in a batch and single-stepped, against one round trip to a process's own SIGTRAP
//! handler, which a case in a batch may take three times as long as. All are measured in one run.

#![allow(unsafe_code, reason = "raises SIGTRAP by INT3 to know what a round trip costs")]

use std::io;
use std::time::Duration;

use conformance::oracle::{Case, Memory, Mode, Oracle, Place, places};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emu::Registers;

fn signal_round_trip(criterion: &mut Criterion) {
    extern "C" fn handler(_: libc::c_int) {}
    let mut group = criterion.benchmark_group("oracle");
    // SAFETY: the handler does nothing, so that it may interrupt anything.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut())
    };
    assert_eq!(installed, 0, "sigaction: {}", io::Error::last_os_error());
    group.throughput(Throughput::Elements(1));
    group.bench_function("SIGTRAP round trip", |bencher| {
        // SAFETY: INT3 does nothing but call the handler.
        bencher.iter(|| unsafe { std::arch::asm!("int3") });
    });
    group.finish();
}

fn cases(criterion: &mut Criterion) {
    let mut oracle = match Oracle::new() {
        Ok(oracle) => oracle,
        Err(error) => return println!("skipped: {error}"),
    };
    let mut group = criterion.benchmark_group("oracle");
    group.throughput(Throughput::Elements(places::SLOTS as u64));
    let mut memory: Box<Memory> = Box::new([0; places::IMAGE_LENGTH]);
    for (name, mode) in [("cases in a batch", Mode::Straight), ("cases, stepped", Mode::Step)] {
        let case = Case {
            bytes: [0x48, 0x01, 0xd8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // add rax, rbx
            length: 3,
            mode,
            repeats: false,
            place: Place::Low,
            registers: Registers::default(),
            patches: vec![],
        };
        let cases = vec![case; places::SLOTS];
        group.bench_function(name, |bencher| bencher.iter(|| oracle.run(&mut memory, &cases).map(drop)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = signal_round_trip, cases
}
criterion_main!(benches);
