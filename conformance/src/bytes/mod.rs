//! `conformance bytes`: random and mutated bytes, or all encodings, where processor and decoder may disagree
//! about what is an instruction and how long it is.
//!
//! The processor tells an instruction's length by what it fetches: laid against the end of a page, with
//! nothing mapped behind it, one that is cut short faults at the page's end, and one that is whole does not.

mod source;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use emu::{Processor, Refusal, Touches, Vendor};
use iced_x86::{Code, Decoder, DecoderError, FlowControl};
use serde::Serialize;

use crate::compare::compare;
use crate::diff::Failure;
use crate::generate::{Generator, Sample};
use crate::memory::Model;
use crate::oracle::places::{self, IMAGE_LENGTH, SLOTS};
use crate::oracle::{Case, Memory, Mode, Observed, Oracle, Place, Stop, mxcsr_mask};
use crate::rng::Rng;
use crate::{codes, features};

pub use self::source::Choice;
use self::source::Source;

/// The most bytes an instruction has.
const LONGEST: usize = 15;

/// One row of the disagreements that are known and explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What the bytes begin with in hexadecimal, after prefixes other than F2 and F3; a dot is any digit.
    pub pattern: &'static str,
    /// An example, in hexadecimal.
    pub example: &'static str,
    /// The example's length on the processor, in bytes.
    pub length: usize,
    /// Whose processors do so: AMD, Intel, or both.
    pub vendor: &'static str,
    /// What is behind it, and what becomes of such bytes.
    pub explanation: &'static str,
}

impl Known {
    /// Whether processors that follow `vendor` do so.
    #[must_use]
    pub fn holds_on(&self, vendor: Vendor) -> bool {
        match self.vendor {
            "both" => true,
            "AMD" => vendor == Vendor::Amd,
            "Intel" => vendor == Vendor::Intel,
            _ => false,
        }
    }
}

/// The disagreements that are known: rows of `data/disagreements.csv` that have five fields.
pub fn known() -> impl Iterator<Item = Known> {
    include_str!("../../data/disagreements.csv").lines().skip(1).filter_map(|line| {
        let mut fields = line.splitn(5, ';');
        Some(Known {
            pattern: fields.next()?,
            example: fields.next()?,
            length: fields.next()?.parse().ok()?,
            vendor: fields.next()?,
            explanation: fields.next()?,
        })
    })
}

/// The row that explains a disagreement about `bytes` with a processor that follows `vendor`.
#[must_use]
pub fn explanation(bytes: &[u8], vendor: Vendor) -> Option<Known> {
    let is_dropped = |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0);
    let mut rest = bytes;
    let mut mandatory = None;
    while let [first, tail @ ..] = rest {
        match first {
            0xf2 | 0xf3 => mandatory = Some(*first),
            _ if is_dropped(*first) => {}
            _ => break,
        }
        rest = tail;
    }
    let text = hex(&mandatory.into_iter().chain(rest.iter().copied()).collect::<Vec<u8>>());
    known().filter(|row| row.holds_on(vendor)).find(|row| {
        let same = |(pattern, digit): (char, char)| pattern == '.' || pattern == digit;
        text.len() >= row.pattern.len() && row.pattern.chars().zip(text.chars()).all(same)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What is searched, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which byte strings.
    pub choice: Choice,
    /// How long at most.
    pub time: Duration,
    /// How many byte strings, rounded up to whole batches, if not as many as there is time for.
    pub strings: Option<u64>,
    /// What the bytes are drawn from.
    pub seed: u64,
    /// The most disagreements of a kind to list, with and without an explanation each.
    pub show: usize,
}

/// What kind of disagreement there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The emulator accepts an instruction that has another length on the processor.
    Length,
    /// The emulator accepts an instruction and does something else than the processor.
    Execution,
    /// The decoder knows no such instruction, and the emulator refuses it, but the processor runs it.
    Unknown,
}

/// Bytes about which processor and decoder disagree.
#[derive(Clone, Debug, Serialize)]
pub struct Disagreement {
    /// What about.
    pub kind: Kind,
    /// The bytes in hexadecimal.
    pub bytes: String,
    /// What the decoder and the emulator make of them.
    pub emulator: String,
    /// What the processor does.
    pub processor: String,
    /// What is behind it, if that is known.
    pub explanation: Option<&'static str>,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many byte strings were tried.
    pub tried: u64,
    /// How many there are, in a systematic search.
    pub of: Option<u64>,
    /// How many of them the emulator accepts.
    pub accepted: u64,
    /// How many the decoder calls invalid.
    pub invalid: u64,
    /// How many the emulator refuses although the decoder knows them.
    pub refused: u64,
    /// How many disagreements there are in which the emulator does what the processor does not.
    pub wrong: u64,
    /// How many strings the processor runs that the decoder does not know; the emulator refuses them.
    pub unknown: u64,
    /// How many of either kind nothing explains.
    pub unexplained: u64,
    /// Some of both.
    pub disagreements: Vec<Disagreement>,
    /// What the bytes were drawn from.
    pub seed: u64,
}

