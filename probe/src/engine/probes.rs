//! What is kept of each probe: little, for there may be a hundred thousand. Those that are made together lie together.

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use once_cell::race::OnceBox;

use crate::engine::cover::Cover;
use crate::engine::event::{Counters, ProbeReport};
use crate::engine::hit::ProbeId;
use crate::engine::host::Host;
use crate::executor::hardware::Passed;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::{Purpose, Unplaceable};
use crate::symbols::locate::{Counter, Locate, LocateError, Site};
use crate::target::lock;
use crate::target::maps::Maps;

/// What is counted for a probe, by all tracers.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) hits: AtomicU64,
    pub(crate) emulated: AtomicU64,
    pub(crate) native: AtomicU64,
    pub(crate) faulted: AtomicU64,
    pub(crate) filtered: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

impl Tally {
    /// Counts one.
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counters(&self) -> Counters {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            hits: value(&self.hits),
            emulated: value(&self.emulated),
            native: value(&self.native),
            faulted: value(&self.faulted),
            filtered: value(&self.filtered),
            missed: value(&self.missed),
            dropped: value(&self.dropped),
        }
    }
}

/// A probe of the session.
pub(crate) struct Probe {
    /// From the first thing on that is counted.
    tally: OnceBox<Tally>,
    special: Option<Box<Special>>,
    /// Whether it is a part of another one.
    pub(crate) is_part: bool,
    pub(crate) placed: Mutex<Placed>,
}

/// What makes some probes special.
#[derive(Debug, Default)]
struct Special {
    /// Of one that follows calls.
    calls: Option<Returns>,
    /// Of one that covers: it has no handler.
    cover: Option<Arc<Cover>>,
    /// Of one whose sites are hardware breakpoints: how often threads have passed them unnoticed.
    passed: Option<Passed>,
}

/// The returns of the calls that a probe follows.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    pub(crate) tally: Tally,
    /// To be locked after [`Probe::placed`].
    pub(crate) sites: Mutex<ReturnSites>,
}

/// Where calls return to.
#[derive(Debug, Default)]
pub(crate) struct ReturnSites {
    /// In any address space.
    pub(crate) placed: HashSet<u64>,
    /// Where there can be no breakpoint, which has been told.
    pub(crate) refused: HashSet<(SpaceId, u64)>,
}

/// Where a probe is.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    pub(crate) sites: Sites,
    rest: Option<Box<Rest>>,
    pub(crate) removed: bool,
    /// Nobody is to know of it any more.
    pub(crate) forgotten: bool,
}

/// What most probes have none of.
#[derive(Debug, Default)]
struct Rest {
    refused: Vec<(u64, Arc<Unplaceable>)>,
    pending: Option<Arc<LocateError>>,
    /// The probes that it consists of, by name; then it has no sites of its own.
    parts: BTreeMap<String, ProbeId>,
}

impl Placed {
    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// The sites that cannot be probed, and why.
    pub(crate) fn refused(&self) -> &[(u64, Arc<Unplaceable>)] {
        self.rest.as_deref().map_or(&[], |rest| &rest.refused)
    }

    pub(crate) fn refuse(&mut self, address: u64, reason: Unplaceable) {
        self.rest().refused.push((address, Arc::new(reason)));
    }

    /// Takes the last of them.
    pub(crate) fn take_refused(&mut self) -> Option<(u64, Arc<Unplaceable>)> {
        self.rest.as_deref_mut()?.refused.pop()
    }

    /// Why it could not be located the last time.
    pub(crate) fn pending(&self) -> Option<&Arc<LocateError>> {
        self.rest.as_deref()?.pending.as_ref()
    }

    pub(crate) fn set_pending(&mut self, error: Arc<LocateError>) {
        self.rest().pending = Some(error);
    }

    /// It has been located.
    pub(crate) fn take_pending(&mut self) -> Option<Arc<LocateError>> {
        self.rest.as_deref_mut()?.pending.take()
    }

    /// The probes that it consists of, by name.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&String, ProbeId)> {
        let parts = self.rest.as_deref().map(|rest| &rest.parts);
        parts.into_iter().flatten().map(|(name, &part)| (name, part))
    }

    pub(crate) fn part(&self, name: &str) -> Option<ProbeId> {
        self.rest.as_deref()?.parts.get(name).copied()
    }

    pub(crate) fn add_part(&mut self, name: String, part: ProbeId) {
        self.rest().parts.insert(name, part);
    }

    pub(crate) fn has_parts(&self) -> bool {
        self.rest.as_deref().is_some_and(|rest| !rest.parts.is_empty())
    }
}

