//! `Touches` says everything that an instruction needs: an executor fetches and stores nothing else, so that what
//! is not said is another instruction's state, or lost.

use conformance::codes;
use conformance::features;
use conformance::generate::{Generator, Sample};
use conformance::memory::Model;
use conformance::oracle::places::IMAGE_LENGTH;
use conformance::oracle::{Memory, mxcsr_mask};
use emu::registers::Extended;
use emu::xsave::Layout;
use emu::{Displaced, Exception, Mxcsr, Outcome, Registers, Touches};

const CASES: u64 = 24;
const SEED: u64 = 20_261_126;

/// The parts that are fetched and stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    Nothing,
    /// x87 and the XMM registers, as FXSAVE stores them.
    Legacy,
    All,
}

impl Fetched {
    fn of(touches: Touches) -> Fetched {
        match touches & Touches::EXTENDED {
            none if none.is_empty() => Fetched::Nothing,
            some if (Touches::X87 | Touches::SSE).contains(some) => Fetched::Legacy,
            _ => Fetched::All,
        }
    }

    /// `registers` with what is not fetched taken from `others`.
    fn mix(self, registers: &Registers, others: &Registers) -> Registers {
        let mut mixed = Registers { pkru: others.pkru, ..registers.clone() };
        match self {
            Fetched::All => return registers.clone(),
            Fetched::Nothing => mixed.extended = others.extended.clone(),
            Fetched::Legacy => {
                mixed.extended.opmask = others.extended.opmask;
                mixed.extended.tiles.clone_from(&others.extended.tiles);
                mixed.extended.vector = others.extended.vector;
                let low = |extended: &Extended, n: usize| [extended.vector[n].0[0], extended.vector[n].0[1]];
                for number in 0..16 {
                    mixed.extended.vector[number].0[..2].copy_from_slice(&low(&registers.extended, number));
                }
            }
        }
        mixed
    }
}

/// Registers that hold in no part what another instruction would find there.
fn poison() -> Registers {
    let mut registers = Registers { pkru: 0x5a5a_5a58, ..Registers::default() };
    let extended = &mut registers.extended;
    for (number, vector) in extended.vector.iter_mut().enumerate() {
        vector.0 = std::array::from_fn(|quad| 0x1357_9bdf_0246_8ace ^ (number * 64 + quad) as u64);
    }
    extended.opmask = std::array::from_fn(|number| 0x5a00 + number as u64);
    extended.tiles.config.0 = std::array::from_fn(|number| 0x5a ^ number as u8);
    extended.tiles.data.make_room();
    extended.tiles.data.tiles_mut().into_iter().flatten().flatten().for_each(|row| row.fill(0x5a));
    extended.mxcsr = Mxcsr::from_bits_retain(0x7f80);
    extended.x87.control = 0x0f7f;
    extended.x87.status = 0x1000;
    extended.x87.tag = 0x5a;
    for (number, register) in extended.x87.r.iter_mut().enumerate() {
        (register.significand, register.sign_exponent) = (number as u64 | 1 << 63, 0x4000);
    }
    registers
}

/// How it ends, and what has become of the registers; `model` says what of memory.
fn execute(
    displaced: &Displaced,
    sample: &Sample,
    registers: &Registers,
    model: &mut Model,
) -> (Result<Outcome, Exception>, Registers) {
    const REPETITIONS: usize = 1 << 20;
    model.undo();
    sample.case.patches.iter().for_each(|patch| model.patch(patch));
    let mut registers = registers.clone();
    let results = std::iter::repeat_with(|| displaced.execute(&mut registers, model));
    let result = results.take(REPETITIONS).find(|result| *result != Ok(Outcome::Again));
    (result.unwrap_or(Ok(Outcome::Again)), registers)
}

#[test]
fn an_instruction_touches_nothing_that_it_does_not_say() {
    let Some(layout) = Layout::of_this_processor() else {
        println!("skipped: this processor has no XSAVE, so that there is no extended state to tell apart");
        return;
    };
    let mut generator = Generator::new(layout, mxcsr_mask());
    let mut memory: Box<Memory> = Box::new([0; IMAGE_LENGTH]);
    let mut model = Model::new(&memory);
    let poison = poison();
    let mut counts = [0u32; 3];
    for code in codes::user_mode().filter(|&code| codes::skipped(code).is_none()) {
        Generator::memory(code, 0, SEED, &mut memory);
        model.reset(&memory);
        for number in 0..CASES {
            let Some(sample) = generator.case(code, number, SEED) else { break };
            let Ok(displaced) = features::decode(sample.bytes(), sample.ip) else { continue };
            // What the core alone says differs from one time to the next.
            if displaced.touches().contains(Touches::THIS_CORE) {
                continue;
            }
            let fetched = Fetched::of(displaced.touches());
            counts[fetched as usize] += 1;
            let own = &sample.case.registers;
            let (result, after) = execute(&displaced, &sample, own, &mut model);
            let written: Vec<_> = model.differences(&[]);
            let mixed = fetched.mix(own, &poison);
            let (with_poison, poisoned) = execute(&displaced, &sample, &mixed, &mut model);
            let name = || format!("{} {:02x?} ({fetched:?})", sample.instruction, sample.bytes());
            assert_eq!(with_poison, result, "{}", name());
            assert_eq!(model.differences(&[]), written, "{}", name());
            // Nothing else is stored, and what is stored does not depend on anything else.
            assert_eq!(poisoned, fetched.mix(&after, &poison), "{}", name());
        }
    }
    println!("{counts:?} cases without, with legacy and with all extended state");
    assert!(counts.iter().all(|&count| count > 100), "{counts:?}");
}
