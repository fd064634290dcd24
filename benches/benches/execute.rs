//! Decoding and executing single instructions, against iced-x86's own stream decoding of the same one.
//!
//! Each instruction has three rows: `iced` (the yardstick: decoding it in a stream of itself), `decode`
//! ([`Displaced::decode`], which happens once, when a probe is placed) and `execute`. Floating-point ones have
//! two more, with operands whose result is inexact and MXCSR written before every instruction: `precision_set`
//! has PE set already, in `precision_raised` the instruction raises it.

use std::hint::black_box;

use benches::INSTRUCTIONS;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emu::{Displaced, FlatMemory, Mxcsr, Registers};
use iced_x86::{Decoder, DecoderOptions, Instruction};

/// How often the instruction stands in the stream that the yardstick decodes.
const STREAM: usize = 1000;

/// Where the instruction and the page of memory that it accesses lie.
const ADDRESS: u64 = 0x10_0000;

fn execute(criterion: &mut Criterion) {
    for case in INSTRUCTIONS {
        let mut group = criterion.benchmark_group(case.name);
        group.throughput(Throughput::Elements(STREAM as u64));
        let stream = case.bytes.repeat(STREAM);
        group.bench_function("iced", |bencher| {
            let mut instruction = Instruction::default();
            bencher.iter(|| {
                let mut decoder = Decoder::with_ip(64, black_box(&stream), 0x1000, DecoderOptions::NONE);
                while decoder.can_decode() {
                    decoder.decode_out(&mut instruction);
                    black_box(&instruction);
                }
            });
        });
        let Ok(displaced) = Displaced::decode(case.bytes, ADDRESS) else {
            println!("{}: skipped, not emulated", case.name);
            continue;
        };
        group.bench_function("decode", |bencher| {
            bencher.iter(|| {
                for _ in 0..STREAM {
                    let _ = black_box(Displaced::decode(black_box(case.bytes), ADDRESS));
                }
            });
        });
        let mut registers = Registers { gpr: [ADDRESS + 512; 16], ..Registers::default() };
        // Every other lane.
        registers.extended.opmask[1] = 0x5555_5555_5555_5555;
        let mut memory = FlatMemory::new(ADDRESS, 4096);
        group.bench_function("execute", |bencher| {
            bencher.iter(|| {
                for _ in 0..STREAM {
                    let displaced = black_box(&displaced);
                    registers.gpr[4] = ADDRESS + 512;
                    black_box(displaced.execute(&mut registers, &mut memory).is_ok());
                }
            });
        });
        if case.name.starts_with("packed_float/") {
            for (name, flags) in [("precision_set", Mxcsr::PE), ("precision_raised", Mxcsr::empty())] {
                let mut registers = inexact(case.name);
                group.bench_function(name, |bencher| {
                    bencher.iter(|| {
                        for _ in 0..STREAM {
                            registers.extended.mxcsr = black_box(Mxcsr::default() | flags);
                            black_box(black_box(&displaced).execute(&mut registers, &mut memory).is_ok());
                        }
                    });
                });
            }
        }
        group.finish();
    }
}

/// Registers with numbers in XMM0 and XMM1 whose sum, product and quotient are not exact, in the precision that
/// the name says: XMM1 is near 1.0, so that hundreds of millions of repetitions keep XMM0 within range.
fn inexact(name: &str) -> Registers {
    let mut registers = Registers { gpr: [ADDRESS + 513; 16], ..Registers::default() };
    let single = ["ps_", "ss_"].iter().any(|suffix| name.contains(suffix));
    let quad = |number: f64| {
        let bits = (number as f32).to_bits();
        if single { u64::from(bits) << 32 | u64::from(bits) } else { number.to_bits() }
    };
    for (vector, number) in registers.extended.vector.iter_mut().zip([7.0, 1.0000001]) {
        vector.0 = [quad(number); 8];
    }
    registers
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
}

criterion_group! { name = benches; config = settings(); targets = execute }
criterion_main!(benches);
