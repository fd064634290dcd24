//! What the cases hold whose instruction computes on floating-point numbers: which kinds of operands, under
//! which control bits, and what they made the processor raise.
//!
//! Whether an instruction computes on its operands, or only moves their bits, is for the emulator's table to
//! say; the format of the operands is for iced-x86. A case counts if the operation was done: the processor
//! completed it or raised #XM. An empty x87 register is no operand.

use std::collections::BTreeMap;

use bitflags::bitflags;
use emu::registers::{Float80, Vector, X87};
use emu::{Access, Displaced, FloatingPoint, Mxcsr, Touches, UserMemory};
use iced_x86::{InstructionInfoFactory, MemorySize, OpAccess, OpKind, Register};
use serde::Serialize;

use crate::generate::{Sample, linear};
use crate::memory::Model;
use crate::oracle::{Observed, Stop};

bitflags! {
    /// What is worth knowing of a case. The names are the keys of the shares.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Traits: u32 {
        /// An element of a source operand is a NaN.
        const NAN = 1 << 0;
        /// A quiet one.
        const QUIET_NAN = 1 << 1;
        /// A signalling one.
        const SIGNALING_NAN = 1 << 2;
        /// An element is a denormal or pseudo-denormal.
        const DENORMAL = 1 << 3;
        /// An element is an infinity.
        const INFINITY = 1 << 4;
        /// An x87 register holds what is no number: an unnormal, a pseudo-NaN or a pseudo-infinity.
        const UNSUPPORTED = 1 << 5;
        /// The processor raised IE, which was clear before. So for the next five; together they are in the
        /// order of the flags. A flag that was set before hides that it is raised.
        const INVALID_OPERATION = 1 << 6;
        /// DE.
        const DENORMAL_OPERAND = 1 << 7;
        /// ZE.
        const DIVISION_BY_ZERO = 1 << 8;
        /// OE.
        const OVERFLOW = 1 << 9;
        /// UE.
        const UNDERFLOW = 1 << 10;
        /// PE.
        const PRECISION = 1 << 11;
        /// The rounding control says to nearest. The next three follow it.
        const ROUNDING_NEAREST = 1 << 12;
        /// Down.
        const ROUNDING_DOWN = 1 << 13;
        /// Up.
        const ROUNDING_UP = 1 << 14;
        /// Toward zero.
        const ROUNDING_ZERO = 1 << 15;
        /// MXCSR.DAZ is set, and the instruction is one under MXCSR.
        const DAZ = 1 << 16;
        /// MXCSR.FTZ is set, and the instruction is one under MXCSR.
        const FTZ = 1 << 17;
        /// Some of the exceptions are not masked.
        const UNMASKED = 1 << 18;
        /// An exception that is not masked was raised.
        const UNMASKED_RAISED = 1 << 19;
        /// What operands can be.
        const OPERANDS = 0x3f;
        /// The six exceptions.
        const RAISED = 0x3f << RAISED;
        /// The four ways of rounding.
        const ROUNDING = 0xf << ROUNDING;
    }
}

/// Where the six exceptions begin.
const RAISED: u32 = 6;
/// Where the four ways of rounding begin.
const ROUNDING: u32 = 12;

/// How many cases there are of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Cases that compute on floating-point operands.
    pub cases: u64,
    /// Those that have a trait, by the trait's bit.
    of: [u64; u32::BITS as usize],
}

impl Counts {
    /// Adds a case.
    pub fn note(&mut self, traits: Traits) {
        self.cases += 1;
        for (bit, count) in self.of.iter_mut().enumerate() {
            *count += u64::from(traits.bits() >> bit & 1);
        }
    }

    /// Adds what others have counted.
    pub fn add(&mut self, other: &Counts) {
        self.cases += other.cases;
        for (count, other) in self.of.iter_mut().zip(other.of) {
            *count += other;
        }
    }

    /// How many cases have this one trait.
    #[must_use]
    pub fn of(&self, one: Traits) -> u64 {
        self.of.get(one.bits().trailing_zeros() as usize).copied().unwrap_or(0)
    }
}

/// How many cases there are, and which part of them has each trait.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Shares {
    /// Cases that compute on floating-point operands.
    pub cases: u64,
    /// From 0 to 1, by the trait's name in small letters; empty if there are no cases.
    #[serde(flatten)]
    pub share: BTreeMap<String, f64>,
}

