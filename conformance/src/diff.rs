//! `conformance diff`: every row of the emulator against the processor, in states nobody chose by hand.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use emu::Touches;
use iced_x86::Code;

use crate::compare::{Comparison, compare};
use crate::generate::{Generator, Sample};
use crate::memory::Model;
use crate::oracle::places::{IMAGE_LENGTH, SLOTS};
use crate::oracle::{Error, Memory, Observed, Oracle, Stop, mxcsr_mask};
use crate::report::{Report, Tally, describe, reproduce};
use crate::{codes, floating_point};

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
}

impl Default for Plan {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        Plan { pattern: "*".to_string(), cases: None, time: None, seed: 0, only: None, show: 10, jobs }
    }
}

/// How many cases of each encoding are compared if the plan says neither number nor time.
const CASES: u64 = SLOTS as u64;
/// How many cases say whether the processor has an encoding that the emulator lacks.
const ENOUGH: usize = 16;

/// Why nothing could be compared.
#[derive(Debug)]
pub enum Failure {
    /// No encoding has such a name.
    NoSuchCode(String),
    /// The oracle failed, if at a case, then with what tells or repeats it.
    Oracle(Error, Option<String>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoSuchCode(pattern) => write!(
                f,
                "no encoding is named {pattern:?}; they are named as in iced-x86, such as Add_rm64_r64 or Add_*"
            ),
            Failure::Oracle(error, None) => write!(f, "{error}"),
            Failure::Oracle(error, Some(case)) => write!(f, "{error}; {case}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Compares what the plan says.
///
/// # Errors
/// No such encoding, or the oracle cannot run here or failed.
pub fn diff(plan: &Plan) -> Result<Report, Failure> {
    let named: Vec<Code> =
        codes::all().filter(|code| codes::matches(&plan.pattern, &format!("{code:?}"))).collect();
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
    if !run.is_empty() {
        for (code, tally) in run.iter().zip(Work::new(plan, &run).run()?) {
            report.add(*code, tally, plan.show);
        }
    }
    report.finish();
    Ok(report)
}

/// What the workers share.
struct Work<'a> {
    plan: &'a Plan,
    codes: &'a [Code],
    tallies: Vec<Mutex<Tally>>,
    next: AtomicUsize,
    stop: AtomicBool,
    start: Instant,
}

impl<'a> Work<'a> {
    fn new(plan: &'a Plan, codes: &'a [Code]) -> Work<'a> {
        Work {
            plan,
            codes,
            tallies: codes.iter().map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            start: Instant::now(),
        }
    }

    fn run(self) -> Result<Vec<Tally>, Failure> {
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.plan.jobs.max(1) {
                scope.spawn(|| {
                    if let Err(error) = self.worker() {
                        self.stop.store(true, Ordering::Relaxed);
                        lock(&failure).get_or_insert(error);
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(self
                .tallies
                .into_iter()
                .map(|tally| tally.into_inner().unwrap_or_else(PoisonError::into_inner))
                .collect()),
        }
    }

    /// Takes batches, round by round through all encodings, until the plan is done.
    fn worker(&self) -> Result<(), Failure> {
        let mut worker = Worker::new(self.plan)?;
        while !self.stop.load(Ordering::Relaxed) {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let (round, position) = (turn / self.codes.len(), turn % self.codes.len());
            let Some(numbers) = self.numbers(round as u64) else { break };
            let tally = &self.tallies[position];
            if lock(tally).done {
                if position == 0 && self.tallies.iter().all(|tally| lock(tally).done) {
                    break;
                }
                continue;
            }
            let found = worker.batch(self.codes[position], numbers)?;
            lock(tally).add(found);
        }
        Ok(())
    }

    /// The cases of one round, or `None` if there is none.
    fn numbers(&self, round: u64) -> Option<Range<u64>> {
        let first = round * SLOTS as u64;
        if let Some(only) = self.plan.only {
            return (round == 0).then_some(only..only.saturating_add(1));
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

/// A lock whose holder may have panicked: the counts are good for what they say all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thread's oracle and emulator.
struct Worker<'a> {
    plan: &'a Plan,
    oracle: Oracle,
    generator: Generator,
    memory: Box<Memory>,
    model: Model,
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan) -> Result<Worker<'a>, Failure> {
        let oracle = Oracle::new().map_err(|error| Failure::Oracle(error, None))?;
        let generator = Generator::new(oracle.layout(), mxcsr_mask());
        let memory = Box::new([0; IMAGE_LENGTH]);
        let model = Model::new(&memory);
        Ok(Worker { plan, oracle, generator, memory, model })
    }

    /// Compares the cases `numbers`, which belong to one batch.
    fn batch(&mut self, code: Code, numbers: Range<u64>) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        let seed = self.plan.seed;
        let batch = numbers.start / SLOTS as u64;
        Generator::memory(code, batch, seed, &mut self.memory);
        // A case sees its whole batch in code memory, so that a single case needs the others drawn as well.
        let first = batch * SLOTS as u64;
        let last = if self.plan.only.is_some() { first.saturating_add(SLOTS as u64) } else { numbers.end };
        let mut samples = Vec::with_capacity(SLOTS);
        samples.extend((first..last).map_while(|number| self.generator.case(code, number, seed)));
        if samples.len() < (last - first) as usize {
            tally.not_encoded = samples.is_empty();
            tally.done = true;
        }
        let decode = |sample: &Sample| crate::features::decode(sample.bytes(), sample.ip).ok();
        let (mut accepted, mut this_core) = (0, false);
        for displaced in samples.iter().filter_map(decode) {
            accepted += 1;
            this_core |= displaced.touches().contains(Touches::THIS_CORE);
        }
        if 2 * accepted <= samples.len() && self.plan.only.is_none() {
            samples.truncate(ENOUGH);
            tally.done = true;
        }
        let _shared = this_core.then(|| self.oracle.share_core());
        let observations = self.oracle.run(&mut self.memory, &samples).map_err(|error| {
            let case = error
                .index()
                .map(|index| format!("to repeat it: {}", reproduce(code, first + index as u64, seed)));
            Failure::Oracle(error, case)
        })?;
        self.model.reset(&self.memory);
        for ((number, sample), observed) in (first..).zip(&samples).zip(&observations) {
            if numbers.contains(&number) {
                self.check(code, number, sample, observed, &mut tally);
            }
        }
        tally.done |= tally.native(code) == Some(false);
        Ok(tally)
    }

    fn check(&mut self, code: Code, number: u64, sample: &Sample, observed: &Observed, tally: &mut Tally) {
        tally.ran += 1;
        tally.endless += u64::from(observed.stop == Stop::Endless);
        tally.invalid += u64::from(matches!(observed.stop, Stop::Exception { vector: 6, .. }));
        let Comparison { differences, left } = match compare(sample, observed, &mut self.model) {
            Ok(comparison) => comparison,
            Err(refusal) => {
                tally.refused += 1;
                tally.refusal = Some(refusal);
                return;
            }
        };
        tally.accepted += 1;
        tally.left += u64::from(left);
        tally.compared += u64::from(!left);
        tally.faulting += u64::from(!left && observed.stop != Stop::Completed);
        if !left {
            floating_point::note(sample, observed, &mut self.model, &mut tally.floating_point);
        }
        if observed.stop == Stop::Endless && left && tally.shown_endless.len() < self.plan.show.div_ceil(2) {
            tally.shown_endless.push(describe(code, number, self.plan.seed, sample, &[]));
        }
        if !differences.is_empty() {
            tally.mismatches += 1;
            if tally.shown.len() < self.plan.show.div_ceil(2) {
                tally.shown.push(describe(code, number, self.plan.seed, sample, &differences));
            }
        }
    }
}
