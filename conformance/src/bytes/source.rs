//! Where the byte strings come from: chance, or a walk over all encodings.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

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

/// A part of all strings of a systematic search: one of so many that are as long as each other, and each spread
/// over all encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    number: u64,
    of: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parts =
            text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Shard { number, of }),
            _ => Err(format!("{text:?} is no part: write 1/32 to 32/32 for those of 32")),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// The byte strings of a search, by position.
pub(super) enum Source {
    Chance(Vec<Code>),
    Systematic { forms: Vec<Form>, stride: u64 },
}

impl Source {
    pub(super) fn new(choice: Choice) -> Source {
        match choice {
            Choice::Chance => Source::Chance(codes::user_mode().collect()),
            Choice::Systematic => Source::systematic(Form::all()),
        }
    }

    fn systematic(forms: Vec<Form>) -> Source {
        let count = count(&forms);
        // Successive multiples of the golden ratio spread evenly.
        let golden = (count as f64 * 0.618_033_988_749_895) as u64;
        let stride = (golden..).find(|&stride| is_coprime(stride, count)).unwrap_or(1);
        Source::Systematic { forms, stride }
    }

    /// How many strings there are, if they have an end.
    pub(super) fn count(&self) -> Option<u64> {
        match self {
            Source::Chance(_) => None,
            Source::Systematic { forms, .. } => Some(count(forms)),
        }
    }

    /// The positions of a part, or of all strings, from where the seed says on.
    pub(super) fn positions(&self, shard: Option<Shard>, seed: u64) -> Range<u64> {
        let count = self.count();
        match (shard, count) {
            (Some(Shard { number, of }), Some(count)) => {
                let start = |number: u64| (u128::from(count) * u128::from(number) / u128::from(of)) as u64;
                start(number - 1)..start(number)
            }
            (None, Some(count)) => {
                let start = Rng::new(seed).below(count);
                start..start + count
            }
            (_, None) => 0..u64::MAX,
        }
    }

    /// The string at a position; what the position does not say is up to chance.
    pub(super) fn draw(&self, position: u64, generator: &mut Generator, rng: &mut Rng) -> [u8; LONGEST] {
        let mut bytes = [0; LONGEST];
        bytes.fill_with(|| rng.u64() as u8);
        match self {
            Source::Chance(codes) => changed(&mut bytes, codes, generator, rng),
            Source::Systematic { forms, stride } => {
                let place = u128::from(position) * u128::from(*stride) % u128::from(count(forms));
                let [modrm, opcode, ..] = place.to_le_bytes();
                // Below the number of forms.
                let form = forms[(place >> 16) as usize];
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
        if let Some(found) = generator.encode(code, Place::Low.slot(0), rng) {
            let length = found.length;
            bytes[..length].copy_from_slice(found.bytes());
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

    fn all_of(source: &Source, positions: impl Iterator<Item = u64>) -> impl Iterator<Item = [u8; LONGEST]> {
        let mut generator = Generator::new(&emu::xsave::Layout::LEGACY, 0);
        let mut rng = Rng::new(0);
        positions.map(move |position| source.draw(position, &mut generator, &mut rng))
    }

    #[test]
    fn each_is_drawn_once_whole_and_in_parts() {
        let forms = vec![Form::Vex { first: 0xc4, payload: [0xe2, 0], free: [0, 0] }; 3];
        let source = Source::systematic(forms);
        let parts = (1..=7).flat_map(|number| source.positions(Some(Shard { number, of: 7 }), 0));
        let whole = source.positions(None, 7);
        for positions in [parts.collect::<Vec<u64>>(), whole.collect()] {
            let mut seen = std::collections::HashMap::new();
            for bytes in all_of(&source, positions.into_iter()) {
                *seen.entry([bytes[3], bytes[4]]).or_insert(0) += 1;
            }
            assert_eq!(seen.len(), 1 << 16);
            assert!(seen.values().all(|&times| times == 3));
        }
    }

    #[test]
    fn a_part_has_something_of_every_form() {
        let source = Source::new(Choice::Systematic);
        let Source::Systematic { forms, stride } = &source else { unreachable!() };
        let count = count(forms);
        let positions = source.positions(Some("5/32".parse().unwrap()), 0);
        let mut seen = vec![0u32; forms.len()];
        for position in positions {
            let place = u128::from(position) * u128::from(*stride) % u128::from(count);
            seen[(place >> 16) as usize] += 1;
        }
        assert!(seen.iter().all(|times| (2000..=2100).contains(times)), "{seen:?}");
    }

    #[test]
    fn parts_are_written_as_fractions() {
        assert_eq!("3/32".parse::<Shard>().unwrap().to_string(), "3/32");
        for wrong in ["0/32", "33/32", "3", "3/", "/3", "-1/3", "1/0", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn vmcall_with_a_prefix_is_among_them() {
        let source = Source::new(Choice::Systematic);
        let mut all = all_of(&source, source.positions(None, 1));
        assert!(all.any(|bytes| bytes.starts_with(&[0x66, 0x0f, 0x01, 0xc1])));
    }
}