impl Shares {
    /// The shares of what was counted.
    #[must_use]
    pub fn of(counts: &Counts) -> Shares {
        let share = |one| counts.of(one) as f64 / counts.cases as f64;
        let named = Traits::all().iter_names().map(|(name, one)| (name.to_lowercase(), share(one)));
        Shares { cases: counts.cases, share: named.filter(|_| counts.cases > 0).collect() }
    }

    /// The share of one trait, from 0 to 1.
    #[must_use]
    pub fn get(&self, one: Traits) -> f64 {
        one.iter_names()
            .next()
            .and_then(|(name, _)| self.share.get(&name.to_lowercase()))
            .copied()
            .unwrap_or(0.0)
    }
}

/// The shares of all such cases, and of those of each of the two units.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Of all.
    #[serde(flatten)]
    pub all: Shares,
    /// Of those under MXCSR: SSE and what came after.
    pub mxcsr: Shares,
    /// Of those under the x87 control word.
    pub x87: Shares,
    /// The share of overflow, from 0 to 1, of the cases of those encodings that overflowed at all: most have
    /// results that cannot.
    pub overflow_where_possible: f64,
}

impl Report {
    /// The shares of what was counted, for each encoding.
    #[must_use]
    pub fn of<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Report {
        let mut sum = Tally::default();
        let mut overflowing = Counts::default();
        for tally in tallies {
            sum.add(tally);
            let all = tally.all();
            if all.of(Traits::OVERFLOW) > 0 {
                overflowing.add(&all);
            }
        }
        Report {
            all: Shares::of(&sum.all()),
            mxcsr: Shares::of(&sum.mxcsr),
            x87: Shares::of(&sum.x87),
            overflow_where_possible: Shares::of(&overflowing).get(Traits::OVERFLOW),
        }
    }
}

/// How many cases there are of each kind, by unit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Under MXCSR.
    pub mxcsr: Counts,
    /// Under the x87 control word.
    pub x87: Counts,
}

impl Tally {
    /// Adds what others have counted.
    pub fn add(&mut self, other: &Tally) {
        self.mxcsr.add(&other.mxcsr);
        self.x87.add(&other.x87);
    }

    /// Cases of both units.
    #[must_use]
    pub fn all(&self) -> Counts {
        let mut all = self.mxcsr;
        all.add(&self.x87);
        all
    }
}

/// A binary format of at most 64 bits.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    /// Of a number.
    pub(crate) bits: u32,
    /// Of its fraction.
    pub(crate) fraction_bits: u32,
}

impl Format {
    /// The format of the elements that `size` says, if they are floating-point numbers.
    pub(crate) fn of(size: MemorySize) -> Option<Format> {
        let (bits, fraction_bits) = match size.element_type() {
            MemorySize::Float16 => (16, 10),
            MemorySize::BFloat16 => (16, 7),
            MemorySize::Float32 => (32, 23),
            MemorySize::Float64 => (64, 52),
            _ => return None,
        };
        Some(Format { bits, fraction_bits })
    }

    fn classify(self, element: u64) -> Traits {
        let Format { bits, fraction_bits } = self;
        let fraction = element & ((1 << fraction_bits) - 1);
        let largest = (1 << (bits - 1 - fraction_bits)) - 1;
        let exponent = element >> fraction_bits & largest;
        match (exponent, fraction) {
            (0, 0) => Traits::empty(),
            (0, _) => Traits::DENORMAL,
            (_, 0) if exponent == largest => Traits::INFINITY,
            _ if exponent != largest => Traits::empty(),
            _ if fraction >> (fraction_bits - 1) != 0 => Traits::NAN | Traits::QUIET_NAN,
            _ => Traits::NAN | Traits::SIGNALING_NAN,
        }
    }

    /// What there is among the elements of `bytes`.
    fn classify_all(self, bytes: &[u8]) -> Traits {
        let elements = bytes.chunks_exact(self.bits as usize / 8);
        elements.fold(Traits::empty(), |traits, element| {
            let element = element.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            traits | self.classify(element)
        })
    }
}

/// What there is among the elements of `bytes`, or `None` if they are no floating-point numbers.
fn classify(size: MemorySize, bytes: &[u8]) -> Option<Traits> {
    match (Format::of(size), bytes) {
        (Some(format), _) => Some(format.classify_all(bytes)),
        (None, bytes) if size == MemorySize::Float80 => {
            let (significand, sign_exponent) = bytes.split_first_chunk()?;
            Some(classify_extended(&Float80 {
                significand: u64::from_le_bytes(*significand),
                sign_exponent: u16::from_le_bytes(sign_exponent.try_into().ok()?),
            }))
        }
        _ => None,
    }
}