/// The addresses of a probe. Mostly it is one.
#[derive(Debug, Default)]
pub(crate) enum Sites {
    #[default]
    None,
    One(u64),
    #[expect(clippy::box_collection, reason = "most have one, and are not to pay for the others")]
    Several(Box<Vec<u64>>),
}

impl Sites {
    /// So many will be added.
    pub(crate) fn reserve(&mut self, number: usize) {
        if let Sites::None = self
            && number > 1
        {
            *self = Sites::Several(Box::new(Vec::with_capacity(number)));
        }
    }

    pub(crate) fn push(&mut self, address: u64) {
        match self {
            Sites::None => *self = Sites::One(address),
            Sites::One(first) => *self = Sites::Several(Box::new(vec![*first, address])),
            Sites::Several(all) => all.push(address),
        }
    }
}

impl Deref for Sites {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match self {
            Sites::None => &[],
            Sites::One(address) => std::slice::from_ref(address),
            Sites::Several(all) => all,
        }
    }
}

impl Probe {
    pub(crate) fn new(calls: bool, is_part: bool, by_hardware: bool) -> Probe {
        let special = Special {
            calls: calls.then(Returns::default),
            cover: None,
            passed: by_hardware.then(Passed::default),
        };
        let special = (calls || by_hardware).then(|| Box::new(special));
        Probe { tally: OnceBox::new(), special, is_part, placed: Mutex::default() }
    }

    /// One that covers.
    pub(crate) fn of_cover(cover: Arc<Cover>) -> Probe {
        let special = Special { cover: Some(cover), ..Special::default() };
        Probe { special: Some(Box::new(special)), ..Probe::new(false, false, false) }
    }

    /// The returns, of one that follows calls.
    pub(crate) fn calls(&self) -> Option<&Returns> {
        self.special.as_deref()?.calls.as_ref()
    }

    /// What it covers: then it has no handler.
    pub(crate) fn cover(&self) -> Option<&Arc<Cover>> {
        self.special.as_deref()?.cover.as_ref()
    }

    /// How often threads have passed its sites unnoticed, if these are hardware breakpoints.
    pub(crate) fn passed(&self) -> Option<&Passed> {
        self.special.as_deref()?.passed.as_ref()
    }

    /// What is counted of the hits that the probe wants a breakpoint for.
    pub(crate) fn tally_of(&self, purpose: Purpose) -> &Tally {
        match self.calls() {
            Some(calls) if purpose.is_return_site() => &calls.tally,
            _ => self.tally.get_or_init(Box::default),
        }
    }

    /// Whether none of its handlers has come back yet from a hit that the probe wants a breakpoint for.
    pub(crate) fn has_no_hits(&self, purpose: Purpose) -> bool {
        let none = |tally: &Tally| tally.hits.load(Ordering::Relaxed) == 0;
        match self.calls() {
            Some(calls) if purpose.is_return_site() => none(&calls.tally),
            _ => self.tally.get().is_none_or(none),
        }
    }

    pub(crate) fn report(&self) -> ProbeReport {
        let mut counters = self.tally.get().map(Tally::counters).unwrap_or_default();
        if let Some(passed) = self.passed() {
            counters.missed += passed.load(Ordering::Relaxed);
        }
        let placed = lock(&self.placed);
        let is_nowhere = placed.sites.is_empty() && !placed.has_parts();
        let pending = placed.pending().filter(|_| is_nowhere).cloned();
        ProbeReport {
            counters,
            returns: self.calls().map(|calls| calls.tally.counters()),
            hardware: self.passed().is_some(),
            sites: placed.sites.to_vec(),
            refused: placed.refused().to_vec(),
            pending,
            parts: placed.parts().map(|(name, id)| (name.clone(), id)).collect(),
        }
    }
}

/// What names the sites of a probe, for one thread at a time.
pub(crate) struct Locked<L>(Mutex<L>);

impl<L: Locate> Locate for Locked<L> {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        lock(&self.0).locate(maps)
    }

    fn counters(&self, maps: &Maps) -> Vec<Counter> {
        lock(&self.0).counters(maps)
    }

    fn parts(&self, maps: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
        lock(&self.0).parts(maps)
    }

    fn part(&self, name: &str) -> Option<Box<dyn Locate + Send>> {
        lock(&self.0).part(name)
    }

    fn implementation_names(&self, maps: &Maps) -> Option<Vec<String>> {
        lock(&self.0).implementation_names(maps)
    }

    fn is_on_return(&self) -> bool {
        lock(&self.0).is_on_return()
    }

    fn is_by_hardware(&self) -> bool {
        lock(&self.0).is_by_hardware()
    }
}

