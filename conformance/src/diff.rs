//! `conformance diff`: every row of the emulator against the processor, in states nobody chose by hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use emu::Displaced;
use iced_x86::{Code, Formatter, IntelFormatter};
use serde::Serialize;

use crate::codes;
use crate::compare::{Difference, GPR, compare};
use crate::generate::{Generator, Sample};
use crate::memory::Model;
use crate::oracle::places::{IMAGE_LENGTH, SLOTS};
use crate::oracle::{Case, Error, Observed, Oracle, Stop};

/// How much is compared.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which encodings, by iced-x86's names; `*` and `?` stand for anything.
    pub pattern: String,
    /// How many cases of each encoding; without a time this is all.
    pub cases: Option<u64>,
    /// How long to go on drawing more.
    pub time: Option<Duration>,
    /// What the cases are drawn from.
    pub seed: u64,
    /// The one case to compare, if only one.
    pub only: Option<u64>,
    /// The most mismatches to describe.
    pub show: usize,
    /// How many children run at once.
    pub jobs: usize,
    /// Runs encodings that the emulator does not have on the processor alone.
    pub processor_only: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        Plan {
            pattern: "*".to_string(),
            cases: None,
            time: None,
            seed: 0,
            only: None,
            show: 10,
            jobs,
            processor_only: false,
        }
    }
}

/// How many cases of each encoding are compared if the plan says neither number nor time.
const CASES: u64 = 256;

/// An encoding that was not compared.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// iced-x86's name.
    pub code: String,
    /// Why.
    pub reason: String,
}

/// A case in which the emulator differs.
#[derive(Clone, Debug, Serialize)]
pub struct Mismatch {
    /// iced-x86's name.
    pub code: String,
    /// The instruction.
    pub instruction: String,
    /// Its bytes, in hexadecimal.
    pub bytes: String,
    /// The state that matters.
    pub state: Vec<String>,
    /// What differs.
    pub differences: Vec<String>,
    /// A command that does this one case again.
    pub reproduce: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many encodings were compared.
    pub codes: usize,
    /// How many cases.
    pub cases: u64,
    /// In how many the processor raised an exception.
    pub faulting_cases: u64,
    /// In how many the emulator differed.
    pub mismatches: u64,
    /// Some of those.
    pub first_mismatches: Vec<Mismatch>,
    /// The encodings not compared.
    pub skipped: Vec<Skipped>,
    /// How many pairs of a compared instruction and a flag are not compared in every case.
    pub masked_flags: usize,
    /// What the cases were drawn from.
    pub seed: u64,
    /// Cases in which the emulator differed, by encoding.
    pub mismatches_by_code: BTreeMap<String, u64>,
    /// The encodings that this processor does not have.
    #[serde(skip)]
    pub not_native: Vec<Code>,
    /// The encodings that were compared.
    #[serde(skip)]
    pub compared: Vec<Code>,
}

/// Why nothing could be compared.
#[derive(Debug)]
pub enum Failure {
    /// No encoding has such a name.
    NoSuchCode(String),
    /// The oracle failed; the command repeats it.
    Oracle(Error, String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::NoSuchCode(pattern) => {
                write!(f, "no instruction encoding is named {pattern:?}: see `conformance coverage`")
            }
            Failure::Oracle(error, command) if command.is_empty() => write!(f, "{error}"),
            Failure::Oracle(error, command) => write!(f, "{error}; to repeat it: {command}"),
        }
    }
}

impl std::error::Error for Failure {}

/// What is found about one encoding.
#[derive(Clone, Debug, Default)]
struct Tally {
    cases: u64,
    faulting: u64,
    invalid: u64,
    mismatches: u64,
    shown: Vec<Mismatch>,
    refused: Option<String>,
    not_encoded: bool,
}

