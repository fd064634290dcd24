//! Where the byte strings come from: chance, or a walk over all encodings.

use iced_x86::{Code, CpuidFeature};

use super::LONGEST;
use crate::generate::Generator;
use crate::oracle::Place;
use crate::rng::Rng;
use crate::{codes, features};

/// How byte strings are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Instructions with something changed, and prefixes with any opcode, without end.
    Chance,
    /// Each opcode of each map with each ModRM byte, under each set of prefixes that may tell encodings
    /// apart, once. What is left (registers' high bits, SIB, displacement, immediate, the prefixes' order)
    /// is up to chance. Any run of them is spread over all of them, and the seed says where it starts.
    Systematic,
}

/// The byte strings of a search, one after another.
pub(super) enum Source {
    Chance(Vec<Code>),
    Systematic { forms: Vec<Form>, next: u64, stride: u64 },
}

impl Source {
    pub(super) fn new(choice: Choice, seed: u64) -> Source {
        match choice {
            Choice::Chance => Source::Chance(codes::user_mode().collect()),
            Choice::Systematic => {
                let forms = Form::all();
                let count = count(&forms);
                // Successive multiples of the golden ratio spread evenly.
                let golden = (count as f64 * 0.618_033_988_749_895) as u64;
                let stride = (golden..).find(|&stride| is_coprime(stride, count)).unwrap_or(1);
                Source::Systematic { next: Rng::new(seed).below(count), stride, forms }
            }
        }
    }

    /// How many strings there are, if they have an end.
    pub(super) fn count(&self) -> Option<u64> {
        match self {
            Source::Chance(_) => None,
            Source::Systematic { forms, .. } => Some(count(forms)),
        }
    }

    pub(super) fn draw(&mut self, generator: &mut Generator, rng: &mut Rng) -> [u8; LONGEST] {
        let mut bytes = [0; LONGEST];
        bytes.fill_with(|| rng.u64() as u8);
        match self {
            Source::Chance(codes) => changed(&mut bytes, codes, generator, rng),
            Source::Systematic { forms, next, stride } => {
                let count = count(forms);
                *next = (*next + *stride) % count;
                let [modrm, opcode, ..] = next.to_le_bytes();
                // Below the number of forms.
                let form = forms[(*next >> 16) as usize];
                form.write(&mut bytes, opcode, modrm, rng);
            }
        }
        bytes
    }
}

/// Each form takes each opcode and each ModRM byte.
fn count(forms: &[Form]) -> u64 {
    (forms.len() as u64) << 16
}

fn is_coprime(mut a: u64, mut b: u64) -> bool {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// An instruction with something changed, or prefixes and any opcode.
fn changed(bytes: &mut [u8; LONGEST], codes: &[Code], generator: &mut Generator, rng: &mut Rng) {
    if rng.chance(70) {
        let code = rng.pick(codes);
        if let Some((found, length)) = generator.encode(code, Place::Low.slot(0), rng) {
            bytes[..length].copy_from_slice(&found[..length]);
            for _ in 0..=rng.below(2) {
                let at = rng.below(length.min(6) as u64) as usize;
                match rng.below(3) {
                    0 => bytes[at] ^= 1 << rng.below(8),
                    1 => bytes[at] = rng.u64() as u8,
                    _ => {
                        bytes.copy_within(at..LONGEST - 1, at + 1);
                        bytes[at] = prefix(rng);
                    }
                }
            }
        }
    } else {
        let count = rng.below(3) as usize;
        for byte in &mut bytes[..count] {
            *byte = prefix(rng);
        }
        if rng.chance(60) {
            bytes[count] = rng.pick(&[0x0f, 0xc4, 0xc5, 0x62, 0x8f, 0x0f]);
        }
    }
}

fn prefix(rng: &mut Rng) -> u8 {
    match rng.below(3) {
        0 => 0x40 | rng.below(16) as u8,
        _ => rng.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]),
    }
}

/// What stands before an opcode byte.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// Prefixes, without a REX or with one that has this W, and the escape bytes of a map.
    Legacy { prefixes: &'static [u8], rex: Option<bool>, escape: &'static [u8] },
    /// The payload of VEX (C4) or XOP (8F), of which `free` are any bits.
    Vex { first: u8, payload: [u8; 2], free: [u8; 2] },
    /// The payload of EVEX (62), of which `free` are any bits.
    Evex { payload: [u8; 3], free: [u8; 3] },
}

impl Form {
    fn all() -> Vec<Form> {
        let mut forms = Vec::new();
        legacy(&mut forms);
        vex(&mut forms);
        evex(&mut forms);
        forms
    }