/// Probes that were made together, and what names their sites.
pub(crate) trait Run: Send + Sync {
    fn get(&self, index: usize) -> Option<(&Probe, &dyn Locate)>;

    /// How many they are.
    fn len(&self) -> usize;
}

struct Together<L>(Box<[(Probe, Locked<L>)]>);

impl<L: Locate + Send> Run for Together<L> {
    fn get(&self, index: usize) -> Option<(&Probe, &dyn Locate)> {
        self.0.get(index).map(|(probe, source)| (probe, source as &dyn Locate))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Things that are kept in runs of those that have come together. Each has a number, in the order in which they have come.
#[derive(Clone, Debug)]
pub(crate) struct Runs<T> {
    /// Each with the number of its first.
    runs: Vec<(usize, T)>,
    length: usize,
}

impl<T> Default for Runs<T> {
    fn default() -> Runs<T> {
        Runs { runs: Vec::new(), length: 0 }
    }
}

impl<T> Runs<T> {
    /// Adds a run of so many, and returns the number of the first.
    pub(crate) fn push(&mut self, run: T, length: usize) -> usize {
        let first = self.length;
        self.runs.push((first, run));
        self.length += length;
        first
    }

    /// Forgets the last run.
    pub(crate) fn pop(&mut self) {
        if let Some((first, _)) = self.runs.pop() {
            self.length = first;
        }
    }

    /// Forgets the run that had the one with that number. The others keep theirs.
    fn remove(&mut self, number: usize) {
        if let Some(place) = self.place(number) {
            self.runs.remove(place);
        }
    }

    /// The run that has the one with that number, and the index of that there; or the last one before it, if that is
    /// forgotten, and an index that is too large.
    pub(crate) fn get(&self, number: usize) -> Option<(&T, usize)> {
        let (first, run) = self.runs.get(self.place(number)?)?;
        Some((run, number - first))
    }

    fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        let place = self.place(number)?;
        self.runs.get_mut(place).map(|(_, run)| run)
    }

    /// Where that run is.
    fn place(&self, number: usize) -> Option<usize> {
        // Most sessions make their probes together, and this is asked several times at each hit.
        match self.runs.as_slice() {
            [(first, _)] => (*first <= number).then_some(0),
            runs => runs.partition_point(|&(first, _)| first <= number).checked_sub(1),
        }
    }

    /// The number of the first of each run, and the run.
    fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.runs.iter().map(|(first, run)| (*first, run))
    }

    /// How many there were.
    pub(crate) fn len(&self) -> usize {
        self.length
    }
}

/// Probes that were made together, and who decides at their hits.
#[derive(Clone)]
struct Hosted {
    run: Arc<dyn Run>,
    host: Arc<dyn Host>,
    /// How many of them are not forgotten.
    left: usize,
}

/// All probes of a session.
#[derive(Clone, Default)]
pub(crate) struct Probes(Runs<Hosted>);

impl Probes {
    /// Adds probes, which are made of what names their sites, and returns the number of the first.
    pub(crate) fn add<L>(&mut self, sources: Vec<L>, make: impl Fn(&L) -> Probe, host: Arc<dyn Host>) -> usize
    where
        L: Locate + Send + 'static,
    {
        let slots = sources.into_iter().map(|source| (make(&source), Locked(Mutex::new(source))));
        let run = Together(slots.collect());
        let length = run.0.len();
        self.0.push(Hosted { run: Arc::new(run), host, left: length }, length)
    }

    /// Forgets those that were added last.
    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }

    /// Forgets one, once. What was made together goes together.
    pub(crate) fn forget(&mut self, number: usize) {
        if let Some(hosted) = self.0.get_mut(number) {
            hosted.left = hosted.left.saturating_sub(1);
            if hosted.left == 0 {
                self.0.remove(number);
            }
        }
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Probe> {
        let (Hosted { run, .. }, index) = self.0.get(number)?;
        run.get(index).map(|(probe, _)| probe)
    }

    /// The same, with who decides at its hits, and its index there.
    pub(crate) fn with_host(&self, number: usize) -> Option<(&Probe, &Arc<dyn Host>, usize)> {
        let (Hosted { run, host, .. }, index) = self.0.get(number)?;
        run.get(index).map(|(probe, _)| (probe, host, index))
    }

    /// One, to be kept.
    pub(crate) fn keep(&self, number: usize) -> Option<Held> {
        let (Hosted { run, .. }, index) = self.0.get(number)?;
        Some(Held { run: Arc::clone(run), index })
    }

    /// How many there were, with those that are forgotten.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that are not forgotten, or were made together with such, each with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Probe)> {
        self.0.iter().flat_map(|(first, Hosted { run, .. })| {
            (0..run.len()).filter_map(move |index| Some((first + index, run.get(index)?.0)))
        })
    }
}

