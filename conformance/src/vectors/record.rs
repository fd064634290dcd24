//! `conformance record`: what this processor does, for machines that have another.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use emu::registers::gpr;
use emu::{Processor, Registers, Rflags};
use iced_x86::{Code, Instruction, MemorySize, RoundingControl};

use super::format::{self, Case, Form, MOST_RUNS, Raised, Run};
use super::image::{RegisterImage, offset};
use super::layout::{Layout, Protection, Region};
use super::processor;
use super::replay::{Replayer, Verdict};
use super::state::Fill;
use crate::diff::Failure;
use crate::generate::{Generator, Sample, must_step};
use crate::oracle::places::{self, CODE_LOW, IMAGE_LENGTH};
use crate::oracle::{Memory, Mode, Observed, Oracle, Place, Stop, mxcsr_mask};
use crate::rng::Rng;
use crate::{codes, features, undefined};

/// What is recorded.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which encodings, by iced-x86's names; `*` and `?` stand for anything.
    pub pattern: String,
    /// But not these.
    pub except: BTreeSet<String>,
    /// How many cases of each encoding.
    pub cases: u16,
    /// Only cases whose answers this processor would not give; [`TRIED`] times as many are looked at.
    pub unlike: Option<&'static Processor>,
    /// What the cases are drawn from.
    pub seed: u64,
    /// How many children run at once.
    pub jobs: usize,
}

impl Default for Plan {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        Plan { pattern: "*".to_string(), except: BTreeSet::new(), cases: 32, unlike: None, seed: 0, jobs }
    }
}

/// So many cases that raise #UD are enough of an encoding that the processor does not have.
const ENOUGH: usize = 4;

/// How many cases are looked at for each that is recorded, where another processor would give most answers, too.
pub const TRIED: u64 = 256;

/// What goes into a file.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The processor, for people.
    pub processor: String,
    /// The file's header.
    pub header: String,
    /// The cases, of each encoding those that belong together.
    pub forms: Vec<(Form, Vec<Case>)>,
}

/// Records cases.
///
/// # Errors
/// No encoding has such a name, or the oracle cannot run here.
pub fn record(plan: &Plan) -> Result<Recording, Failure> {
    let named: Vec<Code> =
        codes::all().filter(|code| codes::matches(&plan.pattern, &format!("{code:?}"))).collect();
    if named.is_empty() {
        return Err(Failure::NoSuchCode(plan.pattern.clone()));
    }
    let wanted = |code: &Code| codes::skipped(*code).is_none() && !plan.except.contains(&format!("{code:?}"));
    let run: Vec<Code> = named.into_iter().filter(wanted).collect();
    let (next, found, failure) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                let mut recorder = match Recorder::new(plan) {
                    Ok(recorder) => recorder,
                    Err(error) => {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return;
                    }
                };
                while let Some(code) = run.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let forms = recorder.code(*code);
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((*code, forms));
                }
            });
        }
    });
    if let Some(failure) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(failure);
    }
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(code, _)| *code);
    let processor = features::processor();
    Ok(Recording {
        processor: processor::name(processor),
        header: processor.description() + &layout(processor.xcr0).header(),
        forms: found.into_iter().flat_map(|(_, forms)| forms).collect(),
    })
}

/// Where the oracle's child has its memory.
#[must_use]
pub fn layout(components: u64) -> Layout {
    let region = |region: places::Region| Region {
        start: region.start,
        length: region.length,
        protection: match region.protection {
            places::Protection::ReadWrite => Protection::READ | Protection::WRITE,
            places::Protection::ReadOnly => Protection::READ,
            places::Protection::ReadExecute => Protection::READ | Protection::EXECUTE,
        },
        offset: offset::MEMORY + region.offset,
    };
    Layout { code: CODE_LOW.start, components, regions: places::REGIONS.map(region).to_vec() }
}

/// One thread's oracle.
struct Recorder<'a> {
    plan: &'a Plan,
    oracle: Oracle,
    generator: Generator,
    layout: Layout,
    memory: Box<Memory>,
    /// Gives the other processor's answers.
    other: Option<Replayer>,
}

