//! One thread's search.

use std::ops::Range;

use emu::{Processor, Touches};
use iced_x86::{Code, Decoder, DecoderError, FlowControl, Instruction};

use super::source::Source;
use super::{Disagreement, Kind, LONGEST, Report, explanation, hex};
use crate::compare::compare;
use crate::diff::Failure;
use crate::generate::{Encoded, Generator, Sample};
use crate::memory::Model;
use crate::oracle::places::{self, IMAGE_LENGTH, SLOTS};
use crate::oracle::{Case, Memory, Mode, Observed, Oracle, Place, Stop, mxcsr_mask};
use crate::rng::Rng;
use crate::{codes, features};

/// How many byte strings are tried with the same memory: some batches of the oracle's, of which few are not full.
pub(super) const BATCH: u64 = 4 * SLOTS as u64;

/// One thread's oracle and emulator, and what they found.
pub(super) struct Search<'a> {
    source: &'a Source,
    seed: u64,
    oracle: Oracle,
    generator: Generator,
    memory: Box<Memory>,
    model: Model,
    pub(super) report: Report,
}

/// A byte string, and what is known of it by now.
struct Candidate {
    position: u64,
    bytes: [u8; LONGEST],
    /// What the decoder makes of them.
    instruction: Instruction,
    what: What,
}

enum What {
    /// The emulator has it.
    Emulated(Box<Sample>),
    /// The decoder knows it, the emulator does not have it.
    Refused,
    /// The decoder does not know it.
    Unknown,
    /// The processor raises #UD, rightly or not: it may fetch more or less than there is to it.
    Undefined,
}

/// What a run of a candidate is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// What it does.
    Execution,
    /// That it is not longer than the decoder says.
    Whole,
    /// That it is not shorter.
    Cut,
    /// Whether there is such an instruction.
    Existence,
}