/// A probe that is worked with, which may be taken back meanwhile.
pub(crate) struct Held {
    run: Arc<dyn Run>,
    index: usize,
}

impl Held {
    /// The probe, and what names its sites.
    pub(crate) fn get(&self) -> Option<(&Probe, &dyn Locate)> {
        self.run.get(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::locate::{Address, Hardware};

    #[test]
    fn a_probe_is_small() {
        // With its breakpoint, at most 64 bytes and half as much of a tree's node, 200.
        let slot = size_of::<(Probe, Locked<Address>)>();
        assert!(slot <= 80, "{slot}");
        assert!(size_of::<Placed>() <= 32, "{}", size_of::<Placed>());
    }

    /// Has an answer to everything that can be asked.
    struct Knows;

    impl Locate for Knows {
        fn locate(&self, _: &Maps) -> Result<Vec<Site>, LocateError> {
            Ok(vec![Site { address: 1 }])
        }

        fn counters(&self, _: &Maps) -> Vec<Counter> {
            vec![Counter { site: 1, address: 2 }]
        }

        fn parts(&self, _: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
            Ok(Some(["part".to_owned()].into()))
        }

        fn part(&self, _: &str) -> Option<Box<dyn Locate + Send>> {
            Some(Box::new(Knows))
        }

        fn implementation_names(&self, _: &Maps) -> Option<Vec<String>> {
            Some(vec!["name".to_owned()])
        }

        fn is_on_return(&self) -> bool {
            true
        }
    }

    #[test]
    fn what_wraps_a_source_of_sites_hands_every_question_on() {
        let maps = Maps::read(std::process::id().cast_signed()).unwrap();
        let wrapped: [Box<dyn Locate>; 3] = [
            Box::new(Hardware(Knows)),
            Box::new(Locked(Mutex::new(Knows))),
            Box::new(Box::new(Knows) as Box<dyn Locate>),
        ];
        for wrapped in wrapped {
            assert_eq!(wrapped.locate(&maps).unwrap(), [Site { address: 1 }]);
            assert_eq!(wrapped.counters(&maps), [Counter { site: 1, address: 2 }]);
            assert_eq!(wrapped.parts(&maps).unwrap().unwrap().len(), 1);
            assert!(wrapped.part("part").is_some());
            assert_eq!(wrapped.implementation_names(&maps).unwrap(), ["name"]);
            assert!(wrapped.is_on_return());
        }
    }

    #[test]
    fn numbers_go_on_from_run_to_run() {
        let mut runs = Runs::default();
        assert_eq!(runs.get(0), None);
        assert_eq!([runs.push("one", 1), runs.push("none", 0), runs.push("three", 3)], [0, 1, 1]);
        assert_eq!(runs.get(0), Some((&"one", 0)));
        assert_eq!((runs.get(1), runs.get(3)), (Some((&"three", 0)), Some((&"three", 2))));
        assert_eq!(runs.len(), 4);
        runs.pop();
        assert_eq!((runs.len(), runs.push("again", 2), runs.get(2)), (1, 1, Some((&"again", 1))));
    }

    #[test]
    fn numbers_stay_when_a_run_goes() {
        let mut runs = Runs::default();
        for run in ["one", "two", "three"] {
            runs.push(run, 2);
        }
        runs.remove(3);
        assert_eq!((runs.get(1), runs.get(4)), (Some((&"one", 1)), Some((&"three", 0))));
        assert_eq!(runs.get(2), Some((&"one", 2)), "which has no such one");
        runs.remove(0);
        assert_eq!((runs.get(1), runs.get(5), runs.len()), (None, Some((&"three", 1)), 6));
        runs.remove(5);
        assert_eq!(runs.get(5), None);
        assert_eq!((runs.push("four", 1), runs.get(6)), (6, Some((&"four", 0))));
    }

    #[test]
    fn sites_are_as_many_as_were_added() {
        let mut sites = Sites::default();
        sites.reserve(1);
        assert!(sites.is_empty());
        for address in [3, 1, 2] {
            sites.push(address);
        }
        assert_eq!(*sites, [3, 1, 2]);
    }
}
