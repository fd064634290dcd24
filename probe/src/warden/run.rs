//! Programs run at hits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::arguments::Value;
use crate::arguments::bindings::{Bindings, Bound};
use crate::engine::event::Event;
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::language::Undefined;
use crate::target::lock;
use crate::warden::callers::Callers;
use crate::warden::message::kind;
use crate::warden::news::{Arguments, Record};
use crate::warden::outlet::Outlet;
use crate::warden::program::{Fields, Measure, Program, Step, Then};
use crate::warden::steps;
use crate::warden::totals::Tally;

/// How many hits are left until the limit that all probes share.
#[derive(Debug)]
pub(crate) struct SharedLimit(AtomicU64);

/// As good as none.
const UNLIMITED: u64 = u64::MAX;

impl Default for SharedLimit {
    fn default() -> SharedLimit {
        SharedLimit(AtomicU64::new(UNLIMITED))
    }
}

impl SharedLimit {
    pub(crate) fn set(&self, hits: u64) {
        self.0.store(hits, Ordering::SeqCst);
    }

    /// Takes one. `None` if there is none left; otherwise whether it is the last.
    pub(crate) fn take(&self) -> Option<bool> {
        let take = |left: u64| if left == UNLIMITED { Some(left) } else { left.checked_sub(1) };
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok().map(|before| before == 1)
    }
}

/// What all programs share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) limit: SharedLimit,
    pub(crate) callers: Callers,
    /// By the index of the probe.
    pub(crate) counted: Mutex<HashMap<usize, Arc<Counted>>>,
    /// How often a thread has begun to run on.
    pub(crate) regions: AtomicU64,
}

impl Common {
    /// The number of the next run from a hit on.
    pub(crate) fn next_region(&self) -> u64 {
        self.regions.fetch_add(1, Ordering::Relaxed)
    }

    /// What is counted of a probe, from now on or already.
    pub(crate) fn counted(&self, probe: ProbeId) -> Arc<Counted> {
        Arc::clone(lock(&self.counted).entry(probe.index()).or_default())
    }
}

/// What programs count of one probe.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// For how many hits a condition had no value.
    pub(crate) undefined: AtomicU64,
    pub(crate) tally: Tally,
}

/// A program and what it counts.
#[derive(Debug)]
pub(crate) struct Runner {
    program: Program,
    common: Arc<Common>,
    /// The number of its first histogram.
    first: usize,
    bindings: Option<Arc<Bindings>>,
    /// By step: how many hits of a limit are taken.
    taken: Vec<AtomicU64>,
}

impl Runner {
    pub(crate) fn new(
        program: Program,
        bindings: Option<Arc<Bindings>>,
        common: Arc<Common>,
        first: usize,
    ) -> Runner {
        let taken = program.steps().iter().map(|_| AtomicU64::new(0)).collect();
        Runner { program, common, first, bindings, taken }
    }

    /// Runs the program at the entry of a function, whose call is to be followed unless that is filtered out.
    pub(crate) fn entry(&self, hit: &mut Hit<'_>) -> Action {
        hit.follow(());
        self.hit(hit)
    }

