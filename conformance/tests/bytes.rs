//! The recorded disagreements between processor and decoder, and a short search for others.

use std::time::Duration;

use conformance::bytes::{Choice, Plan, explanation, known, search};
use conformance::compare::compare;
use conformance::generate::{Encoded, Generator};
use conformance::memory::Model;
use conformance::oracle::{Mode, Oracle, Place, Stop, mxcsr_mask, places};
use conformance::{oracle::Case, rng::Rng};
use emu::Processor;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn what_the_decoder_does_not_know_is_refused() {
    let mut rows = 0;
    for row in known() {
        rows += 1;
        let example = bytes(row.example);
        for processor in [Processor::zen_3(), Processor::zen_5(), Processor::emerald_rapids()] {
            let expected = row.holds_on(&processor).then_some(row);
            assert_eq!(explanation(&example, &processor), expected, "{processor:?}");
        }
        assert!(matches!(row.vendor, "AMD" | "AMD before Zen 5" | "Intel" | "both"), "{}", row.vendor);
        assert!(conformance::features::decode(&example, 0x1000).is_err(), "{}", row.example);
        assert!(!row.explanation.is_empty());
    }
    let lines = include_str!("../data/disagreements.csv").lines().count();
    assert_eq!(rows + 1, lines, "a line of the table has not five fields");
}

/// Where a row holds the processor runs its example, of this length; elsewhere it has no such instruction.
#[test]
fn the_processor_does_run_it() {
    let mut oracle = Oracle::new().unwrap();
    let mut generator = Generator::new(oracle.layout(), mxcsr_mask());
    let mut memory = Box::new([0; places::IMAGE_LENGTH]);
    for row in known() {
        let mut padded = [0; 15];
        let example = bytes(row.example);
        padded[..example.len()].copy_from_slice(&example);
        let plain = generator.plain(padded, &mut Rng::new(1));
        let cut = |length| Case { length, place: Place::Edge, mode: Mode::Straight, ..plain.clone() };
        let seen = oracle.run(&mut memory, &[cut(row.length - 1), cut(row.length)]).unwrap();
        let undefined = matches!(seen[1].stop, Stop::Exception { vector: 6, .. });
        assert_eq!(undefined, !row.holds_on(Processor::host()), "{} for {}", row.example, row.vendor);
        if undefined {
            continue;
        }
        let edge = Some(places::edge(0));
        assert!(
            matches!(seen[0].stop, Stop::Exception { vector: 14, address, .. } if address == edge),
            "{}: {}",
            row.example,
            seen[0].stop
        );
    }
}

#[test]
fn what_was_wrong_once_is_right_now() {
    let mut oracle = Oracle::new().unwrap();
    let mut generator = Generator::new(oracle.layout(), mxcsr_mask());
    let mut memory = Box::new([0; places::IMAGE_LENGTH]);
    for (hex, what) in [
        ("f02e3e654e65440f78a58fffffff", "VMREAD with LOCK, which AMD's processors find too long first"),
        ("2e2e3e654e65440f78a58fffffff", "VMREAD that is too long"),
        ("3e654e65440f78a58fffffff", "VMREAD that is not"),
    ] {
        let example = bytes(hex);
        let mut padded = [0; 15];
        padded[..example.len()].copy_from_slice(&example);
        let ip = Place::Low.slot(0);
        let displaced = match conformance::features::decode(&example, ip) {
            Ok(displaced) => displaced,
            Err(refusal) => {
                println!("skipped: {what}: refused on this processor: {refusal}");
                continue;
            }
        };
        let (length, instruction) = (displaced.length(), *displaced.instruction());
        let encoded = Encoded { bytes: padded, length, instruction };
        let sample = generator.sample(&encoded, Place::Low, &mut Rng::new(1));
        let observed = oracle.run(&mut memory, std::slice::from_ref(&sample)).unwrap();
        let compared = compare(&sample, &observed[0], &mut Model::new(&memory)).unwrap();
        assert!(compared.differences.is_empty(), "{what}: {:?}", compared.differences);
    }
}

#[test]
fn a_search_finds_nothing_that_is_not_explained() {
    let (seed, time) = (1, Duration::from_secs(60));
    for choice in [Choice::Chance, Choice::Systematic] {
        let report = search(&Plan { choice, time, strings: Some(200_000), seed, ..Plan::default() }).unwrap();
        println!("seed {}: {} byte strings, {} accepted", report.seed, report.tried, report.accepted);
        let left: Vec<_> = report.disagreements.iter().filter(|found| found.explanation.is_none()).collect();
        assert_eq!(report.unexplained, 0, "seed {seed}: {left:#?}");
        assert!(report.accepted > 1000 && report.invalid > 1000, "{report:?}");
    }
}