/// Compares what the plan says.
///
/// # Errors
/// No such encoding, or the oracle cannot run here or failed.
pub fn diff(plan: &Plan) -> Result<Report, Failure> {
    let named: Vec<Code> =
        codes::user_mode().filter(|code| codes::matches(&plan.pattern, &format!("{code:?}"))).collect();
    if named.is_empty() {
        return Err(Failure::NoSuchCode(plan.pattern.clone()));
    }
    let mut report = Report { seed: plan.seed, ..Report::default() };
    let mut run = Vec::new();
    for code in named {
        match codes::skipped(code) {
            Some(reason) => report.skip(code, reason),
            None => run.push(code),
        }
    }
    let tallies: Vec<Mutex<Tally>> = run.iter().map(|_| Mutex::default()).collect();
    let failure = Mutex::new(None);
    let work = Work {
        plan,
        codes: &run,
        tallies: &tallies,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        start: Instant::now(),
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                if let Err(error) = work.worker() {
                    work.stop.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(error);
    }
    for (code, tally) in run.iter().zip(tallies) {
        report.add(*code, tally.into_inner().unwrap_or_else(|e| e.into_inner()), plan.show);
    }
    Ok(report)
}

impl Report {
    fn skip(&mut self, code: Code, reason: impl Into<String>) {
        self.skipped.push(Skipped { code: format!("{code:?}"), reason: reason.into() });
    }

    fn add(&mut self, code: Code, tally: Tally, show: usize) {
        if tally.cases > 0 && tally.invalid == tally.cases && !is_invalid_everywhere(code) {
            self.not_native.push(code);
            let features: Vec<String> =
                code.cpuid_features().iter().map(|feature| format!("{feature:?}")).collect();
            return self.skip(code, format!("not on this processor ({})", features.join(", ")));
        }
        if let Some(reason) = tally.refused {
            return self.skip(code, reason);
        }
        if tally.not_encoded {
            return self.skip(code, "the encoder makes no such instruction");
        }
        if tally.cases == 0 {
            return self.skip(code, "the time was over before its turn");
        }
        self.compared.push(code);
        self.codes += 1;
        self.cases += tally.cases;
        self.faulting_cases += tally.faulting;
        self.mismatches += tally.mismatches;
        self.masked_flags += crate::undefined::possibly(code.mnemonic()).bits().count_ones() as usize;
        if tally.mismatches > 0 {
            self.mismatches_by_code.insert(format!("{code:?}"), tally.mismatches);
            let room = show.saturating_sub(self.first_mismatches.len());
            self.first_mismatches.extend(tally.shown.into_iter().take(room));
        }
    }
}

/// Encodings whose very purpose is #UD.
fn is_invalid_everywhere(code: Code) -> bool {
    use iced_x86::Mnemonic;
    matches!(code.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2)
}

/// What the workers share.
struct Work<'a> {
    plan: &'a Plan,
    codes: &'a [Code],
    tallies: &'a [Mutex<Tally>],
    next: AtomicUsize,
    stop: AtomicBool,
    start: Instant,
}

impl Work<'_> {
    /// Takes batches, round by round through all encodings, until the plan is done.
    fn worker(&self) -> Result<(), Failure> {
        let fail = |error| Failure::Oracle(error, String::new());
        let oracle = Oracle::new().map_err(fail)?;
        let generator = Generator::new(oracle.layout(), crate::oracle::mxcsr_mask());
        let memory = Box::new([0; IMAGE_LENGTH]);
        let model = Model::new(&memory);
        let mut worker = Worker { oracle, generator, memory, model };
        while !self.stop.load(Ordering::Relaxed) {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let (round, position) = (turn / self.codes.len(), turn % self.codes.len());
            let Some(numbers) = self.numbers(round as u64) else { break };
            worker.batch(self.plan, self.codes[position], numbers, &self.tallies[position])?;
        }
        Ok(())
    }

    /// The cases of one round, or `None` if there is none.
    fn numbers(&self, round: u64) -> Option<std::ops::Range<u64>> {
        let first = round * SLOTS as u64;
        if let Some(only) = self.plan.only {
            return (round == 0).then_some(only..only + 1);
        }
        let end = match (self.plan.cases, self.plan.time) {
            (Some(cases), _) => cases,
            (None, None) => CASES,
            (None, Some(_)) => u64::MAX,
        };
        let in_time = self.plan.time.is_none_or(|time| self.start.elapsed() < time);
        (first < end && in_time).then(|| first..end.min(first + SLOTS as u64))
    }
}

/// One thread's oracle and emulator.
struct Worker {
    oracle: Oracle,
    generator: Generator,
    memory: Box<[u8; IMAGE_LENGTH]>,
    model: Model,
}

impl Worker {
    /// Compares the cases `numbers`, which belong to one batch.
    fn batch(
        &mut self,
        plan: &Plan,
        code: Code,
        numbers: std::ops::Range<u64>,
        tally: &Mutex<Tally>,
    ) -> Result<(), Failure> {
        let mut tally = tally.lock().unwrap_or_else(|e| e.into_inner());
        if tally.not_encoded || tally.refused.is_some() && tally.cases > 0 {
            return Ok(());
        }
        let batch = numbers.start / SLOTS as u64;
        Generator::memory(code, batch, plan.seed, &mut self.memory);
        // A case sees its whole batch in code memory, so that a single case needs the others drawn as well.
        let first = batch * SLOTS as u64;
        let last = if plan.only.is_some() { first + SLOTS as u64 } else { numbers.end };
        let mut samples = Vec::with_capacity(SLOTS);
        for number in first..last {
            match self.generator.case(code, number, plan.seed) {
                Some(sample) => samples.push((number, sample)),
                None => {
                    tally.not_encoded = samples.is_empty();
                    break;
                }
            }
        }
        if let Some((_, sample)) = samples.first()
            && let Err(refusal) = Displaced::decode(&sample.case.bytes[..sample.case.length], sample.ip)
        {
            tally.refused = Some(refusal.reason().to_string());
            if !plan.processor_only && plan.only.is_none() {
                // A few cases say whether the processor has it.
                samples.truncate(16);
            }
        }
        let cases: Vec<Case> = samples.iter().map(|(_, sample)| sample.case.clone()).collect();
        let observations = self.oracle.run(&mut self.memory, &cases).map_err(|error| {
            let command = match &error {
                Error::Died { index, .. } | Error::Deadline { index } | Error::Case { index, .. } => {
                    reproduce(code, first + *index as u64, plan.seed)
                }
                _ => String::new(),
            };
            Failure::Oracle(error, command)
        })?;
        self.model.reset(&self.memory);
        for ((number, sample), observed) in samples.iter().zip(&observations) {
            if numbers.contains(number) {
                self.check(plan, code, *number, sample, observed, &mut tally);
            }
        }
        Ok(())
    }