fn classify_extended(value: &Float80) -> Traits {
    let (integer, fraction) = (value.significand >> 63 != 0, value.significand << 1);
    match value.sign_exponent & 0x7fff {
        0 if value.significand == 0 => Traits::empty(),
        0 => Traits::DENORMAL,
        _ if !integer => Traits::UNSUPPORTED,
        0x7fff if fraction == 0 => Traits::INFINITY,
        0x7fff if fraction >> 63 != 0 => Traits::NAN | Traits::QUIET_NAN,
        0x7fff => Traits::NAN | Traits::SIGNALING_NAN,
        _ => Traits::empty(),
    }
}

/// Notes in `tally` what the case holds, if its instruction computed on floating-point numbers. `model` holds
/// memory as after the case.
pub(crate) fn note(sample: &Sample, observed: &Observed, model: &mut Model, tally: &mut Tally) {
    const SIMD: u8 = 19;
    let done = matches!(observed.stop, Stop::Completed | Stop::Exception { vector: SIMD, .. });
    let displaced = crate::features::decode(sample.bytes(), sample.ip);
    let Some(displaced) = displaced.ok().filter(|it| done && it.floating_point() != FloatingPoint::None)
    else {
        return;
    };
    let Some(operands) = operands(&displaced, sample, model) else { return };
    let (before, after) = (&sample.case.registers.extended, &observed.registers.extended);
    let (mut traits, counts) = if displaced.touches().contains(Touches::SSE) {
        let mut traits = control(
            before.mxcsr.bits() >> 7,
            before.mxcsr.bits() >> 13,
            before.mxcsr.bits(),
            after.mxcsr.bits(),
        );
        traits.set(Traits::DAZ, before.mxcsr.contains(Mxcsr::DAZ));
        traits.set(Traits::FTZ, before.mxcsr.contains(Mxcsr::FTZ));
        (traits, &mut tally.mxcsr)
    } else {
        let (x87, after) = (&before.x87, &after.x87);
        let word = u32::from(x87.control);
        (control(word, word >> 10, x87.status.into(), after.status.into()), &mut tally.x87)
    };
    traits |= operands;
    counts.note(traits);
}

/// What the control bits and the six flags say: the masks, the rounding control, the flags before and after.
fn control(masks: u32, rounding: u32, before: u32, after: u32) -> Traits {
    const SIX: u32 = 0x3f;
    let raised = after & !before & SIX;
    let mut traits = Traits::from_bits_truncate(raised << RAISED | 1 << (ROUNDING + (rounding & 3)));
    traits.set(Traits::UNMASKED, masks & SIX != SIX);
    traits.set(Traits::UNMASKED_RAISED, raised & !masks != 0);
    traits
}

/// What the floating-point operands hold, or `None` if the instruction has none.
fn operands(displaced: &Displaced, sample: &Sample, model: &mut Model) -> Option<Traits> {
    let instruction = &sample.instruction;
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let extended = &sample.case.registers.extended;
    // The x87 registers, named or not.
    let stack = info.used_registers().iter().filter(|used| used.register().is_st() && reads(used.access()));
    let stack = stack.filter_map(|used| st(&extended.x87, used.register())).map(classify_extended);
    // A vector register holds the same elements as the memory that could stand for it.
    let elements = instruction.op_code().memory_size();
    let places = (0..instruction.op_count())
        .filter(|index| matches!(instruction.op_kind(*index), OpKind::Register | OpKind::Memory));
    let skipped = match displaced.floating_point() {
        FloatingPoint::Last => places.clone().count().saturating_sub(1),
        _ => 0,
    };
    let others = places.skip(skipped).filter(|index| reads(info.op_access(*index))).filter_map(|index| {
        let register = instruction.op_register(index);
        if instruction.op_kind(index) == OpKind::Memory {
            let memory = info.used_memory().first()?;
            let start = linear(memory, &sample.case.registers)?;
            let (mut bytes, size) = ([0; 64], memory.memory_size());
            let bytes = bytes.get_mut(..size.size())?;
            model.read(start, bytes, Access::Read).ok()?;
            classify(size, bytes)
        } else if register.is_vector_register() {
            let bytes = vector_bytes(extended.vector.get(register.number())?);
            classify(elements, bytes.get(..elements.size())?)
        } else {
            None
        }
    });
    stack.chain(others).reduce(Traits::union)
}