    /// Runs the program at a hit.
    pub(crate) fn hit(&self, hit: &mut Hit<'_>) -> Action {
        let mut action = Action::Continue;
        let (mut last_of_all, mut last) = (false, false);
        let mut histogram = self.first;
        let bound = self.bindings.as_ref().and_then(|bindings| {
            let (probe, pid) = (hit.probe(), hit.pid());
            let outlet = &self.common.outlet;
            bindings
                .at(hit.place(), hit, &mut |error| outlet.event(&Event::Unresolvable { probe, pid, error }))
        });
        for (step, taken) in self.program.steps().iter().zip(&self.taken) {
            match step {
                Step::Filter(condition) => {
                    let value = condition.evaluate(hit);
                    if !self.goes_on(hit, value.map(|value| value != 0)) {
                        break;
                    }
                }
                Step::Condition => {
                    // Where nothing is known of the site, nothing is known of what holds there.
                    let holds = match &bound {
                        Some(bound) => bound.binding.holds(hit),
                        None => Err(Undefined::Unavailable),
                    };
                    if !self.goes_on(hit, holds) {
                        break;
                    }
                }
                Step::Sample(one_in) => {
                    let before = taken.fetch_add(1, Ordering::Relaxed);
                    if !before.is_multiple_of((*one_in).max(1)) {
                        hit.filter_out();
                        break;
                    }
                }
                Step::Limit(most) => {
                    let take = |taken: u64| taken.checked_add(1).filter(|taken| taken <= most);
                    match taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
                        Ok(before) => last |= before + 1 == *most,
                        // Other threads may be at the probe with the last one.
                        Err(_) => {
                            hit.discount();
                            return Action::Remove;
                        }
                    }
                }
                Step::SharedLimit => match self.common.limit.take() {
                    Some(is_last) => last_of_all |= is_last,
                    None => {
                        hit.discount();
                        return Action::Stop;
                    }
                },
                Step::Record(fields) => record(&self.common, hit, *fields, bound.as_deref()),
                Step::CountStack(frames) => {
                    let stack = self.common.callers.stack(hit, *frames, &self.common.outlet);
                    self.common.counted(hit.probe()).tally.count_stack(&stack);
                }
                Step::Histogram(measure) => {
                    let value = measured(*measure, hit, bound.as_deref());
                    self.common.counted(hit.probe()).tally.count_value(histogram, value.as_ref());
                    histogram += 1;
                }
                Step::RunOn(region) => steps::run_on(hit, region, &self.common),
                Step::Ask => {
                    if let Some(answer) = self.common.outlet.ask(hit) {
                        action = answer;
                    }
                }
                Step::Watch(watch) => hit.watch(*watch),
                Step::Then(then) => action = action_of(*then),
            }
        }
        match action {
            _ if last_of_all => Action::Stop,
            Action::Continue if last => Action::Remove,
            action => action,
        }
    }
}

impl Runner {
    /// Whether the steps behind a condition are taken.
    fn goes_on(&self, hit: &mut Hit<'_>, holds: Result<bool, Undefined>) -> bool {
        if holds.is_err() {
            self.common.counted(hit.probe()).undefined.fetch_add(1, Ordering::Relaxed);
        }
        let goes_on = holds == Ok(true);
        if !goes_on {
            hit.filter_out();
        }
        goes_on
    }
}

fn action_of(then: Then) -> Action {
    match then {
        Then::Continue => Action::Continue,
        Then::Skip => Action::Skip,
        Then::Remove => Action::Remove,
        Then::Stop => Action::Stop,
    }
}

/// A number of a hit, if it has it.
fn measured(measure: Measure, hit: &mut Hit<'_>, bound: Option<&Bound>) -> Option<Value> {
    match measure {
        Measure::Duration => hit.duration_ns().map(Value::Unsigned),
        Measure::Argument(index) => {
            let binding = &bound?.binding;
            let taken = binding.take(hit);
            binding.values(&taken).nth(index as usize).map(|(_, value)| value)
        }
    }
}

fn record(common: &Common, hit: &mut Hit<'_>, fields: Fields, bound: Option<&Bound>) {
    let Common { outlet, callers, .. } = common;
    let bound = bound.filter(|_| fields.has_arguments());
    let arguments = bound.map(|bound| {
        bound.told.get_or_init(|| outlet.bound(hit.probe(), bound));
        Arguments { number: bound.number, taken: bound.binding.take(hit), binding: None }
    });
    let stack = match fields.frames() {
        0 => Vec::new(),
        frames => callers.stack(hit, frames, outlet),
    };
    let registers = hit.registers();
    let record = Record {
        arguments,
        probe: hit.probe(),
        pid: hit.pid(),
        tid: hit.tid(),
        time_ns: hit.time_ns(),
        ip: hit.ip(),
        cpu: if fields.has_cpu() { hit.cpu() } else { None },
        registers: fields.registers().map(|register| (register, registers.get(register))).collect(),
        duration_ns: hit.duration_ns(),
        comm: if fields.has_comm() { callers.name(hit.tid()) } else { None },
        stack,
    };
    let words = record.to_words(fields);
    match record.duration_ns {
        None => outlet.record(kind::HIT, &words),
        Some(duration_ns) => outlet.record(kind::RETURN, &[&[duration_ns], &*words].concat()),
    };
}