    fn check(
        &mut self,
        plan: &Plan,
        code: Code,
        number: u64,
        sample: &Sample,
        observed: &Observed,
        tally: &mut Tally,
    ) {
        tally.cases += 1;
        tally.faulting += u64::from(observed.stop != Stop::Completed);
        tally.invalid += u64::from(matches!(observed.stop, Stop::Exception { vector: 6, .. }));
        if tally.refused.is_some() {
            return;
        }
        match compare(sample, observed, &mut self.model) {
            Ok(differences) if differences.is_empty() => {}
            Ok(differences) => {
                tally.mismatches += 1;
                if tally.shown.len() < plan.show.div_ceil(2).max(1) {
                    tally.shown.push(describe(code, number, plan.seed, sample, &differences));
                }
            }
            Err(refusal) => tally.refused = Some(refusal.reason().to_string()),
        }
    }
}

/// The command that does one case again.
fn reproduce(code: Code, number: u64, seed: u64) -> String {
    format!("cargo run --release -p conformance -- diff --code {code:?} --seed {seed} --only {number}")
}

fn describe(code: Code, number: u64, seed: u64, sample: &Sample, differences: &[Difference]) -> Mismatch {
    let mut instruction = String::new();
    IntelFormatter::new().format(&sample.instruction, &mut instruction);
    let bytes = sample.case.bytes[..sample.case.length].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    Mismatch {
        code: format!("{code:?}"),
        instruction,
        bytes,
        state: state(sample),
        differences: differences.iter().map(ToString::to_string).collect(),
        reproduce: reproduce(code, number, seed),
    }
}

/// The parts of the state that the instruction uses.
fn state(sample: &Sample) -> Vec<String> {
    let registers = &sample.case.registers;
    let mut lines = vec![format!("rip={:#x} mode={:?}", sample.ip, sample.case.mode)];
    let mut factory = iced_x86::InstructionInfoFactory::new();
    let info = factory.info(&sample.instruction);
    let mut seen = Vec::new();
    let mut line = format!("rflags={:#x}", registers.rflags.bits());
    for used in info.used_registers() {
        let full = used.register().full_register();
        if seen.contains(&full) {
            continue;
        }
        seen.push(full);
        let number = full.number();
        if full.is_gpr() {
            let _ = write!(line, " {}={:#x}", GPR[number], registers.gpr[number]);
        } else if full.is_vector_register() {
            lines.push(format!("{full:?}={:016x?} (quadwords)", registers.extended.vector[number].0));
        } else if full.is_k() {
            lines.push(format!("{full:?}={:#x}", registers.extended.opmask[number]));
        }
    }
    lines.insert(1, line);
    let touches = Displaced::decode(&sample.case.bytes[..sample.case.length], sample.ip).map(|d| d.touches());
    if touches.is_ok_and(|touches| touches.contains(emu::Touches::SSE)) {
        lines.push(format!("mxcsr={:#x}", registers.extended.mxcsr.bits()));
    }
    if touches.is_ok_and(|touches| touches.contains(emu::Touches::X87)) {
        let x87 = &registers.extended.x87;
        lines.push(format!("fcw={:#x} fsw={:#x} ftw={:#04x}", x87.control, x87.status, x87.tag));
        let top = usize::from(x87.status >> 11 & 7);
        for index in 0..8 {
            let r = x87.r[(top + index) & 7];
            lines.push(format!("st({index})={:04x}:{:016x}", r.sign_exponent, r.significand));
        }
    }
    for memory in info.used_memory() {
        let start = memory.virtual_address(0, |register, _, _| match register {
            iced_x86::Register::FS => Some(registers.fs_base),
            iced_x86::Register::GS => Some(registers.gs_base),
            _ if register.is_gpr() => {
                let value = registers.gpr[register.full_register().number()];
                Some(value & u64::MAX >> (64 - 8 * register.size().min(8)))
            }
            _ => Some(0),
        });
        if let Some(start) = start {
            let size = memory.memory_size().size();
            lines.push(format!("memory: {size} bytes at {start:#x}, {:?}", memory.access()));
        }
    }
    for patch in &sample.case.patches {
        lines.push(format!("at {:#x}: {:02x?}", patch.address, patch.contents()));
    }
    lines
}