/// Searches.
///
/// # Errors
/// The oracle cannot run here, or failed.
pub fn search(plan: &Plan) -> Result<Report, Failure> {
    let fail = |error| Failure::Oracle(error, None);
    let mut oracle = Oracle::new().map_err(fail)?;
    let source = Source::new(plan.choice, plan.seed);
    let most = plan.strings.unwrap_or(u64::MAX).min(source.count().unwrap_or(u64::MAX));
    let mut search = Search {
        generator: Generator::new(oracle.layout(), mxcsr_mask()),
        memory: Box::new([0; IMAGE_LENGTH]),
        report: Report { seed: plan.seed, of: source.count(), ..Report::default() },
        source,
        shown: BTreeMap::new(),
        show: plan.show,
        vendor: Processor::host().vendor,
    };
    let start = Instant::now();
    for batch in 0.. {
        if start.elapsed() >= plan.time || search.report.tried >= most {
            break;
        }
        search.batch(&mut oracle, &mut Rng::of(&[plan.seed, batch, 2]))?;
    }
    Ok(search.report)
}

struct Search {
    generator: Generator,
    source: Source,
    memory: Box<Memory>,
    report: Report,
    /// How many are listed, of each kind and with or without an explanation.
    shown: BTreeMap<(Kind, bool), usize>,
    show: usize,
    vendor: Vendor,
}

impl Search {
    /// Tries one batch of byte strings.
    fn batch(&mut self, oracle: &mut Oracle, rng: &mut Rng) -> Result<(), Failure> {
        Generator::fill(&mut self.memory, rng);
        let (mut known, mut unknown, mut this_core) = (Vec::new(), Vec::new(), false);
        for _ in 0..SLOTS {
            let bytes = self.source.draw(&mut self.generator, rng);
            let ip = Place::Low.slot(known.len());
            self.report.tried += 1;
            match crate::features::decode(&bytes, ip) {
                Ok(displaced) if may_run(displaced.code()) => {
                    self.report.accepted += 1;
                    this_core |= displaced.touches().contains(Touches::THIS_CORE);
                    let (length, instruction) = (displaced.length(), *displaced.instruction());
                    known.push(self.generator.sample(bytes, length, instruction, Place::Low, ip, rng));
                }
                Ok(_) => {}
                Err(Refusal::Invalid { .. }) => {
                    self.report.invalid += 1;
                    unknown.push(bytes);
                }
                Err(_) => self.report.refused += 1,
            }
        }
        let shared = this_core.then(|| oracle.share_core());
        let valid = self.execution(oracle, known)?;
        drop(shared);
        self.lengths(oracle, &valid)?;
        self.unknown(oracle, &unknown, rng)
    }

    /// Whether the processor finds the instructions as long as the emulator does.
    fn lengths(&mut self, oracle: &mut Oracle, known: &[Sample]) -> Result<(), Failure> {
        let at_edge = |sample: &Sample, length: usize| {
            let mode = if stays(sample) { Mode::Straight } else { Mode::Step };
            Case { length, place: Place::Edge, mode, ..sample.case.clone() }
        };
        let whole: Vec<Case> = known.iter().map(|sample| at_edge(sample, sample.case.length)).collect();
        let whole = self.run(oracle, &whole)?;
        let long: Vec<&Sample> = known.iter().filter(|sample| sample.case.length > 1).collect();
        let cut: Vec<Case> = long.iter().map(|sample| at_edge(sample, sample.case.length - 1)).collect();
        let cut = self.run(oracle, &cut)?;
        for (index, (sample, observed)) in known.iter().zip(&whole).enumerate() {
            if is_cut(observed, index) {
                self.note(Kind::Length, sample.bytes(), &sample.instruction.to_string(), "needs more bytes");
            }
        }
        for (index, (sample, observed)) in long.iter().zip(&cut).enumerate() {
            // What raises #UD or #GP(0) whatever follows may do so before it is all there.
            let early = matches!(observed.stop, Stop::Exception { vector: 6 | 13, .. });
            if !is_cut(observed, index) && !early {
                let what = format!("is shorter: {}", observed.stop);
                self.note(Kind::Length, sample.bytes(), &sample.instruction.to_string(), &what);
            }
        }
        Ok(())
    }