fn reads(access: OpAccess) -> bool {
    use OpAccess as A;
    matches!(access, A::Read | A::CondRead | A::ReadWrite | A::ReadCondWrite)
}

/// What ST(i) holds, unless it is empty.
fn st(x87: &X87, register: Register) -> Option<&Float80> {
    let physical = (usize::from(x87.status >> 11) + register.number()) & 7;
    (x87.tag >> physical & 1 != 0).then(|| &x87.r[physical])
}

fn vector_bytes(vector: &Vector) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (part, quad) in bytes.chunks_exact_mut(8).zip(vector.0) {
        part.copy_from_slice(&quad.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use emu::Registers;

    use super::*;
    use crate::oracle::places::IMAGE_LENGTH;
    use crate::oracle::{Case, Mode, Place};

    const QUIET: u64 = 0x7fc0_0001;
    const INFINITY: u64 = 0x7f80_0000;
    const DENORMAL: u64 = 1;

    /// What an instruction finds: in XMM0 a quiet NaN above which is an infinity, in XMM1 a denormal, in
    /// ST(0) an infinity, and all other x87 registers empty.
    fn found(code: &[u8]) -> Option<Traits> {
        let mut bytes = [0; 15];
        bytes[..code.len()].copy_from_slice(code);
        let displaced = crate::features::decode(code, 0x1000).unwrap();
        let mut registers = Registers::default();
        registers.extended.vector[0].0[..2].copy_from_slice(&[INFINITY << 32 | QUIET, 0]);
        registers.extended.vector[1].0[0] = DENORMAL;
        registers.extended.x87.r[0] = Float80 { significand: 1 << 63, sign_exponent: 0x7fff };
        registers.extended.x87.tag = 1;
        let (instruction, ip) = (*displaced.instruction(), 0x1000);
        let (mode, place) = (Mode::Straight, Place::Low);
        let case =
            Case { bytes, length: code.len(), mode, repeats: false, place, registers, patches: Vec::new() };
        let mut model = Model::new(&[0; IMAGE_LENGTH]);
        operands(&displaced, &Sample { case, instruction, ip }, &mut model)
    }

    #[test]
    fn what_is_computed_on_counts_and_nothing_else() {
        let quiet = Traits::NAN | Traits::QUIET_NAN;
        assert_eq!(found(&[0xf3, 0x0f, 0x58, 0xc1]), Some(quiet | Traits::DENORMAL), "ADDSS xmm0, xmm1");
        assert_eq!(found(&[0xf3, 0x0f, 0x51, 0xc1]), Some(Traits::DENORMAL), "SQRTSS xmm0, xmm1");
        assert_eq!(found(&[0x0f, 0x51, 0xc8]), Some(quiet | Traits::INFINITY), "SQRTPS xmm1, xmm0");
        assert_eq!(found(&[0xf3, 0x0f, 0x5a, 0xc0]), Some(quiet), "CVTSS2SD xmm0, xmm0");
        assert_eq!(found(&[0xf2, 0x0f, 0x5a, 0xc0]), Some(Traits::empty()), "CVTSD2SS: a normal double");
        assert_eq!(found(&[0xf3, 0x0f, 0x2a, 0xc0]), None, "CVTSI2SS xmm0, eax");
        assert_eq!(found(&[0xd8, 0xc1]), Some(Traits::INFINITY), "FADD st(0), st(1), which is empty");
        assert_eq!(found(&[0xd9, 0xc1]), None, "FLD st(1)");
    }

    #[test]
    fn x87_has_more_kinds_of_numbers() {
        let kind = |sign_exponent, significand| classify_extended(&Float80 { significand, sign_exponent });
        assert_eq!(kind(0xffff, 0xc000_0000_0000_0000), Traits::NAN | Traits::QUIET_NAN);
        assert_eq!(kind(0x7fff, 0x8000_0000_0000_0001), Traits::NAN | Traits::SIGNALING_NAN);
        assert_eq!(kind(0x7fff, 0x8000_0000_0000_0000), Traits::INFINITY);
        assert_eq!(kind(0x7fff, 1), Traits::UNSUPPORTED);
        assert_eq!(kind(0x3fff, 1), Traits::UNSUPPORTED);
        assert_eq!(kind(0x8000, 1 << 63), Traits::DENORMAL);
        assert_eq!(kind(0x8000, 0), Traits::empty());
        assert_eq!(kind(0x3fff, 1 << 63), Traits::empty());
    }
}