    /// Writes the form, the opcode, and ModRM over the first of `bytes`.
    fn write(self, bytes: &mut [u8; LONGEST], opcode: u8, modrm: u8, rng: &mut Rng) {
        let random = |payload: u8, free: u8, rng: &mut Rng| payload & !free | rng.u64() as u8 & free;
        let mut at = 0;
        let mut put = |byte: u8| {
            bytes[at] = byte;
            at += 1;
        };
        match self {
            Form::Legacy { prefixes, rex, escape } => {
                let first = rng.below(prefixes.len() as u64) as usize;
                prefixes[first..].iter().chain(&prefixes[..first]).copied().for_each(&mut put);
                if let Some(w) = rex {
                    put(random(0x40 | u8::from(w) << 3, 0b111, rng));
                }
                escape.iter().copied().for_each(&mut put);
            }
            Form::Vex { first, payload, free } => {
                let [high, low] = [0, 1].map(|index| random(payload[index], free[index], rng));
                // Map 1 without W, X and B has a short form.
                if first == 0xc4 && high == 0xe1 && low < 0x80 {
                    put(0xc5);
                    put(low | 0x80);
                } else {
                    put(first);
                    put(high);
                    put(low);
                }
            }
            Form::Evex { payload, free } => {
                put(0x62);
                (0..3).for_each(|index| put(random(payload[index], free[index], rng)));
            }
        }
        put(opcode);
        put(modrm);
    }
}

/// 66, F2, F3 (both, for the later one counts) and LOCK, in one of their orders.
const PREFIXES: [&[u8]; 16] = [
    &[],
    &[0x66],
    &[0xf2],
    &[0xf3],
    &[0x66, 0xf2],
    &[0x66, 0xf3],
    &[0xf2, 0xf3],
    &[0x66, 0xf2, 0xf3],
    &[0xf0],
    &[0xf0, 0x66],
    &[0xf0, 0xf2],
    &[0xf0, 0xf3],
    &[0xf0, 0x66, 0xf2],
    &[0xf0, 0x66, 0xf3],
    &[0xf0, 0xf2, 0xf3],
    &[0xf0, 0x66, 0xf2, 0xf3],
];

fn legacy(forms: &mut Vec<Form>) {
    for escape in [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]] {
        for prefixes in PREFIXES {
            forms.extend([None, Some(false), Some(true)].map(|rex| Form::Legacy { prefixes, rex, escape }));
        }
    }
}

/// VEX and XOP: each W, vvvv of none and of any register, L, pp of the maps that are in use; the others
/// once.
fn vex(forms: &mut Vec<Form>) {
    for (first, maps, used) in [(0xc4, 0..32, 1..4), (0x8f, 8..32, 8..11)] {
        for map in maps {
            // R, X, B are any, and are inverted.
            let high = (0xe0 | map, 0xe0);
            if !used.contains(&map) {
                forms.push(Form::Vex { first, payload: [high.0, 0], free: [high.1, 0xff] });
                continue;
            }
            for w_l_pp in (0..8).chain(0x80..0x88) {
                for (vvvv, any) in [(0x78, 0), (0, 0x78)] {
                    forms.push(Form::Vex { first, payload: [high.0, w_l_pp | vvvv], free: [high.1, any] });
                }
            }
        }
    }
}

/// EVEX: each W, pp, L'L, b of the maps in use, without a mask and with any, where the processor has
/// AVX-512; the others once.
fn evex(forms: &mut Vec<Form>) {
    let is_known = features::reported(CpuidFeature::AVX512F) == Some(true);
    for map in 0..8 {
        if !is_known || !matches!(map, 1 | 2 | 3 | 5 | 6) {
            forms.push(Form::Evex { payload: [map, 0, 0], free: [0xf8, 0xff, 0xff] });
            continue;
        }
        for w_pp in (0..4).chain(0x80..0x84) {
            for length_b in 0..8 {
                // R, X, B, R' are any; vvvv and V' are inverted.
                let payload = [0xf0 | map, w_pp | 0x7c, length_b << 4 | 0x08];
                for (vvvv, v_z_aaa) in [(0, 0), (0, 0x87), (0x78, 0x8f)] {
                    forms.push(Form::Evex { payload, free: [0xf0, vvvv, v_z_aaa] });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_drawn_once() {
        let forms = vec![Form::Vex { first: 0xc4, payload: [0xe2, 0], free: [0, 0] }; 3];
        let count = count(&forms);
        let mut source = Source::Systematic { forms, next: 7, stride: 101 };
        let mut seen = std::collections::HashMap::new();
        let mut generator = Generator::new(&emu::xsave::Layout::LEGACY, 0);
        let mut rng = Rng::new(0);
        for _ in 0..count {
            let bytes = source.draw(&mut generator, &mut rng);
            *seen.entry([bytes[3], bytes[4]]).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 1 << 16);
        assert!(seen.values().all(|&times| times == 3));
    }

    #[test]
    fn vmcall_with_a_prefix_is_among_them() {
        let mut source = Source::new(Choice::Systematic, 1);
        let mut generator = Generator::new(&emu::xsave::Layout::LEGACY, 0);
        let mut rng = Rng::new(0);
        let count = source.count().unwrap();
        assert!(
            (0..count).any(|_| source.draw(&mut generator, &mut rng).starts_with(&[0x66, 0x0f, 0x01, 0xc1]))
        );
    }
}
