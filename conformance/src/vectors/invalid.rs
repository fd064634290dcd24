//! Encodings that are instructions on a processor and encodings that are not: which of many variants of valid
//! encodings raise #UD. `vectors/README.md` describes the text.

use std::io::{BufRead, Read, Take};
use std::sync::Arc;

use emu::registers::gpr;
use emu::{Displaced, Exception, Processor, Registers};

use super::format::{Error, LONGEST};
use super::layout::Layout;
use super::memory::Memory;
use super::replay::Verdict;
use crate::compare::Differences;

/// What follows the bytes of a variant.
const FILLER: u8 = 0xcc;
/// The longest instruction in bytes.
const INSTRUCTION: usize = 15;
/// The longest line in bytes.
const LINE: u64 = 256;
/// What all general registers hold.
const GENERAL: u64 = 0x3000_0800;

/// A variant of an encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// iced-x86's name of what it is a variant of.
    pub code: Arc<str>,
    /// The bytes; more of 0xCC follow.
    pub bytes: Vec<u8>,
    /// Whether the processor raised #UD.
    pub undefined: bool,
}

/// Reads the text.
pub struct Variants<R> {
    input: Take<R>,
    code: Arc<str>,
    number: u64,
}

impl<R: BufRead> Variants<R> {
    /// Reads from `input`, which has been decompressed.
    pub fn new(input: R) -> Variants<R> {
        Variants { input: input.take(LONGEST), code: "".into(), number: 0 }
    }

    /// The next variant; `None` at the end.
    ///
    /// # Errors
    /// The input cannot be read, or a line is not as it should be.
    pub fn next_variant(&mut self) -> Result<Option<Variant>, Error> {
        loop {
            let mut line = String::new();
            let read = (&mut self.input).take(LINE).read_line(&mut line).map_err(Error::Io)?;
            if read == 0 {
                return if self.input.limit() == 0 { Err(Error::TooLong) } else { Ok(None) };
            }
            self.number += 1;
            if let Some(name) = line.strip_prefix("# ") {
                self.code = name.split_whitespace().next().unwrap_or_default().into();
                continue;
            }
            let variant = self.variant(&line);
            return variant.map(Some).ok_or(Error::Case(self.number - 1, "a line that is no variant"));
        }
    }

    fn variant(&self, line: &str) -> Option<Variant> {
        let mut words = line.strip_suffix('\n')?.split(' ');
        let bytes = from_hex(words.next()?)?;
        let undefined = match words.next()? {
            "UD" => true,
            "ok" => false,
            _ => return None,
        };
        // What was changed; this is for people.
        words.next()?;
        let fits = (1..=INSTRUCTION).contains(&bytes.len());
        (fits && words.next().is_none()).then(|| Variant { code: Arc::clone(&self.code), bytes, undefined })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let byte = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Holds the emulator against variants.
pub struct Checker {
    processor: &'static Processor,
    code: u64,
    memory: Memory,
}

impl Checker {
    /// A checker of variants of a processor.
    #[must_use]
    pub fn new(processor: &'static Processor) -> Checker {
        let layout = Arc::new(Layout::without_header());
        Checker { processor, code: layout.code, memory: Memory::new(&layout) }
    }

    /// Compares what the emulator makes of a variant.
    ///
    /// Where there is no instruction, refusing is no error, as no probe is placed there; but it is not counted as
    /// an answer, either.
    pub fn variant(&mut self, variant: &Variant) -> Verdict {
        let mut bytes = [FILLER; INSTRUCTION];
        for (place, byte) in bytes.iter_mut().zip(&variant.bytes) {
            *place = *byte;
        }
        let name = |undefined| if undefined { "#UD" } else { "an instruction" };
        let mut differences = Differences::default();
        let mut differs = |emulator: &str| {
            differences.push("encoding", name(variant.undefined), emulator);
            Verdict::Wrong(std::mem::take(&mut differences.0))
        };
        let displaced = match Displaced::decode_on(&bytes, self.code, self.processor) {
            Ok(displaced) => displaced,
            Err(refusal) if refusal.is_unknown() && !variant.undefined => return differs(refusal.reason()),
            Err(refusal) => return Verdict::Skipped(refusal.reason()),
        };
        let mut registers = Registers { gpr: [GENERAL; gpr::R15 + 1], ..Registers::default() };
        let result = displaced.execute(&mut registers, &mut self.memory);
        let undefined = result == Err(Exception::InvalidOpcode);
        if undefined == variant.undefined { Verdict::Exact } else { differs(name(undefined)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe::recorded;

    fn read(text: &str) -> Result<Vec<Variant>, Error> {
        let mut variants = Variants::new(text.as_bytes());
        std::iter::from_fn(|| variants.next_variant().transpose()).collect()
    }

    #[test]
    fn lines_are_read() {
        let variants =
            read("# Nopd r\n90 ok p0.0\n# VEX_Andn_r32_r32_rm32 r\nf0c4e278f2c0 UD prefixf0\n").unwrap();
        let code = |at: usize| (&*variants[at].code, variants[at].bytes.as_slice(), variants[at].undefined);
        assert_eq!(code(0), ("Nopd", [0x90].as_slice(), false));
        assert_eq!(code(1), ("VEX_Andn_r32_r32_rm32", [0xf0, 0xc4, 0xe2, 0x78, 0xf2, 0xc0].as_slice(), true));
    }

    #[test]
    fn a_line_that_is_none_is_an_error() {
        for line in ["", "9", "9g ok z", "90 yes z", "90 ok", "90 ok z z", " ok z"] {
            assert!(read(&format!("90 ok z\n{line}\n")).is_err(), "{line:?}");
        }
        assert!(read(&format!("{} ok z\n", "90".repeat(16))).is_err());
        assert!(read(&"90".repeat(1 << 20)).is_err(), "no line has an end");
        assert!(read("90 ok z").is_err(), "nor this one");
    }

    #[test]
    fn the_emulator_is_held_against_what_the_processor_says() {
        let mut checker = Checker::new(recorded::without_header().leak());
        let mut verdict = |bytes: &[u8], undefined| {
            checker.variant(&Variant { code: "".into(), bytes: bytes.to_vec(), undefined })
        };
        // andn eax, eax, eax, and the same with LOCK.
        assert_eq!(verdict(&[0xc4, 0xe2, 0x78, 0xf2, 0xc0], false), Verdict::Exact);
        assert_eq!(verdict(&[0xf0, 0xc4, 0xe2, 0x78, 0xf2, 0xc0], true), Verdict::Exact);
        // What does not hold.
        assert!(matches!(verdict(&[0xc4, 0xe2, 0x78, 0xf2, 0xc0], true), Verdict::Wrong(_)));
        assert!(matches!(verdict(&[0xf0, 0xc4, 0xe2, 0x78, 0xf2, 0xc0], false), Verdict::Wrong(_)));
        // No instruction that is known.
        assert!(matches!(verdict(&[0x0f, 0x38, 0xff], true), Verdict::Skipped(_)));
        assert!(matches!(verdict(&[0x0f, 0x38, 0xff], false), Verdict::Wrong(_)));
    }
}