impl<'a> Search<'a> {
    pub(super) fn new(source: &'a Source, seed: u64) -> Result<Search<'a>, Failure> {
        let oracle = Oracle::new().map_err(|error| Failure::Oracle(error, None))?;
        let generator = Generator::new(oracle.layout(), mxcsr_mask());
        let memory = Box::new([0; IMAGE_LENGTH]);
        let model = Model::new(&memory);
        Ok(Search { source, seed, oracle, generator, memory, model, report: Report::default() })
    }

    /// Tries the byte strings at these positions.
    pub(super) fn batch(&mut self, positions: Range<u64>) -> Result<(), Failure> {
        let rng = &mut Rng::of(&[self.seed, positions.start, 2]);
        Generator::fill(&mut self.memory, rng);
        let (mut candidates, mut executed, mut this_core) = (Vec::new(), 0, false);
        for position in positions {
            let bytes = self.source.draw(position, &mut self.generator, rng);
            let ip = Place::Low.slot(executed);
            let Some((candidate, touches)) = self.candidate(position, bytes, ip, rng) else { continue };
            executed += usize::from(matches!(candidate.what, What::Emulated(_)));
            this_core |= touches.contains(Touches::THIS_CORE);
            candidates.push(candidate);
        }
        // Of what is not executed in the emulator the state matters little.
        let plain = self.generator.plain([0; LONGEST], rng);
        let _shared = this_core.then(|| self.oracle.share_core());
        let mut found = Vec::new();
        for runs in runs(&candidates).chunks(SLOTS) {
            let cases: Vec<Case> = runs.iter().map(|run| run.case(&candidates, &plain)).collect();
            let observations = self.run(&cases)?;
            self.model.reset(&self.memory);
            for (index, (run, observed)) in runs.iter().zip(&observations).enumerate() {
                let candidate = &mut candidates[run.candidate];
                match run.aim {
                    Aim::Execution => self.execution(candidate, observed),
                    Aim::Whole => self.whole(candidate, observed, index),
                    Aim::Cut => self.cut(candidate, observed, index),
                    Aim::Existence if is_undefined(observed) => {}
                    Aim::Existence => found.push((run.candidate, observed.stop)),
                }
            }
        }
        found.into_iter().try_for_each(|(index, stop)| self.unknown(&candidates[index], &plain, stop))
    }

    /// What is to be tried of a byte string, and what the emulator would touch.
    fn candidate(
        &mut self,
        position: u64,
        bytes: [u8; LONGEST],
        ip: u64,
        rng: &mut Rng,
    ) -> Option<(Candidate, Touches)> {
        self.report.tried += 1;
        let candidate = |instruction, what| Candidate { position, bytes, instruction, what };
        match features::decode(&bytes, ip) {
            Ok(displaced) if may_run(displaced.code()) => {
                self.report.accepted += 1;
                let (length, instruction) = (displaced.length(), *displaced.instruction());
                let encoded = Encoded { bytes, length, instruction };
                let sample = self.generator.sample(&encoded, Place::Low, rng);
                let what = What::Emulated(Box::new(sample));
                Some((candidate(instruction, what), displaced.touches()))
            }
            Ok(_) => None,
            Err(refusal) if refusal.is_unknown() => {
                self.report.invalid += 1;
                Some((candidate(Instruction::new(), What::Unknown), Touches::empty()))
            }
            Err(_) => {
                self.report.refused += 1;
                let instruction =
                    Decoder::with_ip(64, &bytes, ip, Processor::host().decoder_options()).decode();
                let code = instruction.code();
                // What the processor lacks means nothing to it, and it may fetch more or less than there is to it.
                let here = !instruction.is_invalid() && has(code);
                let what = if here { What::Refused } else { What::Unknown };
                may_run(code).then(|| (candidate(instruction, what), Touches::empty()))
            }
        }
    }

    /// Whether the emulator does what the processor does.
    fn execution(&mut self, candidate: &mut Candidate, observed: &Observed) {
        let What::Emulated(sample) = &candidate.what else { return };
        let code = candidate.instruction.code();
        let undefined = is_undefined(observed);
        // The emulator may have what this processor lacks.
        if (!undefined || features::missing(code).is_empty())
            && let Ok(found) = compare(sample, observed, &mut self.model)
        {
            self.report.endless += u64::from(found.left && observed.stop == Stop::Endless);
            if !found.differences.is_empty() {
                let what: Vec<String> = found.differences.iter().map(ToString::to_string).collect();
                let instruction = format!("{} ({code:?})", candidate.instruction);
                self.note(candidate, Kind::Execution, candidate.length(), instruction, what.join("; "));
            }
        }
        if undefined {
            candidate.what = What::Undefined;
        }
    }

    /// Whether the processor finds no more bytes in the instruction than the decoder.
    fn whole(&mut self, candidate: &mut Candidate, observed: &Observed, index: usize) {
        match candidate.what {
            What::Undefined => {}
            What::Refused if is_undefined(observed) => {
                let code = candidate.instruction.code();
                if code.cpuid_features().iter().all(|feature| features::reported(*feature) == Some(true)) {
                    let (instruction, what) =
                        (candidate.instruction.to_string(), "#UD, although CPUID reports it");
                    self.note(candidate, Kind::Missing, candidate.length(), instruction, what.to_string());
                }
                candidate.what = What::Undefined;
            }
            _ if is_cut(observed, index) => {
                let (instruction, what) = (candidate.instruction.to_string(), "needs more bytes");
                self.note(candidate, Kind::Length, candidate.length(), instruction, what.to_string());
            }
            _ => {}
        }
    }

    /// Whether the processor finds no fewer bytes in the instruction than the decoder.
    fn cut(&mut self, candidate: &Candidate, observed: &Observed, index: usize) {
        // What raises #UD or #GP(0) whatever follows may do so before it is all there.
        let early = matches!(observed.stop, Stop::Exception { vector: 6 | 13, .. });
        if !matches!(candidate.what, What::Undefined) && !is_cut(observed, index) && !early {
            let what = format!("is shorter: {}", observed.stop);
            let instruction = candidate.instruction.to_string();
            self.note(candidate, Kind::Length, candidate.length(), instruction, what);
        }
    }

    /// The processor runs what the decoder does not know, as `stop` says: how long is it?
    fn unknown(&mut self, candidate: &Candidate, plain: &Case, stop: Stop) -> Result<(), Failure> {
        // The shortest part that is not cut short is the instruction.
        let part = |length| Case { bytes: candidate.bytes, length, ..plain.clone() };
        let parts = self.run(&(1..=LONGEST).map(part).collect::<Vec<Case>>())?;
        let whole = parts.iter().enumerate().position(|(index, observed)| !is_cut(observed, index));
        let (length, stop) = match whole {
            Some(index) => (index + 1, parts[index].stop),
            None => (LONGEST, stop),
        };
        if length < LONGEST || stop != TOO_LONG {
            let what = format!("{length} bytes: {stop}");
            self.note(candidate, Kind::Unknown, length, decoder_says(&candidate.bytes), what);
        }
        Ok(())
    }

    fn run(&mut self, cases: &[Case]) -> Result<Vec<Observed>, Failure> {
        self.oracle.run(&mut self.memory, cases).map_err(|error| {
            let case = error.index().and_then(|index| cases.get(index));
            let bytes = case.map(|case| format!("its bytes: {}", hex(&case.bytes[..case.length])));
            Failure::Oracle(error, bytes)
        })
    }

    fn note(
        &mut self,
        candidate: &Candidate,
        kind: Kind,
        length: usize,
        emulator: String,
        processor: String,
    ) {
        let bytes = &candidate.bytes[..length];
        let explanation = explanation(bytes, Processor::host()).map(|row| row.explanation);
        let (position, bytes) = (candidate.position, hex(bytes));
        self.report.note(Disagreement { kind, bytes, emulator, processor, explanation, position });
    }
}

impl Candidate {
    /// How many bytes the decoder takes.
    fn length(&self) -> usize {
        self.instruction.len()
    }
}

/// One run of a candidate, by its index.
#[derive(Clone, Copy)]
struct Run {
    candidate: usize,
    aim: Aim,
}

/// What is to be run: first what is executed, each at the slot that it is made for.
fn runs(candidates: &[Candidate]) -> Vec<Run> {
    let mut runs = Vec::with_capacity(2 * candidates.len());
    let mut rest = Vec::with_capacity(2 * candidates.len());
    for (candidate, one) in candidates.iter().enumerate() {
        let run = |aim| Run { candidate, aim };
        match one.what {
            What::Unknown => rest.push(run(Aim::Existence)),
            What::Undefined => {}
            What::Emulated(_) | What::Refused => {
                if matches!(one.what, What::Emulated(_)) {
                    runs.push(run(Aim::Execution));
                }
                rest.push(run(Aim::Whole));
                if one.length() > 1 {
                    rest.push(run(Aim::Cut));
                }
            }
        }
    }
    runs.append(&mut rest);
    runs
}

impl Run {
    fn case(self, candidates: &[Candidate], plain: &Case) -> Case {
        let candidate = &candidates[self.candidate];
        let length = match self.aim {
            Aim::Execution | Aim::Whole => candidate.length(),
            Aim::Cut => candidate.length() - 1,
            Aim::Existence => LONGEST,
        };
        match &candidate.what {
            What::Emulated(sample) if self.aim == Aim::Execution => sample.case.clone(),
            What::Emulated(sample) => {
                let mode = if stays(sample) { Mode::Straight } else { Mode::Step };
                Case { length, place: Place::Edge, mode, ..sample.case.clone() }
            }
            _ => Case { bytes: candidate.bytes, length, ..plain.clone() },
        }
    }
}

/// What an instruction of more than 15 bytes raises.
const TOO_LONG: Stop = Stop::Exception { vector: 13, error_code: 0, address: None };

fn is_undefined(observed: &Observed) -> bool {
    matches!(observed.stop, Stop::Exception { vector: 6, .. })
}

/// Whether the processor is known to have an encoding.
fn has(code: Code) -> bool {
    features::processor().can(code.cpuid_features()) == Some(true)
}

/// Whether bytes may be run that mean this to the decoder.
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
    let mut decoder = Decoder::with_ip(64, bytes, 0, Processor::host().decoder_options());
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => instruction.to_string(),
        error => format!("{error:?}"),
    }
}