impl<'a> Recorder<'a> {
    fn new(plan: &'a Plan) -> Result<Recorder<'a>, Failure> {
        let oracle = Oracle::new().map_err(|error| Failure::Oracle(error, None))?;
        let generator = Generator::new(oracle.layout(), mxcsr_mask());
        let layout = layout(features::processor().xcr0);
        let other = plan.unlike.map(|other| Replayer::new(other, &Arc::new(layout.clone())));
        Ok(Recorder { plan, oracle, generator, layout, memory: Box::new([0; IMAGE_LENGTH]), other })
    }

    /// The cases of an encoding, by form.
    fn code(&mut self, code: Code) -> Vec<(Form, Vec<Case>)> {
        let mut forms: Vec<(Form, Vec<Case>)> = Vec::new();
        let (mut recorded, mut undefined) = (0, 0);
        let cases = usize::from(self.plan.cases);
        let tried = u64::from(self.plan.cases) * if self.other.is_some() { TRIED } else { 1 };
        for number in 0..tried {
            let Some((form, case)) = self.case(code, number) else { continue };
            if self.other.as_mut().is_some_and(|other| !matches!(other.case(&case), Verdict::Wrong(_))) {
                continue;
            }
            recorded += 1;
            undefined += usize::from(case.raised.is_some_and(|raised| raised.vector == 6));
            match forms.iter_mut().find(|(of, _)| of.form == form) {
                Some((_, cases)) => cases.push(case),
                None => forms.push((Form { code: format!("{code:?}").into(), form }, vec![case])),
            }
            if recorded == cases || undefined == recorded && recorded == ENOUGH {
                break;
            }
        }
        forms
    }

    /// One case; `None` if none could be made, or the processor's answer was not the same twice.
    fn case(&mut self, code: Code, number: u64) -> Option<(u8, Case)> {
        let rng = &mut Rng::of(&[self.plan.seed, code as u64, number]);
        let place = if rng.chance(40) { Place::High } else { Place::Low };
        let ip = place.slot(0);
        let encoded = self.generator.encode(code, ip, rng)?;
        if features::decode(encoded.bytes(), ip).is_ok_and(|it| processor::is_the_machines(&it)) {
            return None;
        }
        let (seed, fill) = (rng.u64() as u32, fill(&encoded.instruction, rng));
        let mut before = RegisterImage::default();
        let mut lanes = self.layout.registers(seed, fill, &mut before);
        let (generated, mut base) = (before.clone(), Registers::default());
        before.read(&mut base);
        self.generator.begin_with(&base);
        let mut sample = self.generator.sample(&encoded, place, rng);
        straighten(&mut sample);
        self.layout.memory(&mut lanes, &mut self.memory[..]);
        let drawn = self.memory.clone();

        let first = self.run(&sample, &drawn)?;
        let second = self.run(&sample, &drawn)?;
        if first.stop != second.stop || first.registers != second.registers || first.changed != second.changed
        {
            return None;
        }
        sample.case.registers.rip = ip;
        before.write(&sample.case.registers);
        let mut patches = format::differences(&generated.0[..], &before.0[..], 0);
        // With what the oracle has put behind the instruction, which may read it.
        let mut memory = self.memory.clone();
        for patch in &sample.case.patches {
            self.put(&mut memory, patch.address, patch.contents());
        }
        patches.extend(format::differences(&drawn[..], &memory[..], offset::MEMORY));
        let case = Case {
            bytes: encoded.bytes().to_vec(),
            seed,
            fill,
            undefined: undefined_flags(&sample, &first),
            patches,
            raised: raised(first.stop)?,
            changes: self.changes(&sample, &first, &before, &memory),
        };
        let fits = case.patches.len() <= MOST_RUNS && case.changes.len() <= MOST_RUNS;
        fits.then(|| (form(&encoded.instruction), case))
    }

    /// Puts bytes into memory.
    fn put(&self, memory: &mut Memory, address: u64, bytes: &[u8]) {
        for (distance, byte) in bytes.iter().enumerate() {
            let address = address.wrapping_add(distance as u64);
            let place = self.layout.region(address).and_then(|region| region.place(address));
            if let Some(place) = place.and_then(|place| memory.get_mut(place - offset::MEMORY)) {
                *place = *byte;
            }
        }
    }

    /// What the image holds after the case where it differs from `before` and `memory`.
    fn changes(
        &self,
        sample: &Sample,
        observed: &Observed,
        before: &RegisterImage,
        memory: &Memory,
    ) -> Vec<Run> {
        let next = match observed.stop {
            Stop::Completed => sample.ip.wrapping_add(sample.case.length as u64),
            _ => sample.ip,
        };
        let (mut obvious, mut after) = (before.clone(), before.clone());
        obvious.put(offset::RIP, &next.to_le_bytes());
        after.write(&observed.registers);
        // The oracle reports what differs from the batch's contents, which are without the patches.
        let mut changed = self.memory.clone();
        for (address, word) in &observed.changed {
            self.put(&mut changed, *address, &word.to_le_bytes());
        }
        let mut changes = format::differences(&obvious.0[..], &after.0[..], 0);
        changes.extend(format::differences(&memory[..], &changed[..], offset::MEMORY));
        changes
    }

    fn run(&mut self, sample: &Sample, drawn: &Memory) -> Option<Observed> {
        self.memory.copy_from_slice(drawn);
        // What does not survive or does not end is no case; the oracle goes on with another child.
        self.oracle.run(&mut self.memory, &[sample]).ok()?.pop()
    }
}

/// Lets the instruction be stopped by the jump behind it wherever that is possible: a step hides what it does to
/// TF, and those of a repetition disturb other flags.
fn straighten(sample: &mut Sample) {
    if !must_step(&sample.instruction) {
        sample.case.mode = Mode::Straight;
    }
}

/// The flags that the manual calls undefined, and TF where stepping hid it.
fn undefined_flags(sample: &Sample, observed: &Observed) -> u16 {
    let mut flags = match observed.stop {
        Stop::Completed => undefined::flags(&sample.instruction, sample.case.registers.gpr[gpr::RCX]),
        _ => Rflags::empty(),
    };
    flags.set(Rflags::TF, sample.case.mode == Mode::Step);
    flags.bits() as u16
}

/// What a case says of its end; `None` where there is no saying it.
fn raised(stop: Stop) -> Option<Option<Raised>> {
    match stop {
        Stop::Completed => Some(None),
        Stop::Endless => None,
        Stop::Exception { vector, error_code, address } => Some(Some(Raised {
            vector,
            error_code: u16::try_from(error_code).ok()?,
            address: address.unwrap_or(0),
            signal: 0,
            si_code: 0,
        })),
    }
}

/// What lanes and memory are filled with: mostly what the instruction works on.
fn fill(instruction: &Instruction, rng: &mut Rng) -> Fill {
    let any = rng.pick(&Fill::ALL);
    if rng.chance(20) {
        return any;
    }
    match instruction.op_code().memory_size().element_type() {
        MemorySize::UInt8 | MemorySize::Int8 => Fill::I8,
        MemorySize::UInt16 | MemorySize::Int16 => Fill::I16,
        MemorySize::UInt32 | MemorySize::Int32 => Fill::I32,
        MemorySize::UInt64 | MemorySize::Int64 => Fill::I64,
        MemorySize::Float16 => Fill::F16,
        MemorySize::BFloat16 => Fill::Bf16,
        MemorySize::Float32 => Fill::F32,
        MemorySize::Float64 => Fill::F64,
        _ => any,
    }
}

/// The form that a case belongs to.
fn form(instruction: &Instruction) -> u8 {
    if instruction.is_broadcast() {
        b'b'
    } else if instruction.rounding_control() != RoundingControl::None {
        b'e'
    } else if instruction.suppress_all_exceptions() {
        b's'
    } else if instruction.memory_size() != MemorySize::Unknown {
        b'm'
    } else {
        b'r'
    }
}
