//! Programs run at hits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::arguments::Value;
use crate::arguments::bindings::{Bindings, Bound};
use crate::arguments::change::Applied;
use crate::arguments::pick::Picker;
use crate::engine::event::Event;
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::inject::Injector;
use crate::language::Undefined;
use crate::target::lock;
use crate::warden::callers::Callers;
use crate::warden::message::kind;
use crate::warden::news::{Arguments, Injection, Record};
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
    pub(crate) injector: Injector,
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
    /// How often something was injected, and how often that failed.
    pub(crate) injected: AtomicU64,
    pub(crate) failed: AtomicU64,
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
    /// The hits that were counted to pick some.
    picker: Picker,
}

impl Runner {
    pub(crate) fn new(
        program: Program,
        bindings: Option<Arc<Bindings>>,
        common: Arc<Common>,
        first: usize,
    ) -> Runner {
        let taken = program.steps().iter().map(|_| AtomicU64::new(0)).collect();
        Runner { program, common, first, bindings, taken, picker: Picker::default() }
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
        let (mut number, mut applied) = (0, None);
        let bound = self.bindings.as_ref().and_then(|bindings| {
            let (probe, pid) = (hit.probe(), hit.pid());
            let outlet = &self.common.outlet;
            bindings.at(hit.place(), hit, &mut |error| {
                outlet.event(&Event::Unresolvable { probe, pid, error: &error });
            })
        });
        // What was there before something was done.
        let mut before = None;
        for (index, step) in self.program.steps().iter().enumerate() {
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
                    let taken = self.taken(index).fetch_add(1, Ordering::Relaxed);
                    if !taken.is_multiple_of((*one_in).max(1)) {
                        hit.filter_out();
                        break;
                    }
                }
                Step::Pick(pick) => match self.picker.take(*pick, hit.serial()) {
                    Some(picked) => number = picked,
                    None => {
                        hit.filter_out();
                        break;
                    }
                },
                Step::Inject => {
                    let wanted = self.fields_behind(index);
                    before = wanted.map(|fields| recorded(&self.common, hit, fields, bound.as_deref()));
                    let (done, then) = self.inject(hit, bound.as_deref(), number);
                    (action, applied) = (then, Some(done));
                }
                Step::Limit(most) => {
                    let take = |taken: u64| taken.checked_add(1).filter(|taken| taken <= most);
                    match self.taken(index).fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
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
                Step::Record(fields) => {
                    let (common, bound) = (&self.common, bound.as_deref());
                    let record = before.take().unwrap_or_else(|| recorded(common, hit, *fields, bound));
                    send(common, &record, *fields, applied.as_ref(), bound);
                }
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
    /// How many hits of a limit are taken, by the step.
    fn taken(&self, index: usize) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        self.taken.get(index).unwrap_or(&NONE)
    }

    /// What the next step wants that records, behind that one.
    fn fields_behind(&self, index: usize) -> Option<Fields> {
        self.program.steps().iter().skip(index + 1).find_map(|step| match step {
            Step::Record(fields) => Some(*fields),
            _ => None,
        })
    }

    fn inject(&self, hit: &mut Hit<'_>, bound: Option<&Bound>, number: u64) -> (Applied, Action) {
        let (applied, action) = match bound {
            Some(bound) => self.common.injector.inject(hit, &bound.binding, number),
            None => {
                let failed = Some("nothing is known of this place".to_owned());
                (Applied { number, failed, ..Applied::default() }, Action::Continue)
            }
        };
        let counted = self.common.counted(hit.probe());
        let counter = if applied.failed.is_none() { &counted.injected } else { &counted.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        (applied, action)
    }

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

/// What is to be told of a hit, as it is now.
fn recorded(common: &Common, hit: &mut Hit<'_>, fields: Fields, bound: Option<&Bound>) -> Record {
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
    Record {
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
        injection: None,
    }
}

/// Tells of a hit, and of what was done at it.
fn send(common: &Common, record: &Record, fields: Fields, applied: Option<&Applied>, bound: Option<&Bound>) {
    let outlet = &common.outlet;
    let words = record.to_words(fields);
    let (kind, words) = match record.duration_ns {
        None => (kind::HIT, words),
        Some(duration_ns) => (kind::RETURN, [&[duration_ns], &*words].concat()),
    };
    match applied {
        None => outlet.record(kind, &words),
        Some(applied) => {
            let number = bound.map(|bound| {
                bound.told.get_or_init(|| outlet.bound(record.probe, bound));
                bound.number
            });
            let injection = Injection { number, applied: applied.clone(), binding: None };
            outlet.record(kind::INJECTION, &injection.to_words(kind, &words))
        }
    };
}