    /// Whether the emulator does what the processor does. Returns what the processor has and does not raise
    /// #UD for: of the others it may fetch more or less than there is to them.
    fn execution(&mut self, oracle: &mut Oracle, known: Vec<Sample>) -> Result<Vec<Sample>, Failure> {
        let observations = self.run(oracle, &known)?;
        let mut model = Model::new(&self.memory);
        let mut valid = Vec::with_capacity(known.len());
        for (sample, observed) in known.into_iter().zip(&observations) {
            let undefined = is_undefined(observed);
            let code = sample.instruction.code();
            if undefined && !features::missing(code).is_empty() {
                continue; // The emulator may have what this processor lacks.
            }
            if let Ok(found) = compare(&sample, observed, &mut model)
                && !found.differences.is_empty()
            {
                let what: Vec<String> = found.differences.iter().map(ToString::to_string).collect();
                let instruction = format!("{} ({code:?})", sample.instruction);
                self.note(Kind::Execution, sample.bytes(), &instruction, &what.join("; "));
            }
            if !undefined {
                valid.push(sample);
            }
        }
        Ok(valid)
    }

    /// Whether the processor runs what the decoder does not know, and how long it is.
    fn unknown(
        &mut self,
        oracle: &mut Oracle,
        unknown: &[[u8; LONGEST]],
        rng: &mut Rng,
    ) -> Result<(), Failure> {
        let whole: Vec<Case> = unknown.iter().map(|bytes| self.generator.plain(*bytes, rng)).collect();
        let observations = self.run(oracle, &whole)?;
        for ((bytes, case), observed) in unknown.iter().zip(&whole).zip(&observations) {
            if is_undefined(observed) {
                continue;
            }
            // The shortest part that is not cut short is the instruction.
            let parts: Vec<Case> = (1..=LONGEST).map(|length| Case { length, ..case.clone() }).collect();
            let parts = self.run(oracle, &parts)?;
            let whole = parts.iter().enumerate().position(|(index, observed)| !is_cut(observed, index));
            let (length, stop) = match whole {
                Some(index) => (index + 1, parts[index].stop),
                None => (LONGEST, observed.stop),
            };
            if length == LONGEST && stop == TOO_LONG {
                continue;
            }
            let what = format!("{length} bytes: {stop}");
            self.note(Kind::Unknown, &bytes[..length], &decoder_says(bytes), &what);
        }
        Ok(())
    }

    fn run<C: AsRef<Case>>(&mut self, oracle: &mut Oracle, cases: &[C]) -> Result<Vec<Observed>, Failure> {
        oracle.run(&mut self.memory, cases).map_err(|error| {
            let case = error.index().and_then(|index| cases.get(index)).map(AsRef::as_ref);
            let bytes = case.map(|case| format!("its bytes: {}", hex(&case.bytes[..case.length])));
            Failure::Oracle(error, bytes)
        })
    }

    fn note(&mut self, kind: Kind, bytes: &[u8], emulator: &str, processor: &str) {
        match kind {
            Kind::Unknown => self.report.unknown += 1,
            Kind::Length | Kind::Execution => self.report.wrong += 1,
        }
        let explanation = explanation(bytes, self.vendor).map(|row| row.explanation);
        self.report.unexplained += u64::from(explanation.is_none());
        let shown = self.shown.entry((kind, explanation.is_some())).or_default();
        if *shown < self.show {
            *shown += 1;
            self.report.disagreements.push(Disagreement {
                kind,
                bytes: hex(bytes),
                emulator: emulator.to_string(),
                processor: processor.to_string(),
                explanation,
            });
        }
    }
}

/// What an instruction of more than 15 bytes raises.
const TOO_LONG: Stop = Stop::Exception { vector: 13, error_code: 0, address: None };

fn is_undefined(observed: &Observed) -> bool {
    matches!(observed.stop, Stop::Exception { vector: 6, .. })
}

/// Whether bytes may be run that mean this to the emulator.
fn may_run(code: Code) -> bool {
    codes::skipped(code).is_none()
}

/// Whether the instruction goes on to the next one, if it does not fault.
fn stays(sample: &Sample) -> bool {
    matches!(sample.instruction.flow_control(), FlowControl::Next | FlowControl::Exception)
}

/// Whether the processor wanted to fetch more than there is.
fn is_cut(observed: &Observed, index: usize) -> bool {
    let edge = places::edge(index % SLOTS);
    matches!(observed.stop, Stop::Exception { vector: 14, error_code, address: Some(address) }
        if address == edge && error_code & 0x10 != 0 && observed.registers.rip != edge)
}

fn decoder_says(bytes: &[u8]) -> String {
    let mut decoder = Decoder::with_ip(64, bytes, 0, crate::features::processor().decoder_options());
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => instruction.to_string(),
        error => format!("{error:?}"),
    }
}
