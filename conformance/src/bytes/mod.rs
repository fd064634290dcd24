//! `conformance bytes`: random and mutated bytes, or all encodings, where processor and decoder may disagree
//! about what is an instruction and how long it is.
//!
//! The processor tells an instruction's length by what it fetches: laid against the end of a page, with
//! nothing mapped behind it, one that is cut short faults at the page's end, and one that is whole does not.

pub mod results;
mod search;
mod source;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use emu::{Processor, Vendor};
use serde::Serialize;

use crate::diff::Failure;

use self::search::Search;
use self::source::Source;
pub use self::source::{Choice, Shard};

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
    /// Whose processors do so: AMD, AMD before Zen 5, Intel, or both.
    pub vendor: &'static str,
    /// What is behind it, and what becomes of such bytes.
    pub explanation: &'static str,
}

impl Known {
    /// Whether `processor` does so.
    #[must_use]
    pub fn holds_on(&self, processor: &Processor) -> bool {
        match (self.vendor, processor.vendor) {
            ("both", _) | ("AMD", Vendor::Amd) | ("Intel", Vendor::Intel) => true,
            ("AMD before Zen 5", Vendor::Amd) => !processor.is_since_zen_5(),
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

/// The row that explains a disagreement about `bytes` with `processor`.
#[must_use]
pub fn explanation(bytes: &[u8], processor: &Processor) -> Option<Known> {
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
    known().filter(|row| row.holds_on(processor)).find(|row| {
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
    /// Which part of them, if they have an end.
    pub shard: Option<Shard>,
    /// How long at most.
    pub time: Duration,
    /// How many byte strings, rounded up to whole batches, if not as many as there is time for.
    pub strings: Option<u64>,
    /// What the bytes are drawn from.
    pub seed: u64,
    /// The most disagreements of a kind to list, with and without an explanation each.
    pub show: usize,
    /// How many children run at once.
    pub jobs: usize,
}

impl Default for Plan {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let time = Duration::from_secs(10);
        Plan { choice: Choice::Chance, shard: None, time, strings: None, seed: 0, show: 20, jobs }
    }
}

/// What kind of disagreement there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The decoder knows an instruction that has another length on the processor.
    Length,
    /// The emulator accepts an instruction and does something else than the processor.
    Execution,
    /// The decoder knows no such instruction, and the emulator refuses it, but the processor runs it.
    Unknown,
    /// The decoder knows an instruction that the emulator does not have yet. The processor does not have it
    /// either, although CPUID says that it does.
    Missing,
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
    /// Where in the search the bytes came.
    #[serde(skip)]
    position: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many byte strings were tried.
    #[serde(rename = "strings")]
    pub tried: u64,
    /// How many there are to try, if they have an end.
    pub of: Option<u64>,
    /// How many of them the emulator accepts.
    pub accepted: u64,
    /// How many the decoder calls invalid.
    pub invalid: u64,
    /// How many the emulator refuses although the decoder knows them.
    pub refused: u64,
    /// How many have another length on the processor.
    pub length: u64,
    /// In how many the emulator does what the processor does not.
    pub execution: u64,
    /// How many the processor runs that the decoder does not know; the emulator refuses them.
    pub unknown: u64,
    /// How many the decoder knows and neither emulator nor processor has.
    pub missing: u64,
    /// How many of all those are explained.
    pub explained: u64,
    /// How many of them nothing explains.
    pub unexplained: u64,
    /// How many runs of an instruction did not end on the processor, of those that the emulator leaves to it.
    pub endless: u64,
    /// Some of each kind.
    pub disagreements: Vec<Disagreement>,
    /// What the bytes were drawn from.
    pub seed: u64,
}

impl Report {
    /// Counts one; of each kind, with and without explanation, some are listed.
    fn note(&mut self, found: Disagreement) {
        match found.kind {
            Kind::Length => self.length += 1,
            Kind::Execution => self.execution += 1,
            Kind::Unknown => self.unknown += 1,
            Kind::Missing => self.missing += 1,
        }
        match found.explanation {
            Some(_) => self.explained += 1,
            None => self.unexplained += 1,
        }
        self.disagreements.push(found);
    }

    /// Adds what another thread found.
    fn add(&mut self, other: Report) {
        self.tried += other.tried;
        self.accepted += other.accepted;
        self.invalid += other.invalid;
        self.refused += other.refused;
        self.length += other.length;
        self.execution += other.execution;
        self.unknown += other.unknown;
        self.missing += other.missing;
        self.explained += other.explained;
        self.unexplained += other.unexplained;
        self.endless += other.endless;
        self.disagreements.extend(other.disagreements);
    }

    /// Keeps the first `show` that were found of each kind, with and without explanation.
    fn shorten(&mut self, show: usize) {
        let mut kept: BTreeMap<(Kind, bool), usize> = BTreeMap::new();
        self.disagreements.sort_by_key(|found| found.position);
        self.disagreements.retain(|found| {
            let count = kept.entry((found.kind, found.explanation.is_some())).or_default();
            *count += 1;
            *count <= show
        });
    }
}

/// Searches.
///
/// # Errors
/// The oracle cannot run here, or failed.
pub fn search(plan: &Plan) -> Result<Report, Failure> {
    let source = Source::new(plan.choice);
    let mut positions = source.positions(plan.shard, plan.seed);
    let of = source.count().map(|_| positions.end - positions.start);
    if let Some(strings) = plan.strings {
        let whole = strings.next_multiple_of(search::BATCH);
        positions.end = positions.end.min(positions.start.saturating_add(whole));
    }
    let start = Instant::now();
    let next = AtomicU64::new(positions.start);
    let all = Mutex::new(Ok(Report { seed: plan.seed, of, ..Report::default() }));
    let is_over = || start.elapsed() >= plan.time || lock(&all).is_err();
    let worker = || -> Result<Report, Failure> {
        let mut search = Search::new(&source, plan.seed)?;
        while !is_over() {
            let first = next.fetch_add(search::BATCH, Ordering::Relaxed);
            if first >= positions.end {
                break;
            }
            search.batch(first..positions.end.min(first + search::BATCH))?;
            search.report.shorten(plan.show);
        }
        Ok(search.report)
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                let found = worker();
                let mut all = lock(&all);
                match (&mut *all, found) {
                    (Ok(report), Ok(found)) => report.add(found),
                    (Ok(_), Err(failure)) => *all = Err(failure),
                    (Err(_), _) => {}
                }
            });
        }
    });
    let mut report = all.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    report.shorten(plan.show);
    Ok(report)
}

/// A lock whose holder may have panicked: what it counted is good all the same.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
